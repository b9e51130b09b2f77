"""A small patch discriminator of videos and its losses. Knows nothing of what makes the videos.

It judges each place of a decoded clip against the same place of the real one (relativistic pairing, Jolicoeur-Martineau
2018, arXiv 1807.00734), so that the content cancels and only the look of the detail is left.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class Critic(nn.Module):
    """(b 3 t H W) videos to (b 1 t' H/4 W/4) scores; it sees 24 x 24 pixels of three frames."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            spectral_norm(layer)
            for layer in (
                nn.Conv3d(3, width, (1, 3, 3), padding=(0, 1, 1)),
                nn.Conv3d(width, 2 * width, (1, 4, 4), (1, 2, 2), padding=(0, 1, 1)),
                nn.Conv3d(2 * width, 2 * width, (3, 3, 3), padding=(1, 1, 1)),
                nn.Conv3d(2 * width, 3 * width, (1, 4, 4), (1, 2, 2), padding=(0, 1, 1)),
                nn.Conv3d(3 * width, 1, (1, 3, 3), padding=(0, 1, 1)),
            )
        )

    def forward(self, video: Tensor) -> Tensor:
        x = video
        for layer in self.layers[:-1]:
            x = F.leaky_relu(layer(x), 0.2)
        scores: Tensor = self.layers[-1](x)
        return scores


def critic_loss(real: Tensor, made: Tensor) -> Tensor:
    """Of the critic: the real video should score higher, place by place."""
    return F.softplus(made - real).mean()


def maker_loss(real: Tensor, made: Tensor) -> Tensor:
    """Of what made the video: the critic should prefer it."""
    return F.softplus(real - made).mean()


def balance(reference: Tensor, other: Tensor, weight: Tensor, *, most: float = 100.0) -> Tensor:
    """The factor that makes `other` pull at `weight` as hard as `reference` does (Esser et al. 2021, equation 7)."""
    pull, push = (torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (reference, other))
    return (pull / (push + 1e-6)).clamp(0, most).detach()
