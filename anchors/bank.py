"""Banks: a shell, the latents and models that it fits, and where it came from. Knows nothing of files."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.guidance.errors import BankError
from shelllcc.guidance.geometry.shell import Curve, Shell
from shelllcc.guidance.geometry.skeletons import Amortized, Anchors

LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)  # of the quantiles


@dataclass(frozen=True)
class Calibration:
    """The radius over sigma for one model, in the guided components.

    `replaces` holds the digests of those that were known when it was measured: it goes before them.
    """

    model: str
    fingerprint: str
    curve: Curve
    replaces: tuple[str, ...] = ()

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the curve, which is all of it that decides on a clip."""
        return digest_of({"sigmas": self.curve.sigmas, "radius": self.curve.radius}, {})


@dataclass(frozen=True)
class Bank:
    """A shell, the VAE and the models that it fits, and its provenance.

    shell        what scores latents, in all its components
    guided       leading components in which the guide moves; the others serve the score alone
    clean        radius of clean latents in the guided components, at every sigma
    model        the model whose VAE made the latents, for people to read
    vae          fingerprint of that VAE's config: latents of another VAE live in another space
    quantiles    (2, 7) distances of held-out real patches at LEVELS, the first latent frame's and the later ones'
    calibrations radius over sigma, model by model, as the bank's file has them
    beside       those that lie in the user's folder instead (see anchors.shelf)
    chosen       the calibration in force
    sha256       of the file as it was read or saved; what `sha256sum` prints
    remarks      what the user should hear: files passed over while it was read
    """

    shell: Shell
    guided: int
    clean: Curve
    model: str
    vae: str
    provenance: Mapping[str, Any]
    quantiles: Tensor | None = None
    calibrations: tuple[Calibration, ...] = ()
    beside: tuple[Calibration, ...] = ()
    chosen: Calibration | None = None
    path: Path | None = None
    sha256: str = ""
    remarks: tuple[str, ...] = ()

    @functools.cached_property
    def identity(self) -> str:
        """sha256 of what decides on a distance or a move: shell, guided components and the radius of clean latents.

        Banks that differ in calibrations or provenance alone share it.
        """
        skeleton = self.shell.skeleton
        facts = {"kind": self.kind, "patch": self.shell.patch, "guided": self.guided, "vae": self.vae}
        facts["k"] = skeleton.k if isinstance(skeleton, Anchors) else 0
        return digest_of(self.tensors, {key: str(value) for key, value in facts.items()})

    @property
    def tensors(self) -> dict[str, Tensor]:
        """What decides on a distance or a move, by its name in the file."""
        skeleton = self.shell.skeleton
        found = {"mean": self.shell.mean, "basis": self.shell.basis}
        found |= {"sigmas": self.clean.sigmas, "radius": self.clean.radius}
        if self.shell.survival != 1:
            found["survival"] = torch.tensor([self.shell.survival])
        if isinstance(skeleton, Anchors):
            found |= {} if skeleton.usage is None else {"usage": skeleton.usage}
            return found | {"anchors": skeleton.anchors, "whitening": skeleton.whitening}
        found |= {} if skeleton.visited is None else {"visited": skeleton.visited}
        return found | {f"manifold.{name}": tensor for name, tensor in skeleton.weights.items()}

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

    @property
    def current(self) -> tuple[Calibration, ...]:
        """The calibrations that hold, one a model: the file's own, unless one beside it replaces that."""
        beside = {c.fingerprint: c for c in self.beside}
        own = {c.fingerprint: c for c in self.calibrations}
        newer = {f: c for f, c in beside.items() if f not in own or own[f].digest in (*c.replaces, c.digest)}
        return tuple((own | newer).values())

    def for_model(self, fingerprint: str) -> Bank:
        """The bank with the calibration for the model of that fingerprint in force, or none."""
        return replace(self, chosen=next((c for c in self.current if c.fingerprint == fingerprint), None))

    def with_digest(self, digest: str | None) -> Bank:
        """The bank with the calibration of that digest in force, of all that are known; None is none.

        Raises BankError where it is not there any more.
        """
        known = [None, *self.calibrations, *self.beside]
        for calibration in known:
            if (calibration and calibration.digest) == digest:
                return replace(self, chosen=calibration)
        raise BankError(f"the bank {self.name} has no calibration {str(digest)[:16]} any more: it was calibrated anew")

    def with_calibration(self, calibration: Calibration) -> Bank:
        """The bank with the calibration in place of what held for the same model; a file saved of it has them all."""
        others = [c for c in self.current if c.fingerprint != calibration.fingerprint]
        return replace(self, calibrations=(*others, calibration), beside=())


def digest_of(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """sha256, in hex, over facts and tensors by their names; docs/banks.md has its bytes."""
    digest = hashlib.sha256(json.dumps(sorted(facts.items())).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_bank(bank: Bank, vae: str) -> None:
    """Raise BankError unless the bank was made from latents of the VAE of that fingerprint."""
    if bank.vae != vae:
        raise BankError(
            f"bank {bank.name} was made from latents of {bank.model} (VAE {bank.vae}), this model's VAE is {vae}; "
            "make one with `shelllcc anchors build VIDEOS --model MODEL --output BANK.safetensors`"
        )
