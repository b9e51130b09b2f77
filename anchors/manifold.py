"""The released manifold of Shell-LCC's authors as a bank, and its reward. Knows nothing of downloads or training.

Their checkpoint (`shell_lcc.pth`) is a torch file {"model": state_dict, "config", "epoch", "optimizer"} whose keys may
be prefixed `module.`. A patch is one voxel of a normalised Wan2.1 latent (arXiv 2606.30248, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.bankfile import LAYERS, MAX_BYTES, check_layers
from shelllcc.anchors.build import clean_curve, held_out_quantiles
from shelllcc.anchors.torchfile import check_plain, load_tensors
from shelllcc.anchors.use import as_used
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.files import sha256_of
from shelllcc.guidance.geometry.shell import Curve, Shell
from shelllcc.guidance.geometry.skeletons import Amortized


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The manifold's weights in a checkpoint, float32, with no code in it executed. Raises BankError."""
    content = load_tensors(path, most=MAX_BYTES)
    state = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise BankError(f"{path} holds a {type(state).__name__}, expected a checkpoint with a state dict `model`")
    named = {str(key).removeprefix("module."): value for key, value in state.items()}
    missing = sorted(set(LAYERS) - set(named))
    if missing:
        raise BankError(f"{path} is no Shell-LCC manifold: it lacks {', '.join(missing[:3])}")
    weights = {name: check_plain(named[name], f"{path}: {name}") for name in LAYERS}
    check_layers(weights)
    weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
    for name, tensor in weights.items():
        if not torch.isfinite(tensor).all() or (name.endswith("running_var") and (tensor < 0).any()):
            raise BankError(f"{path}: {name} must hold finite numbers, and variances none below 0")
    return weights


def manifold_bank(
    weights: Mapping[str, Tensor],
    *,
    model: str,
    vae: str,
    provenance: Mapping[str, Any],
    held_out: Sequence[Tensor] = (),
    radius: float = 1.0,
) -> Bank:
    """A bank that codes by the manifold. `held_out` real latents (c t h w) set its radius; without, it is `radius`, by
    default that which training aims at."""
    d = weights["basis"].shape[1]
    shell = Shell(1, torch.zeros(d), torch.eye(d), Amortized(weights))
    quantiles = held_out_quantiles(shell, held_out) if held_out else None
    shell = as_used(shell, held_out, guided=d) if held_out else shell
    clean = Curve(torch.zeros(1), torch.full((2, 1), radius)) if quantiles is None else clean_curve(quantiles)
    return Bank(shell, d, clean, model, vae, provenance, quantiles)


def import_checkpoint(
    path: Path,
    *,
    model: str,
    vae: str,
    held_out: Sequence[Tensor] = (),
    radius: float = 1.0,
    origin: Mapping[str, Any] | None = None,
) -> Bank:
    """The bank of a checkpoint, as `manifold_bank` makes it; `origin` joins its provenance."""
    weights = read_checkpoint(path)
    provenance = {"source": path.name, "sha256": sha256_of(path), "made_by": "shelllcc anchors import"}
    provenance |= dict(origin or {})
    return manifold_bank(weights, model=model, vae=vae, provenance=provenance, held_out=held_out, radius=radius)


def reward(shell: Shell, latents: Tensor, *, band: float | None = None) -> Tensor:
    """The authors' reward of (b c t h w) latents, differentiable, to be minimised: the mean distance, or with `band`
    the absolute difference of that mean from it."""
    mean = shell.residuals(latents)[1].mean()
    return mean if band is None else (mean - band).abs()
