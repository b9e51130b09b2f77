"""Skeletons: where the anchors say that a token should lie. Knows nothing of video, radii or files.

Tokens are float32 (n, d), anchors (m, d).
"""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 16_384  # tokens whose distances to all anchors are held at once


def nearest(tokens: Tensor, anchors: Tensor, *, k: int = 1) -> Tensor:
    """Indices (n, k) of the k nearest anchors of every token, nearest first.

    Exact, in float32: |z|^2 + |b|^2 - 2 z.b cancels, so lower precision finds wrong neighbours.
    """
    norms = anchors.square().sum(-1)
    found = [
        (norms - 2 * chunk @ anchors.T).topk(k, dim=-1, largest=False).indices for chunk in torch.split(tokens, CHUNK)
    ]
    return torch.cat(found)


def local_coordinates(tokens: Tensor, neighbours: Tensor, *, ridge: float = 1e-2) -> Tensor:
    """Weights (n, k), summing to 1, that rebuild each token from its own neighbours (n, k, d).

    The closed form of locality-constrained linear coding (Wang et al. 2010, section 3.3): solve C c = 1 with
    C = Z Z^T + ridge trace(Z Z^T) I and Z = neighbours - token, then normalise. Keep k below d: more neighbours than
    dimensions rebuild every token exactly.
    """
    offsets = neighbours - tokens[:, None]
    gram = offsets @ offsets.mT
    trace = gram.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(1e-12)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    gram = gram + (ridge * trace)[:, None, None] * eye
    weights = torch.linalg.solve(gram, torch.ones_like(gram[..., 0]))
    return weights / weights.sum(-1, keepdim=True)


def skeleton(tokens: Tensor, anchors: Tensor, *, k: int, ridge: float = 1e-2) -> tuple[Tensor, Tensor]:
    """The point (n, d) of the skeleton under each token, and its nearest anchor's index (n,).

    With k = 1 it is the nearest anchor; above, the local coordinate code of the k nearest.
    """
    indices = nearest(tokens, anchors, k=k)
    if k == 1:
        return anchors[indices[:, 0]], indices[:, 0]
    neighbours = anchors[indices]
    weights = local_coordinates(tokens, neighbours, ridge=ridge)
    return (weights[:, None] @ neighbours)[:, 0], indices[:, 0]
