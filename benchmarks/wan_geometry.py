"""Wan2.1-T2V's exact geometry with random weights: `python -m benchmarks.wan_geometry OUT`, 1.3B or with `--large` 14B

Writes OUT/model, a diffusers folder with the released model's configs, and OUT/bank.safetensors, a bank of smooth noise
with that VAE's fingerprint. Then `shelllcc generate --model OUT/model --bank OUT/bank.safetensors` runs the same code,
at the same cost, as on the released weights; its pictures mean nothing. `--toy` keeps the kinds and shrinks the widths.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from benchmarks.anchors import bank_of
from shelllcc.anchors.bank import Bank
from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.fingerprints import fingerprint

TRANSFORMER: dict[str, Any] = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=12,
    attention_head_dim=128,
    in_channels=16,
    out_channels=16,
    text_dim=4096,
    freq_dim=256,
    ffn_dim=8960,
    num_layers=30,
    cross_attn_norm=True,
    qk_norm="rms_norm_across_heads",
    eps=1e-6,
    rope_max_seq_len=1024,
)
LARGE_TRANSFORMER = TRANSFORMER | dict(num_attention_heads=40, ffn_dim=13824, num_layers=40)
VAE: dict[str, Any] = dict(
    base_dim=96,
    z_dim=16,
    dim_mult=[1, 2, 4, 4],
    num_res_blocks=2,
    attn_scales=[],
    temperal_downsample=[False, True, True],
)
TEXT: dict[str, Any] = dict(
    d_model=4096,
    d_ff=10240,
    d_kv=64,
    num_heads=64,
    num_layers=24,
    vocab_size=256384,
    feed_forward_proj="gated-gelu",
    relative_attention_num_buckets=32,
    relative_attention_max_distance=128,
    tie_word_embeddings=False,
)
BOUNDARY = 0.875  # of Wan2.2-A14B: the noise level at which its second transformer takes over
TOY_TRANSFORMER = TRANSFORMER | dict(
    num_attention_heads=2, attention_head_dim=24, ffn_dim=64, num_layers=2, text_dim=32
)
TOY_VAE = VAE | dict(base_dim=8, num_res_blocks=1)
TOY_TEXT = TEXT | dict(d_model=32, d_ff=64, d_kv=8, num_heads=4, num_layers=1, vocab_size=512)


def tokenizer() -> PreTrainedTokenizerFast:
    """Any text as bytes: the released tokenizer cannot be made without its file."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *alphabet])}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False), pre_tokenizers.Split("", "isolated")]
    )
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def make_pipeline(
    *,
    toy: bool,
    device: str,
    large: bool = False,
    two_stage: bool = False,
    text_encoder: bool = True,
    transformer: bool = True,
) -> WanPipeline:
    """Random weights on the device, in bfloat16, the VAE's in float32; parts may be left out.

    With `two_stage` there is a second transformer, and the pipeline changes to it as Wan2.2-A14B does.
    """
    torch.manual_seed(0)
    configs = (TOY_TEXT, TOY_TRANSFORMER, TOY_VAE) if toy else (TEXT, LARGE_TRANSFORMER if large else TRANSFORMER, VAE)
    with torch.device(device):
        vae = AutoencoderKLWan(**configs[2])
        torch.set_default_dtype(torch.bfloat16)
        try:
            encoder = UMT5EncoderModel(UMT5Config(**configs[0])) if text_encoder else None
            denoiser = WanTransformer3DModel(**configs[1]) if transformer else None
            second = WanTransformer3DModel(**configs[1]) if two_stage else None
        finally:
            torch.set_default_dtype(torch.float32)
    flow = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    pipe = WanPipeline(
        tokenizer=tokenizer() if text_encoder else None,
        text_encoder=encoder and encoder.eval(),
        transformer=denoiser and denoiser.eval(),
        transformer_2=second and second.eval(),
        boundary_ratio=BOUNDARY if two_stage else None,
        vae=vae.eval(),
        scheduler=flow,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def smooth_noise_bank(vae: dict[str, Any]) -> Bank:
    """A bank in the right space that knows nothing of real videos; for timing and tests alone. Needs no faiss."""
    return replace(bank_of("covariance", 3), model="random weights", vae=fingerprint(vae))


def main(
    out: Path,
    toy: Annotated[bool, typer.Option(help="Shrink the widths.")] = False,
    large: Annotated[bool, typer.Option(help="14B.")] = False,
    device: Annotated[str, typer.Option(help="Where the weights are drawn.")] = "cpu",
) -> None:
    pipe = make_pipeline(toy=toy, large=large, device=device)
    pipe.save_pretrained(out / "model")
    save_bank(smooth_noise_bank(dict(pipe.vae.config)), out / "bank.safetensors")
    size = sum(p.stat().st_size for p in out.rglob("*") if p.is_file())
    print(json.dumps({"model": str(out / "model"), "bank": str(out / "bank.safetensors"), "GB": round(size / 1e9, 2)}))


if __name__ == "__main__":
    typer.run(main)
