"""How far each step of a sampling goes, from its noise levels alone. Knows nothing of tensors, banks or pipelines.

A move of x0 enters the sample by 1 - next / sigma. The steps in the window share out a fixed dose of it, so that few
steps and many come equally far; the last step, which nothing could mend, is left alone.

All functions take the noise levels of a sampling, one more than it has steps: they fall, and the last is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from shelllcc.guidance.guide.config import GuideConfig


def shares(sigmas: Sequence[float], config: GuideConfig) -> list[float]:
    """The share of the way to the shell that each step goes, from 0 to 1; 0 where the guide does not act."""
    entering, inside = weights(sigmas), _inside(sigmas, config)
    dose = sum(weight for weight, acts in zip(entering, inside, strict=True) if acts)
    if not dose:
        return [0.0] * len(entering)
    share = 1 - (1 - config.share) ** (config.strength * config.dose / dose)
    return [share if acts else 0.0 for acts in inside]


def weights(sigmas: Sequence[float]) -> list[float]:
    """How much of a move of x0 enters the sample in each step, from 0 to 1."""
    return [1 - after / s if s > 0 else 0.0 for s, after in itertools.pairwise(sigmas)]


def first_move(sigmas: Sequence[float], config: GuideConfig) -> int:
    """The index of the first step in which the guide acts; the number of steps where it never does."""
    return next((index for index, share in enumerate(shares(sigmas, config)) if share > 0), len(sigmas) - 1)


def _inside(sigmas: Sequence[float], config: GuideConfig) -> list[bool]:
    """Whether each step is one in which the guide may act."""
    low, high = config.window
    within = [low - config.edge <= s <= high + config.edge and s > 0 for s in sigmas[:-1]]
    return [*within[:-1], False]
