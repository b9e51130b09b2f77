"""A clip's balance: detail too much or too little for where it lies, and the alarms that it gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.trace import Step

Alarm = Literal["noise", "mean regression"]
ALARMS: dict[Alarm, Literal["noise alarm", "mean-regression alarm"]] = {
    "noise": "noise alarm",
    "mean regression": "mean-regression alarm",
}
ADVICE: dict[Alarm, str] = {
    "noise": "the guide made more detail than real clips have; try a lower --strength or --radius",
    "mean regression": "the guide took away detail that real clips have; try a lower --strength or a higher --radius",
}


@dataclass(frozen=True)
class BalanceConfig:
    """The numbers behind balances and alarms, all in the natural logarithm. Fitted on the embedded tiny Wan alone.

    outward     weight of a clip's distance in the balance; regression gave .526 (docs/research-log.md, section 10)
    noise       balance above which the guide warns of noise while it samples: 28 clips that their fits guided at
                strength 1 lay below it (section 18)
    regression  net gain below which it warns of mean regression (section 9)
    spread      deviation of the balance among those 28 clips, which are as they should be: what 0 is, give or take
    """

    outward: float = 0.5
    noise: float = 0.3
    regression: float = -0.1
    spread: float = 0.2


USUAL = BalanceConfig()
EXPECTED = GuideConfig.expected


def balance(
    *, gain: float, excess: float, distance: float, expected: float = EXPECTED, config: BalanceConfig = USUAL
) -> float:
    """Detail too much (above 0) or too little (below 0) for a clip at a distance, as a logarithm.

    The farther out a clip lies, the less detail the guide and cfg may have made. `distance` is that of the sampled clip
    over that of real ones (anchors.score.typical_distance), `expected` what a clip has that is as it should be
    (GuideConfig). While sampling, `alarm` gives the distance of x0 over the calibrated radius, which is larger:
    `BalanceConfig.noise` allows for it.
    """
    return gain + excess + config.outward * math.log(max(distance, 1e-6)) - expected


def alarm(step: Step, clip: int = 0, *, expected: float = EXPECTED, config: BalanceConfig = USUAL) -> Alarm | None:
    """What the balance and the gain up to a step warn of: detail made larger, or smaller, than real clips have it.

    What cfg added to a clip is the guide's to take back, and no alarm.
    """
    gain, excess, distance = step.gain[clip], step.excess[clip], step.distance[clip] / step.target
    found = balance(gain=gain, excess=excess, distance=distance, expected=expected, config=config)
    if gain > 0 and found > config.noise:
        return "noise"
    return "mean regression" if gain + max(excess, 0.0) < config.regression else None
