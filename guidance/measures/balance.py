"""A clip's balance: detail too much or too little for where it lies, and the alarms that it gives."""

from __future__ import annotations

import math
from typing import Literal

from shelllcc.guidance.guide.trace import Step

OUTWARD, EXPECTED = 0.5, 0.16  # of the balance (docs/research-log.md, section 10)
NOISE, REGRESSION = 0.25, -0.1  # of the balance while sampling, and of the net gain, in the logarithm
Alarm = Literal["noise", "mean regression"]
ADVICE: dict[Alarm, str] = {
    "noise": "the guide made more detail than real clips have; try a lower --strength or --radius",
    "mean regression": "the guide took away detail that real clips have; try a lower --strength or a higher --radius",
}


def balance(*, gain: float, excess: float, distance: float) -> float:
    """Detail too much (above 0) or too little (below 0) for a clip at a distance, as a logarithm.

    The farther out a clip lies, the less detail the guide and cfg may have made. `distance` is over that of real clips.
    """
    return gain + excess + OUTWARD * math.log(max(distance, 1e-6)) - EXPECTED


def alarm(step: Step, clip: int = 0) -> Alarm | None:
    """What the balance and the gain up to a step warn of: detail made larger, or smaller, than real clips have it.

    What cfg added to a clip is the guide's to take back, and no alarm.
    """
    gain, excess, distance = step.gain[clip], step.excess[clip], step.distance[clip] / step.target
    if gain > 0 and balance(gain=gain, excess=excess, distance=distance) > NOISE:
        return "noise"
    return "mean regression" if gain + max(excess, 0.0) < REGRESSION else None
