"""What the guide saw and did, step by step. Knows nothing of tensors' arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What the guide saw and did in one step, for every clip of the batch.

    distance  median distance of x0's patches, of the later latent frames where there are any
    target    the calibrated radius: the distance of x0 predicted from real latents at this sigma
    excess    logarithm of what cfg added to the distance, as measured in the first guided step
    aimed     the radius aimed at in the coarsest direction: target * exp(-calm * excess), times GuideConfig.coarse; the
              finest ones aim at GuideConfig.radius in place of it
    move      RMS of the applied move
    gain      logarithm of what the moves up to here made of the size of x0's detail, each weighted by how much of it
              enters the sample
    """

    index: int
    sigma: float
    distance: list[float]
    target: float
    excess: list[float]
    aimed: list[float]
    move: list[float]
    gain: list[float]

    def of(self, clip: int) -> Step:
        """What it says of one clip of the batch alone."""
        lists = (self.distance, self.excess, self.aimed, self.move, self.gain)
        distance, excess, aimed, move, gain = ([each[clip]] for each in lists)
        return replace(self, distance=distance, excess=excess, aimed=aimed, move=move, gain=gain)


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
