"""Fit a shell to real latents. Knows nothing of video files, models or bank files.

Latents are normalised VAE latents, float32, one clip (c t h w) at a time. Three disjoint sets of clips keep it honest:
one places the anchors, one measures the scales around them, and a held-out one sets the unit of distance. Scales from
the anchors' own clips come out far too small.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from shelllcc.guidance.coding import nearest
from shelllcc.guidance.patches import to_tokens
from shelllcc.guidance.shell import Shell


def fit_shell(
    clips: Sequence[Tensor],
    held_out: Sequence[Tensor],
    *,
    patch: int = 3,
    components: int = 96,
    anchors: int = 32,
    shrinkage: float = 256.0,
    sample: int = 200_000,
    seed: int = 0,
) -> Shell:
    """A shell with one covariance an anchor, from `clips` (even ones place anchors, odd ones scales) and `held_out`.

    `components` is the number of principal directions kept, `shrinkage` the weight, in tokens, of the common covariance
    in each anchor's own, and `sample` the most tokens that either half contributes. The median held-out distance of
    later latent frames is 1. The radius is not calibrated over sigma: it is that of clean latents at every level.
    """
    generator = torch.Generator().manual_seed(seed)
    placing, scaling = (_tokens(clips[half::2], patch, sample, generator) for half in (0, 1))
    mean = placing.mean(0)
    basis = _principal_directions(placing - mean, components)
    centres = _kmeans((placing - mean) @ basis, anchors, seed)
    projected = (scaling - mean) @ basis
    index = nearest(projected, centres)[:, 0]
    residual = projected - centres[index]
    common = residual.T @ residual / len(residual)
    whitening = torch.stack([_whiten(residual[index == i], common, shrinkage) for i in range(anchors)])
    one = torch.ones(1)
    shell = Shell(patch, 1, mean, basis, centres, whitening, sigmas=one * 0, radius=torch.ones(2, 1))
    first, later = clean_radius(shell, held_out)
    radius = torch.tensor([[first / later], [1.0]])
    return Shell(patch, 1, mean, basis, centres, whitening / later, sigmas=one * 0, radius=radius)


def clean_radius(shell: Shell, clips: Sequence[Tensor]) -> tuple[float, float]:
    """Median distance of the first latent frame's patches and of the later ones'."""
    firsts, laters = [], []
    for clip in clips:
        _, distance = shell.residuals(clip[None])
        per_frame = distance.view(clip.shape[1], -1)
        firsts.append(per_frame[0])
        laters.append(per_frame[1:].flatten())
    return float(torch.cat(firsts).median()), float(torch.cat(laters).median())


def _tokens(clips: Sequence[Tensor], patch: int, sample: int, generator: torch.Generator) -> Tensor:
    """An equal share of patch tokens from every clip, at most `sample` in all."""
    share = max(1, sample // len(clips))
    kept = []
    for clip in clips:
        tokens = to_tokens(clip[None].float(), size=patch)[0]
        chosen = torch.randperm(len(tokens), generator=generator)[:share].sort().values
        kept.append(tokens[chosen])
    return torch.cat(kept)


def _principal_directions(centred: Tensor, components: int) -> Tensor:
    covariance = (centred.T @ centred).double() / len(centred)
    _, vectors = torch.linalg.eigh(covariance)
    leading = vectors.flip(1)[:, :components]
    signs = leading.gather(0, leading.abs().argmax(0, keepdim=True)).sign()  # eigenvectors have no sign of their own
    return (leading * signs).float()


def _kmeans(tokens: Tensor, anchors: int, seed: int) -> Tensor:
    """faiss k-means centres (m, d); bit-identical for a seed, whatever the number of threads."""
    import faiss

    points = np.ascontiguousarray(tokens.numpy())
    kmeans = faiss.Kmeans(
        points.shape[1], anchors, niter=25, seed=seed, max_points_per_centroid=len(points), min_points_per_centroid=1
    )
    kmeans.train(points)
    return torch.from_numpy(np.array(kmeans.centroids))


def _whiten(residual: Tensor, common: Tensor, shrinkage: float) -> Tensor:
    """Inverse Cholesky factor of the shrunk covariance: residual @ factor has about unit covariance."""
    n = len(residual)
    covariance = (residual.T @ residual + shrinkage * common).double() / (n + shrinkage)
    covariance += 1e-5 * covariance.diagonal().mean() * torch.eye(len(common), dtype=torch.float64)
    lower = torch.linalg.cholesky(covariance)
    factor = torch.linalg.solve_triangular(lower, torch.eye(len(common), dtype=torch.float64), upper=False).T
    return (factor / len(common) ** 0.5).float()
