"""The figures of one clip, and of a clip beside a reference: plain numbers for sidecars, tables and verdicts.

Knows nothing of files, models or guidance. Figures come from uint8 frames (t, H, W, 3).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from shelllcc.guidance.measures import metrics

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

Figures = Mapping[str, Any]
RATIOS = ("lap", "hf", "kurtosis", "flat", "busy", "jitter", "contrast")
WHITE = 2.58  # deviation of the grey Laplacian of independent noise of deviation 1 in red, green and blue
HIDDEN = 0.2  # noise below that share of the variance in flat blocks is none that could be told from detail
CHUNK = 16  # frames at once, for the spectra


def figures(frames: Frames) -> dict[str, Any]:
    """RATIOS' figures of a clip, and its `power`, log10 of the radial power spectrum in 47 rings (see `metrics`).

    lap and hf are the paper's: of grey frames, the Laplacian of frames bordered by zeros. flat and busy, the deviations
    of the Laplacian in the flattest and busiest blocks, and jitter are in grey levels of 255.
    """
    clip = torch.from_numpy(frames)
    lap, hf, power = torch.zeros(1), torch.zeros(1), torch.zeros(1)
    video = metrics.grey(clip[None])
    flat, busy = metrics.block_residuals(video)
    for part in video.split(CHUNK, dim=1):
        share = part.shape[1] / len(clip)
        lap = lap + share * metrics.laplacian_variance(part, border="zeros")
        hf = hf + share * metrics.high_frequency_share(part)
        power = power + share * metrics.radial_power(part)[0]
    return {
        "lap": float(lap),
        "hf": float(hf),
        "kurtosis": float(metrics.gradient_kurtosis(video)),
        "flat": float(flat),
        "busy": float(busy),
        "jitter": float(metrics.jitter(video)),
        "contrast": float(metrics.contrast(video)),
        "power": [round(value, 4) for value in (power + 1e-12).log10().tolist()],
    }


def beside(clip: Figures, reference: Figures) -> dict[str, float]:
    """Ratios of a clip's figures to a reference's, added noise, and how their spectra differ.

    spectrum is the mean difference of log10 power, fine the difference in the finest third of the rings.
    """
    ratios = {f"{name}_ratio": _ratio(clip[name], reference[name]) for name in RATIOS}
    apart = torch.tensor(clip["power"]) - torch.tensor(reference["power"])
    return ratios | {
        "noise": noise(clip, reference),
        "spectrum": float(apart.abs().mean()),
        "fine": float(apart[len(apart) * 2 // 3 :].mean()),
    }


def noise(clip: Figures, reference: Figures) -> float:
    """Deviation of the noise that a clip has and its reference has not, in grey levels of 255.

    Detail makes the variance of the Laplacian larger in proportion, noise by as much in flat blocks as in busy ones.
    """
    (flat, busy), (flat_before, busy_before) = ((v["flat"] ** 2, v["busy"] ** 2) for v in (clip, reference))
    detail = max(1.0, (busy - flat) / max(busy_before - flat_before, 1e-12))
    added = flat - detail * flat_before
    return 0.0 if added <= HIDDEN * detail * flat_before else math.sqrt(added) / WHITE


def change(frames: Frames, reference: Frames) -> float:
    """Mean absolute difference of the colours of a pixel, in [0, 1], of two clips of one shape, as the paper has it."""
    pairs = zip(torch.from_numpy(frames), torch.from_numpy(reference), strict=True)
    return sum(float((a.float() - b.float()).abs().mean()) for a, b in pairs) / (255 * len(frames))


def _ratio(value: float, reference: float) -> float:
    return 1.0 if value == reference else value / max(reference, 1e-12)
