"""What the guide saw and did, step by step, and the alarms that it gives. Knows nothing of tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NOISE, REGRESSION = 0.2, -0.1  # of the gain, in the logarithm (docs/research-log.md, section 9)

Alarm = Literal["noise", "mean regression"]
ADVICE: dict[Alarm, str] = {
    "noise": "the guide made more detail than real clips have; try a lower --strength or --radius",
    "mean regression": "the guide took away detail that real clips have; try a lower --strength or a higher --radius",
}


@dataclass(frozen=True)
class Step:
    """What the guide saw and did in one step, for every clip of the batch.

    distance is the median distance of the later latent frames; target the calibrated radius; excess the logarithm of
    what cfg added to the distance; aimed the radius after it; move the RMS of the applied move; gain the logarithm of
    what the guide has made of the size of x0's detail up to here, as far as it has entered the sample.
    """

    index: int
    sigma: float
    distance: list[float]
    target: float
    excess: list[float]
    aimed: list[float]
    move: list[float]
    gain: list[float]


def alarm(step: Step, clip: int = 0) -> Alarm | None:
    """What the gain up to a step warns of: detail made larger, or smaller, than real clips have it.

    What cfg added to a clip is the guide's to take back, and no alarm.
    """
    gain, excess = step.gain[clip], max(step.excess[clip], 0.0)
    if gain > NOISE:
        return "noise"
    return "mean regression" if gain + excess < REGRESSION else None
