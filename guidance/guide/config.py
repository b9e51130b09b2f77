"""The guide's knobs and their defaults. Knows nothing of tensors; it is checked before anything heavy is loaded.

Every number that decides on how a clip looks is one of them, so that an ablation is a variant and no edit. The defaults
are the fit of the embedded tiny Wan at its own settings, which ships (guidance.fit); any other model, sampler or cfg
has a fit of its own. `[8]` is section 8 of docs/research-log.md, where a number was sought; `not measured` says that
nobody has tried another one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from shelllcc.guidance.errors import UsageError


@dataclass(frozen=True)
class GuideConfig:
    """Every knob of the guide. Raises UsageError for a value out of its range.

    What people set:

    strength  0 is off, 1 the default; 2 goes as far as guiding twice at 1 does, and so on
    window    (low, high), the guidance interval: the sigmas between which the guide acts [3, 9]
    radius    what distances in the finest directions are multiplied by, where a clip's excess is the usual one. It is
              far from 1 because averaging patches and the remaining steps undo much of each move [8, 9]
    calm      how much the radius aimed at shrinks with what cfg adds to the distance (the excess): by exp(-calm excess)
              [8, 9]
    toward    how much of a clip's way to the calibrated radius counts: at 0, as a fit has it, a clip's own distance is
              what `coarse` and `radius` multiply; at 1, as records of before have it, the calibrated radius
    coarse    as `radius`, in the coarsest directions
    tone      logarithm of what the spread of brightness and colour of every clip is multiplied by
    usual     the excess at which coarse, radius and tone hold as they are
    trust     largest RMS of a step's move, relative to the RMS of x0 (not measured)

    How far each step goes (guide.dose):

    share     of the way to the radius aimed at that a step goes at strength 1, where the steps inside the window have
              `dose` together [9]
    dose      the sum, over the steps inside the window, of how much of a move enters the sample, at which a step goes
              `share` of the way: that of 25 steps at shift 3 in the default window [8]
    last      whether the last step is one of them: nothing could mend it, but of four steps it may be all there is
    by_sigma  whether each of them has the part of the dose between its noise level and the next, so that its share
              follows from these alone; a fit has it so, records of before share out the dose evenly
    edge      a step so near to the window, in sigma, is inside it: UniPC puts a step of sigma 0.5 at 0.5015 [9]

    Which way, and how far at most (geometry.shell):

    contrast  how much the spread of brightness and colour shrinks with the excess: by exp(-contrast excess) [9]
    colours   directions of the channels that hold brightness and colour, which moves of detail leave alone; two or four
              are no better than three [9]
    fine      share of the principal directions over which the aim rises from 1 to `radius`; those beyond are texture
              and take all of it: 40 of 96 directions [8]; .3 and .6 are no better [9]
    least     smallest factor that a residual is multiplied by; .3 is no better than .5 [9]
    most      largest one (not measured)
    expected  balance of a clip that is as it should be, for alarms and verdicts alone (measures.balance) [10]
    first     whether texture of the first latent frame, which a causal VAE gives statistics of its own, is told by that
              frame's radius; a fit has it so, records of before do not
    flat      how much larger than the shell's own a patch's residual must be to count as texture; a fit raises it where
              flat places would grow busy
    gate      power by which a push outward fades for patches whose residual is smaller than the shell's own: 3 [8]; 2
              and 5 are no better [9]
    """

    strength: float = 1.0
    window: tuple[float, float] = (0.0, 0.5)
    radius: float = 3.0015
    calm: float = 0.0
    toward: float = 0.0
    coarse: float = 1.1435
    tone: float = 0.0199
    usual: float = 0.0
    trust: float = 0.3
    share: float = 0.34
    dose: float = 1.24
    last: bool = False
    by_sigma: bool = True
    edge: float = 5e-3
    contrast: float = 0.0
    colours: int = 3
    fine: float = 5 / 12
    least: float = 0.5
    most: float = 6.0
    first: bool = True
    flat: float = 1.6487
    gate: float = 3.0
    expected: float = 0.028

    @property
    def acts(self) -> bool:
        """Whether any clip is moved: not at strength 0, nor by knobs that leave every residual as it is."""
        still = self.coarse == self.radius == 1 and not any((self.toward, self.tone, self.calm, self.contrast))
        return self.strength > 0 and not still

    def __post_init__(self) -> None:
        low, high = self.window
        if not 0 <= self.strength <= 10:
            raise UsageError(f"strength goes from 0 (off) over 1 (the default) to 10, got {self.strength:g}")
        if not 0 <= low < high <= 1:
            raise UsageError(f"the window is LOW:HIGH with 0 <= LOW < HIGH <= 1 (sigmas), got {low:g}:{high:g}")
        for name in ("radius", "coarse", "trust", "dose", "flat", "gate"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be positive, got {getattr(self, name):g}")
        for name in ("calm", "edge", "contrast"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise UsageError(f"{name} must be 0 or more, got {getattr(self, name):g}")
        for name in ("tone", "usual", "expected"):
            if not math.isfinite(getattr(self, name)):
                raise UsageError(f"{name} must be a finite number, got {getattr(self, name):g}")
        if not 0 <= self.toward <= 1:
            raise UsageError(f"toward must lie in 0 .. 1, got {self.toward:g}")
        for name in ("last", "first", "by_sigma"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not 0 < self.share < 1:
            raise UsageError(f"share must lie between 0 and 1, got {self.share:g}")
        if not 0 < self.fine <= 1:
            raise UsageError(f"fine must be above 0 and at most 1, got {self.fine:g}")
        if not (isinstance(self.colours, int) and self.colours >= 0):
            raise UsageError(f"colours must be a whole number, 0 or more, got {self.colours}")
        if not (0 <= self.least <= 1 <= self.most and math.isfinite(self.most)):
            raise UsageError(f"least must lie in 0 .. 1 and most be 1 or more, got {self.least:g} and {self.most:g}")
