"""What every training run shares: its budget, its weight average, and a checkpoint that survives a kill.

Knows nothing of what is trained.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class Budget:
    """Progress from 0 to 1 over `steps`, or over `minutes` of training where they run out first."""

    def __init__(self, steps: int, minutes: float | None) -> None:
        self.steps, self.minutes = steps, minutes
        self.step, self.spent, self._since = 0, 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        return self.spent + time.monotonic() - self._since

    @property
    def progress(self) -> float:
        by_time = self.seconds / (60 * self.minutes) if self.minutes else 0.0
        return min(1.0, max(self.step / self.steps, by_time))

    def rate(self, warmup: int = 50) -> float:
        """Learning-rate factor: linear warm-up, then a cosine down to 2%."""
        return min(1.0, (self.step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * self.progress)))


class Average:
    """Exponential moving average of a network's parameters, with a short memory early on."""

    def __init__(self, parameters: list[nn.Parameter], decay: float) -> None:
        self.parameters, self.decay = parameters, decay
        self.shadow = [p.detach().clone() for p in parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self.shadow, [p.detach() for p in self.parameters], 1 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the averaged and the trained weights, in place."""
        for p, s in zip(self.parameters, self.shadow, strict=True):
            kept = p.detach().clone()
            p.copy_(s)
            s.copy_(kept)

    def state(self) -> list[Tensor]:
        """The average as half-precision differences from the trained weights: small, so that few digits do."""
        return [(s - p.detach()).half() for p, s in zip(self.parameters, self.shadow, strict=True)]

    @torch.no_grad()
    def restore(self, state: list[Tensor]) -> None:
        """Take up `state` again; the parameters must hold the weights that it was taken with."""
        self.shadow = [p.detach() + d.to(p) for p, d in zip(self.parameters, state, strict=True)]


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that a kill leaves the old one or the new one, never half of one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def load(path: Path, device: torch.device) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each clip in a batch of videos in [-1, 1], over all its frames."""
    error = ((a.clamp(-1, 1) - b) / 2).square().flatten(1).mean(1)
    return -10 * error.log10()
