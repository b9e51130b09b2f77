"""The guide's knobs and their defaults. Knows nothing of tensors; it is checked before anything heavy is loaded.

The defaults are the operating point measured on the embedded tiny Wan (docs/research-log.md): one setting that sharpens
an over-smoothed base (cfg 1) and calms one that cfg has driven outward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shelllcc.guidance.errors import UsageError


@dataclass(frozen=True)
class GuideConfig:
    """Every knob of the guide.

    strength  0 is off, 1 the calibrated default; 2 goes as far as guiding twice at 1 does, and so on
    window    (low, high) sigmas between which the guide acts
    radius    the radius aimed at, over that of real latents, where cfg adds nothing: above the default sharper
    calm      how much the radius aimed at shrinks with what cfg adds to the distance (per unit of its logarithm)
    trust     largest RMS of a step's move, relative to the RMS of x0
    """

    strength: float = 1.0
    window: tuple[float, float] = (0.0, 0.5)
    radius: float = 3.4
    calm: float = 3.8
    trust: float = 0.3

    def __post_init__(self) -> None:
        low, high = self.window
        if not 0 <= self.strength <= 10:
            raise UsageError(f"strength goes from 0 (off) over 1 (the default) to 10, got {self.strength:g}")
        if not 0 <= low < high <= 1:
            raise UsageError(f"the window is LOW:HIGH with 0 <= LOW < HIGH <= 1 (sigmas), got {low:g}:{high:g}")
        for name in ("radius", "trust"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be positive, got {getattr(self, name):g}")
        if not (self.calm >= 0 and math.isfinite(self.calm)):
            raise UsageError(f"calm must be 0 or more, got {self.calm:g}")
