"""How much survives the tiny VAE? `python -m benchmarks.vae_reconstruction --device cuda`

Held-out camera paths, 17 x 192 x 192, encoded and decoded: usual clips, and sharp ones, whose frame pixels cover 2 to 3
pixels of the photograph. The floor to beat is a linear code of the same size: principal components of 4 x 8 x 8 blocks,
16 numbers each. It prints a table of the subjects and what must hold of their means; both go to
runs/vae_reconstruction.json.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import torch
import typer
from diffusers import AutoencoderKLWan
from torch import Tensor

from benchmarks.bounds import Gate, keep, within
from benchmarks.picture import montage
from shelllcc.guidance.wan.model.pipeline import TINY
from training import options
from training.clips import HELD_OUT
from training.options import Cache, Device, Folder, Model, Smoke
from training.photographs import HELD, PHOTOGRAPHS, load
from training.reconstruction import Figures, evaluate, held_out, kinds, mean, reconstruct, usual_clip
from training.run import psnr
from training.studio import Studio

ALL = range(len(PHOTOGRAPHS))
LEAST = {"usual": 34.0, "sharp": 28.0}  # least mean PSNR in dB


def blocks(video: Tensor) -> Tensor:
    """(n, 3*4*8*8) blocks of the later sixteen frames of (b, 3, 17, 192, 192)."""
    b = len(video)
    cut = video[:, :, 1:].reshape(b, 3, 4, 4, 24, 8, 24, 8)
    return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(-1, 768)


@torch.no_grad()
def linear_floor(studio: Studio, *, clips: int = 128, per_subject: int = 2, subjects: Sequence[int] = ALL) -> float:
    """Mean PSNR over subjects of the 16-component linear code, fitted to clips of the kind that the VAE trained on."""
    train = torch.cat([blocks(studio.film([clip])) for clip in studio.draw(range(clips))])
    average = train.mean(0)
    _, vectors = torch.linalg.eigh((train - average).T @ (train - average))
    basis = vectors[:, -16:]
    scores = []
    for index in subjects:
        seeds = [HELD_OUT + index * 1000 + i for i in range(per_subject)]
        for seed in seeds:
            true = blocks(studio.film([usual_clip(studio, index, seed)]))
            scores.append(psnr((((true - average) @ basis) @ basis.T + average)[None], true[None]))
    return float(torch.cat(scores).mean())


def gates(report: Mapping[str, Mapping[str, Figures]]) -> Iterator[Gate]:
    """What must hold of a good autoencoder, mean over subjects."""
    for kind, rows in report.items():
        figures = mean(rows)
        yield within(f"{kind} clips, PSNR in dB", figures["psnr"], low=LEAST[kind])
        yield within(f"{kind} clips, lap", figures["lap"], low=0.85, high=1.1)
        yield within(f"{kind} clips, first frame's kurtosis", figures["kurtosis_first"], high=1.5)
        yield within(f"{kind} clips, checkerboard", figures["checkerboard"], high=0.5, digits=3)
        yield within(f"{kind} clips, stripes", figures["stripes"], high=2.0, digits=1)


def table(rows: dict[str, Figures]) -> list[str]:
    """A line a subject and their mean."""
    head = ("PSNR dB", "first", "last", "lap", "first", "kurt first", "checker", "raw", "stripes", "raw")
    lines = [f"{'subject':<12}" + "".join(f"{h:>11}" for h in head)]
    for subject, row in (*((s, asdict(r)) for s, r in rows.items()), ("mean", mean(rows))):
        lines.append(f"{subject:<12}" + "".join(f"{v:>11.{2 if i < 6 else 3}f}" for i, v in enumerate(row.values())))
    return lines


def main(
    model: Model = TINY,
    vae: Annotated[Path | None, typer.Option(help="An AutoencoderKLWan's folder; else the model's.")] = None,
    device: Device = "cpu",
    per_subject: Annotated[int, typer.Option(help="Held-out clips of each subject.")] = 6,
    pictures: Annotated[Path | None, typer.Option(help="Folder for pictures of decoded below raw.")] = None,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    network = AutoencoderKLWan.from_pretrained(vae or model / "vae", torch_dtype=torch.float32).to(device)
    studio = Studio(load(cache, folder=folder, stand_in=smoke), device)
    subjects, frames, per_subject = ((0,), 5, 1) if smoke else (ALL, 17, per_subject)
    report = evaluate(network, studio, per_subject=per_subject, frames=frames, subjects=subjects)
    for kind, rows in report.items():
        print(f"{kind} clips")
        print("\n".join(table(rows)))
    floor = linear_floor(studio, clips=2 if smoke else 128, per_subject=min(2, per_subject), subjects=subjects)
    print(f"{'linear floor':<12}{floor:>11.2f}")
    held = list(gates(report))
    print(*held, sep="\n")
    tables = {kind: {name: asdict(row) for name, row in rows.items()} for kind, rows in report.items()}
    means = {kind: mean(rows) for kind, rows in report.items()}
    keep("vae_reconstruction", {"per_subject": per_subject, "mean": means, "floor": floor, "subjects": tables}, held)
    if pictures is not None:
        show(network, studio, pictures)


def show(network: AutoencoderKLWan, studio: Studio, out: Path) -> None:
    """Write the middle of the first, ninth and last frame of a clip of each subject, raw above decoded."""
    out.mkdir(parents=True, exist_ok=True)
    for kind, (clip, subjects) in kinds(studio).items():
        raw = torch.cat([held_out(studio, clip, subject, per_subject=1) for subject in subjects])
        made = reconstruct(network, raw)
        for frame in (0, 8, 16):
            first, second = (
                ((v[:, :, frame, 32:160, 32:160] + 1) * 127.5).round().byte().permute(0, 2, 3, 1) for v in (raw, made)
            )
            iio.imwrite(out / f"{kind}-{frame}.png", montage(first, second, columns=7, enlarge=2))


if __name__ == "__main__":
    options.run(main)
