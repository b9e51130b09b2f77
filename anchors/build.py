"""Fit a shell to real latents. Knows nothing of video files, models or bank files.

Latents are normalised VAE latents, one clip (c t h w) at a time. Three disjoint sets of videos keep it honest: one
places the anchors, one measures the scales around them, and a held-out one sets the unit of distance. Scales from the
anchors' own clips come out far too small. Memory is bounded by `Recipe.sample`, whatever the number of clips, and the
result does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shelllcc.anchors.bank import LEVELS
from shelllcc.anchors.draws import draw
from shelllcc.anchors.search import nearest
from shelllcc.anchors.use import as_used
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.geometry.patches import to_tokens
from shelllcc.guidance.geometry.shell import Curve, Shell
from shelllcc.guidance.geometry.skeletons import Anchors
from shelllcc.guidance.geometry.threads import one_thread

KINDS: dict[tuple[str, int], tuple[int, int, int, int]] = {
    ("covariance", 1): (64, 16, 16, 1),
    ("covariance", 3): (32, 144, 96, 1),
    ("local", 1): (1024, 16, 16, 8),
    ("local", 3): (512, 144, 96, 4),
}
"""Anchors, components, guided components and neighbours by kind and patch."""
COMPONENTS = 432  # of patches of a starter at most: those of 48 channels
MOST = 4_000_000  # patches in a sample
CHUNK = 32_768  # patches whose distances are measured at once
MEDIAN = LEVELS.index(0.5)
SIZES = ("anchors", "components", "guided", "neighbours")


@dataclass(frozen=True)
class Recipe:
    """How a shell is fitted; `Recipe.usual` fills in what KINDS says.

    kind        `covariance`: few anchors, each with the covariance of its residuals; `local`: many anchors, of which
                the nearest neighbours code a token (locality-constrained linear coding), with one covariance for all
    patch       side of a patch in latent voxels: 1 (the paper's) or 3
    anchors     number of anchors
    components  principal directions of patches that are kept; the last ones tell generated latents best
    guided      leading ones of them in which the guide moves
    neighbours  anchors in a code
    shrinkage   weight, in tokens, of the common covariance in each anchor's own
    sample      most tokens that each of the three sets contributes, in equal shares of its clips
    held_out    share of the videos that sets the unit of distance
    """

    kind: str = "covariance"
    patch: int = 3
    anchors: int = 32
    components: int = 144
    guided: int = 96
    neighbours: int = 1
    shrinkage: float = 256.0
    sample: int = 200_000
    held_out: float = 0.15
    seed: int = 0

    @classmethod
    def usual(cls, kind: str = "covariance", patch: int = 3, **given: Any) -> Recipe:
        """The recipe of that kind and patch; None among `given` stands for the usual value."""
        if (kind, patch) not in KINDS:
            raise UsageError(f"a bank is covariance or local, of patch 1 or 3, got {kind} and {patch}")
        sizes = dict(zip(SIZES, KINDS[kind, patch], strict=True)) | {k: v for k, v in given.items() if v is not None}
        return cls(kind, patch, **sizes | {"guided": min(sizes["guided"], sizes["components"])})

    def __post_init__(self) -> None:
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"the seed must lie in 0 .. 2^31-1, got {self.seed}")
        for name in (*SIZES, "sample"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kind == "covariance" and self.neighbours != 1:
            raise UsageError("a covariance bank codes by the one nearest anchor; neighbours are for the local kind")
        if self.guided > self.components:
            raise UsageError(f"there are {self.components} components, {self.guided} cannot be guided")
        most = min(self.guided // 2, self.anchors)
        if self.kind == "local" and not 2 <= self.neighbours <= most:
            raise UsageError(
                f"a local code takes 2 to {most} neighbours, got {self.neighbours}: more rebuild all tokens"
            )
        if self.sample > MOST:
            raise UsageError(f"the sample is at most {MOST} patches, got {self.sample}")
        if not 0 < self.held_out < 1 or self.shrinkage < 0:
            raise UsageError("held-out is a share between 0 and 1, and the shrinkage not negative")


def starter_recipe(channels: int) -> Recipe:
    """The recipe of starter banks, for latents of so many channels: all components where that can be, two thirds of
    them guided."""
    components = min(9 * channels, COMPONENTS)
    return Recipe(components=components, guided=2 * components // 3)


def split_sources(sources: Iterable[str], held_out: float) -> dict[str, str]:
    """Each video's set, "placing", "scaling" or "held out", by its hash alone: the order of `sources` is nothing.

    Raises UsageError for fewer than three videos.
    """
    ordered = sorted(set(sources))
    if len(ordered) < 3:
        raise UsageError(f"a bank needs at least 3 different videos, got {len(ordered)}; cut a long one into parts")
    held = min(max(1, round(held_out * len(ordered))), len(ordered) - 2)
    rest = {source: ("placing", "scaling")[i % 2] for i, source in enumerate(ordered[held:])}
    return dict.fromkeys(ordered[:held], "held out") | rest


@dataclass(frozen=True)
class Fit:
    """A fitted shell, whose median held-out distance is 1 in later latent frames.

    clean      radius of clean latents in the guided components, at every sigma (see anchors.calibrate)
    quantiles  (2, 7) distances of held-out patches at LEVELS
    coverage   share of held-out patches no farther than 99% of the patches that measured the scales
    Row 0 of both is the first latent frame's, which a causal VAE gives statistics of its own.
    """

    shell: Shell
    guided: int
    clean: Curve
    quantiles: Tensor
    coverage: float


def fit_shell(
    placing: Sequence[Tensor], scaling: Sequence[Tensor], held_out: Sequence[Tensor], recipe: Recipe | None = None
) -> Fit:
    """Fit a shell to three sets of clips that share no video. Raises UsageError for too few patches."""
    recipe = recipe or Recipe()
    with one_thread():
        tokens = _sample(placing, recipe)
        mean = tokens.mean(0)
        tokens -= mean
        _check_enough(tokens, recipe)
        basis = _principal_directions(tokens, recipe.components)
        centres = _kmeans(tokens @ basis, recipe.anchors, recipe.seed)
        del tokens
        projected = (_sample(scaling, recipe) - mean) @ basis
        whitening = _whitening(projected, centres, recipe)
        skeleton = Anchors(centres, whitening, recipe.neighbours, nearest)
        known = torch.cat([skeleton.residuals(part)[1] for part in projected.split(CHUNK)])
        del projected
        shell = Shell(recipe.patch, mean, basis, skeleton)
        distances = held_out_distances(shell, held_out, sample=recipe.sample)
        coverage = float((torch.cat(distances) <= known.quantile(0.99)).float().mean())
        quantiles = _quantiles(distances)
        unit = quantiles[1, MEDIAN].clone()
        shell = replace(shell, skeleton=replace(skeleton, whitening=whitening / unit))
        guided = held_out_quantiles(shell.leading(recipe.guided), held_out, sample=recipe.sample)
        shell = as_used(shell, held_out, guided=recipe.guided)
        return Fit(shell, recipe.guided, clean_curve(guided), quantiles / unit, coverage)


def clean_curve(quantiles: Tensor) -> Curve:
    """The median of clean latents as the radius at every sigma."""
    return Curve(torch.zeros(1), quantiles[:, MEDIAN : MEDIAN + 1].clone())


def held_out_quantiles(shell: Shell, clips: Sequence[Tensor], *, sample: int = 200_000) -> Tensor:
    """Quantiles (2, 7) of the distances at LEVELS: of the first latent frames' patches, and of the later ones'."""
    return _quantiles(held_out_distances(shell, clips, sample=sample))


def held_out_distances(shell: Shell, clips: Sequence[Tensor], *, sample: int) -> tuple[Tensor, Tensor]:
    """Distances of the first latent frames' patches, and of the later ones'.

    Every clip gives an equal share of at most `sample` distances, drawn at random.
    """
    firsts, laters = [], []
    share = max(1, sample // max(1, len(clips)))
    for number, clip in enumerate(clips):
        _, distance = shell.residuals(clip[None])
        per_frame = distance.view(clip.shape[1], -1)
        firsts.append(draw(per_frame[0], share, seed=number))
        laters.append(draw((per_frame[1:] if len(per_frame) > 1 else per_frame).flatten(), share, seed=number))
    return torch.cat(firsts), torch.cat(laters)


def _quantiles(distances: Sequence[Tensor]) -> Tensor:
    return torch.stack([part.quantile(torch.tensor(LEVELS)) for part in distances])


def _sample(clips: Sequence[Tensor], recipe: Recipe) -> Tensor:
    """An equal share of patch tokens (n, p) from every clip, at most `recipe.sample` in all.

    They go into one table made beforehand: many small pieces between large ones would scatter over the heap.
    """
    share, filled = max(1, recipe.sample // max(1, len(clips))), 0
    table = torch.empty(0)
    for number, clip in enumerate(clips):
        if min(clip.shape[-2:]) <= recipe.patch // 2:
            raise UsageError(f"latents of {tuple(clip.shape[-2:])} are too small for patches of {recipe.patch}")
        tokens = draw(to_tokens(clip[None].float(), size=recipe.patch)[0], share, seed=recipe.seed + number)
        if not len(table):
            table = torch.empty(min(recipe.sample, share * len(clips)), tokens.shape[1])
        end = min(filled + len(tokens), len(table))
        table[filled:end] = tokens[: end - filled]
        filled = end
        if filled == recipe.sample:
            break
    return table[:filled]


def _check_enough(tokens: Tensor, recipe: Recipe) -> None:
    needed = max(4 * recipe.anchors, 2 * recipe.components)
    if recipe.components > tokens.shape[1]:
        raise UsageError(f"patches have {tokens.shape[1]} numbers, {recipe.components} components are too many")
    if len(tokens) < needed:
        raise UsageError(
            f"the videos give {len(tokens)} patches for the anchors, {needed} are needed; give more videos"
        )


def _principal_directions(centred: Tensor, components: int) -> Tensor:
    _, vectors = torch.linalg.eigh(_gram(centred))
    leading = vectors.flip(1)[:, :components]
    signs = leading.gather(0, leading.abs().argmax(0, keepdim=True)).sign()  # eigenvectors have no sign of their own
    return (leading * signs).float()


def _kmeans(tokens: Tensor, anchors: int, seed: int) -> Tensor:
    """faiss k-means centres (m, d), on one thread: with more, its sums may come out in another order."""
    try:
        import faiss
    except ImportError:  # in a host that has torch alone, as ComfyUI
        return _lloyd(tokens, anchors, seed)
    points = np.ascontiguousarray(tokens.numpy())
    kmeans = faiss.Kmeans(
        points.shape[1], anchors, niter=25, seed=seed, max_points_per_centroid=len(points), min_points_per_centroid=1
    )
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        kmeans.train(points)
    finally:
        faiss.omp_set_num_threads(threads)
    return torch.from_numpy(np.array(kmeans.centroids))


def _lloyd(tokens: Tensor, anchors: int, seed: int, *, rounds: int = 25) -> Tensor:
    """k-means centres (m, d) by Lloyd's rounds, from tokens drawn at random; a centre that has no tokens stays."""
    dice = torch.Generator().manual_seed(seed)
    centres = tokens[torch.randperm(len(tokens), generator=dice)[:anchors]].clone()
    for _ in range(rounds):
        owner = nearest(tokens, centres)[:, 0]
        count = torch.bincount(owner, minlength=anchors)
        total = torch.zeros_like(centres).index_add_(0, owner, tokens)
        centres = torch.where(count[:, None] > 0, total / count.clamp_min(1)[:, None], centres)
    return centres


def _whitening(tokens: Tensor, centres: Tensor, recipe: Recipe) -> Tensor:
    """Whitening of the residuals of tokens that did not place the anchors: (m, d, d), or (1, d, d) for a local code."""
    d = centres.shape[1]
    points, index = Anchors(centres, torch.eye(d)[None], recipe.neighbours, nearest).code(tokens)
    residual = tokens - points
    common = _gram(residual) / len(residual)
    if recipe.kind == "local":
        return _whiten(residual[:0], common, 1.0)[None]
    return torch.stack([_whiten(residual[index == i], common, recipe.shrinkage) for i in range(len(centres))])


def _gram(tokens: Tensor) -> Tensor:
    """tokens.T @ tokens (d, d) in float64: directions of little variance count."""
    total = torch.zeros(tokens.shape[1], tokens.shape[1], dtype=torch.float64)
    for part in tokens.split(CHUNK):
        total += part.double().T @ part.double()
    return total


def _whiten(residual: Tensor, common: Tensor, shrinkage: float) -> Tensor:
    """Inverse Cholesky factor of the shrunk covariance: residual @ factor has about unit covariance."""
    n = len(residual)
    covariance = (_gram(residual) + shrinkage * common) / (n + shrinkage)
    covariance += 1e-5 * covariance.diagonal().mean() * torch.eye(len(common), dtype=torch.float64)
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if int(failed) or not torch.isfinite(lower).all():
        raise UsageError("the patches do not vary, or without bound; give videos that show something")
    factor = torch.linalg.solve_triangular(lower, torch.eye(len(common), dtype=torch.float64), upper=False).T
    return (factor / len(common) ** 0.5).float()
