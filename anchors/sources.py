"""What a SOURCE argument names: videos and latents, in folders, globs and text lists. Knows nothing of contents."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from shelllcc.guidance.errors import UsageError

VIDEO = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv")
LATENTS = (".safetensors", ".pt")
LIST = (".txt", ".lst")
DEPTH = 8  # lists in lists
ACCEPTED = f"videos ({' '.join(VIDEO)}), latents ({' '.join(LATENTS)}), lists ({' '.join(LIST)}), folders or globs"


@dataclass(frozen=True)
class Sources:
    """Files, each once, sorted by path. Those `named` were given one by one, not in a folder or by a pattern."""

    videos: tuple[Path, ...]
    latents: tuple[Path, ...]
    named: frozenset[Path] = field(default=frozenset(), compare=False)


def expand(sources: Sequence[str | Path]) -> Sources:
    """The files that the sources name, the same whatever their order. Raises UsageError for one that names nothing.

    Text files in folders are captions. A list has one source a line, relative to its own folder.
    """
    found = {str(source): list(_named(str(source), Path(), ())) for source in sources} or {"no sources": []}
    for source in (source for source, paths in found.items() if not paths):
        raise UsageError(f"nothing found in {source}; give {ACCEPTED}")
    files: dict[Path, Path] = {}
    named = set[Path]()
    for path, alone in sorted((one for paths in found.values() for one in paths), key=lambda one: str(one[0])):
        files.setdefault(path.resolve(), path)
        named |= {files[path.resolve()]} if alone else set()
    videos, latents = (tuple(p for p in files.values() if _is(p, kind)) for kind in (VIDEO, LATENTS))
    return Sources(videos, latents, frozenset(named))


def caption_of(video: Path) -> str:
    """The text of the .txt of the same stem beside a video, or nothing. Raises UsageError if it is no text."""
    path = video.with_suffix(".txt")
    return _text(path).strip() if path.is_file() else ""


def _named(source: str, folder: Path, lists: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    """The videos and latents of one source, read in `folder`, from within `lists`, and whether each is named itself."""
    try:
        path = folder / Path(source).expanduser()
        if path.exists() and source.strip():
            yield from _given(path, lists)
        elif glob.has_magic(source):
            wanted = VIDEO + LATENTS + (LIST if _is(path, LIST) else ())
            for match in (m for m in _matches(path) if m.is_dir() or (_is(m, wanted) and m.is_file())):
                yield from ((file, named and _is(match, LIST)) for file, named in _given(match, lists))
        else:
            raise UsageError(f"there is no source {source!r}; give {ACCEPTED}")
    except (OSError, RuntimeError) as error:  # no permission, no such home
        raise UsageError(f"cannot read {source}: {getattr(error, 'strerror', None) or error}") from error


def _given(path: Path, lists: tuple[Path, ...]) -> Iterator[tuple[Path, bool]]:
    """The videos and latents of an existing folder, list or file, and whether each is named itself."""
    if path.is_dir():
        yield from ((p, False) for p in _below(path, set()) if _is(p, VIDEO + LATENTS) and p.is_file())
    elif _is(path, LIST):
        if path.resolve() in lists or len(lists) == DEPTH:
            raise UsageError(f"the lists {' > '.join(map(str, (*lists, path)))} hold each other, or nest too deeply")
        for number, line in enumerate(map(str.strip, _text(path).split("\n")), 1):
            try:
                yield from _named(line, path.parent, (*lists, path.resolve())) if line and line[0] != "#" else ()
            except UsageError as error:
                raise UsageError(f"{path}, line {number}: {error}") from error
    elif _is(path, VIDEO + LATENTS) and path.is_file():
        yield path, True
    else:
        raise UsageError(f"{path} is no source; give {ACCEPTED}")


def _matches(pattern: Path) -> Iterator[Path]:
    """As glob finds them, but ** is not sent round by links that lead back up."""
    at = pattern.parts.index("**") if "**" in pattern.parts else None
    for base in map(Path, glob.glob(str(Path(*pattern.parts[:at])))):  # noqa: PTH207 - Path.glob finds hidden files
        if at is None:
            yield base
        elif base.is_dir():
            for folder in (path for path in _below(base, set()) if path.is_dir()):
                yield from _matches(Path(glob.escape(str(folder)), *(pattern.parts[at + 1 :] or "*")))


def _below(folder: Path, seen: set[Path]) -> Iterator[Path]:
    """A folder and all below it, sorted, without what is hidden; each folder once, and none that a link leads up to."""
    yield folder
    seen.add(folder.resolve())
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if not path.is_dir():
            yield path
        elif path.resolve() not in seen and not folder.resolve().is_relative_to(path.resolve()):
            yield from _below(path, seen)


def _is(path: Path, suffixes: Sequence[str]) -> bool:
    return path.suffix.lower() in suffixes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8 text'}") from error
