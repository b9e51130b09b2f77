"""What the guide saw and did, step by step, and the alarms that it gives. Knows nothing of tensors' arithmetic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

OUTWARD, EXPECTED = 0.5, 0.16  # of the balance (docs/research-log.md, section 10)
NOISE, REGRESSION = 0.25, -0.1  # of the balance while sampling, and of the net gain, in the logarithm

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


class Trace:
    """The steps of one sampling. They are noted without waiting for the device, and read when somebody asks."""

    def __init__(self) -> None:
        self._steps: list[Step] = []
        self._unread: list[tuple[int, float, float, Tensor]] = []

    def note(self, index: int, sigma: float, target: float, numbers: Tensor) -> None:
        """A step; `numbers` (5, b) are distance, excess, aimed, move and gain of every clip."""
        self._unread.append((index, sigma, target, numbers))

    def steps(self) -> list[Step]:
        for index, sigma, target, numbers in self._unread:
            distance, excess, aimed, move, gain = numbers.tolist()
            self._steps.append(Step(index, sigma, distance, target, excess, aimed, move, gain))
        self._unread.clear()
        return list(self._steps)


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
