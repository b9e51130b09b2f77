"""Velocity and clean latents of a rectified flow. Knows nothing of schedulers, steps or guidance.

Wan's flow is x = (1 - sigma) x0 + sigma noise with velocity = noise - x0 (Liu et al. 2022, arXiv 2209.03003), hence
x0 = x - sigma velocity. All latents are normalised VAE latents (b c t h w); results are float32.
"""

from __future__ import annotations

from torch import Tensor


def x0_from_velocity(sample: Tensor, velocity: Tensor, sigma: float) -> Tensor:
    """The clean latents that a velocity at `sample` points to."""
    return sample.float() - sigma * velocity.float()


def shift_velocity(velocity: Tensor, move: Tensor, sigma: float) -> Tensor:
    """The velocity, in its own dtype, whose clean latents are those of `velocity` plus `move`."""
    return (velocity.float() - move / sigma).to(velocity.dtype)
