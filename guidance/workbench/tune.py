"""Tuning: the strength that a prompt needs, found by the verdict's balance and kept in a profile.

Knows nothing of terminals; `search` knows where to look.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.wan.clips import profiles
from shelllcc.guidance.wan.clips.parse import of_strength
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.guidance.words import plural
from shelllcc.guidance.workbench.claims import SEARCH
from shelllcc.guidance.workbench.pages import write_search_page
from shelllcc.guidance.workbench.planned import Planned
from shelllcc.guidance.workbench.runs import Run, verdict_of
from shelllcc.guidance.workbench.search import Probe, best, search
from shelllcc.guidance.workbench.sweep import Sweep

BUDGET = 5  # clips of a prompt, for each seed
HIGH = 3.0  # the strongest that is tried
BOTH = (of_strength(0.0), of_strength(1.0))


def tune(
    run: Run,
    planned: Planned,
    studio: Studio,
    *,
    budget: int | None = None,
    embed: bool = False,
    again: bool = False,
    on_probe: Callable[[Request, Probe], None] = lambda request, probe: None,
) -> Iterator[JsonObject]:
    """Find and store the profile of each prompt; yields it, with `known`, whether it was there, and clips `sampled`.

    `budget` is the most clips of a prompt, BUDGET for each seed if None. A prompt that has a profile is not tuned but
    `again`.
    """
    resolved, bank = planned.resolved, planned.resolved.bank
    if bank is None:
        raise UsageError("to tune there must be a bank; " + " ".join(resolved.notes))
    studio.expect(planned.requests)
    first, searches = 0, list[JsonObject]()
    try:
        for group in planned.groups:
            with contextlib.ExitStack() as stack:
                sweeps = [
                    stack.enter_context(contextlib.closing(Sweep(run, first + i, request, resolved, BOTH, studio)))
                    for i, request in enumerate(group)
                ]
                known = None if again else profiles.find(group[0], resolved.model, resolved.loading, bank)
                if known is None:
                    found = _found(run, sweeps, budget, on_probe)
                    profile = profiles.store(group[0], resolved.model, resolved.loading, bank, found) | {"known": False}
                else:
                    _find_clips(run, sweeps, known)
                    profile = known | {"known": True}
            searches.append({"profile": profile, "item": first if first in run.items else None})
            yield profile | {"sampled": sum(sweep.sampled for sweep in sweeps)}
            first += len(group)
    finally:
        if run.items:
            run.publish(embed=embed)
        if searches:
            run.record.add(SEARCH)
            write_search_page(run.folder / SEARCH, searches, clips="report.html" if run.items else None)


def check_budget(budget: int | None, planned: Planned) -> None:
    """Raise UsageError for a budget that does not reach for two strengths of every seed."""
    seeds = max(len(group) for group in planned.groups)
    if budget is not None and budget < 2 * seeds:
        clips, two = plural(budget, "clip"), plural(seeds, "seed")
        raise UsageError(f"a budget of {clips} is too small: two strengths with {two} are {2 * seeds}")


def _found(
    run: Run, sweeps: Sequence[Sweep], budget: int | None, on_probe: Callable[[Request, Probe], None]
) -> JsonObject:
    """What the search finds for one prompt; `sweeps` are its seeds."""
    probes, most = [], BUDGET if budget is None else budget // len(sweeps)
    for probe in search(lambda strength: _probe(sweeps, strength), most=most, high=HIGH):
        probes.append(probe)
        on_probe(sweeps[0].request, probe)
    _show(run, sweeps)
    return {
        "strength": best(probes).strength,
        "balance": best(probes).balance,
        "probes": [asdict(probe) for probe in sorted(probes, key=lambda probe: probe.strength)],
        "seeds": [sweep.request.seed for sweep in sweeps],
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _find_clips(run: Run, sweeps: Sequence[Sweep], profile: JsonObject) -> None:
    """Show the clips that a profile was found with, if they all lie in the run's folder."""
    variants = [of_strength(probe["strength"]) for probe in profile.get("probes", [])]
    if variants and all(sweep.finished(variant) for sweep in sweeps for variant in (*variants, BOTH[0])):
        for sweep in sweeps:
            for variant in variants:
                sweep.clip(variant)
        _show(run, sweeps)


def _show(run: Run, sweeps: Sequence[Sweep]) -> None:
    for sweep in sweeps:
        clips = sorted(sweep.shown(), key=lambda clip: clip.settings["strength"])
        run.show(sweep.index, prompt=sweep.request.prompt, seed=sweep.request.seed, clips=clips)


def _probe(sweeps: Sequence[Sweep], strength: float) -> Probe:
    """Sample a strength with every seed, or find its clips, and judge them."""
    variant = of_strength(strength)
    balances, alarms = [], []
    for sweep in sweeps:
        sweep.clip(variant)
        reference, *others = sweep.shown()
        clip = next((clip for clip in others if clip.label == variant.label), reference)
        # the unguided clip itself has no excess: it is asked of one that was guided
        excess = next((other.sampled.excess for other in others if other.sampled.excess is not None), None)
        if not (known := clip.sampled.balance(excess)):
            low, high = sweep.request.guide.window
            raise UsageError(
                f"the guide never acts: no step but the last lies in the sigmas {low:g}:{high:g}; widen --window"
            )
        balances.append(known["balance"])
        alarms.append(clip is not reference and verdict_of(clip, reference)[0].word.endswith("alarm"))
    return Probe(strength, sum(balances) / len(balances), any(alarms))
