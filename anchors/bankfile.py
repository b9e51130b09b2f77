"""The bank file: safetensors with a JSON header and a digest. Data, never code.

docs/banks.md has the format byte by byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from shelllcc.anchors.bank import LEVELS, Bank, Calibration, digest_of
from shelllcc.anchors.search import nearest
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.files import sha256_of, write_bytes
from shelllcc.guidance.geometry.shell import Curve, Shell
from shelllcc.guidance.geometry.skeletons import Amortized, Anchors, Skeleton

FORMAT = "shelllcc-bank/2"
MAX_BYTES = 1 << 30
LAYERS = (
    *("basis", "global_scale", "global_bias"),
    *(f"predictor.{i}.{kind}" for i in (0, 1, 3, 5) for kind in ("weight", "bias")),
    *("predictor.1.running_mean", "predictor.1.running_var"),
    *(f"surface_head.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")),
)  # of an amortized skeleton


def save_bank(bank: Bank, path: Path) -> Bank:
    """Write the bank so that `path` holds all of it or is untouched; returns it with its path."""
    tensors = {name: tensor.detach().cpu().float().contiguous() for name, tensor in _tensors(bank).items()}
    metadata = {
        "format": FORMAT,
        "kind": bank.kind,
        "patch": str(bank.shell.patch),
        "k": str(bank.shell.skeleton.k if isinstance(bank.shell.skeleton, Anchors) else 0),
        "guided": str(bank.guided),
        "model": bank.model,
        "vae": bank.vae,
        "calibrations": json.dumps([{"model": c.model, "fingerprint": c.fingerprint} for c in bank.calibrations]),
        "provenance": json.dumps(bank.provenance, sort_keys=True),
    }
    _assemble(tensors, metadata)
    write_tensors(path, tensors, metadata)
    return replace(bank, path=path, sha256=sha256_of(path))


def read_bank(path: Path) -> Bank:
    """Read and check a bank file; nothing in it is executed. Raises BankError."""
    tensors, metadata = read_tensors(path, FORMAT, what="anchor bank", most=MAX_BYTES)
    return replace(_assemble(tensors, metadata), path=path, sha256=sha256_of(path))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """A safetensors file with the digest of both in its metadata, written whole; equal contents are equal bytes."""
    from safetensors.torch import save

    blob = save(dict(tensors), {**metadata, "digest": digest_of(tensors, metadata)})
    write_bytes(path, _with_sorted_header(blob))


def read_tensors(path: Path, form: str, *, what: str, most: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file that `write_tensors` wrote; `what` names its kind in errors. Raises BankError."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.stat().st_size > most:
            raise BankError(f"{path} is larger than any {what} may be ({most >> 20} MiB)")
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != form:
                raise BankError(f"{path} is no {what}: its format is {metadata.get('format')!r}, not {form!r}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise BankError(f"cannot read the {what} {path}: {error.strerror or error}") from error
    except SafetensorError as error:
        raise BankError(f"{path} is not a whole safetensors file: {error}") from error
    if metadata.get("digest") != digest_of(tensors, {k: v for k, v in metadata.items() if k != "digest"}):
        raise BankError(f"{path} was changed after it was made: its digest does not match")
    return tensors, metadata


def _tensors(bank: Bank) -> dict[str, Tensor]:
    """Every tensor of the bank by its name in the file."""
    found = bank.tensors
    if bank.quantiles is not None:
        found["quantiles"] = bank.quantiles
    for i, calibration in enumerate(bank.calibrations):
        curve = calibration.curve
        found |= {f"calibration.{i}.sigmas": curve.sigmas, f"calibration.{i}.radius": curve.radius}
    return found


def _assemble(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Bank:
    """The bank of a file's tensors and metadata. Raises BankError unless they are all there, agree and are finite."""
    try:
        patch, k, guided = (int(metadata[name]) for name in ("patch", "k", "guided"))
        kind, model, vae = metadata["kind"], metadata["model"], metadata["vae"]
        provenance = json.loads(metadata["provenance"])
        labels = [(str(c["model"]), str(c["fingerprint"])) for c in json.loads(metadata["calibrations"])]
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise BankError(f"the bank has a broken header: {type(error).__name__} {error}") from error
    if kind not in ("anchors", "amortized") or not isinstance(provenance, dict):
        raise BankError(f"the bank has a broken header: its kind is {kind!r}, or its provenance no object")
    held = provenance.get("held_out", [])
    if not isinstance(held, list) or not all(isinstance(source, str) for source in held):
        raise BankError("the bank has a broken header: held_out must list hashes")
    may = {"quantiles", "survival", "visited" if kind == "amortized" else "usage"}
    wanted = {"mean", "basis", "sigmas", "radius"} | (may & set(tensors))
    wanted |= {f"manifold.{name}" for name in LAYERS} if kind == "amortized" else {"anchors", "whitening"}
    wanted |= {f"calibration.{i}.{name}" for i in range(len(labels)) for name in ("sigmas", "radius")}
    if set(tensors) != wanted:
        extra, missing = sorted(set(tensors) - wanted), sorted(wanted - set(tensors))
        raise BankError(f"the bank holds tensors too many ({extra}) or too few ({missing})")
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32 or not tensor.numel() or not torch.isfinite(tensor).all():
            raise BankError(f"the bank's {name} must be finite float32, at least one number")
    skeleton = _amortized(tensors) if kind == "amortized" else _anchors(tensors, k)
    _check_projection(tensors, patch, skeleton.dimensions)
    if not 1 <= guided <= skeleton.dimensions or (kind == "amortized" and guided != skeleton.dimensions):
        raise BankError(f"the bank's guided components, {guided}, do not fit its {skeleton.dimensions} dimensions")
    calibrations = [Calibration(*label, curve_of(tensors, f"calibration.{i}.")) for i, label in enumerate(labels)]
    quantiles = tensors.get("quantiles")
    if quantiles is not None and tuple(quantiles.shape) != (2, len(LEVELS)):
        raise BankError(f"the bank's quantiles have shape {tuple(quantiles.shape)}, expected {(2, len(LEVELS))}")
    shell = Shell(patch, tensors["mean"], tensors["basis"], skeleton, _survival(tensors))
    return Bank(shell, guided, curve_of(tensors), model, vae, provenance, quantiles, tuple(calibrations))


def _anchors(tensors: Mapping[str, Tensor], k: int) -> Skeleton:
    anchors, whitening = tensors["anchors"], tensors["whitening"]
    m, d = anchors.shape if anchors.ndim == 2 else (0, 0)
    if tuple(whitening.shape) not in ((m, d, d), (1, d, d)):
        raise BankError(f"the bank's whitening {tuple(whitening.shape)} does not fit anchors {tuple(anchors.shape)}")
    if whitening.tril(-1).any():
        raise BankError("the bank's whitening must be upper triangular")
    if not 1 <= k <= m:
        raise BankError(f"the bank's k must lie between 1 and {m}, how many anchors it has, got {k}")
    usage = tensors.get("usage")
    if usage is not None and (tuple(usage.shape) != (m,) or (usage < 0).any() or abs(float(usage.sum()) - 1) > 1e-3):
        raise BankError(f"the bank's usage must be {m} shares that add up to 1, one for each anchor")
    return Anchors(anchors, whitening, k, nearest, usage)


def _amortized(tensors: Mapping[str, Tensor]) -> Skeleton:
    weights = {name: tensors[f"manifold.{name}"] for name in LAYERS}
    check_layers(weights)
    visited, d = tensors.get("visited"), weights["basis"].shape[1]
    if visited is not None and (visited.ndim != 2 or visited.shape[1] != d):
        raise BankError(f"the bank's visited points {tuple(visited.shape)} do not fit {d} dimensions")
    return Amortized(weights, visited)


def _survival(tensors: Mapping[str, Tensor]) -> float:
    """The share of a move that overlap leaves; 1 where nobody measured it."""
    survival = tensors.get("survival", torch.ones(1))
    if tuple(survival.shape) != (1,) or not 0.05 <= float(survival) <= 1:
        raise BankError("the bank's survival must be one number from 0.05 to 1")
    return float(survival)


def check_layers(weights: Mapping[str, Tensor]) -> None:
    """Raise BankError unless the layers of an amortized skeleton fit each other."""
    basis, hidden = weights["basis"], weights["predictor.0.bias"].numel()
    m, d = basis.shape if basis.ndim == 2 else (0, 0)
    wide = weights["surface_head.0.bias"].numel()
    shapes: dict[str, tuple[int, ...]] = {"basis": (m, d), "global_scale": (1,), "global_bias": (1, d)}
    for name, out, width in (("predictor.0", hidden, d), ("predictor.3", hidden, hidden), ("predictor.5", m, hidden)):
        shapes |= {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
    shapes |= {f"predictor.1.{name}": (hidden,) for name in ("weight", "bias", "running_mean", "running_var")}
    for name, out, width in (("surface_head.0", wide, d), ("surface_head.2", d, wide)):
        shapes |= {f"{name}.weight": (out, width), f"{name}.bias": (out,)}
    for name, shape in shapes.items():
        if tuple(weights[name].shape) != shape or not math.prod(shape):
            raise BankError(f"the manifold's {name} has shape {tuple(weights[name].shape)}, expected {shape}")


def _check_projection(tensors: Mapping[str, Tensor], patch: int, d: int) -> None:
    mean, basis = tensors["mean"], tensors["basis"]
    p = mean.numel()
    if mean.ndim != 1 or tuple(basis.shape) != (p, d):
        raise BankError(f"the bank's mean {tuple(mean.shape)} and basis {tuple(basis.shape)} do not fit {d} dimensions")
    if (basis.T @ basis - torch.eye(d)).abs().max() > 1e-3:
        raise BankError("the bank's basis must be orthonormal")
    if patch < 1 or patch % 2 == 0 or p % patch**2:
        raise BankError(f"the bank's patch {patch} does not fit {p} numbers a patch")


def curve_of(tensors: Mapping[str, Tensor], prefix: str = "") -> Curve:
    """The curve of a file's tensors `sigmas` and `radius`. Raises BankError where it is none."""
    sigmas, radius = tensors[f"{prefix}sigmas"], tensors[f"{prefix}radius"]
    if sigmas.ndim != 1 or tuple(radius.shape) != (2, sigmas.numel()):
        raise BankError(f"the bank's radius {tuple(radius.shape)} does not fit its sigmas {tuple(sigmas.shape)}")
    if (sigmas.diff() <= 0).any() or (radius <= 0).any():
        raise BankError("the bank's sigmas must ascend and its radii be positive")
    return Curve(sigmas, radius)


def _with_sorted_header(blob: bytes) -> bytes:
    """The same safetensors file with its JSON header's keys sorted: equal banks are equal bytes."""
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[8 + length :]
