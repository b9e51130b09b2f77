"""The guide: how strongly, when and how far the predicted x0 is pulled onto the shell. Knows nothing of pipelines.

Autograd is not needed. With skeleton and scale held fixed, the gradient of the shell distance lies along the residual,
and the step taken is its proximal form (shell.move_to_radius). The radius aimed at follows the calibrated curve of
real latents over sigma, and a feedback makes up for what the remaining steps pull back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shelllcc.guidance.config import GuideConfig
from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.shell import Shell, move_to_radius

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


@dataclass(frozen=True)
class Step:
    """What the guide saw and did in one step, for every clip of the batch.

    distance is the median distance of the later latent frames; target the calibrated radius times the factor; aimed
    the radius after the feedback; move the RMS of the applied move.
    """

    index: int
    sigma: float
    distance: list[float]
    target: float
    aimed: list[float]
    move: list[float]


class ShellGuide:
    """Pulls predicted x0 latents toward the shell of a bank.

    Its only state is that of the current sampling: the trace, and one gain a clip for the feedback.

    >>> with guided(pipe, ShellGuide(load_bank("auto", pipe), strength=0.3)):
    ...     frames = pipe(prompt).frames[0]
    """

    def __init__(self, bank: Bank, config: GuideConfig | None = None, *, strength: float | None = None) -> None:
        if config is not None and strength is not None:
            raise UsageError("give a GuideConfig or a strength, not both")
        self.bank = bank
        self.config = config or (GuideConfig() if strength is None else GuideConfig(strength=strength))
        self.trace: list[Step] = []
        self._gain: Tensor | None = None
        self._shell = bank.shell.leading(bank.guided)

    def begin(self) -> None:
        """Forget the sampling before; the scheduler hook calls it before the first step of each."""
        self.trace = []
        self._gain = None

    def strength_at(self, sigma: float, *, last: bool = False) -> float:
        """The strength at a noise level; 0 where the guide does not act."""
        low, high = self.config.window
        if sigma <= 0 or not low <= sigma <= high:
            return 0.0
        return self.config.strength * (self.config.last if last else 1.0)

    @torch.no_grad()
    def move(self, x0: Tensor, sigma: float, *, index: int = 0, last: bool = False) -> Tensor:
        """The move (b c t h w), float32, to add to the predicted x0 (normalised latents) at noise level sigma."""
        with torch.autocast(x0.device.type, enabled=False):  # |z - b|^2 cancels: float32 is needed
            return self._move(x0.float(), sigma, index, last)

    def _move(self, x0: Tensor, sigma: float, index: int, last: bool) -> Tensor:
        self._shell = shell = self._shell.to(x0.device)
        _check_fit(shell, x0)
        config = self.config
        residual, distance = shell.residuals(x0)
        b, n, _ = residual.shape
        first = n // x0.shape[2]  # tokens of the first latent frame, which has statistics of its own
        later = distance[:, first:] if n > first else distance
        median = later.sort(dim=1).values[:, (later.shape[1] - 1) // 2]  # torch.median is not deterministic on CUDA

        radius_first, radius_later = self.bank.curve.at(sigma)
        target = config.radius * (radius_later if n > first else radius_first)
        if self._gain is None or self._gain.shape[0] != b:
            self._gain = torch.zeros_like(median)
        error = (target / median.clamp_min(1e-6)).log()
        self._gain = (self._gain + config.feedback * error).clamp(-math.log(2), math.log(2))
        aim = config.radius * self._gain.exp()

        radius = torch.full_like(distance, radius_later)
        radius[:, :first] = radius_first
        strength = self.strength_at(sigma, last=last)
        moves = move_to_radius(residual, distance, radius * aim[:, None], strength=strength, reach=config.reach)
        move = shell.lift(moves, x0.shape)

        size, allowed = _rms(move), config.trust * _rms(x0)
        shrink = (allowed / size.clamp_min(1e-12)).clamp_max(1.0)
        move = move * shrink.view(-1, 1, 1, 1, 1)
        self.trace.append(
            Step(
                index=index,
                sigma=sigma,
                distance=median.tolist(),
                target=target,
                aimed=(aim * target / config.radius).tolist(),
                move=(size * shrink).tolist(),
            )
        )
        return move


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def _check_fit(shell: Shell, x0: Tensor) -> None:
    if x0.shape[1] != shell.channels:
        raise BankError(f"the bank holds {shell.channels}-channel latents, this model makes {x0.shape[1]}")
    if min(x0.shape[-2:]) <= shell.patch // 2:
        raise BankError(f"latents of {tuple(x0.shape[-2:])} are too small for patches of {shell.patch}")
