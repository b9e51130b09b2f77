"""Assemble the trained parts into a stock WanPipeline folder: `python -m training.export OUT`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel


def main(
    out: Path,
    vae: Annotated[Path, typer.Option(help="The autoencoder, its decoder fully trained.")] = Path("runs/decoder/vae"),
    transformer: Annotated[Path, typer.Option(help="The folder of transformer/, text_encoder/, tokenizer/.")] = Path(
        "runs/transformer"
    ),
) -> None:
    """Write bf16 weights; loading them back in float32 is exact."""
    pipe = WanPipeline(
        tokenizer=AutoTokenizer.from_pretrained(transformer / "tokenizer"),
        text_encoder=UMT5EncoderModel.from_pretrained(transformer / "text_encoder"),
        transformer=WanTransformer3DModel.from_pretrained(transformer / "transformer"),
        vae=AutoencoderKLWan.from_pretrained(vae),
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
    )
    for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
        for p in part.parameters():  # .to(bfloat16) would spare the modules that diffusers keeps in float32
            p.data = p.data.to(torch.bfloat16)
    pipe.save_pretrained(out)
    tidy(out)
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")


def tidy(out: Path) -> None:
    """Name the tokenizer's class as every transformers knows it, and forget the folders that the parts came from."""
    for path in out.rglob("*.json"):
        text = path.read_text(encoding="utf-8").replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"')
        lines = [line for line in text.splitlines() if '"_name_or_path"' not in line]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
