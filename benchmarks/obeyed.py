"""Do clips show what their prompts ask for? Real, unguided and guided clips of the held-out captions, judged alike."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from benchmarks.bounds import Gate, keep
from benchmarks.captions import Split, real_frames
from benchmarks.samples import Sampler, standard_arms
from training.studio import Studio


def judge_prompts(
    name: str,
    asked: str,
    wrong: Callable[[Tensor, Split], list[str]],
    sampler: Sampler,
    studio: Studio,
    *,
    least: float = 1.0,
) -> None:
    """Print and keep, as runs/NAME.json, the clips that are not as `asked`, which `wrong` names in words.

    A share of `least` of each arm's clips must be right.
    """
    count = sampler.count
    arms = {"real clips": real_frames(studio, count, sampler.split, **sampler.film)} | standard_arms(sampler)
    wrongs, gates = {}, list[Gate]()
    for arm, frames in arms.items():
        others = wrong(frames, sampler.split)
        wrongs[arm] = others
        figure = "; ".join([f"{count - len(others)} of {count}", *others])
        gates.append(gate := Gate(f"{arm}, {asked}", figure, count - len(others) >= least * count))
        print(gate, flush=True)
    keep(name, {"count": count, "wrong": wrongs}, gates)
