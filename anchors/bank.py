"""Banks: a shell, the latents and models that it fits, and where it came from. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from shelllcc.guidance.errors import BankError
from shelllcc.guidance.shell import Curve, Shell
from shelllcc.guidance.skeletons import Amortized

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the quantiles


@dataclass(frozen=True)
class Calibration:
    """The radius over sigma for one model, in the guided components."""

    model: str
    fingerprint: str
    curve: Curve


@dataclass(frozen=True)
class Bank:
    """A shell, the VAE and the models that it fits, and its provenance.

    shell        what scores latents, in all its components
    guided       leading components in which the guide moves; the others serve the score alone
    clean        radius of clean latents in the guided components, at every sigma
    model        the model whose VAE made the latents, for people to read
    vae          fingerprint of that VAE's config: latents of another VAE live in another space
    quantiles    (2, 7) distances of held-out real patches at LEVELS, the first latent frame's and the later ones'
    calibrations radius over sigma, model by model
    chosen       the calibration in force
    sha256       of the file as it was read or saved; what `sha256sum` prints
    """

    shell: Shell
    guided: int
    clean: Curve
    model: str
    vae: str
    provenance: Mapping[str, Any]
    quantiles: Tensor | None = None
    calibrations: tuple[Calibration, ...] = ()
    chosen: Calibration | None = None
    path: Path | None = None
    sha256: str = ""

    @property
    def curve(self) -> Curve:
        """The radius over sigma that the guide follows: the calibration in force, or that of clean latents."""
        return self.chosen.curve if self.chosen else self.clean

    @property
    def name(self) -> str:
        return self.path.stem if self.path else "unsaved"

    @property
    def kind(self) -> str:
        return "amortized" if isinstance(self.shell.skeleton, Amortized) else "anchors"

    def for_model(self, fingerprint: str) -> Bank:
        """The bank with the calibration for the model of that fingerprint in force, or none."""
        return replace(self, chosen=next((c for c in self.calibrations if c.fingerprint == fingerprint), None))

    def with_calibration(self, calibration: Calibration) -> Bank:
        """The bank with the calibration added, in place of an older one for the same model."""
        others = [c for c in self.calibrations if c.fingerprint != calibration.fingerprint]
        return replace(self, calibrations=(*others, calibration))


def check_bank(bank: Bank, vae: str) -> None:
    """Raise BankError unless the bank was made from latents of the VAE of that fingerprint."""
    if bank.vae != vae:
        raise BankError(
            f"bank {bank.name} was made from latents of {bank.model} (VAE {bank.vae}), this model's VAE is {vae}; "
            "make one with `shelllcc anchors build VIDEOS --model MODEL --output BANK.safetensors`"
        )
