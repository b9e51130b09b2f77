"""Schedulers by their short names, and the noise levels that they step through. Knows nothing of torch or pipelines.

A few-step model must see the very noise levels that it was trained for. Two of diffusers' schedulers would miss them:
FlowMatchEuler and FlowMatchLCM shift a smallest level that is shifted already, so that four steps at shift 5 are 1,
.910, .717, .024 in place of 1, .9375, .8333, .625. Chosen by name they get the latter.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

SCHEDULERS: Mapping[str, str] = {
    "unipc": "UniPCMultistepScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "euler": "FlowMatchEulerDiscreteScheduler",
    "lcm": "FlowMatchLCMScheduler",
}
DOUBLY_SHIFTED = ("euler", "lcm")  # unless they are given their levels


def warp(shift: float, u: float) -> float:
    """The noise level at time u, from 0 to 1, of a flow of this shift."""
    return shift * u / (1 + (shift - 1) * u)


@functools.cache
def even(shift: float, steps: int) -> tuple[float, ...]:
    """The noise levels of so many steps, even in time, 0 left out."""
    return tuple(warp(shift, 1 - i / steps) for i in range(steps))


def given(scheduler: str, sigmas: Sequence[float], shift: float, steps: int) -> tuple[float, ...] | None:
    """The noise levels that a scheduler, by its short name, is to be given; None where its own are right."""
    if sigmas:
        return tuple(sigmas)
    return even(shift, steps) if scheduler in DOUBLY_SHIFTED else None


def expected(kind: str, scheduler: str, sigmas: Sequence[float], shift: float, steps: int) -> tuple[float, ...]:
    """About the noise levels that a sampling sees; `kind` is the class of the model's own scheduler."""
    found = given(scheduler, sigmas, shift, steps)
    if found is None and not scheduler and kind in {SCHEDULERS[name] for name in DOUBLY_SHIFTED}:
        least = warp(shift, 1 / 1000)
        return tuple(warp(shift, 1 - (1 - least) * i / max(1, steps - 1)) for i in range(steps))
    return found or even(shift, steps)
