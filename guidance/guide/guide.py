"""The guide: how strongly, when and how far the predicted x0 is moved along its residuals. Knows nothing of pipelines.

Autograd is not needed. With skeleton and scale held fixed, the gradient of a clip's shell energy is known in closed
form: its residuals r times W W^T, with W the whitening. The step taken is that gradient preconditioned by the squared
scale, so that it lies along r itself (shell.stretch). One factor serves the whole clip, as in the reward of Shell-LCC
(arXiv 2606.30248), since a model's drift is one factor for the whole clip. The radius aimed at is a multiple of the
calibrated curve of real latents over sigma, and shrinks with what classifier-free guidance adds to the distance.
Channels of brightness and colour take no part in this; of them only the contrast that cfg adds is taken back.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.geometry.precision import full_precision
from shelllcc.guidance.geometry.shell import Shell, stretch
from shelllcc.guidance.guide import dose
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.trace import Step, Trace

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


class ShellGuide:
    """Moves predicted x0 latents toward the shell of a bank.

    Its only state is that of the current sampling: each step's share, what cfg added, and the trace.

    >>> with guided(pipe, ShellGuide(load_bank("auto", pipe), strength=1.5)):
    ...     frames = pipe(prompt).frames[0]
    """

    def __init__(self, bank: Bank, config: GuideConfig | None = None, *, strength: float | None = None) -> None:
        if config is not None and strength is not None:
            raise UsageError("give a GuideConfig or a strength, not both")
        self.bank = bank
        self.config = config or (GuideConfig() if strength is None else GuideConfig(strength=strength))
        self._trace = Trace()
        self._sigmas: list[float] = []
        self._shares: list[float] = []
        self._weights: list[float] = []
        self._excess: Tensor | None = None
        self._gain = torch.zeros(0)
        self._shell = bank.shell.leading(bank.guided)
        self._texture = self._shell.texture
        coarse, fineness = self.config.coarse, self._shell.fineness(fine=self.config.fine)
        self._beyond = coarse * (self.config.radius / coarse) ** fineness
        self._colours = self._shell.colours(directions=self.config.colours)

    def begin(self, sigmas: Sequence[float], *, renoised: bool = False, excess: Tensor | None = None) -> None:
        """Forget the sampling before, and plan one over these noise levels (the last is 0).

        `renoised` says that every step noises x0 anew (LCM); `excess` (b,) is that of the part before this one.
        """
        self._trace = Trace()
        self._excess = excess
        self._gain = torch.zeros(0) if excess is None else torch.zeros_like(excess)
        self._sigmas = list(sigmas)
        self._shares = dose.shares(sigmas, self.config, renoised=renoised)
        self._weights = dose.weights(sigmas, renoised=renoised)

    def step_at(self, index: int) -> tuple[float, float]:
        """Noise level and share of the step of this index."""
        return self._sigmas[index], self._shares[index]

    @property
    def excess(self) -> Tensor | None:
        """What cfg added to the distance of each clip (b,), as measured in the first guided step; None before it."""
        return self._excess

    @property
    def trace(self) -> list[Step]:
        """What it saw and did so far. Reading it waits for the device; guiding does not."""
        return self._trace.steps()

    @torch.no_grad()
    def move(
        self,
        x0: Tensor,
        sigma: float,
        *,
        share: float,
        index: int = 0,
        conditional: Tensor | None = None,
        still: Tensor | None = None,
    ) -> Tensor:
        """The move (b c t h w), float32, to add to the predicted x0 (normalised latents) at noise level sigma.

        `conditional` is x0 as predicted from the prompt alone, before classifier-free guidance; None without it.
        `still` (b t) says which latent frames an image-to-video model was given: these are not moved.
        """
        with torch.autocast(x0.device.type, enabled=False):  # |z - b|^2 cancels: float32 is needed
            return self._move(x0.float(), sigma, share, index, conditional, still)

    def _move(
        self, x0: Tensor, sigma: float, share: float, index: int, conditional: Tensor | None, still: Tensor | None
    ) -> Tensor:
        self._shell = shell = self._shell.to(x0.device)
        _check_fit(shell, x0)
        config, frames = self.config, x0.shape[2]
        residual, distance = shell.residuals(x0)
        median = _median(distance, frames)
        if self._excess is None or len(self._excess) != len(median):
            self._excess = self._gain = torch.zeros_like(median)
            if conditional is not None:
                before = _median(shell.residuals(conditional.float())[1], frames)
                self._excess = (median / before.clamp_min(1e-6)).log()
        rows = self.bank.curve.at(sigma)
        radius, over = rows[frames > 1], self._excess - config.usual
        aim = radius * (median.clamp_min(1e-6) / radius) ** (1 - config.toward) * (-config.calm * over).exp()
        self._beyond, self._colours = self._beyond.to(x0.device), self._colours.to(x0.device)
        ratio = aim / median.clamp_min(1e-6)
        texture = self._texture * config.flat

        def change(part: Tensor, of: Tensor | float = texture * radius) -> Tensor:
            limits = dict(least=config.least, most=config.most, gate=config.gate)
            return stretch(part, ratio, beyond=self._beyond, texture=of, **limits)

        beside = [_of_frames(residual, rows, frames) * texture] if config.first else []
        detail = shell.to_latents(residual, x0.shape, change, *beside)
        clip = x0 - x0.mean((2, 3, 4), keepdim=True)
        contrast = clip * ((config.tone - config.contrast * over).exp() - 1).view(-1, 1, 1, 1, 1)
        move = share * (detail + self._of_colours(contrast - detail))
        if still is not None:
            move = move.masked_fill(still[:, None, :, None, None], 0.0)

        size, allowed = _rms(move), config.trust * _rms(x0)
        shrink = (allowed / size.clamp_min(1e-12)).clamp_max(1.0)
        move = move * shrink.view(-1, 1, 1, 1, 1)
        sizes = [_rms(v - self._of_colours(v)).clamp_min(1e-6) for v in (clip, clip + move)]
        self._gain = self._gain + (sizes[1] / sizes[0]).log() * (self._weights[index] if self._weights else 1.0)
        seen = torch.stack([median, self._excess, aim * config.coarse, size * shrink, self._gain])
        self._trace.note(index, sigma, radius, seen)
        return move

    def _of_colours(self, x: Tensor) -> Tensor:
        """The part of (b c t h w) that lies in the channels of brightness and colour."""
        with full_precision():
            return torch.einsum("cd,bdthw->bcthw", self._colours, x)


def _median(distance: Tensor, frames: int) -> Tensor:
    """Median (b,) of distances (b, n), of the later latent frames where there are any."""
    first = distance.shape[1] // frames if frames > 1 else 0
    later = distance[:, first:]
    return later.sort(dim=1).values[:, (later.shape[1] - 1) // 2]  # torch.median is not deterministic on CUDA


def _of_frames(tokens: Tensor, rows: tuple[float, float], frames: int) -> Tensor:
    """For each of the tokens (b, n, d) its number (1, n, 1): the first of the rows in the first latent frame, which a
    causal VAE gives statistics of its own, the second in later ones."""
    numbers = tokens.new_full((1, tokens.shape[1], 1), rows[1])
    numbers[:, : tokens.shape[1] // frames] = rows[0]
    return numbers


def _rms(x: Tensor) -> Tensor:
    return x.flatten(1).square().mean(1).sqrt()


def _check_fit(shell: Shell, x0: Tensor) -> None:
    if x0.shape[1] != shell.channels:
        raise BankError(f"the bank holds {shell.channels}-channel latents, this model makes {x0.shape[1]}")
    if min(x0.shape[-2:]) <= shell.patch // 2:
        raise BankError(f"latents of {tuple(x0.shape[-2:])} are too small for patches of {shell.patch}")
