"""Which videos are pictures of clips that this package made, not clips: told by the mp4's tag, or the sidecar beside.

Reads the index of a file alone, no frames.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from shelllcc.anchors.sources import Sources
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.wan.video import read_sidecar

Kind = Literal["clip", "side by side", "companion"]
PICTURES = ("compare", "radial")  # labels of videos that show several clips
MOST = 8 * 2**20  # bytes of an index that are searched
BEGIN = b'{"shows": "'


def leave_out_ours(found: Sources) -> tuple[Sources, list[str]]:
    """The sources without side-by-side videos and the unguided companions of `--compare`, and remarks on them.

    A file that was named by itself is taken whatever it is.
    """
    kinds = {path: kind_of(path) for path in found.videos}
    left = {path for path, kind in kinds.items() if kind != "clip" and path not in found.named}
    notes = []
    if left:
        beside = sum(kinds[path] == "side by side" for path in left)
        counts = [f"{beside} side by side"] * bool(beside)
        counts += [f"{len(left) - beside} unguided for comparison"] * (len(left) > beside)
        notes.append(f"left out videos of our own: {', '.join(counts)}; name a file itself to take it")
    if taken := [str(path) for path, kind in kinds.items() if kind == "side by side" and path in found.named]:
        notes.append(f"taken because they are named, though they show several clips side by side: {', '.join(taken)}")
    return replace(found, videos=tuple(path for path in found.videos if path not in left)), notes


def kind_of(path: Path) -> Kind:
    """What a video is: one of our side-by-side videos, the unguided companion of a guided clip, or a clip."""
    if path.suffix.lower() != ".mp4":
        return "clip"
    tag = _tag(path)
    label = tag.get("shows") if tag else _label_beside(path)
    if label in PICTURES or (not tag and _is_picture_of_a_run(path)):
        return "side by side"
    hashes = (tag or {}).get("frames_sha256")
    paired = isinstance(hashes, dict) and "guided" in hashes  # one sampled alone at strength 0 is a clip
    return "companion" if label == "unguided" and (paired or not tag) else "clip"


def _tag(path: Path) -> dict[str, Any] | None:
    """What the comment tag of an mp4 says, where we wrote it: read without a process for each of many files."""
    try:
        with path.open("rb") as file:
            index = _index(file)
        begin = index.find(BEGIN)
        tag = json.JSONDecoder().raw_decode(index[begin:].decode(errors="replace"))[0] if begin >= 0 else None
    except (OSError, ValueError, RecursionError):
        return None
    return tag if isinstance(tag, dict) else None


def _index(file: BinaryIO) -> bytes:
    """The `moov` box of an mp4, up to MOST bytes; empty where there is none."""
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[:4])
        header = 8
        if size == 1:
            size, header = int.from_bytes(file.read(8)), 16
        if head[4:] == b"moov":
            return file.read(min(MOST, size - header) if size else MOST)
        if size < header:  # 0: the box lasts to the end
            return b""
        file.seek(size - header, 1)
    return b""


def _label_beside(path: Path) -> str | None:
    """The label that the sidecar of `--compare` gives to a companion of its clip."""
    clip = re.fullmatch(r"(.+)\.(unguided|compare)", path.stem)
    if clip is None:
        return None
    try:
        videos = read_sidecar(path.with_name(f"{clip[1]}.json")).get("videos")
    except UsageError:
        return None
    named = videos.get(clip[2]) if isinstance(videos, Mapping) else None
    return clip[2] if isinstance(named, str) and Path(named).name == path.name else None


def _is_picture_of_a_run(path: Path) -> bool:
    """Whether the folder of a run holds the video as the picture of an item, which had no tag once."""
    return bool(re.fullmatch(r"[0-9]{2,}_compare", path.stem)) and path.with_name("run.json").is_file()
