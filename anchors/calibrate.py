"""The radius as a function of sigma, for one model. Knows nothing of pipelines: a denoiser is any function.

The distance of x0 predicted from real noised latents depends on the noise level: at high noise a model predicts a
blurred mean. Samples are steered along the curve that real latents give, not toward one radius.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from shelllcc.anchors.draws import draw
from shelllcc.guidance.geometry.flow import x0_from_velocity
from shelllcc.guidance.geometry.shell import Curve, Shell

Denoiser = Callable[[Tensor, float, int], Tensor]
"""(noised latents (1 c t h w), sigma, index of the clip) -> velocity."""
SIGMAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.88, 0.94, 0.98, 1.0)


@torch.no_grad()
def calibrate_radius(
    shell: Shell,
    clips: Sequence[Tensor],
    denoise: Denoiser,
    *,
    sigmas: Sequence[float] = SIGMAS,
    most: int = 8192,
    seed: int = 0,
    on_clip: Callable[[int], None] = lambda done: None,
) -> Curve:
    """The median distance of x0 predicted once from held-out real clips at each sigma.

    `clips` are normalised latents (c t h w), on the device to work on; each is noised from its own generator and gives
    at most `most` distances a level and row. Row 0 is the first latent frame.
    """
    levels = sorted(sigmas)
    seen: list[list[list[Tensor]]] = [[[] for _ in levels] for _ in range(2)]
    for number, clip in enumerate(clips):
        x0 = clip[None].float()
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed + number)).to(x0.device)
        for column, sigma in enumerate(levels):
            noised = (1 - sigma) * x0 + sigma * noise
            predicted = x0 if sigma == 0 else x0_from_velocity(noised, denoise(noised, sigma, number), sigma)
            distance = shell.residuals(predicted)[1].view(x0.shape[2], -1).cpu()
            for row, part in enumerate((distance[0], (distance[1:] if len(distance) > 1 else distance).flatten())):
                seen[row][column].append(draw(part, most, seed=seed + number))
        on_clip(number + 1)
    radius = torch.tensor([[float(torch.cat(parts).median()) for parts in row] for row in seen])
    return Curve(torch.tensor(levels), radius)
