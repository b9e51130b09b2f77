"""Where banks and their calibrations lie: what ships, and the user's own folder. Knows nothing of how they are made."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from shelllcc.anchors import calibrations
from shelllcc.anchors.bank import Bank, Calibration, check_bank
from shelllcc.anchors.bankfile import read_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, pipeline_fingerprint
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.paths import here

SHIPPED = Path(__file__).parent


def load_bank(bank: str | Path, pipe: Any = None) -> Bank:
    """The bank of that path or name; "auto" is the first that fits the pipeline.

    With `pipe`, a diffusers pipeline, a bank for another VAE is refused, and the radius is the one calibrated for its
    transformers where there is one: in the bank, or beside it in the user's folder. Raises BankError.
    """
    vae = None if pipe is None else fingerprint(pipe.vae.config)
    loaded = find_bank(vae) if str(bank) == "auto" else open_bank(bank)
    for remark in loaded.remarks:
        warnings.warn(remark, stacklevel=2)
    if vae is None:
        return loaded
    check_bank(loaded, vae)
    return loaded.for_model(pipeline_fingerprint(pipe))


def open_bank(bank: str | Path) -> Bank:
    """The bank of that path or name, with the calibrations beside it. Raises BankError."""
    return calibrations.with_kept(read_bank(locate(bank)), calibrations_folder())


def keep_calibration(bank: Bank, calibration: Calibration) -> Path:
    """Write a calibration of a bank into the user's folder; returns its file. Raises OutputError."""
    return calibrations.keep(bank, calibration, calibrations_folder())


def find_bank(vae: str | None) -> Bank:
    """The first bank for the VAE of that fingerprint: shipped ones, then the user's, by name.

    A broken file is passed over, and named if no other fits.
    """
    broken = ""
    for path in all_banks():
        try:
            found = open_bank(path)
        except BankError as error:
            broken += f"; {error}"
            continue
        if vae is None or found.vae == vae:
            return found
    hint = f"{how_to_get(vae)}, or sample without by `--strength 0`"
    raise BankError(f"no bank fits this model's VAE ({vae}): {hint}{broken}")


def how_to_get(vae: str | None) -> str:
    """The commands that give a bank for the VAE of that fingerprint."""
    build = "make one from good videos with `shelllcc anchors build VIDEOS --model MODEL --output BANK.safetensors`"
    if vae != fingerprint(WAN21_VAE):
        return build
    return f"fetch the manifold of Shell-LCC's authors with `shelllcc anchors pull shell-lcc`, {build}"


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
    import platformdirs

    return Path(platformdirs.user_data_dir("shelllcc")) / "banks"
