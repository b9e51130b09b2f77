"""Which bank is used: the one that was named, or the first that fits. Knows nothing of how banks are made or kept."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from shelllcc.anchors.bank import Bank, check_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, pipeline_fingerprint
from shelllcc.anchors.shelf import all_banks, open_bank
from shelllcc.guidance.errors import BankError

AUTO = "auto"


def choose_bank(
    name: str | Path | None = None, vae: str | None = None, transformer: str | None = None, *, model: str = "MODEL"
) -> tuple[Bank, list[str]]:
    """The bank of that path or name, and what the user should hear of it; None or "auto" is the first that fits.

    `vae` and `transformer` are fingerprints (anchors.fingerprints), None where they do not matter. A bank for another
    VAE is refused; the calibration for the transformer is put in force, and a remark says where there is none, with
    the command that measures one for `model`. Raises BankError.
    """
    bank = _first_that_fits(vae) if name is None or str(name) == AUTO else open_bank(name)
    if vae is not None:
        check_bank(bank, vae)
    if transformer is None:
        return bank, list(bank.remarks)
    bank = bank.for_model(transformer)
    return bank, [*bank.remarks, *uncalibrated(bank, model)]


def load_bank(bank: str | Path, pipe: Any = None) -> Bank:
    """The bank of that path or name; "auto" is the first that fits the pipeline.

    With `pipe`, a diffusers pipeline, a bank for another VAE is refused, and the radius is the one calibrated for its
    transformers where there is one: in the bank, or beside it in the user's folder. Remarks are given as warnings.
    Raises BankError.
    """
    fits = () if pipe is None else (fingerprint(pipe.vae.config), pipeline_fingerprint(pipe))
    chosen, remarks = choose_bank(bank, *fits)
    for remark in remarks:
        warnings.warn(remark, stacklevel=2)
    return chosen


def uncalibrated(bank: Bank, model: str) -> list[str]:
    """A remark where no calibration is in force."""
    if bank.chosen is not None:
        return []
    hint = f"`shelllcc anchors calibrate {bank.path} --model {model}`"
    return [f"bank {bank.name} is not calibrated for this model and aims at clean latents; see {hint}"]


def _first_that_fits(vae: str | None) -> Bank:
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
    hint = f"{_how_to_get(vae)}, or sample without by `--strength 0`"
    raise BankError(f"no bank fits this model's VAE ({vae}): {hint}{broken}")


def _how_to_get(vae: str | None) -> str:
    """The commands that give a bank for the VAE of that fingerprint."""
    build = "make one from good videos with `shelllcc anchors build VIDEOS --model MODEL --output BANK.safetensors`"
    if vae != fingerprint(WAN21_VAE):
        return build
    return f"fetch the manifold of Shell-LCC's authors with `shelllcc anchors pull shell-lcc`, {build}"
