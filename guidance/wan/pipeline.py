"""Find and load a Wan pipeline. Knows nothing of guidance, requests or files to write."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import ModelError

if TYPE_CHECKING:
    import torch
    from diffusers import WanPipeline

TINY = Path(__file__).parent / "tiny"


@dataclass(frozen=True)
class Model:
    """A pipeline folder or hub id, and its configs, read without loading any weights."""

    source: str
    revision: str
    transformer: dict[str, Any]
    vae: dict[str, Any]
    two_stage: bool

    @property
    def is_tiny(self) -> bool:
        return self.source == str(TINY)

    @property
    def name(self) -> str:
        return "tiny" if self.is_tiny else self.source


def find_model(model: str | None) -> Model:
    """The model at a path, in the hub's cache or on the hub; None or "tiny" is the embedded one. Raises ModelError."""
    folder = TINY if model in (None, "tiny") else Path(str(model)).expanduser()
    if folder.is_dir():
        index = _read_json(folder / "model_index.json")
        return _describe(str(folder), "local", index, lambda part: _read_json(folder / part / "config.json"))
    if not _is_hub_id(str(model)):
        raise ModelError(f"no model at {model}; give a diffusers folder, a hub id such as owner/name, or `tiny`")
    return _find_on_hub(str(model))


def load_pipeline(model: Model, *, device: str | None = None, dtype: str | None = None) -> WanPipeline:
    """The pipeline with its weights, on `device` (CUDA if there is one), its VAE always in float32.

    `dtype` is that of the transformer and the text encoder: float32 on the CPU, bfloat16 elsewhere, unless given.
    """
    import torch
    from diffusers import AutoencoderKLWan, WanPipeline

    quieten()
    target = pick_device(device)
    number: torch.dtype = getattr(torch, dtype) if dtype else torch.float32 if target == "cpu" else torch.bfloat16
    revision = None if model.revision == "local" else model.revision
    try:
        vae = AutoencoderKLWan.from_pretrained(model.source, subfolder="vae", revision=revision, dtype=torch.float32)
        pipe: WanPipeline = WanPipeline.from_pretrained(model.source, revision=revision, vae=vae, dtype=number)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"cannot load {model.source}: {_first_line(error)}") from error
    pipe.set_progress_bar_config(disable=True)
    try:
        return pipe.to(target)
    except torch.OutOfMemoryError as error:
        raise ModelError(f"{model.source} does not fit on {target}; try --dtype bfloat16 or --device cpu") from error


def pick_device(device: str | None) -> str:
    """The device to run on: the one asked for, or CUDA where there is one, or the CPU. Raises ModelError."""
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
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


def _describe(source: str, revision: str, index: dict[str, Any], config: Any) -> Model:
    name = index.get("_class_name")
    if name != "WanPipeline":
        raise ModelError(f"{source} holds a {name}, not a WanPipeline")
    two_stage = (index.get("transformer_2") or [None])[0] is not None
    return Model(source, revision, config("transformer"), config("vae"), two_stage)


def _find_on_hub(model: str) -> Model:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def fetch(name: str) -> Path:
        try:
            return Path(hf_hub_download(model, name))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise ModelError(f"no model {model}: not a folder here, and the hub says: {_first_line(error)}") from error

    index = fetch("model_index.json")
    return _describe(model, index.parent.name, _read_json(index), lambda part: _read_json(fetch(f"{part}/config.json")))


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
