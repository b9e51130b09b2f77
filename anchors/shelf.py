"""Where banks and their calibrations lie: what ships, and the user's own folder. Knows nothing of how they are made."""

from __future__ import annotations

import os
from pathlib import Path

from shelllcc.anchors import calibrations
from shelllcc.anchors.bank import Bank, Calibration
from shelllcc.anchors.bankfile import read_bank
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.paths import data_folder, here

SHIPPED = Path(__file__).parent


def open_bank(bank: str | Path) -> Bank:
    """The bank of that path or name, with the calibrations beside it. Raises BankError."""
    return calibrations.with_kept(read_bank(locate(bank)), calibrations_folder())


def keep_calibration(bank: Bank, calibration: Calibration) -> Path:
    """Write a calibration of a bank into the user's folder; returns its file. Raises OutputError."""
    return calibrations.keep(bank, calibration, calibrations_folder())


def locate(bank: str | Path) -> Path:
    """The file of a bank given by path or by name."""
    if (path := here(str(bank))) is not None:
        return path
    known = {p.stem: p for p in reversed(all_banks())}
    if str(bank) in known:
        return known[str(bank)]
    raise BankError(f"no bank at {bank}; known by name are {', '.join(sorted(known)) or 'none'}")


def all_banks() -> list[Path]:
    """Shipped banks, then the user's, each by name."""
    return [*shipped_banks(), *sorted(user_folder().glob("*.safetensors"))]


def shipped_banks() -> list[Path]:
    return sorted(SHIPPED.glob("*.safetensors"))


def calibrations_folder() -> Path:
    """Where `anchors calibrate` keeps what it measured."""
    return user_folder() / "calibrations"


def latents_folder(path: Path) -> Path:
    """Where the videos that a bank is studied with are kept as latents: beside it, or in the user's folder."""
    beside = path.with_suffix(".latents")
    return user_folder() / beside.name if path.parent == SHIPPED else beside


def user_folder() -> Path:
    """Where `anchors pull` keeps banks: SHELLLCC_BANKS, or the platform's data folder."""
    if chosen := os.environ.get("SHELLLCC_BANKS"):
        return Path(chosen).expanduser()
    return data_folder("banks")
