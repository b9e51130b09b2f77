"""How much survives the tiny VAE? `python -m benchmarks.vae_reconstruction`

Held-out camera paths, 17 x 192 x 192, encoded and decoded: by default the shipped weights on the sixteen photographs
that they have seen; with `--next` the clips that the next ones learn from, and its sharpest ones besides. The floor to
beat is a linear code of the same size: principal components of 4 x 8 x 8 blocks, 16 numbers each.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import numpy as np
import torch
import typer
from diffusers import AutoencoderKLWan
from torch import Tensor

from shelllcc.guidance.wan.model.pipeline import TINY
from training.clips import HELD_OUT, Studio, draw
from training.photographs import PHOTOGRAPHS, load
from training.reconstruction import Figures, evaluate, held_out, kinds, mean, reconstruct
from training.run import psnr
from training.shots import FINEST, SCENES


def blocks(video: Tensor) -> Tensor:
    """(n, 3*4*8*8) blocks of the later sixteen frames of (b, 3, 17, 192, 192)."""
    b = len(video)
    cut = video[:, :, 1:].reshape(b, 3, 4, 4, 24, 8, 24, 8)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, 768)


@torch.no_grad()
def linear_floor(studio: Studio, *, clips: int = 64, per_subject: int = 2) -> float:
    """Mean PSNR over subjects of the 16-component linear code, fitted to clips that the shipped VAE trained on."""
    train = torch.cat([blocks(studio.film([clip])) for clip in studio.draw(range(clips))])
    average = train.mean(0)
    _, vectors = torch.linalg.eigh((train - average).T @ (train - average))
    basis = vectors[:, -16:]
    scores = []
    for index in range(len(PHOTOGRAPHS)):
        seeds = [HELD_OUT + index * 1000 + i for i in range(per_subject)]
        for seed in seeds:
            true = blocks(studio.film([draw(seed, studio.shapes, subject=index)]))
            scores.append(psnr((((true - average) @ basis) @ basis.T + average)[None], true[None]))
    return float(torch.cat(scores).mean())


def montage(raw: Tensor, made: Tensor, *, columns: int = 4, enlarge: int = 2) -> np.ndarray:
    """uint8 (h, w, 3): pairs of raw and decoded pictures (n 3 h w) in [-1, 1], raw at the left, enlarged."""
    pairs = torch.cat([raw, made], dim=-1)
    pairs = torch.cat([pairs, pairs.new_full((-len(pairs) % columns, *pairs.shape[1:]), -1.0)])
    rows = [torch.cat(list(pairs[i : i + columns]), dim=-1) for i in range(0, len(pairs), columns)]
    picture = torch.cat(rows, dim=-2).repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    return ((picture.clamp(-1, 1) + 1) * 127.5).round().byte().permute(1, 2, 0).cpu().numpy()


def table(rows: dict[str, Figures]) -> list[str]:
    """A line a subject and their mean."""
    head = ("PSNR dB", "first", "last", "lap", "first", "kurt first", "checker", "raw")
    lines = [f"{'subject':<12}" + "".join(f"{h:>11}" for h in head)]
    for subject, row in (*((s, asdict(r)) for s, r in rows.items()), ("mean", mean(rows))):
        lines.append(f"{subject:<12}" + "".join(f"{v:>11.{2 if i < 6 else 3}f}" for i, v in enumerate(row.values())))
    return lines


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    per_subject: Annotated[int, typer.Option(help="Held-out clips of each subject.")] = 6,
    vae: Annotated[Path | None, typer.Option(help="An AutoencoderKLWan's folder; else the shipped one's.")] = None,
    following: Annotated[bool, typer.Option("--next", help="The next model's photographs and clips.")] = False,
    folder: Annotated[Path | None, typer.Option(help="Where photographs of other packages lie.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures of decoded beside raw.")] = None,
) -> None:
    model = AutoencoderKLWan.from_pretrained(vae or TINY / "vae", torch_dtype=torch.float32).to(device)
    photographs = load(None, SCENES, folder=folder, finest=FINEST) if following else load()
    studio = Studio(photographs, device)
    report = evaluate(model, studio, per_subject=per_subject, shipped=not following)
    for kind, rows in report.items():
        print(f"{kind} clips")
        print("\n".join(table(rows)))
    if not following:
        print(f"{'linear floor':<12}{linear_floor(studio):>11.2f}")
    if pictures is not None:
        show(model, studio, pictures, shipped=not following)


def show(model: AutoencoderKLWan, studio: Studio, out: Path, *, shipped: bool) -> None:
    """Write the middle of the first, ninth and last frame of a clip of each subject, raw and decoded."""
    out.mkdir(parents=True, exist_ok=True)
    for kind, (clip, subjects) in kinds(studio, shipped=shipped).items():
        raw = torch.cat([held_out(studio, clip, subject, per_subject=1) for subject in subjects])
        made = reconstruct(model, raw)
        for frame in (0, 8, 16):
            cut = (slice(None), slice(None), frame, slice(32, 160), slice(32, 160))
            iio.imwrite(out / f"{kind}-{frame}.png", montage(raw[cut], made[cut]))


if __name__ == "__main__":
    typer.run(main)
