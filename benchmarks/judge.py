"""Is an arm nearer to real clips than its base, and could that be chance? Knows nothing of how clips were made.

Clips are measured once, one by one (`measure`); what is then asked of a set is a function of weights over its clips, so
that the whole set and two hundred resamples of it are one computation (`compare`), from which the rest follows. An arm,
its base and the real clips show the same captions in the same order. The columns:

lap, hf, kurt, flat, jitter, contrast   mean over the real clips' mean; 1 is right
spec    mean |log10 ratio| of the power in the rings of the radial spectrum; 0 is right
swd     sliced Wasserstein distance of 7x7 patches of the finest Laplacian level, over the real patches' deviation
colour  mean |difference| of a clip's mean colour to the real clip's of its caption, in grey levels of 255
acc     share of clips in which the classifier names the caption's subject
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.subjects import name_subjects
from shelllcc.guidance.measures import metrics

COLUMNS = ("lap", "hf", "spec", "swd", "kurt", "flat", "jitter", "contrast", "colour", "acc")
PATCHES = 512  # a clip
RESAMPLES = 200
LEVEL = 0.95  # of the intervals
FLAT_LIMIT = 1.2  # times the real clips': more is grain

Side = Literal["worse", "even", "better"]

RATIOS: dict[str, Callable[[Tensor], Tensor]] = {
    "lap": metrics.laplacian_variance,
    "hf": metrics.high_frequency_share,
    "kurt": metrics.gradient_kurtosis,
    "flat": metrics.flat_residual,
    "jitter": metrics.jitter,
    "contrast": metrics.contrast,
}

BADNESS: dict[str, Callable[[Tensor], Tensor]] = {
    **dict.fromkeys(("lap", "hf", "contrast"), lambda ratio: ratio.log().abs()),
    **dict.fromkeys(("flat", "jitter"), lambda ratio: ratio.log().clamp_min(0)),  # calmer than real is no harm
    "kurt": lambda ratio: ratio.log().neg().clamp_min(0),  # only tails lighter than real ones are grain
    **dict.fromkeys(("spec", "swd", "colour"), lambda distance: distance),
    "acc": lambda share: 1 - share,
}


@dataclass(frozen=True)
class Measured:
    """What there is to know of each of n clips, float32 on the CPU; about 100 KB a clip."""

    lap: Tensor  # (n,), as are the next five: the metrics of grey frames
    hf: Tensor
    kurt: Tensor
    flat: Tensor
    jitter: Tensor
    contrast: Tensor
    colour: Tensor  # (n, 3) mean red, green and blue in [0, 1]
    power: Tensor  # (n, bins) of metrics.radial_power
    patches: Tensor  # (n, 512, 49) of metrics.band_patches, at places drawn from the clip's index
    named: Tensor  # (n,) bool: the classifier names the caption's subject

    def __post_init__(self) -> None:
        counts = {field.name: len(getattr(self, field.name)) for field in fields(self)}
        if len(set(counts.values())) != 1:
            raise ValueError(f"every measure must hold the same clips, these hold {counts}")

    def __len__(self) -> int:
        return len(self.lap)


@dataclass(frozen=True)
class Judged:
    """The columns of an arm, each (1 + RESAMPLES,): of the set itself first, then of every resample.

    Two may be held against each other where real clips and seed were the same.
    """

    columns: dict[str, Tensor]

    @property
    def values(self) -> dict[str, float]:
        return {column: float(self.columns[column][0]) for column in COLUMNS}

    def intervals(self, *, level: float = LEVEL) -> dict[str, tuple[float, float]]:
        """The interval of each column when captions are drawn again, with the arm's and the real clip of each."""
        return {column: _interval(self.columns[column], level) for column in COLUMNS}

    def sides(self, base: Judged) -> dict[str, Side]:
        """Whether the arm is farther from real than its base, by the interval of the difference over the resamples.

        Farther is: more |log ratio| (lap, hf, contrast), kurtosis further below real, flat and jitter further above it,
        a larger distance (spec, swd, colour), a smaller share (acc).
        """
        found: dict[str, Side] = {}
        for column, badness in BADNESS.items():
            low, high = _interval(badness(self.columns[column]) - badness(base.columns[column]))
            found[column] = "worse" if low > 0 else "better" if high < 0 else "even"
        return found

    def verdict(self, base: Judged) -> list[str]:
        """The rules that a better arm keeps and this one breaks, in words; none if it is better than its base.

        Sharpness and spectrum must come nearer to real, and more than chance explains. The flattest blocks must stay
        calm, and kurtosis, jitter and fidelity must not get worse: there, what chance explains is no breach.
        """
        sides, ours, theirs = self.sides(base), self.values, base.values
        broken = {column: f"{column} comes no nearer" for column in ("lap", "spec") if sides[column] != "better"}
        harms = {"kurt": "kurtosis falls", "jitter": "jitter rises", "acc": "prompt fidelity falls"}
        broken |= {column: words for column, words in harms.items() if sides[column] == "worse"}
        lines = [f"{words}: {ours[column]:.3g}, base {theirs[column]:.3g}" for column, words in broken.items()]
        grainy = _interval(self.columns["flat"])[0] > FLAT_LIMIT
        return [*lines, f"flat {ours['flat']:.3g} over {FLAT_LIMIT}"] if grainy else lines


@torch.no_grad()
def measure(frames: Tensor, wanted_subjects: Tensor, classifier: nn.Module) -> Measured:
    """Of uint8 clips (n, t, H, W, 3) and the index (n,) of each caption's subject, on the classifier's device."""
    device = next(classifier.parameters()).device
    rows = []
    for index, clip in enumerate(frames):
        shown = clip[None].to(device)
        video = metrics.grey(shown)
        row = {name: measures(video) for name, measures in RATIOS.items()}
        row |= {"colour": metrics.colour(shown), "power": metrics.radial_power(video)}
        row["patches"] = metrics.band_patches(video, PATCHES, seed=index)[None]
        row["named"] = name_subjects(classifier, shown) == wanted_subjects[index].cpu()
        rows.append({name: value.cpu() for name, value in row.items()})
    return Measured(**{name: torch.cat([row[name] for row in rows]) for name in rows[0]})


def compare(arm: Measured, real: Measured, *, seed: int = 0) -> Judged:
    """The columns of an arm against the real clips, over all captions and over resamples that the seed decides."""
    return Judged(_columns(arm, real, _resamples(len(arm), seed)))


def _columns(arm: Measured, real: Measured, weights: Tensor) -> dict[str, Tensor]:
    """Every column (r,) under r weightings (r, n) of the clips, the same for the arm and the real clips."""
    if len(arm) != len(real):
        raise ValueError(f"the arm has {len(arm)} clips and the real ones are {len(real)}: measure the same captions")
    rows = {name: (weights @ getattr(arm, name)) / (weights @ getattr(real, name)) for name in RATIOS}
    ours, theirs = (weights @ clips.power + 1e-12 for clips in (arm, real))
    gap, step = _patch_gaps(arm.patches, real.patches)
    mean, square = weights @ real.patches.mean((1, 2)), weights @ real.patches.square().mean((1, 2))
    return rows | {
        "spec": (ours / theirs).log10().abs().mean(-1),
        "swd": (weights @ gap).abs_() @ step / (square - mean.square()).sqrt(),
        "colour": weights @ (255 * (arm.colour - real.colour).abs().mean(-1)),
        "acc": weights @ arm.named.float(),
    }


def _patch_gaps(patches: Tensor, real: Tensor, *, points: int = 512) -> tuple[Tensor, Tensor]:
    """Sliced Wasserstein-1 of any weighting of clips from their (n, p, 49) patches: `(weights @ gap).abs() @ step`.

    In one dimension the distance is the integral of |F - G| over the two distribution functions, which are the
    weighted means of the clips' own. The gap (n, directions x points) holds each clip's F - G on a grid, the step
    the grid's widths over the number of directions. The grid are quantiles of both sets, denser in the tails: on
    every value of the patches the sum would be exact, on 512 points it is within 0.1% for clips of the tiny model.
    """
    axes = metrics.patch_directions()
    ours, theirs = ((v @ axes).permute(2, 0, 1).sort(-1).values for v in (patches, real))  # (directions, n, p)
    pooled = torch.cat([ours, theirs], 1).flatten(1).sort(-1).values
    rank = (1 - torch.linspace(0, math.pi, points).cos()) / 2 * (pooled.shape[1] - 1)
    grid = pooled[:, rank.round().long()]
    places = grid[:, None].expand(-1, len(patches), -1).contiguous()
    below = [torch.searchsorted(v.contiguous(), places, right=True) / v.shape[-1] for v in (ours, theirs)]
    step = F.pad(grid.diff(dim=-1), (0, 1)) / axes.shape[1]
    return (below[0] - below[1]).permute(1, 0, 2).flatten(1), step.flatten()


def _resamples(count: int, seed: int) -> Tensor:
    """(1 + RESAMPLES, count) weights: of the set itself, then of sets of as many clips drawn from it."""
    drawn = torch.randint(0, count, (RESAMPLES, count), generator=torch.Generator().manual_seed(seed))
    return _weights(torch.cat([torch.arange(count)[None], drawn]), count)


def _weights(chosen: Tensor, count: int) -> Tensor:
    """(r, count) share of every clip in the chosen indices (r, k)."""
    return torch.zeros(len(chosen), count).scatter_add_(1, chosen, torch.ones(chosen.shape)) / chosen.shape[1]


def _interval(values: Tensor, level: float = LEVEL) -> tuple[float, float]:
    """Percentiles of the resamples values[1:], widened to hold the set's own value, values[0].

    Resampling adds its own noise to a distance, so that those near 0 lie low in their intervals, or below.
    """
    low, high = torch.quantile(values[1:], torch.tensor([(1 - level) / 2, (1 + level) / 2]))
    return float(torch.minimum(low, values[0])), float(torch.maximum(high, values[0]))
