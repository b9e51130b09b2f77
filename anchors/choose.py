"""Which bank is used: the one that was named, or the best of those that fit. Knows nothing of how they are made."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

from shelllcc.anchors.bank import Bank, check_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint, pipeline_fingerprint
from shelllcc.anchors.shelf import SHIPPED, all_banks, open_bank
from shelllcc.guidance.errors import BankError

AUTO = "auto"
STARTER = "shelllcc anchors start"  # what made a starter bank, in its provenance


def choose_bank(
    name: str | Path | None = None,
    vae: str | None = None,
    transformer: str | None = None,
    *,
    model: str = "MODEL",
    fitted: Collection[str] = (),
) -> tuple[Bank, list[str]]:
    """The bank of that path or name, and what the user should hear of it; None or "auto" is the best that fits.

    `vae` and `transformer` are fingerprints (anchors.fingerprints), None where they do not matter; `fitted` are the
    identities of banks that a fit of this model was made with. A bank for another VAE is refused; the calibration for
    the transformer is put in force, and a remark says where there is none, with the command that measures one for
    `model`.

    The best is one with a fit; then one that is calibrated for the transformer; then any. Of these, what ships comes
    first, then what the user built, and starters last; then the bank of most videos. With a transformer there is
    something to guide: a manifold, or a bank that was merely fetched, then needs a fit, or to be named. Raises
    BankError.
    """
    remarks = list[str]()
    if name is None or str(name) == AUTO:
        bank, remarks = _best_that_fits(vae, transformer, fitted, model)
    else:
        bank = open_bank(name)
    if vae is not None:
        check_bank(bank, vae)
    remarks = [*bank.remarks, *remarks]
    if transformer is None:
        return bank, remarks
    bank = bank.for_model(transformer)
    return bank, [*remarks, *([] if bank.identity in fitted else uncalibrated(bank, model))]


def load_bank(bank: str | Path, pipe: Any = None) -> Bank:
    """The bank of that path or name; "auto" is the best that fits the pipeline (see `choose_bank`).

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


def _best_that_fits(
    vae: str | None, transformer: str | None, fitted: Collection[str], model: str
) -> tuple[Bank, list[str]]:
    """The best bank for the VAE of that fingerprint, and a remark where the next one is as good.

    A broken file is passed over, and named if no other fits; so are those that need a fit.
    """
    found, unfitted, broken = list[Bank](), list[str](), ""
    for path in all_banks():
        try:
            bank = open_bank(path)
        except BankError as error:
            broken += f"; {error}"
            continue
        if vae is not None and bank.vae != vae:
            continue
        if transformer is None or bank.identity in fitted or _guides_unfitted(bank, transformer):
            found.append(bank)
        else:
            unfitted.append(bank.name)
    if not found:
        waiting = "".join(f", fit {name} with `shelllcc fit --model {model} --bank {name}`" for name in unfitted)
        hint = f"{_how_to_get(vae, model)}{waiting}, or sample without by `--strength 0`"
        raise BankError(f"no bank fits this model's VAE ({vae}): {hint}{broken}")
    ranked = sorted((_rank(bank, transformer, fitted), number) for number, bank in enumerate(found))
    first, alike = found[ranked[0][1]], [found[number].name for rank, number in ranked[1:] if rank == ranked[0][0]]
    if vae is None or not alike:
        return first, []
    return first, [f"{', '.join([first.name, *alike])} fit alike: took {first.name}; --bank names another"]


def _rank(bank: Bank, transformer: str | None, fitted: Collection[str]) -> tuple[bool, bool, int, int]:
    """How a bank compares with others: less is better."""
    made = bank.provenance.get("made_by")
    shipped = bank.path is not None and bank.path.parent == SHIPPED
    origin = 0 if shipped else 2 if made == STARTER else 3 if "url" in bank.provenance else 1
    calibrated = transformer is not None and bank.for_model(transformer).chosen is not None
    videos = bank.provenance.get("videos")
    return bank.identity not in fitted, not calibrated, origin, -(videos if isinstance(videos, int) else 0)


def _guides_unfitted(bank: Bank, transformer: str) -> bool:
    """Whether a bank may guide without a fit: made here, of anchors; or fetched, and calibrated here for the model."""
    here = any(calibration.fingerprint == transformer for calibration in bank.beside)
    return bank.kind == "anchors" and ("url" not in bank.provenance or here)


def _how_to_get(vae: str | None, model: str) -> str:
    """The commands that give a bank for the VAE of that fingerprint."""
    start = f"make one of photographs that ship with `shelllcc anchors start --model {model}`"
    build = f"of good videos with `shelllcc anchors build VIDEOS --model {model} --output BANK.safetensors`"
    if vae != fingerprint(WAN21_VAE):
        return f"{start}, {build}"
    return f"{start}, {build}, fetch the manifold of Shell-LCC's authors with `shelllcc anchors pull shell-lcc`"
