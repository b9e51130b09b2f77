"""Calibrations beside a bank, one file for a bank and a model: written, found, checked. Data, never code.

A bank's file is never written again: it may be shipped, shared or read-only. docs/banks.md has the format.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

from shelllcc.anchors.bank import Bank, Calibration
from shelllcc.anchors.bankfile import curve_of, read_tensors, write_tensors
from shelllcc.guidance.errors import BankError

FORMAT = "shelllcc-calibration/1"
MAX_BYTES = 1 << 20


def keep(bank: Bank, calibration: Calibration, folder: Path) -> Path:
    """Write a calibration of the bank into `folder`, in place of an older one there; returns its file.

    Raises OutputError.
    """
    known = [c for c in (*bank.calibrations, *bank.beside) if c.fingerprint == calibration.fingerprint]
    older = {digest for c in known for digest in (c.digest, *c.replaces)} - {calibration.digest}
    kept = replace(calibration, replaces=tuple(sorted(older)))
    metadata = {
        "format": FORMAT,
        "bank": bank.identity,
        "model": kept.model,
        "fingerprint": kept.fingerprint,
        "replaces": json.dumps(kept.replaces),
    }
    tensors = {"sigmas": kept.curve.sigmas.float(), "radius": kept.curve.radius.float()}
    path = folder / _name(bank.identity, kept.fingerprint)
    write_tensors(path, tensors, metadata)
    return path


def with_kept(bank: Bank, folder: Path) -> Bank:
    """The bank with its calibrations that lie in `folder`; a broken file is passed over, with a remark."""
    found, remarks = [], []
    for path in sorted(folder.glob(_name(bank.identity, "*"))):
        try:
            found.append(read_calibration(path, bank.identity))
        except BankError as error:
            remarks.append(f"passed over a calibration: {error}; remove it, or calibrate anew")
    return replace(bank, beside=tuple(found), remarks=tuple(remarks))


def read_calibration(path: Path, identity: str) -> Calibration:
    """Read and check a calibration of the bank of that identity. Raises BankError."""
    tensors, metadata = read_tensors(path, FORMAT, what="calibration", most=MAX_BYTES)
    try:
        bank, model, fingerprint = (metadata[name] for name in ("bank", "model", "fingerprint"))
        replaces = json.loads(metadata["replaces"])
    except (KeyError, ValueError, RecursionError) as error:
        raise BankError(f"{path} has a broken header: {type(error).__name__} {error}") from error
    if not isinstance(replaces, list) or not all(isinstance(digest, str) for digest in replaces):
        raise BankError(f"{path} has a broken header: replaces must list digests")
    if bank != identity or path.name != _name(identity, fingerprint):
        raise BankError(f"{path} is of another bank or model than its name says")
    for name in ("sigmas", "radius"):
        tensor = tensors.get(name, torch.empty(0))
        if tensor.dtype != torch.float32 or not tensor.numel() or not torch.isfinite(tensor).all():
            raise BankError(f"{path} must hold finite float32 {name}, at least one number")
    try:
        return Calibration(model, fingerprint, curve_of(tensors), tuple(replaces))
    except BankError as error:
        raise BankError(f"{path}: {error}") from error


def _name(identity: str, fingerprint: str) -> str:
    return f"{identity[:16]}-{fingerprint}.safetensors"
