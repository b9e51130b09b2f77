"""Latents to patch tokens and back. Knows nothing of anchors or shells.

A patch is the spatial neighbourhood of one latent voxel within its frame: all channels of size x size voxels, reflected
at the border. Size 1 is the paper's single voxel (Shell-LCC, arXiv 2606.30248, section 3).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def to_tokens(latents: Tensor, *, size: int) -> Tensor:
    """Patches (b, t*h*w, c*size*size) around every voxel of float (b c t h w) latents, frames first."""
    b, c, t, h, w = latents.shape
    if size == 1:
        return latents.permute(0, 2, 3, 4, 1).reshape(b, t * h * w, c)
    frames = latents.transpose(1, 2).reshape(b * t, c, h, w)
    reach = size // 2
    columns = F.unfold(F.pad(frames, (reach,) * 4, mode="reflect"), size)  # (b*t, d, h*w)
    return columns.transpose(1, 2).reshape(b, t * h * w, c * size * size)


def average_tokens(tokens: Tensor, shape: torch.Size, *, size: int) -> Tensor:
    """Latents of `shape` (b c t h w) in which every voxel is the mean of what the patches over it say of it."""
    b, c, t, h, w = shape
    if size == 1:
        return tokens.reshape(b, t, h, w, c).permute(0, 4, 1, 2, 3)
    reach = size // 2
    padded = (h + 2 * reach, w + 2 * reach)
    total = F.fold(tokens.reshape(b * t, h * w, -1).transpose(1, 2), padded, size)
    count = F.fold(torch.ones(1, size * size, h * w, device=tokens.device, dtype=tokens.dtype), padded, size)
    inside = (..., slice(reach, reach + h), slice(reach, reach + w))
    return (total[inside] / count[inside]).view(b, t, c, h, w).transpose(1, 2)
