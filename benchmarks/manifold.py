"""Train a manifold as Shell-LCC's authors train theirs, on the tiny Wan's latents: `python -m benchmarks.manifold`

Voxels, 4096 anchors, a network that codes them (anchors.train); about a minute on one GPU. The bank goes to
runs/manifold.safetensors, for `benchmarks.fit --bank manifold=runs/manifold.safetensors`.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import WanPipeline

from shelllcc.anchors.bankfile import LAYERS, save_bank
from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.anchors.manifold import manifold_bank
from shelllcc.anchors.train import TrainConfig, train_manifold
from shelllcc.guidance.wan.model.pipeline import TINY
from training import options
from training.bank import encode
from training.clips import HELD_OUT
from training.options import Cache, Folder, Model, Smoke
from training.photographs import HELD, load
from training.studio import Studio

SEED = 30_000  # first seed of its clips: none that a bank, a fit or a bench has
OUT = Path("runs/manifold.safetensors")


def main(
    clips: Annotated[int, typer.Option(help="Rendered clips that it is trained on.")] = 96,
    held_out: Annotated[int, typer.Option(help="Others, that set its radius.")] = 16,
    epochs: Annotated[int, typer.Option(help="Of the skeleton; the shell has a fifth of them, as the authors'.")] = 250,
    out: Annotated[Path, typer.Option(help="The bank.")] = OUT,
    model: Model = TINY,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = WanPipeline.from_pretrained(model, torch_dtype=torch.float32).to(device)
    studio = Studio(load(cache, folder=folder, stand_in=smoke), device)
    clips, held_out, epochs = (2, 2, 2) if smoke else (clips, held_out, epochs)
    first = SEED, HELD_OUT + SEED
    seen, unseen = (
        list(encode(pipe, studio, studio.draw(range(start, start + count))).cpu())
        for start, count in zip(first, (clips, held_out), strict=True)
    )
    config = TrainConfig(epochs_skeleton=epochs, epochs_shell=max(1, epochs // 5), **({"bases": 64} if smoke else {}))
    with tempfile.TemporaryDirectory() as run:
        state = train_manifold(seen, config, Path(run), on_epoch=_tell)
    weights = {name: state[name] for name in LAYERS}
    provenance = {"source": "rendered camera clips", "clips": clips, "made_by": "python -m benchmarks.manifold"}
    vae = fingerprint(pipe.vae.config)
    bank = manifold_bank(weights, model="shelllcc-tiny-wan", vae=vae, provenance=provenance, held_out=unseen)
    save_bank(bank, out)
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB, radius {float(bank.clean.radius[1, 0]):.3f}")


def _tell(stage: str, epoch: int, terms: dict[str, float]) -> None:
    if epoch % 50 == 0:
        print(f"{stage} {epoch}: " + ", ".join(f"{name} {value:.4f}" for name, value in terms.items()), flush=True)


if __name__ == "__main__":
    options.run(main)
