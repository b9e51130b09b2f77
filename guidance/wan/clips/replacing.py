"""Which files a clip may replace: earlier makes of itself, by their bytes or tag. Knows nothing of sampling."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject, sha256_of
from shelllcc.guidance.media.video import frames_in, read_tag
from shelllcc.guidance.wan.clips.sidecar import read_sidecar

Made = Callable[[JsonObject], bool]
"""Whether a record, a sidecar's or a tag's, is of a clip of this very recipe."""


def in_the_way(videos: Mapping[str, Path], sidecar: Path, made: Made, *, quick: bool = False) -> Path | None:
    """The first of a clip's files, by label, that is there and no earlier make of it; folders are told elsewhere.

    A video is an earlier make where a sidecar of this recipe has its sha256, or, without a sidecar, where its tag says
    so, as a kill between the two leaves it. One that such a sidecar names but that cannot be decoded is torn, and made
    again. `quick` takes the sidecar's word.
    """
    known: JsonObject = {}
    if os.path.lexists(sidecar) and not sidecar.is_dir():
        try:
            known = read_sidecar(sidecar)
        except UsageError:
            return sidecar
        if not sidecar.is_file() or not made(known) or _is_of_another(known, videos):
            return sidecar
    return video_in_the_way(videos, known, made, quick=quick)


def video_in_the_way(videos: Mapping[str, Path], known: JsonObject, made: Made, *, quick: bool = False) -> Path | None:
    """The same of the videos alone; `known` is a sidecar of this recipe, or empty."""
    hashes = known.get("sha256") or {}
    for label, path in videos.items():
        if not os.path.lexists(path) or path.is_dir():
            continue
        if not path.is_file():
            return path  # a link to what is not there, a pipe
        if label not in hashes:
            if not made(read_tag(path)):
                return path
        elif not quick and sha256_of(path) != hashes[label] and frames_in(path):
            return path
    return None


def companions(sidecar: Path, videos: Iterable[Path]) -> list[Path]:
    """The videos, to their bytes, of the clip that a sidecar is of, but for `videos`: what is left of an older clip."""
    try:
        known = read_sidecar(sidecar)
    except UsageError:
        return []
    kept, hashes = {path.name for path in videos}, known.get("sha256") or {}
    found = {label: sidecar.with_name(path.name) for label, path in _named(known).items() if path.name not in kept}
    return [p for label, p in found.items() if p.is_file() and sha256_of(p) == hashes.get(label)]


def _is_of_another(known: JsonObject, videos: Mapping[str, Path]) -> bool:
    """Whether a sidecar is of a clip of another name, which is there: `x.MP4`, for one that is to be `x.mp4`."""
    beside = {label: videos[label].with_name(path.name) for label, path in _named(known).items() if label in videos}
    return any(path != videos[label] and path.exists() for label, path in beside.items())


def _named(known: JsonObject) -> dict[str, Path]:
    """The videos of a sidecar by label."""
    videos = known.get("videos")
    named = videos.items() if isinstance(videos, Mapping) else ()
    return {label: Path(video) for label, video in named if isinstance(video, str)}
