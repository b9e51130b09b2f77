"""What the tensors of LoRAs and checkpoints are named, and which weight of diffusers' Wan each of them is for.

One table for every trainer and converter. Knows nothing of torch, of files or of what is done with a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

PREFIXES = (  # before a layer's name, one or several of them
    "model.diffusion_model.", "diffusion_model.", "base_model.model.", "transformer.", "pipe.dit.", "dit.",
    "_orig_mod.", "module.", "model.", "unet.", "lora_unet__", "lora_unet_", "lora_transformer_", "lycoris_",
)  # fmt: skip
ORIGINAL = (  # diffusers' part of a name, and that of Wan's own files; in this order
    (r"^condition_embedder\.time_embedder\.linear_1\b", "time_embedding.0"),
    (r"^condition_embedder\.time_embedder\.linear_2\b", "time_embedding.2"),
    (r"^condition_embedder\.text_embedder\.linear_1\b", "text_embedding.0"),
    (r"^condition_embedder\.text_embedder\.linear_2\b", "text_embedding.2"),
    (r"^condition_embedder\.time_proj\b", "time_projection.1"),
    (r"^condition_embedder\.image_embedder\.norm1\b", "img_emb.proj.0"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj\b", "img_emb.proj.1"),
    (r"^condition_embedder\.image_embedder\.ff\.net\.2\b", "img_emb.proj.3"),
    (r"^condition_embedder\.image_embedder\.norm2\b", "img_emb.proj.4"),
    (r"^condition_embedder\.image_embedder\.pos_embed\b", "img_emb.emb_pos"),
    (r"^proj_out\b", "head.head"),
    (r"^scale_shift_table$", "head.modulation"),
    (r"\bscale_shift_table$", "modulation"),
    (r"\battn1\b", "self_attn"),
    (r"\battn2\b", "cross_attn"),
    (r"\bto_out\.0\b", "o"),
    (r"\bto_([qkv])\b", r"\1"),
    (r"\badd_([kv])_proj\b", r"\1_img"),
    (r"\bnorm_added_k\b", "norm_k_img"),
    (r"\bffn\.net\.0\.proj\b", "ffn.0"),
    (r"\bffn\.net\.2\b", "ffn.2"),
    (r"^(blocks\.\d+)\.norm2\b", r"\1.norm3"),  # of the other two norms neither has weights
)
WHOLE = (  # factors of LoHa and LoKr, whose products have the rank of the weight
    *(f"hada_w{number}_{half}" for number in (1, 2) for half in "ab"),
    *(f"lokr_w{number}{half}" for number in (1, 2) for half in ("", "_a", "_b")),
)
FACTORS = ("down", "up", *WHOLE)
ROLES = (  # what ends a LoRA tensor's name, and what the tensor is to its layer
    (r"\.(lora_A|lora_down|lora\.down)(\.default|\.lora_\d+)?(\.weight)?$", "down"),
    (r"\.(lora_B|lora_up|lora\.up)(\.default|\.lora_\d+)?(\.weight)?$", "up"),
    (r"\.(lora_B|lora_up|lora\.up)(\.default|\.lora_\d+)?\.bias$", "up_bias"),
    (r"\.(dora_scale|lora_magnitude_vector(\.default|\.lora_\d+)?(\.weight)?)$", "dora"),
    *((rf"\.{factor}(\.default)?$", factor) for factor in WHOLE),
    (r"\.alpha$", "alpha"),
    (r"\.diff$", "diff"),
    (r"\.diff_b$", "diff_b"),
    (r"\.diff_m$", "diff_m"),
)
REFUSED = (  # adapters of other mathematics: parts of them alone would be something else
    (r"\.wd_for_diff$", "DoRA of the difference alone"),
    (r"\.bora_scale", "BoRA"),
    (r"\.(lokr|hada)_t[12]", "LoKr or LoHa with Tucker cores"),
    (r"\.b?oft_", "OFT"),
    (r"\.lora_mid\.", "LoCon with a middle tensor"),
    (r"\.lora_E(\.|$)", "AdaLoRA"),
    (r"\.[ab][12]\.weight$", "GLoRA"),
    (r"(scale_weight|weight_scale(_2)?|scaled_fp8|comfy_quant)$", "scaled"),
)
STRANGERS = (  # what a tensor is of that no layer of a model takes
    (r"^(lora_te|text_encoder|te\d?\.|cond_stage_model|conditioner)", "of a text encoder"),
    (r"^(vae\.|first_stage_model)", "of a VAE"),
    (r"(k_img|v_img|img_emb|add_k_proj|add_v_proj|norm_added_k|image_embedder)", "of image-to-video layers"),
    (r"(vace|before_proj|after_proj|control|ref_conv)", "of control layers (VACE and the like)"),
    (r"(face_adapter|motion_encoder|pose_patch|audio)", "of animation layers"),
)


@dataclass(frozen=True)
class Part:
    """What one tensor of a LoRA is: a role for a layer, by diffusers' name, that the model has."""

    layer: str
    role: str


def original(name: str) -> str:
    """The name of a layer or weight of diffusers' Wan as Wan's own files have it."""
    for ours, theirs in ORIGINAL:
        name = re.sub(ours, theirs, name)
    return name


def spellings(names: Iterable[str]) -> dict[str, str]:
    """Every way to write these names of diffusers' Wan, to the name: diffusers', Wan's own, kohya's of either."""
    found = {}
    for name in names:
        for written in (name, original(name)):
            found[written] = found[written.replace(".", "_")] = name
    return found


def layer_of(written: str, known: Mapping[str, str]) -> str | None:
    """The name that a written one stands for, with any of the prefixes; None where no such layer is known."""
    while (name := known.get(written)) is None:
        prefix = next((prefix for prefix in PREFIXES if written.startswith(prefix)), None)
        if prefix is None:
            return None
        written = written.removeprefix(prefix)
    return name


def part_of(tensor: str, known: Mapping[str, str]) -> Part | None:
    """What a LoRA's tensor is, by its name; None where it is for no layer of the model."""
    for ending, role in ROLES:
        if match := re.search(ending, tensor):
            written = tensor[: match.start()] + (".modulation" if role == "diff_m" else "")
            layer = layer_of(written, known)
            return Part(layer, "diff" if role == "diff_m" else role) if layer is not None else None
    return None


def refused_as(tensors: Iterable[str]) -> str | None:
    """What kind of adapter the tensors are of, where it is none that can be applied."""
    return next((kind for name in tensors for ending, kind in REFUSED if re.search(ending, name)), None)


def stranger(tensor: str, blocks: int) -> str:
    """What a tensor is of that no layer of a model with so many blocks takes."""
    for pattern, what in STRANGERS:
        if re.search(pattern, tensor):
            return what
    number = re.search(r"(?<![a-z])blocks[._](\d+)[._]", tensor)
    if number and int(number[1]) >= blocks:
        return f"of blocks beyond the model's {blocks}"
    return "of names that are unknown here"
