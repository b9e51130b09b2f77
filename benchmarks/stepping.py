"""Training-free rivals that users run: they change a step of plain guidance, not its rule. Knows nothing of models.

A step gets the latents and asks for velocities, told a noise level that may be another than the true one; it hands on
the latents and the velocity that the scheduler steps with. Flow: latents = (1 - sigma) x0 + sigma noise,
velocity = noise - x0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Ask = Callable[[Tensor, float], Tensor]  # the velocity of latents (b c t h w), told so many times the noise level
Draw = Callable[[], Tensor]  # noise like the latents, of each clip's own seed


@dataclass(frozen=True)
class Moment:
    """Where a sampling is: its step of so many, the true noise level there, its shift and cfg."""

    index: int
    steps: int
    sigma: float
    shift: float
    cfg: float


class Stepping(Protocol):
    def passes(self, index: int, steps: int) -> int:
        """How often a step asks for a velocity."""

    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        """Latents and velocity to step with; other latents than those given are no continuation of the steps before."""


class OnePass:
    """A step that asks once."""

    def passes(self, index: int, steps: int) -> int:
        return 1


class Plain(OnePass):
    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        return latents, ask(latents, 1.0)


def told(latents: Tensor, times: float, ask: Ask) -> tuple[Tensor, Tensor]:
    """A step whose model is told sigma' = times sigma: x0 is x - sigma' v, so that v sigma' / sigma is stepped with."""
    return latents, times * ask(latents, times)


@dataclass(frozen=True)
class DetailDaemon(OnePass):
    """The model is told sigma (1 - .1 m cfg), m rising and falling over the steps (sd-webui-detail-daemon).

    As ComfyUI-Detail-Daemon has it, with no offsets, no fade and exponent 1: half cosines from 0 to the amount and
    back between round(start (n - 1)), the middle by the bias and round(end (n - 1)); 0 outside.
    """

    amount: float = 0.1
    start: float = 0.2
    end: float = 0.8
    bias: float = 0.5

    def dose(self, index: int, steps: int) -> float:
        middle = self.start + self.bias * (self.end - self.start)
        first, peak, last = (round(share * (steps - 1)) for share in (self.start, middle, self.end))
        if not first <= index <= last:
            return 0.0
        if index == peak:
            return self.amount
        way = (index - first) / (peak - first) if index < peak else (last - index) / (last - peak)
        return self.amount * (1 - math.cos(math.pi * way)) / 2

    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        return told(latents, max(1e-6, 1 - 0.1 * self.dose(at.index, at.steps) * at.cfg), ask)


@dataclass(frozen=True)
class LyingSigma(OnePass):
    """The model is told sigma (1 + factor) from `start` to `end` of the unshifted way (ComfyUI-Detail-Daemon)."""

    factor: float = -0.05
    start: float = 0.1
    end: float = 0.9

    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        low, high = (round(_warp(at.shift, 1 - share), 4) for share in (self.end, self.start))
        return told(latents, 1 + self.factor if low <= at.sigma <= high else 1.0, ask)


@dataclass(frozen=True)
class EpsilonScaling(OnePass):
    """x - x0, the noise as predicted, over a constant (arXiv 2308.15321, its uniform schedule; ComfyUI's node)."""

    scale: float = 1.005

    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        return latents, ask(latents, 1.0) / self.scale


@dataclass(frozen=True)
class TemporalRescaling(OnePass):
    """Temporal score rescaling (TSR, arXiv 2510.01184, equation 6; ComfyUI's node).

    The predicted noise is scaled by r = (snr s^2 + 1) / (snr s^2 / k + 1), snr = ((1 - sigma) / sigma)^2, which is
    x0' = lerp(x / (1 - sigma), x0, r). Written as r v - (1 - r) x / (1 - sigma), it has no pole at either end.
    """

    k: float = 0.95
    spread: float = 1.0  # s

    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        clean, noise = ((1 - at.sigma) * self.spread) ** 2, at.sigma**2
        r = (clean + noise) / (clean / self.k + noise)
        pull = (1 - at.sigma) * self.spread**2 * (1 / self.k - 1) / (clean / self.k + noise)  # (1 - r) / (1 - sigma)
        return latents, r * ask(latents, 1.0) - pull * latents


@dataclass(frozen=True)
class SelfRefining:
    """Predict and perturb where the model is unsure of itself (arXiv 2601.18577, and its authors' code).

    x0 is noised anew to the same level and predicted again, `times` in every step of each part of the sampling, the
    parts ending at `until`. Where a prediction differs from the one before by less than `threshold` (mean over
    channels), the older one stays, in all later rounds, too. A clip of which `settled` stays is done. The defaults
    are those of the authors' 40 steps, 2 to 5 three times and 6 to 13 once: half as many passes again.
    """

    times: tuple[float, ...] = (3, 1)
    until: tuple[float, ...] = (0.15, 0.35)
    start: float = 0.05
    threshold: float = 0.2
    settled: float = 0.999

    def passes(self, index: int, steps: int) -> int:
        begins = (self.start, *self.until[:-1])
        parts = zip(self.times, begins, self.until, strict=True)
        return 1 + sum(int(n) for n, begin, end in parts if begin <= index / steps < end)

    def __call__(self, latents: Tensor, at: Moment, ask: Ask, draw: Draw) -> tuple[Tensor, Tensor]:
        velocity = ask(latents, 1.0)
        certain = torch.zeros_like(latents[:, :1], dtype=torch.bool)
        for _ in range(self.passes(at.index, at.steps) - 1):
            x0 = latents - at.sigma * velocity
            again = (1 - at.sigma) * x0 + at.sigma * draw()
            asked = ask(again, 1.0)
            differs = (again - at.sigma * asked - x0).abs().mean(1, keepdim=True)
            certain = certain | (differs < self.threshold)
            # Euler's step and x0 are linear in these two: mixing them here mixes both, as the authors do
            latents, velocity = torch.where(certain, latents, again), torch.where(certain, velocity, asked)
            certain = certain | (certain.float().mean((1, 2, 3, 4), keepdim=True) > self.settled)
        return latents, velocity


STEPPINGS: dict[str, Callable[..., Stepping]] = {
    "detail-daemon": DetailDaemon,
    "lying-sigma": LyingSigma,
    "epsilon-scaling": EpsilonScaling,
    "tsr": TemporalRescaling,
    "self-refining": SelfRefining,
}


def _warp(shift: float, u: float) -> float:
    return shift * u / (1 + (shift - 1) * u)
