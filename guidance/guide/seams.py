"""Where the guide leans on what diffusers' schedulers keep private; the models' seams are in wan/model, a room above.

Read in diffusers 0.42.1; `tests/wan/model/test_seams.py` holds a contract for each function. Knows nothing of guides.
"""

from __future__ import annotations

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
