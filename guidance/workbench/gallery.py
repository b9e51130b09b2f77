"""Several runs on one page: their prompts together, their clips where they lie, one blind vote over all pairs.

Knows what a run's folder says of itself. Samples, measures and decodes nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject, fingerprint_of
from shelllcc.guidance.paths import reason
from shelllcc.guidance.terminal import shown
from shelllcc.guidance.versions import version
from shelllcc.guidance.words import plural
from shelllcc.guidance.workbench.claims import FILE, PICTURES, PUBLISHED, identity, is_own, lines_of, read_record
from shelllcc.guidance.workbench.report import read_report, write_report

RESULTS, MANIFEST, PAGE = "results.jsonl", "manifest.json", "report.html"
LINE: dict[str, tuple[type, ...]] = {  # what the results say of a clip
    "idx": (int,),
    "prompt": (str,),
    "seed": (int, type(None)),
    "label": (str,),
    "title": (str,),
    "video": (str,),
    "settings": (dict,),
    "figures": (dict,),
    "verdict": (dict,),
    "trace": (list,),
}
OF_ITEM = ("idx", "prompt", "seed")


class Found(NamedTuple):
    """A run as its folder has it: what to say of it, and its items, whose files are names in the folder."""

    folder: Path
    facts: JsonObject
    items: list[JsonObject]

    @property
    def clips(self) -> list[JsonObject]:
        return [clip for item in self.items for clip in item["clips"]]

    @property
    def missing(self) -> list[str]:
        """Clips that the results name and the folder has not, or has as links."""
        return [clip["video"] for clip in self.clips if clip["id"] is None]


def write_gallery(
    folders: Sequence[Path],
    page: Path,
    *,
    embed: bool = False,
    overwrite: bool = False,
    on_note: Callable[[str], None] = lambda line: None,
) -> JsonObject:
    """Write the page of the runs in `folders`, the same bytes in whatever order they come; says what is on it.

    Raises UsageError for a folder without a finished run and for a page in whose place lies something else, which
    `overwrite` replaces unless it is a run's own; OutputError.
    """
    _check_place(page)
    every = sorted(map(read_run, folders), key=lambda run: (run.facts["created"], run.facts["id"], str(run.folder)))
    found = list(_alone(every, on_note))
    for run in found:
        if run.missing:
            some = f"{run.missing[0]}{' and others' if len(run.missing) > 1 else ''}"
            on_note(f"{run.folder} lacks {len(run.missing)} of its {plural(len(run.clips), 'clip')}: {some}")
    gallery = _joined(found, page.parent)
    if not overwrite:
        _check_there(page, gallery)
    write_report(page, gallery, embed=embed)
    told = ("name", "title", "model", "bank", "created", "prompts", "clips", "missing")
    runs = [{"folder": str(run.folder)} | {key: facts[key] for key in told}
            for run, facts in zip(found, gallery["runs"], strict=True)]  # fmt: skip
    return {"report": str(page), "runs": runs}


def read_run(folder: Path) -> Found:
    """The run in a folder. Raises UsageError where there is none, or none of its clips is finished."""
    try:
        folder.stat()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {shown(str(folder))}: {reason(error)}") from error
    known = read_record(folder) if folder.is_dir() else None
    if known is None:
        raise UsageError(f"{folder} is no run's folder; give some that `compare` or `tune` made")
    asked, page = known.asked, read_report(folder / PAGE)
    settings = _dict(page.get("settings"))
    sampled = "requests" in asked  # else videos are compared that existed, and `settings` are their paths
    facts = {
        "id": identity(asked),
        "title": str(asked.get("title", "run")),
        "model": _source(asked, settings) if sampled else None,
        "bank": _bank(asked, settings) if sampled else None,
        "created": _created(folder, page),
        "settings": settings,
        "fit": _fit(page.get("fit")),
        "page": PAGE if page else None,
    }
    return Found(folder, facts, list(_items(folder, _fps(folder, page))))


def _alone(found: Sequence[Found], on_note: Callable[[str], None]) -> Iterator[Found]:
    """The runs without those that are there twice: a folder that was named again, or a copy of one."""
    places = set[Path]()
    known: dict[str, Path] = {}
    for run in found:
        clips = [[item["idx"], clip["label"], clip["id"]] for item in run.items for clip in item["clips"]]
        copy = json.dumps([run.facts["id"], clips])
        if (place := run.folder.resolve()) in places:
            on_note(f"{run.folder} was named twice, and is shown once")
        elif copy in known:
            on_note(f"{run.folder} holds the same run as {known[copy]}, and is not shown again")
        else:
            yield run
        places.add(place)
        known.setdefault(copy, run.folder)


def _joined(found: Sequence[Found], place: Path) -> JsonObject:
    """The record of the page that lies in `place`: items by prompt, each with its seeds, these with their runs."""
    names = _names([run.folder for run in found])
    runs, items = [], list[JsonObject]()
    for number, (run, name) in enumerate(zip(found, names, strict=True)):
        way = _way(run.folder, place)
        prompts = {item["prompt"] for item in run.items}
        counts = {"prompts": len(prompts), "clips": len(run.clips), "missing": len(run.missing)}
        runs.append(run.facts | {"name": name, "page": run.facts["page"] and way + run.facts["page"]} | counts)
        items += [_moved(item, way) | {"run": number} for item in run.items]
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(item["prompt"] for item in items))}
    items.sort(key=lambda i: (order[i["prompt"]], i["seed"] is not None, i["seed"] or 0, i["run"], i["idx"]))
    references = {run.items[0]["clips"][0]["label"] for run in found}
    return {
        "id": hashlib.sha256(json.dumps([run["id"] for run in runs]).encode()).hexdigest()[:16],
        "title": "gallery",
        "created": max(run["created"] for run in runs),
        "version": version(),
        "settings": {},
        "fit": None,
        "reference": references.pop() if len(references) == 1 else None,
        "fps": items[0]["fps"],
        "runs": runs,
        "items": items,
    }


def _moved(item: JsonObject, way: str) -> JsonObject:
    """An item, its files named as the page finds them."""
    clips = [
        clip | {"video": {"name": clip["video"], "url": None} if clip["id"] is None else way + clip["video"]}
        for clip in item["clips"]
    ]
    return item | {kind: item[kind] and way + item[kind] for kind in PICTURES} | {"clips": clips}


def _way(folder: Path, place: Path) -> str:
    """From the folder of the page to that of a run, as a browser goes it: without a look at links. Ends in a slash."""
    try:
        way = os.path.relpath(os.path.abspath(folder), os.path.abspath(place))  # noqa: PTH100
    except ValueError as error:  # another drive of Windows
        raise UsageError(f"no page in {place} can name files in {folder}; give an --output on its drive") from error
    return "" if way == os.curdir else f"{Path(way).as_posix()}/"


def _names(folders: Sequence[Path]) -> list[str]:
    """What runs are called: the ends of their paths, as long as tells them apart."""
    parts = [Path(os.path.abspath(folder)).parts for folder in folders]  # noqa: PTH100
    for length in range(1, max(map(len, parts))):
        names = ["/".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return ["/".join(part) for part in parts]


def _items(folder: Path, fps: float) -> Iterator[JsonObject]:
    """The items of a run, clips with an `id`, that of their file: none where the folder has no such file of the run."""
    lines: dict[int, list[JsonObject]] = {}
    for line in _results(folder):
        lines.setdefault(line["idx"], []).append(line)
    for idx, clips in sorted(lines.items()):
        pictures = {kind: f"{idx:02d}_{name}" for kind, name in PICTURES.items()}
        yield (
            {key: clips[0][key] for key in OF_ITEM}
            | {"fps": fps}
            | {kind: name if is_own(folder, name) else None for kind, name in pictures.items()}
            | {"clips": [_clip(folder, clip) for clip in clips]}
        )


def _clip(folder: Path, line: JsonObject) -> JsonObject:
    try:
        found = fingerprint_of(folder / line["video"]) if is_own(folder, line["video"]) else None
    except OSError:
        found = None
    return {key: value for key, value in line.items() if key not in OF_ITEM} | {"id": found}


def _results(folder: Path) -> list[JsonObject]:
    """What a run's results say of its clips. Raises UsageError where they are missing, or are none."""
    file = folder / RESULTS
    if not file.exists():
        raise UsageError(f"{folder} holds a run without {RESULTS}; give its command again, which ends it")
    try:
        lines = lines_of(file)
    except (OSError, ValueError, RecursionError):
        lines = []
    if not lines or not all(_is_line(line) for line in lines):
        raise UsageError(f"{file} is torn, or no run's; give the command of the run again, which makes it anew")
    return lines


def _is_line(line: object) -> bool:
    if not isinstance(line, dict) or not all(isinstance(line.get(key), kinds) for key, kinds in LINE.items()):
        return False
    return all(isinstance(step, dict) for step in line["trace"])


def _fps(folder: Path, page: Mapping[str, Any]) -> float:
    """Frames a second of a run's clips."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8")).get("fps")
    except (OSError, ValueError, RecursionError, AttributeError):
        told = page.get("fps")
    return float(told) if isinstance(told, (int, float)) and told > 0 else 8.0


def _created(folder: Path, page: Mapping[str, Any]) -> str:
    """When the results were written, as the page says, or else the system."""
    if isinstance(told := page.get("created"), str):
        return told
    changed = datetime.fromtimestamp((folder / RESULTS).stat().st_mtime if (folder / RESULTS).exists() else 0, UTC)
    return changed.isoformat(timespec="seconds").replace("+00:00", "Z")


def _source(asked: JsonObject, settings: JsonObject) -> str | None:
    found = settings.get("model") or _dict(asked.get("model")).get("source")
    return None if found is None else str(found)


def _bank(asked: JsonObject, settings: JsonObject) -> str | None:
    """A bank's name; where no page says it, the beginning of its identity."""
    bank = asked.get("bank")
    digest = bank.get("identity") if isinstance(bank, dict) else bank
    found = settings.get("bank") or (digest and str(digest)[:8])
    return None if found is None else str(found)


def _fit(fit: object) -> JsonObject | None:
    """What a page says of the fit, if it is what a page can draw."""
    if not isinstance(fit, dict) or not isinstance(fit.get("bands"), list):
        return None
    return fit if all(isinstance(band, dict) for band in fit["bands"]) else None


def _dict(value: object) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _check_place(page: Path) -> None:
    """Raise UsageError where no page could be, and where a run has files of its own."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{page} is no name of a page; let the --output end in .html")
    if page.is_dir():
        raise UsageError(f"{page} is a folder; give a file as --output, e.g. {page / 'gallery.html'}")
    if page.name in PUBLISHED and os.path.lexists(page.parent / FILE):
        raise UsageError(f"{page} is the page of the run there alone; give another --output")


def _check_there(page: Path, gallery: JsonObject) -> None:
    """Raise UsageError where something else lies than a gallery of these runs, or of some of them."""
    if not os.path.lexists(page):
        return
    there = None if page.is_symlink() else read_report(page).get("runs")
    if not isinstance(there, list):
        raise UsageError(f"{page} is no gallery; give another --output, or --overwrite it")
    ids = {run["id"] for run in gallery["runs"]}
    if not all(_dict(run).get("id") in ids for run in there):
        raise UsageError(f"{page} is a gallery of other runs; give another --output, or --overwrite it")
