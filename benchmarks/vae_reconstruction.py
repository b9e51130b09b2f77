"""How much survives the tiny VAE? `python -m benchmarks.vae_reconstruction`

Held-out camera paths, 17 x 192 x 192, encoded and decoded with the shipped weights. The floor to beat is a linear code
of the same size: principal components of 4 x 8 x 8 blocks, 16 numbers each, from clips that the VAE trained on.
"""

from __future__ import annotations

from typing import Annotated

import torch
import typer
from torch import Tensor

from shelllcc.guidance.wan.model.pipeline import find_model, load_pipeline
from training.clips import HELD_OUT, Studio, draw
from training.photographs import PHOTOGRAPHS, load
from training.run import psnr
from training.vae import evaluate


def blocks(video: Tensor) -> Tensor:
    """(n, 3*4*8*8) blocks of the later sixteen frames of (b, 3, 17, 192, 192)."""
    b = len(video)
    cut = video[:, :, 1:].reshape(b, 3, 4, 4, 24, 8, 24, 8)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, 768)


@torch.no_grad()
def linear_floor(studio: Studio, *, clips: int = 64, per_subject: int = 2) -> float:
    """Mean PSNR over subjects of the 16-component linear code."""
    train = torch.cat([blocks(studio.film([clip])) for clip in studio.draw(range(clips))])
    mean = train.mean(0)
    _, vectors = torch.linalg.eigh((train - mean).T @ (train - mean))
    basis = vectors[:, -16:]
    scores = []
    for index in range(len(PHOTOGRAPHS)):
        seeds = [HELD_OUT + index * 1000 + i for i in range(per_subject)]
        for seed in seeds:
            true = blocks(studio.film([draw(seed, studio.shapes, subject=index)]))
            scores.append(psnr((((true - mean) @ basis) @ basis.T + mean)[None], true[None]))
    return float(torch.cat(scores).mean())


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    per_subject: Annotated[int, typer.Option(help="Held-out clips of each subject.")] = 6,
) -> None:
    studio = Studio(load(), device)
    vae = load_pipeline(find_model(None), device=device).vae
    report = evaluate(vae, studio, per_subject=per_subject)
    print(f"{'subject':<12}{'PSNR, dB':>10}{'Laplacian':>11}")
    for subject, row in report["subjects"].items():  # type: ignore[attr-defined]
        print(f"{subject:<12}{row['psnr']:>10.2f}{row['laplacian_ratio']:>11.2f}")
    print(f"{'mean':<12}{report['psnr_mean']:>10.2f}")
    print(f"{'linear floor':<12}{linear_floor(studio):>10.2f}")


if __name__ == "__main__":
    typer.run(main)
