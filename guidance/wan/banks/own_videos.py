"""Which videos are pictures of clips that this package made, not clips: told by the mp4's tag, or the sidecar beside.

Reads the index of a file alone, no frames.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from shelllcc.anchors.sources import Sources
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.media.video import read_tag
from shelllcc.guidance.wan.clips.sidecar import read_sidecar

Kind = Literal["clip", "side by side", "companion"]
PICTURES = ("compare", "radial")  # labels of videos that show several clips


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
    tag = read_tag(path)
    label = tag.get("shows") if tag else _label_beside(path)
    if label in PICTURES or (not tag and _is_picture_of_a_run(path)):
        return "side by side"
    hashes = tag.get("frames_sha256")
    paired = isinstance(hashes, dict) and "guided" in hashes  # one sampled alone at strength 0 is a clip
    return "companion" if label == "unguided" and (paired or not tag) else "clip"


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
