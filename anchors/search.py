"""Exact nearest anchors: faiss for many of them on the CPU, else chunked torch. Knows nothing of shells or files.

Both are exhaustive and in float32, so that they find the same neighbours, ties aside. Nothing is copied between
devices: tokens on a GPU are searched there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shelllcc.guidance.geometry import coding

FEW = 128  # anchors up to which one product is faster than an index


def nearest(tokens: Tensor, anchors: Tensor, *, k: int = 1) -> Tensor:
    """Indices (n, k) of the k nearest anchors (m, d) of every token (n, d), nearest first, on the tokens' device."""
    if tokens.device.type != "cpu" or len(anchors) <= FEW:
        return coding.nearest(tokens, anchors, k=k)
    try:
        import faiss
    except ImportError:  # in a host that has torch alone, as ComfyUI
        return coding.nearest(tokens, anchors, k=k)
    index = faiss.IndexFlatL2(anchors.shape[1])
    index.add(anchors.numpy())
    _, found = index.search(tokens.detach().contiguous().numpy(), k)
    return torch.from_numpy(found).clamp_min_(0)  # a token of NaN has no neighbour; any index leaves its distance NaN
