"""The bank file: a shell and where it came from, as safetensors. Data, never code.

Layout (format 1): the tensors of guidance.shell.Shell as float32, sigmas and radius included, and a `__metadata__`
of strings: format, patch, k, model, vae (fingerprint), provenance (JSON) and digest (sha256 over the tensors and the
other metadata, so that a changed byte is noticed).
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.guidance.errors import BankError
from shelllcc.guidance.files import sha256_of, whole_file
from shelllcc.guidance.shell import Shell

FORMAT = "shelllcc-bank/1"
MAX_BYTES = 1 << 30
TENSORS = ("mean", "basis", "anchors", "whitening", "sigmas", "radius")
SHIPPED = Path(__file__).parent


@dataclass(frozen=True)
class Bank:
    """A shell, the model and VAE that it fits, and its provenance.

    `vae` is the fingerprint of the VAE's config: latents of another VAE live in another space.
    """

    shell: Shell
    model: str
    vae: str
    provenance: Mapping[str, Any]
    path: Path | None = None
    sha256: str = ""  # of the file as it was read or saved; what `sha256sum` prints

    @property
    def name(self) -> str:
        return self.path.stem if self.path else "unsaved"


def fingerprint(vae_config: Mapping[str, Any]) -> str:
    """What makes two VAEs share a latent space, as 16 hex digits: channels, compression and normalisation.

    Wan2.1, Wan2.2-A14B and Qwen-Image share one by the statistics that they normalise with.
    """
    statistics = [[round(float(v), 4) for v in vae_config[key]] for key in ("latents_mean", "latents_std")]
    scales = [vae_config.get("scale_factor_temporal") or 4, vae_config.get("scale_factor_spatial") or 8]
    text = json.dumps([int(vae_config["z_dim"]), scales, statistics])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def save_bank(bank: Bank, path: Path) -> Bank:
    """Write the bank so that `path` holds all of it or is untouched; returns it with its path."""
    from safetensors.torch import save

    tensors = {name: getattr(bank.shell, name).detach().cpu().float().contiguous() for name in TENSORS}
    _check_tensors(tensors, bank.shell.patch, bank.shell.k)
    metadata = {
        "format": FORMAT,
        "patch": str(bank.shell.patch),
        "k": str(bank.shell.k),
        "model": bank.model,
        "vae": bank.vae,
        "provenance": json.dumps(bank.provenance, sort_keys=True),
    }
    metadata["digest"] = _digest(tensors, metadata)
    with whole_file(path) as part:
        part.write_bytes(_with_sorted_header(save(tensors, metadata)))
    return Bank(bank.shell, bank.model, bank.vae, bank.provenance, path, sha256_of(path))


def load_bank(bank: str | Path, pipe: Any = None) -> Bank:
    """The bank of that path or shipped name; "auto" is the shipped one that fits the pipeline.

    With `pipe`, a bank for another VAE is refused. Raises BankError.
    """
    vae = None if pipe is None else fingerprint(pipe.vae.config)
    if str(bank) == "auto":
        return find_bank(vae)
    loaded = read_bank(_locate(bank))
    if vae is not None:
        check_bank(loaded, vae)
    return loaded


def find_bank(vae: str | None) -> Bank:
    """The first shipped bank for the VAE of that fingerprint."""
    for path in shipped_banks():
        found = read_bank(path)
        if vae is None or found.vae == vae:
            return found
    raise BankError(
        f"no bank fits this model's VAE ({vae}); make one from good videos as the README shows, or use --strength 0"
    )


def check_bank(bank: Bank, vae: str) -> None:
    """Raise BankError unless the bank was made from latents of the VAE of that fingerprint."""
    if bank.vae != vae:
        raise BankError(
            f"bank {bank.name} was made from latents of {bank.model} (VAE {bank.vae}), this model's VAE is {vae}; "
            "use a bank made with this model's VAE"
        )


def shipped_banks() -> list[Path]:
    return sorted(SHIPPED.glob("*.safetensors"))


def read_bank(path: Path) -> Bank:
    """Read and check a bank file; nothing in it is executed. Raises BankError."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > MAX_BYTES:
            raise BankError(f"{path} is larger than a bank may be ({MAX_BYTES >> 20} MiB)")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise BankError(f"{path} is no anchor bank: its format is {metadata.get('format')!r}, not {FORMAT!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise BankError(f"cannot read the bank {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise BankError(f"{path} is not a whole safetensors file: {error}") from error
    try:
        patch, k, provenance = int(metadata["patch"]), int(metadata["k"]), json.loads(metadata["provenance"])
        model, vae, digest = metadata["model"], metadata["vae"], metadata["digest"]
    except (KeyError, ValueError) as error:
        raise BankError(f"{path} has a broken header: {error}") from error
    if set(tensors) != set(TENSORS):
        raise BankError(f"{path} holds {sorted(tensors)}, a bank holds {sorted(TENSORS)}")
    if digest != _digest(tensors, {key: value for key, value in metadata.items() if key != "digest"}):
        raise BankError(f"{path} was changed after it was made: its digest does not match")
    _check_tensors(tensors, patch, k)
    return Bank(Shell(patch=patch, k=k, **tensors), model, vae, provenance, path, sha256_of(path))


def _locate(bank: str | Path) -> Path:
    path = Path(bank)
    if path.exists():
        return path
    shipped = {p.stem: p for p in shipped_banks()}
    if str(bank) in shipped:
        return shipped[str(bank)]
    raise BankError(f"no bank at {bank}; shipped banks are {', '.join(shipped) or 'none'}")


def _check_tensors(tensors: Mapping[str, Tensor], patch: int, k: int) -> None:
    """Raise BankError unless shapes agree and every number is finite."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not torch.isfinite(tensor).all():
            raise BankError(f"the bank's {name} must be finite float32")
    if any(tensor.ndim == 0 for tensor in tensors.values()):
        raise BankError("the bank holds a scalar where a table should be")
    p, d = tensors["basis"].shape if tensors["basis"].ndim == 2 else (0, 0)
    m, s = tensors["anchors"].shape[0], tensors["sigmas"].numel()
    wanted = {"mean": (p,), "basis": (p, d), "anchors": (m, d), "sigmas": (s,), "radius": (2, s)}
    wanted["whitening"] = (m if tensors["whitening"].shape[0] != 1 else 1, d, d)
    for name, shape in wanted.items():
        if tuple(tensors[name].shape) != shape or not math.prod(shape):
            raise BankError(f"the bank's {name} has shape {tuple(tensors[name].shape)}, expected {shape}")
    if (tensors["sigmas"].diff() <= 0).any() or (tensors["radius"] <= 0).any():
        raise BankError("the bank's sigmas must ascend and its radii be positive")
    if patch < 1 or patch % 2 == 0 or p % patch**2 or not 1 <= k <= m:
        raise BankError(f"the bank's patch {patch} and k {k} do not fit {p} numbers a patch and {m} anchors")


def _digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name in sorted(tensors):
        digest.update(name.encode() + str(tuple(tensors[name].shape)).encode())
        digest.update(tensors[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _with_sorted_header(blob: bytes) -> bytes:
    """The same safetensors file with its JSON header's keys sorted: equal banks are equal bytes."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[8 + length :]
