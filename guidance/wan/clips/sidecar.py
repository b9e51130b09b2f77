"""Sidecars: the JSON record beside a clip. Knows nothing of how clips are made."""

from __future__ import annotations

import json
from pathlib import Path

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject

WANTED = "the .json that lies beside a clip, as it was written"


def read_sidecar(path: Path) -> JsonObject:
    """The JSON record beside a clip. Raises UsageError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
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
