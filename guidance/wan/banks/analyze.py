"""What a bank knows: the analyses of the Shell-LCC paper (arXiv 2606.30248, section 4) on latents at hand.

Numbers alone; knows nothing of video files, pictures or terminals. A clip's distance is the mean over its patches.
Degraded clips are real ones with noise of deviation 0.1 or 0.2, or with every latent frame blurred by (1 2 1) / 4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.build import Recipe, fit_shell
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.geometry.coding import local_coordinates
from shelllcc.guidance.geometry.patches import average_tokens
from shelllcc.guidance.geometry.shell import Shell
from shelllcc.guidance.geometry.skeletons import Amortized, Anchors

BINS = 60
SIZES = (3, 6, 12, 25, 50, 100, 200, 400)  # videos of the data efficiency
Measure = Callable[[Tensor], float]
"""latents (c t h w) -> the clip's distance."""


def degraded(latents: Tensor, *, seed: int = 0) -> dict[str, Tensor]:
    """Noised and blurred forms of latents (c t h w)."""
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    taps = torch.tensor([1.0, 2.0, 1.0]) / 4
    kernel = torch.outer(taps, taps).expand(latents.shape[0], 1, 3, 3)
    frames = F.pad(latents.transpose(0, 1), (1, 1, 1, 1), mode="reflect")
    blurred = F.conv2d(frames, kernel, groups=latents.shape[0]).transpose(0, 1)
    return {"noise 0.1": latents + 0.1 * noise, "noise 0.2": latents + 0.2 * noise, "blur": blurred}


def share_of_pairs(nearer: Sequence[float], farther: Sequence[float]) -> float:
    """Share of all pairs in which the first lies nearer than the second; ties count half."""
    a, b = torch.tensor(nearer)[:, None], torch.tensor(farther)[None]
    return float((a < b).float().mean() + 0.5 * (a == b).float().mean())


@torch.no_grad()
def analyze(
    bank: Bank,
    fit: Sequence[Sequence[Tensor]],
    real: Sequence[Tensor],
    generated: Sequence[Tensor],
    *,
    on_stage: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Everything there is to say, as one JSON-able table.

    `real` are held-out clips (c t h w) and `generated` sampled ones, which may be none. `fit` holds the clips of each
    of the other videos; banks of other kinds and sizes are fitted to them, and none is without at least 3.
    """
    on_stage("distances")
    table: dict[str, Any] = {
        "clips": {"real": len(real), "generated": len(generated), "videos_to_fit": len(fit)},
        "distance": _distances(bank.shell, real, generated),
        "usage": {"real": usage(bank.shell, real)} | ({"generated": usage(bank.shell, generated)} if generated else {}),
        "distinguishability": {"this bank": distinguish(mean_distance(bank.shell), real, generated)},
    }
    if len(fit) < 3:
        return table
    on_stage("kinds of banks")
    for name, measure in _variants(fit, real, bank.shell.skeleton):
        table["distinguishability"][name] = distinguish(measure, real, generated)
    on_stage("data efficiency")
    table["data_efficiency"] = []
    for n in (*(size for size in SIZES if size < len(fit)), len(fit)):
        try:
            shell = fit_shell(*_halves(fit[:n]), real, _small(bank)).shell
        except UsageError:
            continue  # too few patches
        table["data_efficiency"].append({"videos": n} | distinguish(mean_distance(shell), real, generated))
    return table


def distinguish(measure: Measure, real: Sequence[Tensor], generated: Sequence[Tensor]) -> dict[str, float]:
    """Share of pairs in which the real clip lies nearer: of the same clip degraded, and of any generated one."""
    clean, spoilt = [], dict[str, list[float]]()
    for number, clip in enumerate(real):
        clean.append(measure(clip))
        for name, version in degraded(clip, seed=number).items():
            spoilt.setdefault(name, []).append(measure(version))
    shares = {
        name: sum(a < b for a, b in zip(clean, values, strict=True)) / len(clean) for name, values in spoilt.items()
    }
    if generated:
        shares["generated"] = share_of_pairs(clean, [measure(clip) for clip in generated])
    return shares


def mean_distance(shell: Shell) -> Measure:
    """The shell distance of a clip."""
    return lambda clip: float(shell.residuals(clip[None])[1].mean())


def usage(shell: Shell, clips: Sequence[Tensor]) -> dict[str, Any]:
    """How evenly the patches of clips use the anchors: shares, largest first; `effective` is exp(entropy) / anchors."""
    m = len(shell.skeleton.anchors if isinstance(shell.skeleton, Anchors) else shell.skeleton.weights["basis"])
    total = torch.zeros(m, dtype=torch.float64)
    for clip in clips:
        for frame in clip.split(1, dim=1):
            codes = shell.skeleton.code(shell.project(frame[None])[0])[1]
            total += torch.bincount(codes, minlength=m) if codes.ndim == 1 else codes.double().sum(0)
    share = (total / total.sum()).sort(descending=True).values
    entropy = -float((share * share.clamp_min(1e-12).log()).sum())
    return {
        "effective": math.exp(entropy) / len(share),
        "unused": int((share == 0).sum()),
        "shares": [round(value, 6) for value in share.tolist()],
    }


def radial(shell: Shell, latents: Tensor, factor: float) -> Tensor:
    """The latents (c t h w) with every patch's residual stretched, z_hat + factor (z - z_hat), patches averaged."""
    residual, _ = shell.residuals(latents[None])
    moved = average_tokens((factor - 1) * residual @ shell.basis.T, latents[None].shape, size=shell.patch)
    return latents + moved[0]


def _distances(shell: Shell, real: Sequence[Tensor], generated: Sequence[Tensor]) -> dict[str, Any]:
    """Mean, deviation over clips, and a histogram of patches' distances, for each set of clips."""
    sets: dict[str, Iterable[Tensor]] = {"real": real}
    for name in ("noise 0.1", "noise 0.2", "blur"):
        sets[name] = (degraded(clip, seed=i)[name] for i, clip in enumerate(real))
    if generated:
        sets["generated"] = generated
    top = 2 * max(float(shell.residuals(clip[None])[1].quantile(0.99)) for clip in real[:8])
    found = dict[str, Any]()
    for name, clips in sets.items():
        means, counts = [], torch.zeros(BINS)
        for clip in clips:
            distance = shell.residuals(clip[None])[1].flatten()
            means.append(float(distance.mean()))
            counts += torch.histc(distance.clamp_max(top), BINS, min=0, max=top)
        spread = float(torch.tensor(means).std()) if len(means) > 1 else 0.0
        histogram = (counts / counts.sum()).tolist()
        found[name] = {"mean": sum(means) / len(means), "deviation": spread, "histogram": histogram}
    return {"edges": torch.linspace(0, top, BINS + 1).tolist(), "sets": found}


def _variants(
    fit: Sequence[Sequence[Tensor]], real: Sequence[Tensor], skeleton: Anchors | Amortized
) -> Iterable[tuple[str, Measure]]:
    """Voxel and 3x3 banks: the locality-constrained code alone, reconstruction alone, the shell, covariance anchors."""
    halves = _halves(fit)
    for patch, label in ((1, "voxel"), (3, "3x3")):
        try:
            local = fit_shell(*halves, real, _affordable("local", patch, fit)).shell
            covariance = fit_shell(*halves, real, _affordable("covariance", patch, fit)).shell
        except UsageError:
            continue
        yield f"{label}, local code, reconstruction and locality", _coding_cost(local, locality=True)
        yield f"{label}, local code, reconstruction alone", _coding_cost(local, locality=False)
        yield f"{label}, local code, shell", mean_distance(local)
        yield f"{label}, covariance anchors, shell", mean_distance(covariance)


def _coding_cost(shell: Shell, *, locality: bool) -> Measure:
    """Mean of |z - z_hat|^2, plus sum_k |w_k| |z - b_k|^2 where locality counts."""
    skeleton = shell.skeleton
    assert isinstance(skeleton, Anchors)

    def cost(clip: Tensor) -> float:
        costs = []
        for frame in clip.split(1, dim=1):
            tokens = shell.project(frame[None])[0]
            neighbours = skeleton.anchors[skeleton.search(tokens, skeleton.anchors, k=skeleton.k)]
            weights = local_coordinates(tokens, neighbours)
            error = (tokens - (weights[:, None] @ neighbours)[:, 0]).square().sum(-1)
            apart = (weights.abs() * (tokens[:, None] - neighbours).square().sum(-1)).sum(-1)
            costs.append(error + apart if locality else error)
        return float(torch.cat(costs).mean())

    return cost


def _halves(fit: Sequence[Sequence[Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """The clips of every other video for the anchors, those of the rest for the scales."""
    return [clip for video in fit[0::2] for clip in video], [clip for video in fit[1::2] for clip in video]


def _affordable(kind: str, patch: int, fit: Sequence[Sequence[Tensor]]) -> Recipe:
    """The usual recipe of that kind with no more anchors than there are patches for."""
    recipe = Recipe.usual(kind, patch)
    patches = sum(clip[0].numel() for video in fit[0::2] for clip in video)
    return replace(recipe, anchors=max(8, min(recipe.anchors, patches // 8)))


def _small(bank: Bank) -> Recipe:
    """The recipe of the bank, or the usual one for its patch."""
    skeleton = bank.shell.skeleton
    if not isinstance(skeleton, Anchors):
        return Recipe.usual("covariance", bank.shell.patch)
    kind = "covariance" if len(skeleton.whitening) > 1 else "local"
    sizes = {"anchors": len(skeleton.anchors), "components": skeleton.dimensions, "neighbours": skeleton.k}
    return Recipe.usual(kind, bank.shell.patch, **sizes)
