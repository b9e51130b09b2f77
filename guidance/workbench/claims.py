"""The record of a run's folder, `run.json`: what was asked for, and which files there a run wrote.

Nothing but these is ever removed or replaced. Knows nothing of what they hold; files of a run that kept no record yet
must prove themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from shelllcc.guidance.errors import OutputError, UsageError
from shelllcc.guidance.files import JsonObject, sha256_of, write_json
from shelllcc.guidance.wan.clips.recorded import doubt_of_run, is_run
from shelllcc.guidance.wan.clips.sidecar import read_sidecar

FILE, LOCK = "run.json", ".lock"
PICTURES = {"side_by_side": "compare.mp4", "montage": "montage.png", "trace_plot": "trace.svg"}
PUBLISHED = ("manifest.json", "results.jsonl", "report.html")
SEARCH = "tune.html"  # where `tune` went
FIXED = "|".join(map(re.escape, (*PUBLISHED, SEARCH)))
DRAWN = "|".join(map(re.escape, PICTURES.values()))
COPY = r"image-[0-9a-f]{12}(?:\.[a-z0-9]+)?"  # of an image that clips are made from
NAME = re.compile(rf"[0-9]{{2,}}_(?:[^/\\]+\.(?:mp4|json)|{DRAWN})|{FIXED}|{COPY}")  # of a file of any run
LINK = re.compile(r"vbench/(?!\.\.?/)[^/\\]+/[^/\\]+\.mp4")


class Known(NamedTuple):
    """What a folder's record says; `wrote` is None where it is of the time before files were recorded."""

    asked: JsonObject
    wrote: set[str] | None


class Record:
    """What a run wrote into its folder: names relative to it, each recorded before its file is written.

    `inputs` are files that the run reads: they are neither removed nor replaced, wherever they lie. A copy of an image
    may be among them, which the run before wrote there: it stays, and is this run's from then on.
    """

    def __init__(self, folder: Path, asked: JsonObject, inputs: Iterable[Path] = ()) -> None:
        self.folder = folder
        self.asked: JsonObject = json.loads(json.dumps(asked))
        self.names: set[str] = set()
        self.doubt: str | None = None  # what the user should hear of a run that goes on
        self._inputs = {path.resolve() for path in inputs}

    def check(self) -> None:
        """Raise UsageError for a folder that no run made, but that holds a file or folder of a run's name."""
        if os.path.lexists(self.folder) and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is no folder; give one as --output")
        if not self.folder.is_dir() or read_record(self.folder) is not None:
            return
        if os.path.lexists(file := self.folder / FILE):
            raise UsageError(f"{file} is torn, or no run's; give another --output")
        for path in sorted(self.folder.iterdir()):
            lock = path.name == LOCK and (path.is_symlink() or path.stat().st_size > 0)
            if lock or path.name == "vbench" or NAME.fullmatch(path.name):
                raise UsageError(f"{self.folder} is no run's folder, {path.name} is in the way; give another --output")

    def check_claim(self, *, anew: bool) -> None:
        """Raise as `claim` would, and touch nothing."""
        self.check()
        known = read_record(self.folder)
        if known is not None and (anew or not is_run(known.asked, self.asked)):
            self._replaced(known, anew=anew)

    def claim(self, *, anew: bool) -> None:
        """Make the folder this run's, which goes on where an equal one ended; with `anew`, what a run wrote is removed.

        Raises UsageError, before anything is removed, where the folder holds another run, or what no run wrote.
        """
        try:
            self._claim(anew=anew)
        except OSError as error:
            raise OutputError(f"cannot use {self.folder}: {error.strerror or error}") from error

    def add(self, *names: str) -> None:
        """Record files before they are written. Raises UsageError where one is there that no run wrote."""
        for name in names:
            path = self.folder / name
            foreign = os.path.lexists(path) and name not in self.names
            read = path.resolve() in self._inputs
            if ((foreign or read) and not (read and _is_copy(self.folder, name))) or _led_out(self.folder, name):
                raise UsageError(f"{path} is in the way, this run did not write it; give another --output")
        if not self.names.issuperset(names):
            self.names.update(names)
            self._write()

    def _claim(self, *, anew: bool) -> None:
        self.check()
        known = read_record(self.folder)
        if known is not None and is_run(known.asked, self.asked) and not anew:
            self.doubt = doubt_of_run(known.asked)
            self.names = known.wrote if known.wrote is not None else self._adopted()
        elif known is not None:
            self._remove(self._replaced(known, anew=anew))
        self._write()

    def _replaced(self, known: Known, *, anew: bool) -> list[str]:
        """The files of another run, which give way. Raises UsageError where it has clips, and not `anew`."""
        clips = self.folder.glob("[0-9][0-9]*_*.mp4")
        if not anew and any(known.wrote is None or path.name in known.wrote for path in clips):
            raise UsageError(f"{self.folder} holds another run; give another --output, or --overwrite it")
        return self._removable(known)

    def _write(self) -> None:
        write_json(self.folder / FILE, {"asked": self.asked, "wrote": sorted(self.names)})

    def _in_the_way(self) -> Iterator[str]:
        """What lies in the folder under names that this run may write."""
        ways = self.asked.get("variants") or self.asked.get("videos") or []
        labels = "|".join(re.escape(way["label"]) for way in ways) or r"unguided|strength-[0-9.e+-]+"
        mine = re.compile(rf"([0-9]{{2,}})_(?:(?:{labels})\.(?:mp4|json)|{DRAWN})|{FIXED}")
        count = len(self.asked.get("requests", [None]))
        for path in sorted(self.folder.iterdir()):
            found = mine.fullmatch(path.name)
            if found and (found[1] is None or int(found[1]) < count):
                yield path.name

    def _adopted(self) -> set[str]:
        """The files of an equal run that kept no record: all that this one would write there."""
        names = proven(self.folder, self.asked) | set(self._in_the_way())
        return names | _links(self.folder, names)

    def _removable(self, known: Known) -> list[str]:
        """The files of the run before. Raises UsageError for an input among them, and for others in this run's way."""
        names = proven(self.folder, known.asked) if known.wrote is None else known.wrote
        found = [name for name in sorted(names) if is_own(self.folder, name)]
        found = [n for n in found if not (_is_copy(self.folder, n) and (self.folder / n).resolve() in self._inputs)]
        for name in found:
            if (path := self.folder / name).resolve() in self._inputs:
                raise UsageError(f"{path} is to be compared, and would be overwritten; give another --output")
        if kept := next((name for name in self._in_the_way() if name not in found), None):
            what = "is in the way, and not known to be a run's"
            raise UsageError(f"{self.folder / kept} {what}; move it away, or give another --output")
        return found

    def _remove(self, names: Iterable[str]) -> None:
        """Remove files, and the folders of links that are empty then."""
        for name in names:
            path = self.folder / name
            path.unlink(missing_ok=True)
            if LINK.fullmatch(name):
                with contextlib.suppress(OSError):
                    path.parent.rmdir()
                    path.parent.parent.rmdir()


def proven(folder: Path, asked: JsonObject) -> set[str]:
    """The files of a run without a record that prove to be its own.

    A clip is proven by the sha256 in its sidecar, or in what was asked for; a proper manifest proves itself, the
    pictures of its items and the copies of the videos that were asked for; a link is proven by what it is a link to.
    """
    names: set[str] = set()
    for sidecar in folder.glob("[0-9][0-9]*_*.json"):
        clip = f"{sidecar.stem}.mp4"
        with contextlib.suppress(UsageError):
            hashes = (read_sidecar(sidecar).get("sha256") or {}).values()
            if is_own(folder, sidecar.name) and is_own(folder, clip) and sha256_of(folder / clip) in hashes:
                names |= {sidecar.name, clip}
    videos = {f"00_{video['label']}.mp4": video["sha256"] for video in asked.get("videos", ())}
    names |= {name for name, sha in videos.items() if is_own(folder, name) and sha256_of(folder / name) == sha}
    items = manifest_of(folder)
    if items:
        names |= {"manifest.json", *(f"{item['idx']:02d}_{name}" for item in items for name in PICTURES.values())}
        names |= videos.keys() & {name for item in items for name in item["videos"].values() if isinstance(name, str)}
    if _is_results(folder / "results.jsonl"):
        names.add("results.jsonl")
    if _is_page(folder / "report.html"):
        names.add("report.html")
    names = {name for name in names if is_own(folder, name)}
    return names | _links(folder, names)


def manifest_of(folder: Path) -> list[JsonObject]:
    """The items of the manifest that lies in a folder, if it is one: each with `idx` and its `videos` by label."""
    try:
        items = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["items"]
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return []
    parts = [item if isinstance(item, dict) else {} for item in items] if isinstance(items, list) else []
    sound = all(type(part.get("idx")) is int and isinstance(part.get("videos"), dict) for part in parts)
    return parts if sound else []


def read_record(folder: Path) -> Known | None:
    """What a folder's record says, if there is one of a run of ours."""
    file = folder / FILE
    try:
        found = None if file.is_symlink() else json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    if "wrote" in found:
        asked, wrote = found.get("asked"), found["wrote"]
        if not isinstance(asked, dict) or not isinstance(wrote, list):
            return None
        return Known(asked, set(wrote)) if all(isinstance(name, str) for name in wrote) else None
    videos = found.get("videos", [])
    sound = found.get("title") in ("compare", "tune") and isinstance(videos, list)
    sound = sound and all(isinstance(video, dict) and {"label", "sha256"} <= video.keys() for video in videos)
    return Known(found, None) if sound and ("requests" in found or videos) else None


def is_own(folder: Path, name: str) -> bool:
    """Whether a name is a run's, and a file that lies there itself: no link, nor behind one."""
    path = folder / name
    return _named(name) and not _led_out(folder, name) and path.is_file() and not path.is_symlink()


def _named(name: str) -> bool:
    return bool(NAME.fullmatch(name) or LINK.fullmatch(name))


def _is_copy(folder: Path, name: str) -> bool:
    """Whether a file is the copy of an image that its name says it is."""
    path = folder / name
    return bool(re.fullmatch(COPY, name)) and path.is_file() and sha256_of(path).startswith(name[6:18])


def _led_out(folder: Path, name: str) -> bool:
    """Whether a folder on the way from `folder` to a file is a link."""
    return any((folder / part).is_symlink() for part in Path(name).parents if part != Path())


def _links(folder: Path, names: Iterable[str]) -> set[str]:
    """The links to clips, or copies of them, in `vbench`."""
    clips = {sha256_of(folder / name) for name in names if name.endswith(".mp4") and is_own(folder, name)}
    links = [path.relative_to(folder).as_posix() for path in folder.glob("vbench/*/*.mp4")]
    return {name for name in links if is_own(folder, name) and sha256_of(folder / name) in clips}


def lines_of(results: Path) -> list[Any]:
    """What a file of JSON lines holds; prompts in it may have line separators of Unicode. OSError, ValueError."""
    return [json.loads(line) for line in results.read_text(encoding="utf-8").split("\n") if line]


def _is_results(path: Path) -> bool:
    """Whether every line is a clip's result."""
    try:
        lines = lines_of(path)
    except (OSError, ValueError, RecursionError):
        return False
    wanted = {"idx", "label", "video", "verdict"}
    return bool(lines) and all(isinstance(line, dict) and wanted <= line.keys() for line in lines)


def identity(asked: JsonObject) -> str:
    """What a run is known by where its votes are kept: what was asked for, wherever it lies."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:16]


def _is_page(path: Path) -> bool:
    """Whether a page is that of a run."""
    try:
        return '<script type="application/json" id="run">' in path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
