"""Round trips: clips noised, sampled again as the user samples, and set beside where they came from.

Who samples and decodes is a door's: diffusers' pipelines (wan.fits.trips), or ComfyUI (comfy.trips). Knows nothing of
either, nor of what is solved.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from shelllcc.anchors.score import typical_distance
from shelllcc.guidance.fit.judge import Drift, drift
from shelllcc.guidance.guide import dose
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.trace import Step

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.fit.judge import Frames

START = 0.95  # sigma: what is missing went missing above; from lower down hardly any drift is seen
EARLY = 0.85  # sigma: where a guide begins that takes away; what cfg overdoes is made there, and made anew later on
LEAST = 0.1  # smallest factor of a residual where the last step is nearly all there is


@dataclass(frozen=True)
class Take:
    """A real clip and its caption: normalised latents (c t h w), float32, on the CPU."""

    caption: str
    latents: Tensor


@dataclass(frozen=True)
class Sampled:
    """What samples: the model's name, the fingerprint of its shape, what clips are not to show, and their pixels."""

    model: str
    transformer: str
    negative: str
    width: int
    height: int


class Back(Protocol):
    """A clip that came back: uint8 frames (t, H, W, 3), and normalised latents (1 c t h w)."""

    @property
    def frames(self) -> Frames: ...

    @property
    def latents(self) -> Tensor: ...


class RoundTrips(ABC):
    """Round trips of `takes` down the user's own noise levels (the last is 0), from the one nearest to `sigma`.

    Of a clip `shown` latent frames are decoded and judged; None is all of them. `together` clips at most are sampled in
    one call, where a door can do so.
    """

    together = 1

    def __init__(
        self,
        bank: Bank,
        takes: Sequence[Take],
        levels: Sequence[float],
        sampled: Sampled,
        *,
        renoised: bool,
        seed: int = 0,
        sigma: float = START,
        shown: int | None = None,
    ) -> None:
        self.bank, self.takes, self.sampled, self.seed, self.shown = bank, takes, sampled, seed, shown
        self.index = begin_at(levels, sigma)
        self.levels = list(levels[self.index :])
        self.window, self.last = dose.interval(levels, renoised=renoised)
        self.dose = GuideConfig.dose
        self._real: dict[int, Frames] = {}
        self._distance: dict[int, float] = {}

    @abstractmethod
    def decoded(self, latents: Tensor) -> Frames:
        """uint8 frames (t, H, W, 3) of normalised latents (c t h w)."""

    @abstractmethod
    def _sample(self, number: int, guide: ShellGuide | None) -> Back:
        """The clip of that number, noised to `sigma` and sampled again; of its frames those that are shown."""

    @property
    def sigma(self) -> float:
        """The noise level that clips are sampled again from."""
        return self.levels[0]

    @property
    def tail(self) -> int:
        """Steps that every further guide samples."""
        return len(self.levels) - 1 - self.shared

    @property
    def shared(self) -> int:
        """Steps in which the transformer says the same, whatever the guide: up to that of its first move."""
        return self._shared()

    @property
    def early_tail(self) -> int:
        """What `tail` would be after `act_early`."""
        window, reach = self._early
        return len(self.levels) - 1 - self._shared(window=window, dose=reach)

    def act_early(self) -> None:
        """Let guides begin at EARLY, their steps as large as in the usual window; few steps have none to add."""
        self.window, self.dose = self._early

    @property
    def _early(self) -> tuple[tuple[float, float], float]:
        """Window and dose of guides that begin at EARLY."""
        low, high = self.window
        if self.last or high >= EARLY:
            return self.window, self.dose
        return (low, EARLY), self.dose * (EARLY - low) / (high - low)

    def _shared(self, **acts: Any) -> int:
        return 1 + dose.first_move(self.levels, self.guide(radius=2.0, **acts))

    def guide(self, **knobs: Any) -> GuideConfig:
        """A fit's guide for these noise levels: it multiplies what a clip has, and leaves alone what is not named.

        Where the last step acts, hardly any other does, and may take more of a residual away.
        """
        usual: dict[str, Any] = {"coarse": 1.0, "radius": 1.0, "tone": 0.0, "calm": 0.0, "contrast": 0.0, "flat": 1.0}
        usual |= {"least": LEAST} if self.last else {}
        acts: dict[str, Any] = {"window": self.window, "dose": self.dose, "last": self.last, "by_sigma": True}
        return GuideConfig(first=True, toward=0.0, **(acts | usual | knobs))

    def drift(self, number: int, config: GuideConfig | None) -> Drift:
        """What becomes of a clip under a guide; None is none."""
        guide = self._guide(config)
        self.real(number)  # before the sampling, so that what comes after it is the same in every pass
        back = self._sample(number, guide)
        return self._judged(number, back, guide.trace if guide else [])

    def drifts(self, numbers: Sequence[int], config: GuideConfig | None) -> list[Drift]:
        """What becomes of clips, sampled in one call where the door can do so: to rounding as of each alone."""
        return [self.drift(number, config) for number in numbers]

    def _guide(self, config: GuideConfig | None) -> ShellGuide | None:
        return None if config is None or not config.acts else ShellGuide(self.bank, config)

    def _judged(self, number: int, back: Back, trace: Sequence[Step]) -> Drift:
        """The drift of a clip that came back; `trace` is what the guide saw of it."""
        real = self.real(number)
        if number not in self._distance:
            latents = self.takes[number].latents.to(back.latents.device)
            self._distance[number] = typical_distance(self.bank, latents)
        seen = {"excess": trace[-1].excess[0], "gain": trace[-1].gain[0]} if trace else {}
        return drift(back.frames, real, distance=self._distance[number], **seen)

    def real(self, number: int) -> Frames:
        """The clip (t, H, W, 3) as the model's decoder shows it."""
        if number not in self._real:
            self._real[number] = self.decoded(self.takes[number].latents[:, : self.shown])
        return self._real[number]

    def _noise(self, number: int) -> Tensor:
        """The noise (c t h w) of the clip of that number."""
        dice = torch.Generator().manual_seed(self.seed + number)
        return torch.randn(self.takes[number].latents.shape, generator=dice)


def begin_at(levels: Sequence[float], sigma: float) -> int:
    """The step, none of pure noise and not the last, whose noise level is nearest to sigma."""
    inner = [index for index, level in enumerate(levels[:-2]) if level < 0.995] or [0]
    return min(inner, key=lambda index: abs(levels[index] - sigma))
