"""The shell around a skeleton: distance of patch tokens, and the move toward a radius.

Knows nothing of video, prompts or schedulers. The geometry is Shell-LCC's (arXiv 2606.30248, section 3): a token z
has a skeleton point z_hat and lies at distance |(z - z_hat) / scale| from it; tokens of real videos keep to a shell.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shelllcc.guidance.geometry.patches import average_tokens, to_tokens
from shelllcc.guidance.geometry.precision import full_precision
from shelllcc.guidance.geometry.skeletons import Skeleton

NUMBERS = 1 << 24  # held at once for the patches of some whole latent frames: 64 MiB


@dataclass(frozen=True)
class Curve:
    """The radius of real latents over the noise level, read as numbers on the CPU.

    sigmas (s,) ascending noise levels
    radius (2, s) median distance of x0 predicted from real latents at those levels; row 0 is the first latent frame
    """

    sigmas: Tensor
    radius: Tensor

    def at(self, sigma: float) -> tuple[float, float]:
        """Radius of the first latent frame and of the later ones at a noise level, linear between calibrated ones."""
        levels = self.sigmas
        sigma = min(max(sigma, float(levels[0])), float(levels[-1]))
        right = int(torch.searchsorted(levels, sigma).clamp(1, levels.numel() - 1)) if levels.numel() > 1 else 0
        left = max(right - 1, 0)
        span = float(levels[right] - levels[left])
        share = (sigma - float(levels[left])) / span if span > 0 else 0.0
        first, later = (self.radius[:, left] + share * (self.radius[:, right] - self.radius[:, left])).tolist()
        return first, later


@dataclass(frozen=True)
class Shell:
    """A skeleton in the space of projected patches. Tensors are float32.

    patch    side of a patch in latent voxels
    mean     (p,) mean patch, p = channels * patch * patch
    basis    (p, d) orthonormal principal directions of patches, those of most variance first
    skeleton of d dimensions
    survival share of a move of all patches that is left where they overlap and are averaged, as measured on real
             latents: what patches are moved by is divided by it, so that a move means what it says for any patch
    """

    patch: int
    mean: Tensor
    basis: Tensor
    skeleton: Skeleton
    survival: float = 1.0

    @property
    def channels(self) -> int:
        return self.mean.numel() // self.patch**2

    def to(self, device: torch.device) -> Shell:
        if self.mean.device == device:
            return self
        return replace(self, mean=self.mean.to(device), basis=self.basis.to(device), skeleton=self.skeleton.to(device))

    def leading(self, components: int) -> Shell:
        """The shell of the leading principal directions alone."""
        if components == self.basis.shape[1]:
            return self
        return replace(self, basis=self.basis[:, :components], skeleton=self.skeleton.leading(components))

    @property
    def texture(self) -> float:
        """RMS, per direction, of the residual of a patch at distance 1, over the places of the skeleton."""
        return self.skeleton.spread / self.skeleton.dimensions**0.5

    def fineness(self, *, fine: float) -> Tensor:
        """(d,) of each direction: 0 for the coarsest, rising to 1 over the share `fine` of them, 1 for all beyond."""
        place = self.skeleton.order.argsort().to(self.mean) / max(self.skeleton.dimensions - 1, 1)
        return (place / fine).clamp_max(1)

    def colours(self, *, directions: int) -> Tensor:
        """Projection (c, c) of latent channels onto brightness and colour.

        They are the `directions` of the channels in which the patch means of the skeleton's points, as tokens come to
        them, differ most.
        """
        patches = (self.skeleton.points @ self.basis.T).unflatten(-1, (self.channels, self.patch**2))
        shares = self.skeleton.shares
        means = patches.mean(-1).double().cpu().T
        differing = means.cov() if shares is None else means.cov(aweights=shares.double().cpu(), correction=0)
        _, vectors = torch.linalg.eigh(differing)
        leading = vectors[:, max(0, self.channels - directions) :]
        return (leading @ leading.T).to(self.mean)

    def project(self, latents: Tensor) -> Tensor:
        """Tokens (b, n, d), frames first, of (b c t h w) latents."""
        return (to_tokens(latents, size=self.patch) - self.mean) @ self.basis

    def residuals(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (b, n, d) from the skeleton and distances (b, n) of the patches of (b c t h w) latents."""
        with full_precision():
            return self._residuals(latents)

    def _residuals(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for frames in torch.split(latents, self._frames_at_once(latents.shape), dim=2):
            tokens = self.project(frames)
            residual, distance = self.skeleton.residuals(tokens.flatten(0, 1))
            parts.append((residual.view(tokens.shape), distance.view(tokens.shape[:2])))
        if len(parts) == 1:
            return parts[0]
        return torch.cat([r for r, _ in parts], dim=1), torch.cat([d for _, d in parts], dim=1)

    def to_latents(self, tokens: Tensor, shape: torch.Size, change: Callable[..., Tensor], *beside: Tensor) -> Tensor:
        """What `change` makes of projected patches (b, n, d), as one move of the latents of `shape` (b c t h w).

        It is given some whole frames at a time, so that all moves of patches never lie in memory at once, and after
        them the same patches of each of `beside` (1 or b, n, ...).
        """
        b, c, t, h, w = shape
        frames = self._frames_at_once(shape)
        parts = []
        pieces = zip(*(torch.split(v, frames * h * w, dim=1) for v in (tokens, *beside)), strict=True)
        for start, piece in zip(range(0, t, frames), pieces, strict=True):
            with full_precision():
                patches = change(*piece) @ self.basis.T
                if self.survival != 1:
                    patches /= self.survival
            span = torch.Size((b, c, min(frames, t - start), h, w))
            parts.append(average_tokens(patches, span, size=self.patch))
        return torch.cat(parts, dim=2)

    def _frames_at_once(self, shape: torch.Size) -> int:
        b, _, _, h, w = shape
        return max(1, NUMBERS // (b * h * w * max(self.mean.numel(), self.skeleton.width)))


def stretch(
    residual: Tensor, ratio: Tensor, *, beyond: Tensor, texture: Tensor | float, least: float, most: float, gate: float
) -> Tensor:
    """Moves (b, n, d) that take the residuals of each clip about `ratio` (b,) times as far from the skeleton.

    With `beyond` 1 and no gate, each move lies along its own residual r. The gradient of a clip's shell energy lies
    elsewhere, along r W W^T with W the whitening: the move is that gradient preconditioned by the squared scale,
    (W W^T)^-1. Two things that real clips teach are added. Direction i goes `beyond[i]` (d,) times as far, fine ones
    farther than coarse ones, and every factor is kept within `least` and `most`. And what is pushed outward must be
    texture: where the RMS e of a patch's residual is smaller than `texture`, its RMS on the shell, one for all or
    (1, n, 1), the push fades by e^gate / (e^gate + texture^gate), so that flat places are not filled with noise.
    """
    factor = (ratio[:, None] * beyond).clamp(least, most)[:, None] - 1
    energy = residual.square().mean(-1, keepdim=True) ** (gate / 2)
    open_ = energy / (energy + texture**gate)
    return torch.addcmul(factor.clamp_max(0), open_, factor.clamp_min(0)).mul_(residual)
