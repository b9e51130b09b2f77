"""Profiles: the strengths that `tune` found, one file a prompt and setting. Knows nothing of sampling.

A profile belongs to everything that a clip depends on but its seed and strength: prompt, model, how that is loaded,
bank and settings.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import OutputError, UsageError
from shelllcc.guidance.files import JsonObject, write_json
from shelllcc.guidance.paths import reason
from shelllcc.guidance.wan.clips import recorded
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.loading import Loading

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.model.pipeline import Model

BELONGS = ("settings", "model", "bank")
FREE = ("seed", "strength", "preset", "fps")  # fields of Request that a profile does not depend on


def folder() -> Path:
    """Where profiles lie: SHELLLCC_PROFILES, or the platform's data folder."""
    if chosen := os.environ.get("SHELLLCC_PROFILES"):
        return Path(chosen).expanduser()
    import platformdirs

    return Path(platformdirs.user_data_dir("shelllcc")) / "profiles"


def check_writable() -> None:
    """Raise OutputError unless profiles can be kept; leaves nothing but their folder behind."""
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder()):
            pass
    except OSError as error:
        where = f"cannot keep profiles in {folder()}: {error.strerror or error}"
        raise OutputError(f"{where}; SHELLLCC_PROFILES names another folder") from error


def identity(request: Request, model: Model, loading: Loading, bank: Bank) -> JsonObject:
    """What a profile belongs to."""
    settings = {key: value for key, value in request.lasting().items() if key not in FREE}
    return {
        "settings": settings,
        "model": recorded.model_record(model) | loading.changes(),
        "bank": {"name": bank.name, "identity": bank.identity},
    }


def _older(belongs: JsonObject, bank: Bank, *, local: bool) -> Iterator[JsonObject]:
    """What older profiles of the same belong to: to a bank's file, to a folder whatever its weights."""
    revisions = [belongs["model"]["revision"], recorded.UNKNOWN][: 1 + local]
    banks = [belongs["bank"], {"name": bank.name, "sha256": bank.sha256}]
    for revision, about in itertools.product(revisions, banks):
        yield {**belongs, "model": belongs["model"] | {"revision": revision}, "bank": about}


def name_of(belongs: JsonObject) -> str:
    """A profile's name: 12 hex digits."""
    return hashlib.sha256(json.dumps(belongs, sort_keys=True).encode()).hexdigest()[:12]


def find(request: Request, model: Model, loading: Loading, bank: Bank) -> JsonObject | None:
    """The profile of a request, if it was tuned."""
    for belongs in _older(identity(request, model, loading, bank), bank, local=model.is_local):
        path = folder() / f"{name_of(belongs)}.json"
        if path.exists():
            return read(path)
    return None


def store(request: Request, model: Model, loading: Loading, bank: Bank, found: JsonObject) -> JsonObject:
    """Write the profile of a request; `found` has `strength`, and figures to show. Returns it."""
    belongs = identity(request, model, loading, bank)
    profile = {"name": name_of(belongs), "strength": found["strength"]} | belongs | dict(found)
    profile["calibration"] = bank.chosen and bank.chosen.digest
    write_json(folder() / f"{profile['name']}.json", profile)
    return profile


def every(*, on_broken: Callable[[str], None] = lambda line: None) -> Iterator[JsonObject]:
    """All profiles, by prompt; a broken one is passed over, and `on_broken` hears of it."""
    found = []
    for path in _files():
        try:
            found.append(read(path))
        except UsageError as error:
            on_broken(str(error))
    yield from sorted(found, key=lambda profile: profile["settings"]["prompt"])


def named(name: str) -> list[JsonObject]:
    """The profiles whose name begins so, or whose prompt it is. Raises UsageError where there is none."""
    found = [p for p in every() if p["name"].startswith(name) or p["settings"]["prompt"] == name]
    if not found or not name:
        raise UsageError(f"no profile {name or 'of no name'}; `shelllcc profiles list` shows them")
    return found


def forget(name: str) -> None:
    """Remove the profile of that name."""
    (folder() / f"{name}.json").unlink(missing_ok=True)


def forget_all() -> int:
    """Remove all profiles, broken ones too, and count them."""
    paths = _files()
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def export(path: Path, profiles: Iterable[JsonObject], *, overwrite: bool = False) -> int:
    """Write profiles to one file, and count them.

    Raises UsageError where the file holds anything but some of these profiles, unless `overwrite`.
    """
    found = {str(profile["name"]): profile for profile in profiles}
    if path.exists() and not overwrite:
        try:
            there = _exported(path)
        except UsageError as error:
            raise UsageError(f"{path} holds no profiles; give another name, or --overwrite it") from error
        if not all(found.get(str(profile.get("name"))) == profile for profile in there):
            raise UsageError(f"{path} holds other profiles; give another name, or --overwrite it")
    write_json(path, {"profiles": list(found.values())})
    return len(found)


def take_over(path: Path, *, overwrite: bool = False) -> int:
    """Store the profiles of a file that `profiles export` wrote, and count them.

    Raises UsageError, before any is stored, where one is there with another strength, unless `overwrite`.
    """
    found = [profile | {"name": name_of({key: profile[key] for key in BELONGS})} for profile in _exported(path)]
    for profile in found:
        file = folder() / f"{profile['name']}.json"
        if file.exists() and not overwrite and read(file)["strength"] != profile["strength"]:
            raise UsageError(f"profile {profile['name']} is there with another strength; --overwrite takes the file's")
    for profile in found:
        write_json(folder() / f"{profile['name']}.json", profile)
    return len(found)


def tuned_request(request: Request, model: Model, loading: Loading, bank: Bank) -> tuple[Request, str]:
    """The request at the strength of its profile, or as it was, and a note that says which."""
    profile = find(request, model, loading, bank)
    if profile is None:
        hint = "`shelllcc tune` finds one"
        return request, f"no profile for this prompt and these settings, strength {request.guide.strength:g}; {hint}"
    note = f"strength {profile['strength']:g}, as tuned for this prompt"
    if profile["model"].get("revision") == recorded.UNKNOWN and model.is_local:
        note += "; the profile does not say which weights the folder held then, `shelllcc tune --again` makes sure"
    if profile.get("calibration", digest := bank.chosen and bank.chosen.digest) != digest:
        note += "; the bank has been calibrated since, `shelllcc tune --again` tunes with it"
    return request.changed(strength=profile["strength"]), note


def read(path: Path) -> JsonObject:
    """A profile's file. Raises UsageError."""
    try:
        profile = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the profile {path}: {reason(error)}; delete it and tune again") from error
    return _checked(profile, path) | {"name": path.stem}


def _files() -> list[Path]:
    """The files of profiles in their folder: whatever else lies there is not ours."""
    return sorted(path for path in folder().glob("*.json") if re.fullmatch(r"[0-9a-f]{12}", path.stem))


def _exported(path: Path) -> list[JsonObject]:
    """The profiles in a file that `profiles export` wrote. Raises UsageError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return [_checked(profile, path) for profile in record["profiles"]]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{path} is no file that `profiles export` wrote: it holds no list of profiles") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read profiles from {path}: {reason(error)}") from error


def _checked(profile: object, path: Path) -> JsonObject:
    """A profile, if it is one. Raises UsageError."""
    parts = profile if isinstance(profile, dict) else {}
    sound = all(isinstance(parts.get(key), dict) for key in BELONGS)
    sound = sound and all(type(parts.get(key)) in (int, float) for key in ("strength", "balance"))
    named = [("settings", "prompt"), ("model", "source"), ("bank", "name")]
    if not sound or not all(isinstance(parts[part].get(key), str) for part, key in named):
        raise UsageError(f"{path} holds no proper profile; remove it, and tune again")
    if not 0 <= parts["strength"] <= 10 or not math.isfinite(parts["balance"]):
        raise UsageError(f"{path} holds a profile with impossible numbers; remove it, and tune again")
    return parts
