"""Sidecars: the JSON record beside a clip. Knows nothing of how clips are made."""

from __future__ import annotations

import json
from pathlib import Path

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject


def read_sidecar(path: Path) -> JsonObject:
    """The JSON record beside a clip. Raises UsageError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the sidecar {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the sidecar {path} is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise UsageError(f"{path} is no sidecar of a clip: it has no request")
    if not all(isinstance(record.get(key), (dict, type(None))) for key in ("model", "bank", "sha256", "versions")):
        raise UsageError(f"{path} is no proper sidecar: model, bank, sha256 and versions must be objects")
    for name, key in (("model", "source"), ("model", "revision"), ("versions", "shelllcc")):
        if not isinstance((record.get(name) or {}).get(key), (str, type(None))):
            raise UsageError(f"{path} is no proper sidecar: {key} of its {name} must be a string")
    return record
