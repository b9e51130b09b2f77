"""What a sidecar, run or profile says a clip was made with, beside what there is now. Knows nothing of sampling.

Older records are read, too: they name a bank by its file's sha256 and no calibration, and any folder's weights `local`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.anchors.fingerprints import model_fingerprint
from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.wan.clips.request import Request

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.model.pipeline import Model

UNKNOWN = "local"  # the revision of every folder, in older records


def model_record(model: Model) -> JsonObject:
    """A model as records have it."""
    return {"source": model.name, "revision": model.revision}


def bank_record(bank: Bank | None) -> JsonObject | None:
    """What of a bank decides on a clip, as records have it; `sha256` is its file's."""
    if bank is None:
        return None
    calibration = bank.chosen and bank.chosen.digest
    return {"sha256": bank.sha256, "identity": bank.identity, "calibration": calibration}


def is_request(record: object, request: Request) -> bool:
    """Whether a record's request is this one; knobs of the guide that it does not have are at their default."""
    if not isinstance(record, dict) or not record.keys() <= request.as_dict().keys():
        return False
    try:
        return Request.from_dict(record) == request
    except UsageError:
        return False


def apart(record: object, request: Request, *, most: int = 2) -> str:
    """Where a record's request is another than this one, in words, at most so many places; nothing where it is none."""
    try:
        theirs = Request.from_dict(record).as_dict() if isinstance(record, dict) else {}
    except (UsageError, TypeError, ValueError):
        return ""
    ours = request.as_dict()
    differing = [name for name in ours if name in theirs and theirs[name] != ours[name]]
    return ", ".join(f"{name} {_short(theirs[name])}, not {_short(ours[name])}" for name in differing[:most])


def _short(value: object, *, most: int = 40) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= most else text[: most - 3] + "..."


def is_model(record: object, model: JsonObject) -> bool:
    """Whether a record's model may be the one of `model_record`."""
    if record == model or not isinstance(record, dict):
        return bool(record == model)
    same = record.get("source") == model["source"] and record.get("revision") == UNKNOWN
    return same and Path(model["source"]).is_dir()


def is_bank(record: object, bank: Bank | None, model: Model) -> bool:
    """Whether a record's bank, and the calibration that was in force, are these."""
    if bank is None or not isinstance(record, dict):
        return bank is None and not record
    return _is_file(record, bank) and _digest(record, bank, model) == (bank.chosen and bank.chosen.digest)


def is_loading(record: object, recipe: JsonObject) -> bool:
    """Whether a record's loading is that of `Loading.recipe`; older ones do not name an adapter folder's files."""
    if not isinstance(record, dict) or not isinstance(said := record.get("fingerprints", {}), dict):
        return False
    prints = recipe["fingerprints"]
    return record | {"fingerprints": prints} == recipe and all(prints.get(path) == told for path, told in said.items())


def is_run(known: object, wanted: JsonObject) -> bool:
    """Whether a run that asked for `known` may go on as one that asks for `wanted`; each clip is checked later."""
    if not isinstance(known, dict) or "model" not in wanted or "model" not in known:
        return bool(known == wanted)
    bank, mine = known.get("bank"), wanted.get("bank")
    if isinstance(bank, str) and mine is not None:
        known = known | {"bank": mine if bank in (mine["sha256"], mine["identity"]) else bank}
    elif isinstance(bank, dict) and mine is not None and "identity" in bank:
        known = known | {"bank": bank | {"sha256": mine["sha256"]}}
    if is_model(known["model"], wanted["model"]):
        known = known | {"model": wanted["model"]}
    if is_loading(known.get("loading"), wanted["loading"]):
        known = known | {"loading": wanted["loading"]}
    if _are_requests(known.get("requests"), wanted["requests"]):
        known = known | {"requests": wanted["requests"]}
    return known == wanted


def _are_requests(record: object, requests: Sequence[JsonObject]) -> bool:
    """Whether a run's record has these requests, themselves as a record has them."""
    if not isinstance(record, list) or len(record) != len(requests):
        return False
    return all(is_request(then, Request.from_dict(now)) for then, now in zip(record, requests, strict=True))


def check_model(record: JsonObject, model: Model) -> str | None:
    """A remark where a record does not say what its model's folder held. Raises UsageError where it, or the embedded
    model, held something else."""
    revision = (record.get("model") or {}).get("revision")
    if revision in (None, model.revision) or not (model.is_local or model.is_tiny):
        return None
    if model.is_tiny:
        raise UsageError(
            f"the sidecar was made with the embedded model {revision}, this shelllcc has {model.revision}; give "
            "--model tiny --bank auto to sample its request with this one"
        )
    if revision != UNKNOWN:
        raise UsageError(
            f"the model folder {model.source} is not what the sidecar was made with; "
            f"give --model {model.source} to use it all the same"
        )
    return _doubt("sidecar", model.source)


def doubt_of_run(known: object) -> str | None:
    """A remark on a run that goes on, where its older record does not say what the model's folder held."""
    model = known.get("model") if isinstance(known, dict) else None
    unknown = isinstance(model, dict) and model.get("revision") == UNKNOWN
    return _doubt("run", model["source"]) if unknown and model else None


def _doubt(what: str, folder: object) -> str:
    told = f"the {what} does not say which weights {folder} held: its clips are the same if they are"
    return f"{told}; if not, make them anew with --overwrite"


def recorded_bank(record: JsonObject, bank: Bank, model: Model) -> tuple[Bank, list[str]]:
    """The bank of a sidecar with the calibration in force that was so then, and a remark where that is another one now.

    With another model than the sidecar's, it is the model's own. Raises BankError where bank or calibration is gone.
    """
    known = record["bank"]
    if not _is_file(known, bank):
        raise BankError(
            f"the bank {bank.path} is not the one that the sidecar names; "
            f"give --bank {bank.path} to use it all the same"
        )
    if model.name != (record.get("model") or {}).get("source"):
        return bank, []
    try:
        then = bank.with_digest(_digest(known, bank, model))
    except BankError as error:
        raise BankError(f"{error}; give --bank {bank.path} to use it as it is now") from error
    if then.chosen is bank.chosen:
        return bank, []
    held = "as calibrated then" if then.chosen else "not calibrated, as then"
    return then, [f"bank {bank.name} is used {held}; --bank {bank.path} takes its calibration of now"]


def _is_file(record: JsonObject, bank: Bank) -> bool:
    if "identity" in record:
        return bool(record["identity"] == bank.identity)
    return record.get("sha256") in (bank.sha256, bank.identity)


def _digest(record: JsonObject, bank: Bank, model: Model) -> str | None:
    """The digest of the calibration that was in force: in older records the file's own, by the transformer's shape."""
    if "calibration" in record:
        return record["calibration"]
    shape = model_fingerprint(model.transformer)
    return next((c.digest for c in bank.calibrations if c.fingerprint == shape), None)
