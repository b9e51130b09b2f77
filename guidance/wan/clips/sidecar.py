"""Sidecars: the JSON record beside a clip, which the tag of its mp4 holds, too. Knows nothing of how clips are made."""

from __future__ import annotations

import json
from pathlib import Path

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.media.video import read_tag

WANTED = "the .json that lies beside a clip, as it was written, or the clip's own .mp4"


def read_sidecar(path: Path) -> JsonObject:
    """The JSON record beside a clip, or in the tag of an .mp4 that this package wrote. Raises UsageError."""
    try:
        record = _tagged(path) if path.suffix.lower() == ".mp4" else json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the sidecar {path}: {error.strerror}; give {WANTED}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the sidecar {path} is not JSON: {error}; give {WANTED}") from error
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise UsageError(f"{path} is no sidecar of a clip: it has no request; give {WANTED}")
    kept = ("model", "bank", "sha256", "versions")
    if strange := next((key for key in kept if not isinstance(record.get(key), (dict, type(None)))), None):
        raise UsageError(f"{path} is no proper sidecar: {strange} must be an object; give {WANTED}")
    for name, key in (("model", "source"), ("model", "revision"), ("versions", "shelllcc")):
        if not isinstance((record.get(name) or {}).get(key), (str, type(None))):
            raise UsageError(f"{path} is no proper sidecar: {key} of its {name} must be a string; give {WANTED}")
    return record


def _tagged(path: Path) -> JsonObject:
    """What a video's tag says. Raises OSError where it cannot be read, and UsageError where it has no tag of ours."""
    path.open("rb").close()
    record = read_tag(path)
    if not record:
        raise UsageError(f"{path} has no record of a clip in its tag; give {WANTED}")
    return record
