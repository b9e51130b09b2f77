"""LoRA files for a toy Wan in every layout that trainers write, each with what it does to the weights.

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

WIDTH, BLOCKS = 64, 3
ATTENTION = tuple(f"{kind}.{which}" for kind in ("attn1", "attn2") for which in ("to_q", "to_k", "to_v", "to_out.0"))
INNER = (*ATTENTION, "ffn.net.0.proj", "ffn.net.2")
OUTER = (
    *(f"condition_embedder.{kind}_embedder.linear_{n}" for kind in ("time", "text") for n in (1, 2)),
    "condition_embedder.time_proj",
    "proj_out",
)
Tensors = dict[str, Tensor]


class Made:
    """A LoRA in the making: its tensors by name, and what they do to each weight of the model, which is known here."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights, self.tensors, self.deltas = weights, Tensors(), Tensors()
        self.generator = torch.Generator().manual_seed(7)

    def draw(self, *shape: int, scale: float = 0.05) -> Tensor:
        return scale * torch.randn(*shape, generator=self.generator)

    def change(self, weight: str, delta: Tensor) -> None:
        self.deltas[weight] = self.deltas.get(weight, torch.zeros(())) + delta

    def product(
        self,
        layer: str,
        write: Callable[[str], str],
        *,
        names: tuple[str, str] = ("lora_A.weight", "lora_B.weight"),
        rank: int = 4,
        alpha: float | None = None,
        own_alpha: bool = True,
        magnitude: str = "",
        shape: tuple[int, ...] = (-1,),
    ) -> None:
        """A product for a layer of diffusers' name, whose name in the file `write` gives; with a `magnitude` as DoRA.

        The `shape` of the magnitude is (-1,) or (-1, 1) for one each output, (1, -1) for one each input.
        """
        out, into = self.weights[f"{layer}.weight"].shape
        down, up, base = self.draw(rank, into, scale=0.2), self.draw(out, rank, scale=0.2), write(layer)
        self.tensors |= {f"{base}.{names[0]}": down, f"{base}.{names[1]}": up}
        if alpha is not None and own_alpha:
            self.tensors[f"{base}.alpha"] = torch.tensor(alpha)
        product = (1 if alpha is None else alpha / rank) * up @ down
        if magnitude:
            weight = self.weights[f"{layer}.weight"]
            norm = (weight + product).norm(dim=0 if shape == (1, -1) else 1, keepdim=True)
            lengths = (1 + self.draw(*norm.shape, scale=0.2)) * norm
            self.tensors[f"{base}.{magnitude}"] = lengths.reshape(shape)
            product = lengths / norm * (weight + product) - weight
        self.change(f"{layer}.weight", product)

    def difference(self, weight: str, name: str) -> None:
        """A difference of a weight of diffusers' name."""
        delta = self.draw(*self.weights[weight].shape, scale=0.1)
        self.tensors[name] = delta
        self.change(weight, delta)


Make = Callable[[Made], None]


@dataclass(frozen=True)
class Row:
    """A layout of LoRAs: who writes it, what its names are like, and what comes of it.

    `said` is what a remark, or the error where it is `refused`, must have in it; `about` is the file's header.
    """

    layout: str
    example: str
    make: Make
    said: str = "layers of the transformer at 1"
    refused: bool = False
    about: Mapping[str, str] = field(default_factory=dict)


def inner(*layers: str, blocks: range = range(BLOCKS)) -> list[str]:
    return [f"blocks.{block}.{layer}" for block in blocks for layer in layers or INNER]


def products(
    prefix: str = "",
    ours: bool = False,
    flat: bool = False,
    layers: list[str] | None = None,
    rank: Callable[[int], int] = lambda index: 4,
    more: Make = lambda made: None,
    **options: Any,
) -> Make:
    """A product for each layer, written under diffusers' names (`ours`) or Wan's own, `flat` with `_` for dots."""

    def make(made: Made) -> None:
        def write(layer: str) -> str:
            name = layer if ours else original(layer)
            return prefix + (name.replace(".", "_") if flat else name)

        for index, layer in enumerate(layers or inner()):
            made.product(layer, write, rank=rank(index), **options)
        more(made)

    return make


UD = ("lora_down.weight", "lora_up.weight")
COMFY, KOHYA = "diffusion_model.", "lora_unet_"
KOHYAS: dict[str, Any] = dict(prefix=KOHYA, flat=True, names=UD)


def biases(*layers: str) -> Make:
    def more(made: Made) -> None:
        for layer in inner(*layers):
            made.difference(f"{layer}.bias", f"{COMFY}{original(layer)}.diff_b")

    return more


def norms(made: Made) -> None:
    for block in range(BLOCKS):
        for norm in ("attn1.norm_q", "attn2.norm_k", "norm2"):
            name = f"blocks.{block}.{norm}"
            made.difference(f"{name}.weight", f"{COMFY}{original(name)}.diff")
        made.difference(f"blocks.{block}.norm2.bias", f"{COMFY}blocks.{block}.norm3.diff_b")


def patches(made: Made) -> None:
    made.difference("patch_embedding.weight", f"{COMFY}patch_embedding.diff")
    made.difference("patch_embedding.bias", f"{COMFY}patch_embedding.diff_b")


def linears(made: Made) -> None:
    for layer in inner("ffn.net.0.proj"):
        made.difference(f"{layer}.weight", f"{COMFY}{original(layer)}.diff")
    made.difference("proj_out.weight", f"{COMFY}head.head.diff")
    made.difference("proj_out.bias", f"{COMFY}head.head.diff_b")


def modulations(made: Made) -> None:
    for block in range(BLOCKS):
        made.difference(f"blocks.{block}.scale_shift_table", f"{COMFY}blocks.{block}.diff_m")
    made.difference("scale_shift_table", f"{COMFY}head.diff_m")


def beside(*names: str) -> Make:
    """Products for layers that the model does not have."""

    def more(made: Made) -> None:
        for name in names:
            made.tensors |= {f"{name}.{UD[0]}": made.draw(4, WIDTH), f"{name}.{UD[1]}": made.draw(WIDTH, 4)}

    return more


def whole(kind: str, prefix: str, *, flat: bool = False, alpha: float, rank: int = 4) -> Make:
    """LoHa, or LoKr with its second factor of that rank or whole, for each inner layer."""

    def make(made: Made) -> None:
        for layer in inner():
            out, into = made.weights[f"{layer}.weight"].shape
            if kind == "LoHa":
                shapes = {"hada_w1_a": (out, rank), "hada_w1_b": (rank, into)}
                shapes |= {"hada_w2_a": (out, rank), "hada_w2_b": (rank, into)}
            elif kind == "LoKr":
                shapes = {"lokr_w1": (4, 2), "lokr_w2_a": (out // 4, rank), "lokr_w2_b": (rank, into // 2)}
            else:
                shapes = {"lokr_w1": (4, 2), "lokr_w2": (out // 4, into // 2)}
            t = {name: made.draw(*shape, scale=0.3) for name, shape in shapes.items()}
            if kind == "LoHa":
                delta = alpha / rank * (t["hada_w1_a"] @ t["hada_w1_b"]) * (t["hada_w2_a"] @ t["hada_w2_b"])
            elif kind == "LoKr":
                delta = alpha / rank * torch.kron(t["lokr_w1"], t["lokr_w2_a"] @ t["lokr_w2_b"])
            else:
                delta = torch.kron(t["lokr_w1"], t["lokr_w2"])
            name = prefix + (original(layer).replace(".", "_") if flat else original(layer))
            made.tensors |= {f"{name}.{role}": tensor for role, tensor in t.items()}
            made.tensors[f"{name}.alpha"] = torch.tensor(alpha)
            made.change(f"{layer}.weight", delta)

    return make


def only(*endings: str) -> Make:
    def make(made: Made) -> None:
        for layer in inner("attn1.to_q"):
            made.tensors |= {f"{COMFY}{original(layer)}.{ending}": made.draw(8, 8) for ending in endings}

    return make


def half(made: Made) -> None:
    made.tensors = {name: tensor.half() for name, tensor in made.tensors.items()}


ADAPTERS = (
    Row("ComfyUI, lora_A", "diffusion_model.blocks.0.self_attn.q.lora_A.weight", products(COMFY)),
    Row(
        "ComfyUI, lora_down and alpha",
        "diffusion_model.blocks.0.self_attn.q.lora_down.weight",
        products(COMFY, names=UD, alpha=2.0),
    ),
    Row("ComfyUI, a rank a layer", "as above", products(COMFY, rank=lambda index: 2 + index % 5)),
    Row(
        "ComfyUI, a rank a layer and alpha",
        "as above",
        products(COMFY, names=UD, rank=lambda index: 2 + index % 5, alpha=3.0),
    ),
    Row("ComfyUI in fp16", "as above", products(COMFY, names=UD, alpha=2.0, more=half)),
    Row(
        "a prefix of whole checkpoints",
        "model.diffusion_model.blocks.0.self_attn.q.lora_A.weight",
        products("model.diffusion_model."),
    ),
    Row("differences of biases", "diffusion_model.blocks.0.ffn.0.diff_b", products(COMFY, names=UD, more=biases())),
    Row(
        "differences of some biases",
        "diffusion_model.blocks.0.self_attn.q.diff_b",
        products(COMFY, names=UD, more=biases(*ATTENTION)),
    ),
    Row(
        "differences of norms",
        "diffusion_model.blocks.0.self_attn.norm_q.diff",
        products(COMFY, names=UD, more=norms),
        said="by differences",
    ),
    Row(
        "a difference of the patch embedding",
        "diffusion_model.patch_embedding.diff",
        products(COMFY, names=UD, more=patches),
        said="by differences",
    ),
    Row(
        "differences of linear layers",
        "diffusion_model.blocks.0.ffn.0.diff",
        products(COMFY, names=UD, layers=inner(*ATTENTION), more=linears),
    ),
    Row(
        "LightX2V, differences of modulations",
        "diffusion_model.blocks.0.diff_m",
        products(COMFY, names=UD, more=modulations),
    ),
    Row("kohya, musubi-tuner", "lora_unet_blocks_0_self_attn_q.lora_down.weight", products(**KOHYAS, alpha=2.0)),
    Row("kohya without alpha", "as above", products(**KOHYAS)),
    Row("kohya, attention alone", "as above", products(**KOHYAS, alpha=2.0, layers=inner(*ATTENTION))),
    Row("kohya, some blocks alone", "as above", products(**KOHYAS, alpha=2.0, layers=inner(blocks=range(1, 2)))),
    Row(
        "kohya, head and embeddings too",
        "lora_unet_head_head.lora_down.weight",
        products(**KOHYAS, alpha=2.0, layers=[*inner(), *OUTER]),
    ),
    Row(
        "ComfyUI, head and embeddings too",
        "diffusion_model.time_embedding.0.lora_down.weight",
        products(COMFY, names=UD, layers=[*inner(), *OUTER]),
    ),
    Row(
        "ComfyUI, head and embeddings alone",
        "diffusion_model.head.head.lora_down.weight",
        products(COMFY, names=UD, layers=list(OUTER)),
    ),
    Row(
        "kohya, of diffusers' layers",
        "lora_unet_blocks_0_attn1_to_q.lora_down.weight",
        products(**KOHYAS, ours=True, alpha=2.0),
    ),
    Row(
        "VideoX-Fun",
        "lora_unet__blocks_0_self_attn_q.lora_down.weight",
        products("lora_unet__", flat=True, names=UD, alpha=2.0),
    ),
    Row(
        "DiffSynth-Studio",
        "blocks.0.self_attn.q.lora_A.default.weight",
        products(names=("lora_A.default.weight", "lora_B.default.weight")),
    ),
    Row("Wan's own names, lora_A", "blocks.0.self_attn.q.lora_A.weight", products()),
    Row("Wan's own names, lora_down", "blocks.0.self_attn.q.lora_down.weight", products(names=UD, alpha=2.0)),
    Row("diffusers", "transformer.blocks.0.attn1.to_q.lora_A.weight", products("transformer.", ours=True)),
    Row(
        "diffusers, alpha in the header",
        "as above",
        products("transformer.", ours=True, alpha=2.0, own_alpha=False),
        about={"lora_adapter_metadata": json.dumps({"transformer.r": 4, "transformer.lora_alpha": 2})},
    ),
    Row("diffusers without a prefix", "blocks.0.attn1.to_q.lora_A.weight", products(ours=True)),
    Row("PEFT", "base_model.model.blocks.0.attn1.to_q.lora_A.weight", products("base_model.model.", ours=True)),
    Row(
        "PEFT of Wan's own layers", "base_model.model.blocks.0.self_attn.q.lora_A.weight", products("base_model.model.")
    ),
    Row(
        "for image-to-video",
        "diffusion_model.blocks.0.cross_attn.k_img.lora_down.weight",
        products(COMFY, names=UD, more=beside(f"{COMFY}blocks.0.cross_attn.k_img", f"{COMFY}img_emb.proj.1")),
        said="not applied: 4 tensors of image-to-video layers",
    ),
    Row(
        "of a deeper model",
        "diffusion_model.blocks.39.self_attn.q.lora_down.weight",
        products(COMFY, names=UD, more=beside(f"{COMFY}blocks.3.self_attn.q")),
        said="not applied: 2 tensors of blocks beyond the model's 3",
    ),
    Row(
        "kohya, text encoder too",
        "lora_te1_encoder_block_0.lora_down.weight",
        products(**KOHYAS, alpha=2.0, more=beside("lora_te1_encoder_block_0")),
        said="not applied: 2 tensors of a text encoder",
    ),
    Row(
        "DoRA of LyCORIS, a magnitude each output",
        "diffusion_model.blocks.0.self_attn.q.dora_scale",
        products(COMFY, names=UD, magnitude="dora_scale", shape=(-1, 1)),
        said="30 layers of the transformer at 1, 30 of them as DoRA",
    ),
    Row(
        "DoRA of LyCORIS, a magnitude each input",
        "lora_unet_blocks_0_self_attn_q.dora_scale",
        products(**KOHYAS, alpha=2.0, magnitude="dora_scale", shape=(1, -1)),
        said="30 of them as DoRA",
    ),
    Row(
        "DoRA of PEFT",
        "transformer.blocks.0.attn1.to_q.lora_magnitude_vector",
        products("transformer.", ours=True, magnitude="lora_magnitude_vector"),
        said="30 of them as DoRA",
    ),
    Row(
        "LoKr",
        "diffusion_model.blocks.0.self_attn.q.lokr_w1",
        whole("LoKr", COMFY, alpha=2.0),
        said="30 of them as LoKr",
    ),
    Row(
        "LoKr of whole factors",
        "lycoris_blocks_0_self_attn_q.lokr_w2",
        whole("LoKr of whole factors", "lycoris_", flat=True, alpha=4.0),
        said="30 of them as LoKr",
    ),
    Row(
        "LoHa",
        "lora_unet_blocks_0_self_attn_q.hada_w1_a",
        whole("LoHa", KOHYA, flat=True, alpha=2.0),
        said="30 of them as LoHa",
    ),
    Row(
        "LoHa with Tucker cores",
        "diffusion_model.blocks.0.self_attn.q.hada_t1",
        only("hada_t1", "hada_w1_a", "hada_w1_b"),
        said="is LoKr or LoHa with Tucker cores",
        refused=True,
    ),
    Row("OFT", "diffusion_model.blocks.0.self_attn.q.oft_blocks", only("oft_blocks"), said="is OFT", refused=True),
)


def write_lora(row: Row, path: Path, weights: Mapping[str, Tensor]) -> Tensors:
    """Write a row's file; what it does to each weight."""
    made = Made(weights)
    row.make(made)
    save_file({name: t.contiguous() for name, t in made.tensors.items()}, path, dict(row.about) or None)
    return made.deltas
