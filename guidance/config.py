"""The guide's knobs and their defaults. Knows nothing of tensors; it is checked before anything heavy is loaded.

The defaults are the operating point measured on the embedded tiny Wan (docs/research-log.md): the same values bring an
over-smoothed base (cfg 1) up to real clips' sharpness and leave a sharper one (cfg 2) nearly where it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shelllcc.guidance.errors import UsageError


@dataclass(frozen=True)
class GuideConfig:
    """Every knob of the guide.

    strength  share of the way to the shell that each step goes, 0 (off) to 1
    window    (low, high) sigmas between which the guide acts
    radius    factor on the calibrated radius: above 1 sharper, below 1 softer
    feedback  how quickly the aimed radius answers to x0 being off the curve of real latents; 0 is open loop
    reach     largest factor by which a token may be pushed outward
    trust     largest RMS of a step's move, relative to the RMS of x0
    last      factor on the strength in the last step, which no later step can mend
    """

    strength: float = 0.3
    window: tuple[float, float] = (0.0, 0.5)
    radius: float = 1.35
    feedback: float = 0.5
    reach: float = 2.0
    trust: float = 0.2
    last: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.window
        if not 0 <= self.strength <= 1:
            raise UsageError(f"strength goes from 0 (off) to 1, got {self.strength:g}")
        if not 0 <= low < high <= 1:
            raise UsageError(f"the window is LOW:HIGH with 0 <= LOW < HIGH <= 1 (sigmas), got {low:g}:{high:g}")
        for name in ("radius", "reach", "trust"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be positive, got {getattr(self, name):g}")
        if not 0 <= self.feedback <= 1 or not 0 <= self.last <= 1:
            raise UsageError(f"feedback and last go from 0 to 1, got {self.feedback:g} and {self.last:g}")
