"""Skeletons: the point under each token, and how far from it the token lies. Knows nothing of patches, video or files.

Two kinds. `Anchors` codes a token by its nearest anchors and scales the residual by covariances. `Amortized` is the
manifold of Shell-LCC's authors (arXiv 2606.30248, section 3), in which small networks give the code and the scale.
Tokens are float32 (n, d).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from shelllcc.guidance.geometry import coding

BLOCK = 128  # residuals that are whitened together
Search = Callable[..., Tensor]
"""nearest(tokens (n, d), anchors (m, d), *, k) -> indices (n, k)."""


@dataclass(frozen=True)
class Anchors:
    """Anchors (m, d), of which the k nearest code a token; k = 1 takes the nearest itself.

    whitening (m, d, d) upper triangular: residuals of anchor i times whitening[i] have unit scale on the shell; or
    (1, d, d) for all.
    usage     (m,) share of real tokens of which each is the nearest; None where nobody counted, and all count alike.
    """

    anchors: Tensor
    whitening: Tensor
    k: int = 1
    search: Search = coding.nearest
    usage: Tensor | None = None

    @property
    def dimensions(self) -> int:
        return self.anchors.shape[1]

    @property
    def width(self) -> int:
        """Numbers that are held for a token while it is coded."""
        return (self.k if self.k > 1 else 2) * (self.dimensions + self.k)

    @property
    def spread(self) -> float:
        """RMS scale of residuals, over anchors as they are used, and directions."""
        sizes = torch.linalg.inv(self.whitening).square().sum((1, 2))
        usage = self.usage if len(sizes) > 1 else None
        return float((sizes.mean() if usage is None else usage @ sizes).div(self.dimensions).sqrt())

    @property
    def points(self) -> Tensor:
        """Points (m, d) all over the skeleton."""
        return self.anchors

    @property
    def shares(self) -> Tensor | None:
        """How often tokens come to each of the points (m,); None where they count alike."""
        return self.usage

    @property
    def order(self) -> Tensor:
        """Directions (d,), the coarsest first: principal ones are in that order."""
        return torch.arange(self.dimensions)

    def to(self, device: torch.device) -> Anchors:
        usage = None if self.usage is None else self.usage.to(device)
        return replace(self, anchors=self.anchors.to(device), whitening=self.whitening.to(device), usage=usage)

    def leading(self, components: int) -> Anchors:
        """The skeleton of the leading dimensions. A triangular whitening of all whitens the leading ones, too."""
        anchors, whitening = self.anchors[:, :components], self.whitening[:, :components, :components]
        return replace(self, anchors=anchors.contiguous(), whitening=whitening.contiguous())

    def code(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The skeleton's point (n, d) under each token, and the index (n,) of its nearest anchor."""
        indices = self.search(tokens, self.anchors, k=self.k)
        if self.k == 1:
            return self.anchors[indices[:, 0]], indices[:, 0]
        neighbours = self.anchors.index_select(0, indices.flatten()).view(*indices.shape, -1)
        weights = coding.local_coordinates(tokens, neighbours)
        return (weights[:, None] @ neighbours)[:, 0], indices[:, 0]

    def residuals(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (n, d) from the skeleton, and distances (n,)."""
        points, index = self.code(tokens)
        residual = tokens - points
        return residual, whitened_norm(residual, index, self.whitening)


@dataclass(frozen=True)
class Amortized:
    """The authors' manifold; `weights` has the names and shapes of their checkpoint.

    z_hat = softmax(predictor(z)) @ basis * global_scale + global_bias; the scale exp(surface_head(z_hat)) is a standard
    deviation, and the distance |(z - z_hat) / (scale + 1e-6)|. Batch normalisation runs on its stored statistics.
    visited   (n, d) points under real tokens; None where nobody looked, and the bases stand for them, used or not.
    """

    weights: Mapping[str, Tensor]
    visited: Tensor | None = None

    @property
    def dimensions(self) -> int:
        return self.weights["basis"].shape[1]

    @property
    def width(self) -> int:
        """Numbers that are held for a token while it is coded."""
        return 2 * len(self.weights["basis"])

    @property
    def spread(self) -> float:
        """RMS scale of residuals, over points and directions."""
        return float(self.scale(self.points).square().mean().sqrt())

    @property
    def points(self) -> Tensor:
        """Points (m, d) all over the skeleton."""
        if self.visited is not None:
            return self.visited
        return self.weights["basis"] * self.weights["global_scale"] + self.weights["global_bias"]

    @property
    def shares(self) -> Tensor | None:
        """As `Anchors.shares`: visited points count alike."""
        return None

    @property
    def order(self) -> Tensor:
        """Directions (d,), the coarsest first: that in which the points differ most."""
        return self.points.var(0).argsort(descending=True)

    def to(self, device: torch.device) -> Amortized:
        visited = None if self.visited is None else self.visited.to(device)
        return Amortized({name: tensor.to(device) for name, tensor in self.weights.items()}, visited)

    def leading(self, components: int) -> Amortized:
        raise ValueError(f"an amortized skeleton has {self.dimensions} dimensions, all of which its networks need")

    def code(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """The skeleton's point (n, d) under each token, and the weights (n, m) of the bases in it."""
        w = self.weights
        hidden = F.linear(tokens, w["predictor.0.weight"], w["predictor.0.bias"])
        moments = w["predictor.1.running_mean"], w["predictor.1.running_var"]
        hidden = F.batch_norm(hidden, *moments, w["predictor.1.weight"], w["predictor.1.bias"]).relu()
        hidden = F.linear(hidden, w["predictor.3.weight"], w["predictor.3.bias"]).relu()
        weights = F.linear(hidden, w["predictor.5.weight"], w["predictor.5.bias"]).softmax(-1)
        return weights @ w["basis"] * w["global_scale"] + w["global_bias"], weights

    def scale(self, points: Tensor) -> Tensor:
        """The scale (n, d) of residuals from points of the skeleton."""
        w = self.weights
        hidden = F.linear(points, w["surface_head.0.weight"], w["surface_head.0.bias"]).relu()
        return F.linear(hidden, w["surface_head.2.weight"], w["surface_head.2.bias"]).exp()

    def residuals(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (n, d) from the skeleton, and distances (n,)."""
        points, _ = self.code(tokens)
        residual = tokens - points
        return residual, (residual / (self.scale(points) + 1e-6)).norm(dim=-1)


Skeleton = Anchors | Amortized


def whitened_norm(residual: Tensor, index: Tensor, whitening: Tensor) -> Tensor:
    """Distances (n,): the norm of each residual (n, d) times the whitening of its anchor, index (n,).

    Residuals are sorted by anchor into blocks that one anchor has to itself, with room to spare in its last, so that
    one batched product does them all and nothing waits for a count.
    """
    m, d = whitening.shape[:2]
    if m == 1:
        return (residual @ whitening[0]).norm(dim=-1)
    order = (index.short() if m < 1 << 15 else index).argsort(stable=True)  # short keys sort sooner
    owned = index[order]
    counts = torch.zeros(m, dtype=index.dtype, device=index.device).scatter_add_(0, index, torch.ones_like(index))
    ends = ((counts + BLOCK - 1) // BLOCK).cumsum(0)  # of each anchor's blocks
    shift = torch.cat([ends.new_zeros(1), ends[:-1]]) * BLOCK - (counts.cumsum(0) - counts)
    slot = torch.arange(len(index), device=index.device) + shift[owned]
    blocks = len(index) // BLOCK + m  # as many as there can be
    table = residual.new_zeros(blocks * BLOCK, d).index_copy_(0, slot, residual[order])
    owner = torch.searchsorted(ends, torch.arange(blocks, device=index.device), right=True).clamp_max(m - 1)
    norms = torch.bmm(table.view(blocks, BLOCK, d), whitening[owner]).norm(dim=-1).flatten()[slot]
    return torch.empty_like(norms).index_copy_(0, order, norms)
