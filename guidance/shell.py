"""The shell around an anchor skeleton: distance of patch tokens, and the move toward a radius.

Knows nothing of video, prompts or schedulers. The geometry is Shell-LCC's (arXiv 2606.30248, section 3): a token z
has a skeleton point z_hat and lies at distance |(z - z_hat) / scale| from it; tokens of real videos keep to a shell.
Here the scale may also be a whole local covariance, one for each anchor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shelllcc.guidance import coding
from shelllcc.guidance.patches import average_tokens, to_tokens


@dataclass(frozen=True)
class Shell:
    """Anchors and scales in the space of projected patches. Tensors are float32.

    patch     side of a patch in latent voxels
    k         neighbours in the local coordinate code; 1 is the nearest anchor
    mean      (p,) mean patch, p = channels * patch * patch
    basis     (p, d) orthonormal principal directions of patches
    anchors   (m, d)
    whitening (m, d, d): residuals of anchor i times whitening[i] have unit scale on the shell; or (1, d, d) for all
    sigmas    (s,) ascending noise levels of the calibration
    radius    (2, s) median distance of x0 predicted from real latents at those levels; row 0 is the first latent frame
    """

    patch: int
    k: int
    mean: Tensor
    basis: Tensor
    anchors: Tensor
    whitening: Tensor
    sigmas: Tensor
    radius: Tensor

    @property
    def channels(self) -> int:
        return self.mean.numel() // self.patch**2

    def to(self, device: torch.device) -> Shell:
        """The same shell on another device; the calibration, which is read as numbers, stays on the CPU."""
        if self.mean.device == device:
            return self
        mean, basis, anchors = self.mean.to(device), self.basis.to(device), self.anchors.to(device)
        return Shell(self.patch, self.k, mean, basis, anchors, self.whitening.to(device), self.sigmas, self.radius)

    def residuals(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Residuals (b, n, d) from the skeleton and distances (b, n) of the patches of (b c t h w) latents."""
        tokens = (to_tokens(latents, size=self.patch) - self.mean) @ self.basis
        b, n, d = tokens.shape
        flat = tokens.reshape(b * n, d)
        points, index = coding.skeleton(flat, self.anchors, k=self.k)
        residual = flat - points
        distance = whitened_norm(residual, index, self.whitening)
        return residual.view(b, n, d), distance.view(b, n)

    def radius_at(self, sigma: float) -> tuple[float, float]:
        """Radius of the first latent frame and of the later ones at a noise level, linear between calibrated ones."""
        levels = self.sigmas
        sigma = min(max(sigma, float(levels[0])), float(levels[-1]))
        right = int(torch.searchsorted(levels, sigma).clamp(1, levels.numel() - 1)) if levels.numel() > 1 else 0
        left = max(right - 1, 0)
        span = float(levels[right] - levels[left])
        share = (sigma - float(levels[left])) / span if span > 0 else 0.0
        first, later = (self.radius[:, left] + share * (self.radius[:, right] - self.radius[:, left])).tolist()
        return first, later

    def lift(self, moves: Tensor, shape: torch.Size) -> Tensor:
        """Moves (b, n, d) of the projected patches as one move of the latents of `shape` (b c t h w).

        A patch of more than one voxel keeps its mean in every channel, its brightness and colour: texture alone moves.
        """
        patches = moves @ self.basis.T
        if self.patch > 1:
            voxels = patches.unflatten(-1, (self.channels, self.patch**2))
            patches = (voxels - voxels.mean(-1, keepdim=True)).flatten(-2)
        return average_tokens(patches, shape, size=self.patch)


def whitened_norm(residual: Tensor, index: Tensor, whitening: Tensor) -> Tensor:
    """Distances (n,): the norm of each residual (n, d) times the whitening of its anchor, index (n,)."""
    if whitening.shape[0] == 1:
        return (residual @ whitening[0]).norm(dim=-1)
    order = index.argsort(stable=True)  # one product an anchor, instead of a (d, d) matrix a token
    counts = torch.bincount(index, minlength=whitening.shape[0]).tolist()
    parts = torch.split(residual[order], counts)
    sorted_norms = torch.cat([(part @ w).norm(dim=-1) for part, w in zip(parts, whitening, strict=True)])
    return torch.empty_like(sorted_norms).index_copy_(0, order, sorted_norms)


def move_to_radius(residual: Tensor, distance: Tensor, radius: Tensor, *, strength: float, reach: float) -> Tensor:
    """Moves (..., d) that take each token a fraction `strength` of the way along its residual to the shell.

    The proximal step of the shell energy (distance - radius)^2 / 2 preconditioned by the squared scale: inward or
    outward, and never past the shell for strength <= 1. No token is pushed out beyond `reach` times its own distance,
    so that flat places, which lie near their anchor, are not filled with noise.
    """
    ratio = (radius / distance.clamp_min(1e-6)).clamp_max(reach)
    return strength * (ratio - 1)[..., None] * residual
