"""The radius as a function of sigma, for one model. Knows nothing of pipelines: a denoiser is any function.

The distance of x0 predicted from real noised latents depends on the noise level: at high noise a model predicts a
blurred mean. Samples are steered along the curve that real latents give, not toward one radius.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from shelllcc.guidance.flow import x0_from_velocity
from shelllcc.guidance.shell import Shell

Denoiser = Callable[[Tensor, float, Sequence[int]], Tensor]
"""(noised latents (b c t h w), sigma, indices of the clips) -> velocity."""


@torch.no_grad()
def calibrate_radius(
    shell: Shell,
    clips: Tensor,
    denoise: Denoiser,
    *,
    sigmas: Iterable[float] = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98, 1.0),
    batch: int = 8,
    seed: int = 0,
) -> Shell:
    """The shell with its radius at each sigma: the median distance of x0 predicted once from held-out real clips.

    `clips` (n c t h w) are normalised latents; each is noised from its own generator.
    """
    levels = sorted(sigmas)
    table = torch.zeros(2, len(levels))
    for column, sigma in enumerate(levels):
        firsts, laters = [], []
        for start in range(0, len(clips), batch):
            indices = range(start, min(start + batch, len(clips)))
            x0 = clips[start : indices.stop]
            noise = torch.stack(
                [torch.randn(x0.shape[1:], generator=torch.Generator().manual_seed(seed + i)) for i in indices]
            ).to(x0.device)
            noised = (1 - sigma) * x0 + sigma * noise
            predicted = x0 if sigma == 0 else x0_from_velocity(noised, denoise(noised, sigma, indices), sigma)
            _, distance = shell.residuals(predicted)
            per_frame = distance.view(len(x0), x0.shape[2], -1)
            firsts.append(per_frame[:, 0].flatten().cpu())
            laters.append(per_frame[:, 1:].flatten().cpu())
        table[0, column], table[1, column] = torch.cat(firsts).median(), torch.cat(laters).median()
    return replace(shell, sigmas=torch.tensor(levels), radius=table)
