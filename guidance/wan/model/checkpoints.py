"""A transformer's weights in a single file: read under diffusers' names, scaled ones multiplied out, all accounted for.

Knows nothing of pipelines or devices.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.wan.model.names import layer_of, spellings, stranger

Shapes = Mapping[str, tuple[int, ...]]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)  # that computing layers can have
EIGHTS = (torch.float8_e4m3fn, torch.float8_e5m2, torch.int8)
SCALES = (".weight_scale", ".scale_weight")  # of ComfyUI today and LightX2V; of ComfyUI before
ASIDE = (".input_scale", ".scale_input", ".comfy_quant", "scaled_fp8")  # of activations; what is said about weights
SIMPLE = {"float8_e4m3fn", "float8_e5m2", "int8_tensorwise"}  # formats whose weights are a number times a scale
TOLD = {"format", "full_precision_matrix_mult", "per_row", "orig_dtype", "orig_shape"}  # that change no weight's value
PACKED = (  # endings of weights that more than a scale makes numbers of
    (r"\.weight_scale_2$", "nvfp4"),
    (r"\.weight_scale_inv$|\.scale_inv$", "block-scaled fp8"),
    (r"\.(absmax|quant_map|nested_absmax|quant_state\..*)$", "bitsandbytes 4-bit"),
    (r"\.(SCB|weight_format)$", "bitsandbytes 8-bit"),
    (r"\.(qweight|qzeros|g_idx|weight_packed)$", "GPTQ, AWQ or compressed-tensors"),
    (r"\.(weight_zero_point|zero_point|weight_zero)$", "zero-point"),
    (r"\.(_data|_scale|_qdata)$", "quanto or torchao"),
    (r"\.(proj_down|smooth_factor|wscales|wtscale)$", "Nunchaku (SVDQuant)"),
    (r"\.(lora_A|lora_down|lora_B|lora_up)\.", "LoRA"),
)
INSTEAD = "give one in bf16, fp16, fp8 or .gguf"


def check_safetensors(path: Path) -> None:
    """Raise ModelError for a .safetensors file that is no transformer of Wan, or whose weights cannot be read."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        names = list(file.keys())
        header = file.metadata() or {}
        said = {name: _json(file.get_tensor(name)) for name in names if name.endswith(".comfy_quant")}
        kinds = {name: file.get_slice(name).get_dtype() for name in names if name.endswith("weight")}
    for name in names:
        for ending, kind in PACKED:
            if re.search(ending, name):
                instead = "give it as --lora" if kind == "LoRA" else INSTEAD
                raise ModelError(f"{path} holds {kind} weights ({name}), which are not read here; {instead}")
    layers = _json(header.get("_quantization_metadata", "{}")).get("layers") or {}
    for name, about in (said | layers).items():
        if about.get("format") not in SIMPLE or (more := sorted(set(about) - TOLD)):
            kind = about.get("format") if about.get("format") not in SIMPLE else f"{about['format']} with {more[0]}"
            raise ModelError(f"{path} holds {kind} weights of ComfyUI ({name}), which are not read here; {INSTEAD}")
    scaled = {name.removesuffix(end) for name in names for end in SCALES if name.endswith(end)}
    for name, kind in kinds.items():
        if kind in ("U8", "I8") and name.removesuffix(".weight") not in scaled:
            raise ModelError(
                f"{path} holds {kind} weights without a scale ({name}), which are not read here; {INSTEAD}"
            )
    if not any("blocks." in name for name in names):
        raise ModelError(
            f"{path} holds no transformer of Wan: none of its {len(names)} weights is of a block; "
            "--transformer takes Wan's diffusion model, not its VAE or text encoder"
        )


def read_checkpoint(path: Path, wanted: Shapes, dtype: torch.dtype) -> dict[str, Tensor]:
    """The weights of a .safetensors or .gguf file under diffusers' names, all those `wanted` and no others.

    Scaled weights come multiplied out in `dtype`, others of unusual dtypes in it, and quantized ones of .gguf as they
    are where they are of linear layers. What the file holds beyond is logged. Raises ModelError where anything lacks
    or has another shape.
    """
    tensors = _read_gguf(path, dtype) if path.suffix == ".gguf" else _read_safetensors(path, dtype)
    known = spellings(wanted)
    found, beyond = dict[str, Tensor](), list[str]()
    for name, tensor in tensors.items():
        ours = layer_of(name, known)
        if ours is None:
            beyond.append(name)
        elif ours in found:
            raise ModelError(f"{path} holds two weights for {ours}, one of them {name}; give a file with one of them")
        else:
            found[ours] = _shaped(path, name, tensor, wanted[ours], dtype)
    _account(path, wanted, found, beyond)
    return found


def _account(path: Path, wanted: Shapes, found: Mapping[str, Tensor], beyond: Iterable[str]) -> None:
    """Log what of a file is not used. Raises ModelError where it is no transformer of this model."""
    if missing := [name for name in wanted if name not in found]:
        shard = "; it is one of several shards, which a folder as --model holds" if "-of-" in path.name else ""
        instead = shard or "; give the --transformer of this very model"
        raise ModelError(f"{path} lacks {len(missing)} of {len(wanted)} weights, the first {missing[0]}{instead}")
    blocks = len({name.split(".")[1] for name in wanted if name.startswith("blocks.")})
    unused: dict[str, list[str]] = {}
    for name in beyond:
        unused.setdefault(stranger(name, blocks), []).append(name)
    for why, names in unused.items():
        if why.startswith("of blocks"):
            raise ModelError(
                f"{path} is a larger Wan: {len(names)} of its weights are {why}; give the --model it is for"
            )
    if unused:
        told = ", ".join(f"{len(names)} {why} (first {names[0]})" for why, names in unused.items())
        own = unused.keys() <= {"of a text encoder", "of a VAE"}
        rest = f", the model's own are: {told}" if own else f": {told}; clips are text-to-video without what these do"
        logging.getLogger("shelllcc").warning(f"{path.name}: weights beside the transformer's are not used{rest}")


def _read_safetensors(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    """Scales are applied and gone."""
    from safetensors import safe_open

    tensors = dict[str, Tensor]()
    with safe_open(path, "pt") as file:
        names = set(file.keys())
        for name in sorted(names):
            if name.endswith(ASIDE) or any(name == f"{name.removesuffix(end)}{end}" for end in SCALES):
                continue
            tensor, layer = file.get_tensor(name), name.removesuffix(".weight")
            scale = next((layer + end for end in SCALES if name.endswith(".weight") and layer + end in names), None)
            tensors[name] = tensor if scale is None else _product(path, name, tensor, file.get_tensor(scale), dtype)
    return tensors


def _product(path: Path, name: str, weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """A weight (out in) of eight bits times its scale: one, or one a row. Raises ModelError for other scales."""
    if weight.dtype not in EIGHTS:
        if weight.dtype in FLOATS and scale.numel() == 1 and scale.item() == 1:
            return weight
        raise ModelError(f"{path} has a scale for {name}, which is {_kind(weight)} and not fp8 or int8; {INSTEAD}")
    if scale.numel() not in (1, weight.shape[0]):
        raise ModelError(
            f"{path} has {list(scale.shape)} scales for {name} of {list(weight.shape)}, one a block, "
            f"which are not read here; {INSTEAD}"
        )
    each = scale.float().reshape(-1, *[1] * (weight.ndim - 1))
    return (weight.float() * each).to(dtype)


def _read_gguf(path: Path, dtype: torch.dtype) -> dict[str, Tensor]:
    from diffusers.models.model_loading_utils import load_gguf_checkpoint

    tensors: dict[str, Tensor] = load_gguf_checkpoint(str(path))
    return tensors


def _shaped(path: Path, name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A weight as the layer computes with it; only those of linear layers may stay packed. Raises ModelError."""
    if getattr(tensor, "quant_type", None) is not None:
        if len(shape) == 2:  # of a linear layer, which computes with it; diffusers checks its shape
            return tensor
        from diffusers.quantizers.gguf.utils import dequantize_gguf_tensor

        tensor = dequantize_gguf_tensor(tensor).as_subclass(Tensor)
    if tensor.numel() != torch.Size(shape).numel():
        raise ModelError(
            f"{path} is for another Wan: {name} is {list(tensor.shape)}, this model's is {list(shape)}; "
            "give the --model it is for"
        )
    if tensor.dtype not in FLOATS:
        if not tensor.is_floating_point():
            raise ModelError(f"{path} has {name} as {_kind(tensor)}, which this model cannot compute with; {INSTEAD}")
        tensor = tensor.to(dtype)
    return tensor.reshape(shape)


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _json(said: Tensor | str) -> dict[str, Any]:
    """What bytes in a tensor, or a string, say as JSON; nothing where they are none."""
    try:
        record = json.loads(bytes(said.flatten().tolist()) if isinstance(said, Tensor) else said)
    except (ValueError, TypeError):
        return {}
    return record if isinstance(record, dict) else {}
