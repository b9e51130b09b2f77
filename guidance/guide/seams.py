"""Where the guide leans on what diffusers' schedulers keep private; the models' seams are in wan/model, a room above.

Read in diffusers 0.42.1; `tests/wan/model/test_seams.py` holds a contract for each function. Knows nothing of guides.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
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
    body = {"step": exchange(original.step), "__module__": original.__module__}
    scheduler.__class__ = type(original.__name__, (original,), body)
    try:
        yield
    finally:
        scheduler.__class__ = original


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

    body = {"set_timesteps": set_timesteps, "__module__": original.__module__}
    scheduler.__class__ = type(original.__name__, (original,), body)
    try:
        yield
    finally:
        scheduler.__class__ = original
