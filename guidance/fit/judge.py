"""What a round trip did to a clip, in decoded pixels, band by band. Knows nothing of models, guides or files.

A real clip is noised, sampled again and set beside where it came from, so that content cancels. Latents would not do:
sampled ones have energy in directions that the decoder does not show.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from shelllcc.guidance.measures import metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

BANDS = ("2 to 4", "4 to 8", "8 to 16", "16 to 32")  # pixels a period, finest first
FINE, COARSE = slice(0, 2), slice(2, 4)  # of BANDS: those that are judged together
BLOCK = 16  # pixels: the side of a block whose means must come back alike
QUIET = 0.3  # grey levels of 255 in flat blocks that nobody sees
LIKE = 0.5  # correlation of these means below which a clip came back as something else


@dataclass(frozen=True)
class Drift:
    """What a clip came back with, over what it had; logarithms of amplitudes, so that -.29 is a quarter less.

    bands     of the RMS in each of BANDS, over and above `contrast`
    contrast  of the spread of grey values
    flat      of what moves in the flattest blocks, where noise shows first
    likeness  correlation of the means of coarse blocks, 1 where the clip came back as it was
    excess    what cfg added (guide.trace), 0 where nothing measured it
    gain      what the guide made of its detail (guide.trace), 0 where it did nothing
    distance  of the real latents from the shell (anchors.score), 1 where nothing measured it
    """

    bands: tuple[float, ...]
    contrast: float
    flat: float
    likeness: float
    excess: float = 0.0
    gain: float = 0.0
    distance: float = 1.0

    @property
    def coarse(self) -> float:
        return sum(self.bands[COARSE]) / len(self.bands[COARSE])

    @property
    def fine(self) -> float:
        return sum(self.bands[FINE]) / len(self.bands[FINE])


@dataclass(frozen=True)
class Estimate:
    """A robust mean and its standard error."""

    mean: float
    error: float


def drift(back: Frames, real: Frames, **seen: float) -> Drift:
    """The drift of a clip (t, H, W, 3) that came back, beside the real one, both through the same decoder.

    `seen` are its excess, gain and distance.
    """
    ours, theirs = (metrics.grey(torch.from_numpy(frames)[None]) for frames in (back, real))
    spread = float((metrics.contrast(ours) + 1e-4).log() - (metrics.contrast(theirs) + 1e-4).log())
    bands = octaves(ours) - octaves(theirs) - spread
    calm = float((metrics.flat_residual(ours) + QUIET).log() - (metrics.flat_residual(theirs) + QUIET).log())
    return Drift(tuple(bands[0].tolist()), spread, calm, _likeness(back, real), **seen)


def octaves(video: Tensor) -> Tensor:
    """(b, len(BANDS)) logarithm of the RMS of grey frames (b t H W) in octaves of spatial frequency, finest first."""
    power = metrics.power(video).mean(1)
    radius = metrics.frequency(video.shape[-2], video.shape[-1], video.device)
    edges = [(0.5**n / 2, 0.5**n) for n in range(1, 1 + len(BANDS))]  # cycles a pixel
    inside = [((radius > low) & (radius <= high)).to(power) for low, high in edges]
    energy = torch.stack([(power * mask).sum((-2, -1)) / mask.sum().clamp_min(1) for mask in inside], -1)
    return (energy / video.shape[-1] / video.shape[-2] + 1e-10).log() / 2


def robust(values: Sequence[float], *, width: float = 1.5) -> Estimate:
    """Huber's mean: values beyond `width` deviations count as if they lay there.

    The error is that of so many clips, with Student's spread for few of them: none can be told of less than four.
    """
    if not values:
        return Estimate(0.0, math.inf)
    x = torch.tensor(values, dtype=torch.float64)
    middle = x.median() if len(x) % 2 else x.sort().values[len(x) // 2 - 1 : len(x) // 2 + 1].mean()
    scale = 1.4826 * (x - middle).abs().median()
    if scale < 1e-9:
        scale = x.std(unbiased=False)
    for _ in range(50):
        if scale < 1e-9:
            break
        weight = (width * scale / (x - middle).abs().clamp_min(1e-12)).clamp_max(1)
        middle = (weight * x).sum() / weight.sum()
    if len(x) < 4:
        return Estimate(float(middle), math.inf)
    clipped = (x - middle).clamp(-width * scale, width * scale) if scale >= 1e-9 else x - middle
    inner = ((x - middle).abs() <= width * scale).double().mean().clamp_min(0.5)
    error = (clipped.square().sum() / (len(x) - 3)).sqrt() / inner / len(x) ** 0.5
    return Estimate(float(middle), float(error))


def slope(x: Sequence[float], y: Sequence[float]) -> Estimate:
    """The slope of y over x by least squares, and its error; none where x hardly differs."""
    a, b = (torch.tensor(v, dtype=torch.float64) for v in (x, y))
    a = a - a.mean()
    spread = float(a.square().sum())
    if len(x) < 4 or spread < 1e-4:
        return Estimate(0.0, math.inf)
    found = float((a * b).sum()) / spread
    rest = b - b.mean() - found * a
    return Estimate(found, math.sqrt(float(rest.square().sum()) / (len(x) - 2) / spread))


def shrunk(found: Estimate, *, width: float = 1.0) -> float:
    """What of a mean its own error does not explain: 0 within `width` errors, nearly all of it far beyond."""
    if found.mean == 0 or not math.isfinite(found.error):
        return 0.0
    return found.mean * max(0.0, 1 - (width * found.error / found.mean) ** 2)


def _likeness(back: Frames, real: Frames) -> float:
    a, b = (_blocks(frames) for frames in (back, real))
    a, b = a - a.mean(), b - b.mean()
    return float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-9))


def _blocks(frames: Frames) -> Tensor:
    """Means of colour (n,) in coarse blocks of every fourth frame."""
    video = torch.from_numpy(frames[::4]).permute(0, 3, 1, 2).float()
    side = min(BLOCK, *video.shape[-2:])
    return F.avg_pool2d(video, side).flatten()
