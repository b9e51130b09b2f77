"""Banks: a shell, the latents and models that it fits, and where it came from. Knows nothing of files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from shelllcc.guidance.errors import BankError
from shelllcc.guidance.shell import Shell
from shelllcc.guidance.skeletons import Amortized

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the quantiles


@dataclass(frozen=True)
class Calibration:
    """The radius over sigma for one model: sigmas (s,) ascending, radius (2, s) of the first latent frame and later."""

    model: str
    fingerprint: str
    sigmas: Tensor
    radius: Tensor


@dataclass(frozen=True)
class Bank:
    """A shell, the VAE and the models that it fits, and its provenance.

    clean        the shell whose radius is that of clean latents at every sigma
    model        the model whose VAE made the latents, for people to read
    vae          fingerprint of that VAE's config: latents of another VAE live in another space
    quantiles    (2, 7) distances of held-out real patches at LEVELS, the first latent frame's and the later ones'
    calibrations radius over sigma, model by model
    chosen       the calibration in force
    sha256       of the file as it was read or saved; what `sha256sum` prints
    """

    clean: Shell
    model: str
    vae: str
    provenance: Mapping[str, Any]
    quantiles: Tensor | None = None
    calibrations: tuple[Calibration, ...] = ()
    chosen: Calibration | None = None
    path: Path | None = None
    sha256: str = ""

    @property
    def shell(self) -> Shell:
        """The shell with the radius of the calibration in force, or else that of clean latents."""
        if self.chosen is None:
            return self.clean
        return replace(self.clean, sigmas=self.chosen.sigmas, radius=self.chosen.radius)

    @property
    def name(self) -> str:
        return self.path.stem if self.path else "unsaved"

    @property
    def kind(self) -> str:
        return "amortized" if isinstance(self.clean.skeleton, Amortized) else "anchors"

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
