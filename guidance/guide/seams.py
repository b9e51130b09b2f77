"""Where the guide leans on what diffusers' schedulers keep private; the models' seams are in wan/model, a room above.

Read in diffusers 0.42.1; `tests/wan/model/test_seams.py` holds a contract for each function. Knows nothing of guides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


def begin(scheduler: Any, timestep: Any) -> bool:
    """Let a scheduler find its first step now, before `step` is called; whether a sampling begins with this timestep.

    Until then `step_index` is None: left alone, a scheduler finds it within `step`, and the guide needs it before.
    """
    if scheduler.step_index is not None:
        return False
    scheduler._init_step_index(timestep)
    return True


@contextmanager
def step_exchanged(scheduler: Any, exchange: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
    """Within the block `step` is what `exchange` makes of its class's, a function of the scheduler and its arguments.

    Only the class is exchanged, for a subclass of the same name and module: identity and config stay, `isinstance`
    holds, and pipelines find in `step` the parameters that they look for. Afterwards the class is the former one.
    """
    original = type(scheduler)
    with _class_of(scheduler, original, step=exchange(original.step)):
        yield


@contextmanager
def levels_exchanged(scheduler: Any, sigmas: Sequence[float]) -> Iterator[None]:
    """Within the block every schedule that is set has these noise levels, and 0 after them, whatever its shift.

    Timesteps are 1000 sigma to the last digit. Solvers that take the logarithm of 1 - sigma begin just below 1, as
    UniPC's own schedules do.
    """
    import torch

    original = type(scheduler)
    most = 1.0 if original.__name__.startswith("FlowMatch") else 1 - 1e-6
    levels = torch.tensor([*(min(s, most) for s in sigmas), 0.0], dtype=torch.float32)

    @functools.wraps(original.set_timesteps)
    def set_timesteps(self: Any, _steps: int | None = None, *args: Any, **kwargs: Any) -> None:
        original.set_timesteps(self, len(sigmas), *args, **kwargs)
        self.sigmas = levels.to(self.sigmas.device)
        self.timesteps = 1000 * levels[:-1].to(self.timesteps.device)
        self.num_inference_steps = len(sigmas)

    with _class_of(scheduler, original, set_timesteps=set_timesteps):
        yield


@contextmanager
def noise_drawn_from(scheduler: Any, dice: Any) -> Iterator[None]:
    """Within the block a scheduler that noises anew in every step draws from this generator.

    WanPipeline hands `step` none: left alone, the noise is that of the device and of no seed.
    """
    original = type(scheduler)

    @functools.wraps(original.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        return original.step(self, *args, **(kwargs | {"generator": dice}))

    with _class_of(scheduler, original, step=step):
        yield


@contextmanager
def begun_later(scheduler: Any, first: int) -> Iterator[None]:
    """Within the block every schedule that is set lacks its first steps, so that a sampling begins at step `first`.

    Noise levels and timesteps are cut alike: a solver sees a shorter schedule of its own, and counts its steps from 0.
    """
    original = type(scheduler)

    @functools.wraps(original.set_timesteps)
    def set_timesteps(self: Any, *args: Any, **kwargs: Any) -> None:
        original.set_timesteps(self, *args, **kwargs)
        self.timesteps, self.sigmas = self.timesteps[first:], self.sigmas[first:]
        self.num_inference_steps = len(self.timesteps)

    with _class_of(scheduler, original, set_timesteps=set_timesteps):
        yield


@contextmanager
def _class_of(scheduler: Any, original: type, **body: Any) -> Iterator[None]:
    """Within the block a scheduler is of a subclass with these methods, of the same name and module."""
    scheduler.__class__ = type(original.__name__, (original,), body | {"__module__": original.__module__})
    try:
        yield
    finally:
        scheduler.__class__ = original
