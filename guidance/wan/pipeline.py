"""Find and load a Wan pipeline. Knows nothing of guidance, requests or files to write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.anchors.fingerprints import WAN21_VAE
from shelllcc.guidance.errors import ModelError

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKLWan, WanPipeline

TINY = Path(__file__).parent / "tiny"
LATENTS_ALONE = "wan2.1-vae"


@dataclass(frozen=True)
class Model:
    """A pipeline folder or hub id, and its configs, read without loading any weights."""

    source: str
    revision: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    two_stage: bool

    @property
    def grid(self) -> tuple[int, int]:
        """Pixels of which height and width must be multiples: the VAE's compression times the patch."""
        scale = int(self.vae.get("scale_factor_spatial") or 8)
        patch = self.transformer["patch_size"]
        return scale * int(patch[1]), scale * int(patch[2])

    @property
    def is_tiny(self) -> bool:
        return self.source == str(TINY)

    @property
    def name(self) -> str:
        return "tiny" if self.is_tiny else self.source


def find_model(model: str | None) -> Model:
    """The model at a path, in the hub's cache or on the hub; None or "tiny" is the embedded one. Raises ModelError."""
    if model in (None, "tiny"):
        return _describe(str(TINY), weights_sha256(TINY)[:16], TINY)
    folder = Path(str(model))
    if folder.is_dir():
        return _describe(str(folder), "local", folder)
    if not _is_hub_id(str(model)):
        raise ModelError(f"no model at {model}; give a diffusers folder, a hub id such as owner/name, or `tiny`")
    return _find_on_hub(str(model))


def find_latent_space(model: str | None) -> Model:
    """As `find_model`, and `wan2.1-vae` for ready latents of Wan2.1's VAE: a model that has no weights."""
    if model != LATENTS_ALONE:
        return find_model(model)
    return Model(LATENTS_ALONE, "none", {}, dict(WAN21_VAE), False)


def load_pipeline(model: Model, *, device: str | None = None, dtype: str | None = None) -> WanPipeline:
    """The pipeline with its weights, on `device` (CUDA if there is one), its VAE always in float32.

    `dtype` is that of the transformer and the text encoder: float32 on the CPU, bfloat16 elsewhere, unless given.
    """
    import torch
    from diffusers import WanPipeline
    from safetensors import SafetensorError

    quieten()
    target = pick_device(device)
    usual = torch.float32 if torch.device(target).type == "cpu" else torch.bfloat16
    number: torch.dtype = getattr(torch, dtype) if dtype else usual
    vae = load_vae(model.source, model.revision, device="cpu")
    try:
        pipe: WanPipeline = WanPipeline.from_pretrained(
            model.source, revision=_hub_revision(model.source, model.revision), vae=vae, dtype=number
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load {model.source}: {_first_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    return _move(pipe, model.source, target)


def load_vae(source: str, revision: str, *, device: str) -> AutoencoderKLWan:
    """The VAE of a pipeline folder or hub id alone, in float32. Raises ModelError."""
    import torch
    from diffusers import AutoencoderKLWan
    from safetensors import SafetensorError

    quieten()
    if source == LATENTS_ALONE:
        raise ModelError(f"{source} stands for ready latents; to read videos give --model with a VAE's weights")
    try:
        vae = AutoencoderKLWan.from_pretrained(
            source, subfolder="vae", revision=_hub_revision(source, revision), dtype=torch.float32
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the VAE of {source}: {_first_line(error)}") from error
    return _move(vae, source, device)


def pick_device(device: str | None) -> str:
    """The device to run on: the one asked for, or CUDA where there is one, or the CPU. Raises ModelError."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {device} is not available here: {_first_line(error)}") from error
    return device


def quieten() -> None:
    """Keep diffusers and transformers off stderr: progress there is ours."""
    import diffusers
    import transformers

    diffusers.utils.logging.set_verbosity_error()
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def weights_sha256(folder: Path) -> str:
    """One sha256 over the weights of a pipeline folder, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.safetensors")):
        digest.update(path.relative_to(folder).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def vae_weights(model: Model) -> str:
    """What tells a model's VAE weights from others of its shape: the hub's revision, or a hash of a folder's files."""
    folder = Path(model.source) / "vae"
    return weights_sha256(folder)[:16] if folder.is_dir() else model.revision


def _describe(source: str, revision: str, folder: Path) -> Model:
    """The model whose configs lie in a folder. Raises ModelError where they are no Wan's."""
    index = _read_json(folder / "model_index.json")
    if index.get("_class_name") != "WanPipeline":
        raise ModelError(f"{source} holds a {index.get('_class_name')}, not a WanPipeline")
    second = index.get("transformer_2")
    transformer, vae = (_read_json(folder / part / "config.json") for part in ("transformer", "vae"))
    patch = transformer.get("patch_size")
    sizes = [transformer.get("num_attention_heads"), transformer.get("attention_head_dim"), vae.get("z_dim")]
    statistics = [vae.get(key) for key in ("latents_mean", "latents_std")]
    if not isinstance(patch, list) or len(patch) != 3 or not all(isinstance(v, int) for v in [*patch, *sizes]):
        raise ModelError(f"{source} has no proper transformer and VAE configs (patch_size, heads, z_dim)")
    if not all(isinstance(v, list) and all(isinstance(x, (int, float)) for x in v) for v in statistics):
        raise ModelError(f"{source}/vae/config.json has no proper latents_mean and latents_std")
    return Model(source, revision, transformer, vae, isinstance(second, list) and second[0] is not None)


def _find_on_hub(model: str) -> Model:
    """Fetch the configs alone. Raises ModelError."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()
    try:
        files = [
            Path(hf_hub_download(model, name))
            for name in ("model_index.json", "transformer/config.json", "vae/config.json")
        ]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"no model {model}: not a folder here, and the hub says: {_first_line(error)}") from error
    return _describe(model, files[0].parent.name, files[0].parent)


def _move(part: Any, source: str, device: str) -> Any:
    import torch

    try:
        return part.to(device)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{source} does not fit on {device}; use a larger GPU or --device cpu") from error
    except RuntimeError as error:  # no such device, or the part cannot run there
        raise ModelError(f"cannot put {source} on {device}: {_first_line(error)}") from error


def _hub_revision(source: str, revision: str) -> str | None:
    return revision if _is_hub_id(source) and not Path(source).is_dir() else None


def _is_hub_id(model: str) -> bool:
    owner, _, name = model.partition("/")
    return bool(owner and name) and "/" not in name and not model.startswith((".", "/", "~"))


def _read_json(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"no Wan pipeline there: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelError(f"{path} is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ModelError(f"{path} is not a JSON object")
    return record


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
