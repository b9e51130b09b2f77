"""How far each step of a sampling goes, from its noise levels alone. Knows nothing of tensors, banks or pipelines.

A move of x0 enters the sample by 1 - next / sigma, or by 1 - next where a step noises x0 anew (LCM). The steps in the
window share out a fixed dose of it, so that few steps and many come equally far; the last step, which nothing could
mend, is left alone unless it is asked for. Either all steps go the same share of the way, as records of before have it,
or (GuideConfig.by_sigma) each has the part of the dose that lies between its noise level and the next: a step's share
then follows from these two alone, so that a sampling in parts, as with two experts, gets the dose of the whole, and a
last step that is small goes a small share of the way, but one that is all there is goes as far as the others together.

All functions take the noise levels of a sampling, one more than it has steps: they fall, and the last is 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from shelllcc.guidance.guide.config import GuideConfig

ENOUGH = 0.6  # of a move must be able to enter the sample inside a guidance interval
LARGE = 0.3  # sigma of a last step that may not be left alone: much is decided there
MOST = 0.8  # of the way that a step goes which gets its own part of the dose: nothing mends what a last one overdoes


def shares(sigmas: Sequence[float], config: GuideConfig, *, renoised: bool = False) -> list[float]:
    """The share of the way to the shell that each step goes, from 0 to 1; 0 where the guide does not act."""
    entering, inside = weights(sigmas, renoised=renoised), _inside(sigmas, config)
    if config.by_sigma:
        falls = [s - after for s, after in itertools.pairwise(sigmas)]
        steps = zip(falls, entering, inside, strict=True)
        return [
            _own_share(fall / weight, config) if acts and weight and config.acts else 0.0
            for fall, weight, acts in steps
        ]
    dose = sum(weight for weight, acts in zip(entering, inside, strict=True) if acts)
    if not dose or not config.acts:
        return [0.0] * len(entering)
    share = 1 - (1 - config.share) ** (config.strength * config.dose / dose)
    return [share if acts else 0.0 for acts in inside]


def weights(sigmas: Sequence[float], *, renoised: bool = False) -> list[float]:
    """How much of a move of x0 enters the sample in each step, from 0 to 1; all of it in the last one."""
    if renoised:
        return [1 - after for after in sigmas[1:]]
    return [1 - after / s if s > 0 else 0.0 for s, after in itertools.pairwise(sigmas)]


def first_move(sigmas: Sequence[float], config: GuideConfig) -> int:
    """The index of the first step in which the guide acts; the number of steps where it never does."""
    return next((index for index, share in enumerate(shares(sigmas, config)) if share > 0), len(sigmas) - 1)


def interval(sigmas: Sequence[float], *, renoised: bool = False) -> tuple[tuple[float, float], bool]:
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
        entering = zip(weights(sigmas, renoised=renoised), acts, strict=True)
        if sum(weight for weight, inside in entering if inside) >= ENOUGH or not levels:
            return (low, high), last
        high = min(1.0, levels.pop(0))


def _own_share(part: float, config: GuideConfig) -> float:
    """The share of a step: `part` is how far its noise level falls, over how much of a move enters the sample."""
    low, high = config.window
    return min(MOST, 1 - (1 - config.share) ** (config.strength * config.dose * part / (high - low)))


def _inside(sigmas: Sequence[float], config: GuideConfig) -> list[bool]:
    """Whether each step is one in which the guide may act."""
    low, high = config.window
    within = [low - config.edge <= s <= high + config.edge and s > 0 for s in sigmas[:-1]]
    return within if config.last else [*within[:-1], False]
