"""Transformers of a toy Wan in one file, in every layout that converters write.

Knows nothing of loading; loads.py loads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from shelllcc.guidance.wan.model.names import original

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class File:
    """A layout of whole transformers in a file; `close` is how far the output may be off, of its own size."""

    layout: str
    example: str
    make: Callable[[Tensors], Tensors]
    said: str = ""
    refused: bool = False
    close: float = 1e-4
    suffix: str = ".safetensors"
    header: Mapping[str, str] = field(default_factory=dict)


def plain(weights: Tensors) -> Tensors:
    return weights


def written(change: Callable[[str], str]) -> Callable[[Tensors], Tensors]:
    return lambda weights: {change(name): weight for name, weight in weights.items()}


def packed(
    dtype: torch.dtype, scale: str | None, *, rows: bool = False, **more: Tensor
) -> Callable[[Tensors], Tensors]:
    """The blocks' matrices in eight bits, with a scale under this ending, one for all or one a row."""

    def make(weights: Tensors) -> Tensors:
        made = Tensors()
        for name, weight in weights.items():
            layer = original(name).removesuffix(".weight")
            if weight.ndim != 2 or not name.startswith("blocks."):
                made[original(name)] = weight
                continue
            most = 127.0 if dtype is torch.int8 else torch.finfo(dtype).max
            size = (weight.abs().amax(1, keepdim=True) if rows else weight.abs().max()) / most
            if scale is None:
                made[f"{layer}.weight"] = weight.to(dtype)
                continue
            scaled = weight / size
            made[f"{layer}.weight"] = (scaled.round() if dtype is torch.int8 else scaled).to(dtype)
            made[f"{layer}{scale}"] = size.clone()
            made |= {f"{layer}.{key}": value for key, value in more.items()}
        return made

    return make


def said_of(**about: Any) -> Tensor:
    """What ComfyUI says of a weight, as it says it."""
    return torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)


def with_tensors(**tensors: Tensor) -> Callable[[Tensors], Tensors]:
    return lambda weights: written(original)(weights) | {n.replace("__", "."): t for n, t in tensors.items()}


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda weights: {key: value for key, value in weights.items() if key != name}


def odd(weights: Tensors) -> Tensors:
    """Small tensors in dtypes that no layer computes in, and in other shapes of as many numbers."""
    made = {name: w.double() if w.ndim == 1 else w for name, w in written(original)(weights).items()}
    return made | {name: w.flatten(0, 1) for name, w in made.items() if name.endswith("modulation")}


FP8, INT8 = torch.float8_e4m3fn, torch.int8
ACTIVATION = torch.ones(())
FILES = (
    File("diffusers", "blocks.0.attn1.to_q.weight", plain),
    File("Wan's own", "blocks.0.self_attn.q.weight", written(original)),
    File(
        "ComfyUI",
        "model.diffusion_model.blocks.0.self_attn.q.weight",
        written(lambda name: f"model.diffusion_model.{original(name)}"),
    ),
    File("with small tensors in float64, or flat", "blocks.0.modulation", odd),
    File(
        "all in one, with VAE and text encoder",
        "vae.decoder.conv1.weight",
        with_tensors(vae__decoder__conv1__weight=torch.ones(2), text_encoders__umt5xxl__shared__weight=torch.ones(2)),
        said="not used, .*: 1 of a text encoder .*, 1 of a VAE",
    ),
    File(
        "VACE",
        "vace_blocks.0.after_proj.weight",
        with_tensors(vace_blocks__0__after_proj__weight=torch.ones(2)),
        said="not used: 1 of control layers",
    ),
    File("fp8 without scales", "blocks.0.self_attn.q.weight", packed(FP8, None), close=0.1),
    File(
        "scaled fp8, ComfyUI today",
        "blocks.0.self_attn.q.weight_scale, .comfy_quant",
        packed(FP8, ".weight_scale", comfy_quant=said_of(format="float8_e4m3fn"), input_scale=ACTIVATION),
        close=0.1,
    ),
    File(
        "scaled fp8, ComfyUI before",
        "blocks.0.self_attn.q.scale_weight, scaled_fp8",
        lambda weights: (
            packed(FP8, ".scale_weight", scale_input=ACTIVATION)(weights) | {"scaled_fp8": torch.zeros(0, dtype=FP8)}
        ),
        close=0.1,
    ),
    File(
        "fp8 with a scale a row, LightX2V",
        "blocks.0.self_attn.q.weight_scale",
        packed(FP8, ".weight_scale", rows=True),
        close=0.1,
    ),
    File(
        "int8 with a scale a row, LightX2V",
        "blocks.0.self_attn.q.weight_scale",
        packed(INT8, ".weight_scale", rows=True),
        close=0.03,
    ),
    File(
        "int8, ComfyUI",
        "blocks.0.self_attn.q.comfy_quant",
        packed(INT8, ".weight_scale", comfy_quant=said_of(format="int8_tensorwise")),
        close=0.05,
    ),
    File("GGUF, Q8_0", "blocks.0.self_attn.q.weight", written(original), close=0.03, suffix=".gguf"),
    File(
        "int8, rotated, ComfyUI",
        "blocks.0.self_attn.q.comfy_quant",
        packed(INT8, ".weight_scale", comfy_quant=said_of(format="int8_tensorwise", convrot=True)),
        said="int8_tensorwise with convrot",
        refused=True,
    ),
    File(
        "nvfp4, ComfyUI",
        "blocks.0.self_attn.q.weight_scale_2",
        packed(FP8, ".weight_scale", weight_scale_2=ACTIVATION),
        said="holds nvfp4 weights",
        refused=True,
    ),
    File(
        "fp8 with a scale a block",
        "blocks.0.self_attn.q.weight_scale_inv",
        packed(FP8, ".weight_scale_inv"),
        said="holds block-scaled fp8",
        refused=True,
    ),
    File(
        "int8 without scales", "blocks.0.self_attn.q.weight", packed(INT8, None), said="without a scale", refused=True
    ),
    File(
        "bitsandbytes",
        "blocks.0.self_attn.q.weight.absmax",
        with_tensors(blocks__0__self_attn__q__weight__absmax=torch.ones(2)),
        said="holds bitsandbytes",
        refused=True,
    ),
    File(
        "GPTQ, AWQ",
        "blocks.0.self_attn.q.qweight",
        with_tensors(blocks__0__self_attn__q__qweight=torch.ones(2)),
        said="holds GPTQ",
        refused=True,
    ),
    File(
        "one that lacks weights",
        "as Wan's own",
        without("blocks.1.ffn.net.2.weight"),
        said=r"lacks 1 of \d+ weights, the first blocks.1.ffn.net.2.weight",
        refused=True,
    ),
    File(
        "GGUF that lacks weights",
        "as Wan's own",
        without("blocks.1.ffn.net.2.weight"),
        said=r"lacks 1 of \d+ weights, the first blocks.1.ffn.net.2.weight",
        refused=True,
        suffix=".gguf",
    ),
    File(
        "of a deeper model",
        "blocks.39.self_attn.q.weight",
        with_tensors(blocks__3__self_attn__q__weight=torch.ones(2)),
        said="is a larger Wan",
        refused=True,
    ),
    File(
        "of another width",
        "as Wan's own",
        lambda weights: {n: w[..., :-2] for n, w in weights.items()},
        said="is for another Wan",
        refused=True,
    ),
    File(
        "a LoRA",
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight",
        with_tensors(blocks__0__self_attn__q__lora_down__weight=torch.ones(2)),
        said="give it as --lora",
        refused=True,
    ),
)


def write_file(file: File, path: Path, weights: Tensors) -> None:
    """Write a row's transformer."""
    tensors = {name: tensor.clone().contiguous() for name, tensor in file.make(weights).items()}
    if file.suffix == ".gguf":
        write_gguf(path, tensors)
    else:
        save_file(tensors, path, dict(file.header) or None)


def write_gguf(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Matrices of blocks in Q8_0, every other tensor of one dimension in bfloat16, which no norm computes in."""
    import gguf

    writer = gguf.GGUFWriter(path, "wan")
    for name, tensor in tensors.items():
        array = tensor.numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if array.ndim == 2 and "blocks" in name else None
        if array.ndim == 1:
            kind = gguf.GGMLQuantizationType.BF16
        if kind is None:
            writer.add_tensor(name, array)
        else:
            writer.add_tensor(name, gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
