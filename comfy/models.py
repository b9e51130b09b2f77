"""What a ComfyUI model is to a guide: refused by name where it is no Wan, else its latents, its shape, its sampling.

Knows nothing of banks or fits. ComfyUI's objects are read, and nothing of ComfyUI is imported.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from shelllcc.anchors.fingerprints import fingerprint, model_fingerprint
from shelllcc.guidance.errors import ModelError

FAMILY = ("WAN21", "WAN22")  # how ComfyUI's classes of Wan models are named
NO_CLIPS = {"WAN21_CausalAR": "that samples block after block", "WAN21_FlowRVS": "that makes masks"}
BOUNDARIES = (None, 0.875, 0.9)  # below which Wan2.2's second transformer takes over: none, of text, of an image
NARROW = 1024  # numbers a token: Wan2.1-1.3B has 1536
TEXT = 4096  # numbers a token of umT5, where a model's config says nothing
SAMPLERS = {
    "sample_euler": "FlowMatchEulerDiscreteScheduler",
    "sample_lcm": "FlowMatchLCMScheduler",
    "sample_unipc": "UniPCMultistepScheduler",
    "sample_dpmpp_2m": "DPMSolverMultistepScheduler",
}  # functions of ComfyUI's samplers, and the schedulers of diffusers that do the same
ANEW = ("sample_lcm",)  # of these, those that noise x0 anew in every step


def check_model(patcher: Any) -> None:
    """Raise ModelError, naming the model, unless it is a Wan that makes video."""
    model = getattr(patcher, "model", None)
    names = [kind.__name__ for kind in type(model).__mro__]
    if not any(name.startswith(FAMILY) for name in names):
        raise ModelError(
            f"Shell-LCC guides Wan2.1 and Wan2.2 as ComfyUI loads them; this model is {names[0]}"
            + (": its latents are like Wan's, but of images" if "Wan" in type(_latent_format(model)).__name__ else "")
        )
    for kind, what in NO_CLIPS.items():
        if kind in names:
            raise ModelError(f"Shell-LCC cannot guide {kind}, a Wan {what}; use Wan2.1 or Wan2.2")


def space_of(patcher: Any) -> str:
    """The fingerprint of the VAE whose latents a model makes."""
    return space_of_format(_latent_format(patcher.model))


def space_of_format(latents: Any) -> str:
    """The fingerprint of the VAE of a ComfyUI latent format that has means and deviations."""
    return fingerprint(
        {
            "z_dim": latents.latent_channels,
            "latents_mean": latents.latents_mean.flatten().tolist(),
            "latents_std": latents.latents_std.flatten().tolist(),
            "scale_factor_temporal": getattr(latents, "temporal_downscale_ratio", 4),
            "scale_factor_spatial": getattr(latents, "spacial_downscale_ratio", 8),
        }
    )


def shapes_of(patcher: Any) -> tuple[str, ...]:
    """The fingerprints of models that it may be: alone, or one of the two transformers of Wan2.2-A14B."""
    config = patcher.model.model_config.unet_config
    facts = {
        "num_layers": config["num_layers"],
        "num_attention_heads": config["num_heads"],
        "attention_head_dim": config["dim"] // config["num_heads"],
        "ffn_dim": config["ffn_dim"],
        "text_dim": config.get("text_dim", TEXT),
        "in_channels": config.get("in_dim", 16),
        "patch_size": config.get("patch_size", (1, 2, 2)),
    }
    return tuple(model_fingerprint(facts, boundary=boundary) for boundary in BOUNDARIES)


def weights_of(patchers: Sequence[Any]) -> str:
    """16 hex digits of models with their adapters: of what their smallest weights hold, and of what is added to any."""
    digest = hashlib.sha256()
    for patcher in patchers:
        for name, weight in sorted(patcher.model.diffusion_model.named_parameters()):
            if weight.ndim == 1:
                digest.update(name.encode() + weight.detach().float().cpu().contiguous().numpy().tobytes())
        for name, added in sorted(getattr(patcher, "patches", {}).items()):
            for strength, adapter, *_ in added:
                digest.update(f"{name} {strength:g}".encode())
                for part in getattr(adapter, "weights", adapter):
                    if isinstance(part, Tensor):
                        first = part.detach().flatten()[:64].float().cpu().contiguous()
                        digest.update(first.numpy().tobytes())
    return digest.hexdigest()[:16]


def is_small(patcher: Any) -> bool:
    """Whether it is far smaller than any Wan that was released, as for trials: such a model knows few subjects."""
    return bool(patcher.model.model_config.unet_config["dim"] < NARROW)


def name_of(patcher: Any) -> str:
    """What a model is called: its file, where ComfyUI says which that was, or else its kind."""
    loaded = getattr(patcher, "cached_patcher_init", None)
    file = loaded[1][0] if loaded and loaded[1] else None
    return Path(file).stem if isinstance(file, str) else type(patcher.model).__name__


def shift_of(patcher: Any) -> float:
    """The shift of its noise levels, 1 where it has none."""
    sampling = getattr(patcher.model, "model_sampling", None)
    return float(getattr(sampling, "shift", 1.0) or 1.0)


def sampler_of(sampler: Any) -> str:
    """The name of a sampler's function, as `sample_euler`."""
    return str(getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__))


def known_frames(conds: Any, frames: int) -> list[bool]:
    """Of each latent frame, whether an image-to-video model was given all of it; `conds` are ComfyUI's.

    Such a model is told by channels beside the latents: four of a mask, 1 where an image lies, then the image's.
    """
    beside = [cond.get("model_conds", {}).get("c_concat") for cond in conds or []]
    for given in (getattr(found, "cond", None) for found in beside):
        if isinstance(given, Tensor) and given.ndim == 5 and given.shape[1] == 20 and given.shape[2] == frames:
            mask = given[:, :4]
            return [bool(part.min() > 0.999) for part in mask.unbind(2)]
    return [False] * frames


def _latent_format(model: Any) -> Any:
    return getattr(model, "latent_format", None)
