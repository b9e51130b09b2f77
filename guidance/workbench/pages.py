"""The pages of a fit and of a search for strengths, in the house of a run's page.

Knows what they show of records that lie on disk anyway. Knows nothing of how these were made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from shelllcc.guidance.versions import version
from shelllcc.guidance.wan.clips.parse import of_strength
from shelllcc.guidance.workbench.report import write_page
from shelllcc.guidance.workbench.search import Probe, best, bracket, retrace

FIT = ("dom", "theme", "fit", "fitpage")
SEARCH = ("dom", "theme", "search", "tunepage")


def write_fit_page(path: Path, fit: Mapping[str, Any]) -> None:
    """Write the page of a fit, given as `shelllcc fit --json` prints it: its record, `words` and `path`.

    Raises OutputError.
    """
    name = Path(fit["path"]).name  # a page may be given away; whose folder it was made in is nobody's concern
    write_page(path, {**fit, "path": name, "version": version()}, inside="fit", scripts=FIT)


def write_search_page(path: Path, searches: Sequence[Mapping[str, Any]], *, clips: str | None) -> None:
    """Write the page of searches: each a `profile`, and the first `item` of its clips on the page `clips`, or None.

    Raises OutputError.
    """
    places = {item: place for place, item in enumerate(_items(searches), start=1)}
    shown = [_search(one["profile"], places.get(one["item"]), clips) for one in searches]
    write_page(path, {"searches": shown, "version": version()}, inside="tune", scripts=SEARCH)


def _items(searches: Sequence[Mapping[str, Any]]) -> list[int]:
    """All items of the searches that show any, one for each seed."""
    return [
        one["item"] + seed
        for one in searches
        if one["item"] is not None
        for seed in range(len(one["profile"].get("seeds", [0])))
    ]


def _search(profile: Mapping[str, Any], place: int | None, clips: str | None) -> dict[str, Any]:
    """What the page shows of one prompt; probes in the order in which they were tried, where that is known."""
    probes = [Probe(**probe) for probe in profile.get("probes", [])]
    about = {key: profile.get(key) for key in ("name", "strength", "balance", "seeds", "created", "known")}
    about |= {"prompt": profile["settings"]["prompt"], "settings": _settings(profile)}
    if not probes:
        return about | {"probes": [], "bracket": None, "ended": "", "chosen": ""}
    searched, pair = retrace(probes), bracket(probes)
    shown = [
        {
            "strength": probe.strength,
            "balance": probe.balance,
            "alarm": probe.alarm,
            "word": probe.word,
            "why": searched.whys[number] if searched.whys else None,
            "clip": _clip(probe, place, clips),
        }
        for number, probe in enumerate(searched.probes)
    ]
    ends = None if pair is None else [probe.strength for probe in pair]
    return about | {"probes": shown, "bracket": ends, "ended": searched.ended, "chosen": _chosen(probes)}


def _chosen(probes: Sequence[Probe]) -> str:
    """Why the best of the probes is it."""
    found = best(probes)
    if found.alarm:
        return "every strength that was tried has an alarm; of these its balance is nearest to 0"
    sound = sum(not probe.alarm for probe in probes)
    near = f"its balance is the nearest to 0 of the {sound} strengths that were tried"
    return f"{near} without an alarm" if sound < len(probes) else near


def _clip(probe: Probe, place: int | None, clips: str | None) -> str | None:
    if place is None or clips is None:
        return None
    return f"./{quote(clips)}#{place}/{quote(of_strength(probe.strength).label, safe='')}/side"


def _settings(profile: Mapping[str, Any]) -> dict[str, Any]:
    """What the strength was found for: model, bank, and what is not the prompt's."""
    told = {"model": profile["model"].get("source"), "bank": profile["bank"].get("name")}
    return told | {key: value for key, value in profile["settings"].items() if key != "prompt" and value is not None}
