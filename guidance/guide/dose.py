"""How far each step of a sampling goes, from its noise levels alone. Knows nothing of tensors, banks or pipelines.

A move of x0 enters the sample by 1 - next / sigma. The steps in the window share out a fixed dose of it, so that few
steps and many come equally far; the last step, which nothing could mend, is left alone unless it is asked for.

All functions take the noise levels of a sampling, one more than it has steps: they fall, and the last is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from shelllcc.guidance.guide.config import GuideConfig

ENOUGH = 0.6  # of a move must be able to enter the sample inside a guidance interval
LARGE = 0.3  # sigma of a last step that may not be left alone: much is decided there


def shares(sigmas: Sequence[float], config: GuideConfig) -> list[float]:
    """The share of the way to the shell that each step goes, from 0 to 1; 0 where the guide does not act."""
    entering, inside = weights(sigmas), _inside(sigmas, config)
    dose = sum(weight for weight, acts in zip(entering, inside, strict=True) if acts)
    if not dose or not config.acts:
        return [0.0] * len(entering)
    share = 1 - (1 - config.share) ** (config.strength * config.dose / dose)
    return [share if acts else 0.0 for acts in inside]


def weights(sigmas: Sequence[float]) -> list[float]:
    """How much of a move of x0 enters the sample in each step, from 0 to 1."""
    return [1 - after / s if s > 0 else 0.0 for s, after in itertools.pairwise(sigmas)]


def first_move(sigmas: Sequence[float], config: GuideConfig) -> int:
    """The index of the first step in which the guide acts; the number of steps where it never does."""
    return next((index for index, share in enumerate(shares(sigmas, config)) if share > 0), len(sigmas) - 1)


def interval(sigmas: Sequence[float]) -> tuple[tuple[float, float], bool]:
    """A guidance interval for these noise levels, and whether the last step is in it, for a sampling of any length.

    It is the usual one where enough of a move enters there. Of few steps, coarse ones, earlier steps are taken in until
    ENOUGH does, and the last where it is no small one.
    """
    low, high = GuideConfig.window
    last = sigmas[-2] >= LARGE
    levels = sorted(s for s in sigmas[:-1] if s > high)
    while True:
        config = GuideConfig(window=(low, high), last=last)
        acts = _inside(sigmas, config)
        if sum(weight for weight, inside in zip(weights(sigmas), acts, strict=True) if inside) >= ENOUGH or not levels:
            return (low, high), last
        high = min(1.0, levels.pop(0))


def _inside(sigmas: Sequence[float], config: GuideConfig) -> list[bool]:
    """Whether each step is one in which the guide may act."""
    low, high = config.window
    within = [low - config.edge <= s <= high + config.edge and s > 0 for s in sigmas[:-1]]
    return within if config.last else [*within[:-1], False]
