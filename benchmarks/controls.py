"""Controls that need no sampling: real clips through the VAE, and sharpening. Knows nothing of guidance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shelllcc.guidance.measures import metrics
from training import whole_clip


@torch.no_grad()
def through_vae(vae: nn.Module, frames: Tensor) -> Tensor:
    """uint8 clips (n, t, H, W, 3) encoded and decoded: what the pipeline could show at best."""
    device = next(vae.parameters()).device
    parts = []
    for clip in frames:
        video = clip.to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        decoded = whole_clip.decode(vae, whole_clip.encode(vae, video)[0])
        parts.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 3, 0).cpu())
    return torch.stack(parts)


def unsharp(frames: Tensor, amount: float) -> Tensor:
    """Unsharp masking of uint8 clips (n, t, H, W, 3) with a 5x5 binomial blur."""
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(taps, taps).expand(3, 1, 5, 5)
    clips = []
    for clip in frames:
        video = clip.permute(0, 3, 1, 2).float()
        blurred = F.conv2d(F.pad(video, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
        clips.append((video + amount * (video - blurred)).round().clamp(0, 255).byte().permute(0, 2, 3, 1))
    return torch.stack(clips)


def unsharp_to(frames: Tensor, lap: float) -> tuple[Tensor, float]:
    """The unsharp mask whose mean Laplacian variance is `lap`, by bisection on every fourth clip, and its amount."""
    some = frames[::4]
    ratio = float(_lap(frames) / _lap(some))
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if ratio * _lap(unsharp(some, middle)) < lap else (low, middle)
    return unsharp(frames, low), low


def _lap(frames: Tensor) -> float:
    return float(torch.cat([metrics.laplacian_variance(metrics.grey(clip[None])) for clip in frames]).mean())
