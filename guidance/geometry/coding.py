"""Where tokens lie among anchors: nearest anchors, and local coordinates. Knows nothing of shells, video or files.

Tokens are float32 (n, d), anchors (m, d).
"""

from __future__ import annotations

import torch
from torch import Tensor

from shelllcc.guidance.geometry.precision import full_precision

ENTRIES = 1 << 25  # token-anchor distances held at once: 128 MiB
GROUP = 16  # anchors that compete among themselves first


def nearest(tokens: Tensor, anchors: Tensor, *, k: int = 1) -> Tensor:
    """Indices (n, k) of the k nearest anchors of every token, nearest first, on the tokens' device.

    Exact, in float32: |z|^2 + |b|^2 - 2 z.b cancels, so lower precision finds wrong neighbours. Memory is bounded by
    `ENTRIES`, whatever n.
    """
    norms = anchors.square().sum(-1)
    with full_precision():
        found = [
            _smallest(torch.addmm(norms, chunk, anchors.T, alpha=-2), k)
            for chunk in torch.split(tokens, max(1, ENTRIES // len(anchors)))
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
    weights = _solve_ones(gram + (ridge * trace)[:, None, None] * eye)
    return weights / weights.sum(-1, keepdim=True)


def _smallest(scores: Tensor, k: int) -> Tensor:
    """Columns (n, k) of the k smallest scores (n, m) in each row, smallest first.

    The k smallest lie in the k groups with the smallest minima, so that only those groups need to be sorted.
    """
    m = scores.shape[1]
    if k == 1:
        return scores.argmin(-1, keepdim=True)
    if m % GROUP or m < 2 * k * GROUP:
        return scores.topk(k, largest=False).indices
    groups = scores.unflatten(-1, (GROUP, -1))  # one in every column, so that minima are taken along memory
    best = groups.amin(1).topk(k, largest=False).indices
    inside = groups.gather(2, best[:, None].expand(-1, GROUP, -1)).flatten(1)
    chosen = inside.topk(k, largest=False).indices
    return best.gather(1, chosen % k) + chosen // k * groups.shape[2]


def _solve_ones(gram: Tensor) -> Tensor:
    """x (n, k) of gram x = 1, for positive definite (n, k, k): Gauss-Jordan, which needs no pivots there."""
    table = torch.cat([gram, torch.ones_like(gram[..., :1])], dim=-1)
    for i in range(gram.shape[-1]):
        row = table[:, i : i + 1] / table[:, i : i + 1, i : i + 1]
        table = table - table[:, :, i : i + 1] * row
        table[:, i] = row[:, 0]
    return table[..., -1]
