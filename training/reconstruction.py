"""How much of a clip survives an autoencoder: figures of held-out camera paths, decoded against raw."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor

from training import detail, run, whole_clip
from training.clips import HELD_OUT, Clip, draw, fine
from training.photographs import PHOTOGRAPHS
from training.studio import Studio


@dataclass(frozen=True)
class Figures:
    """Of the clips of one subject, decoded against raw; `lap` and the kurtosis are ratios, 1 is right.

    psnr in dB, also of the first and the last frame alone; lap the variance of the Laplacian, the median over frames,
    and that of the first frame; the kurtosis of the first frame's Laplacian; and, of both, the share of checkerboard
    (`detail.checkerboard`) and of stripes of two pixels' period (`detail.stripes`), the median over clips.
    """

    psnr: float
    psnr_first: float
    psnr_last: float
    lap: float
    lap_first: float
    kurtosis_first: float
    checkerboard: float
    checkerboard_raw: float
    stripes: float
    stripes_raw: float


def figures(output: Tensor, video: Tensor) -> Figures:
    """The figures of decoded clips (b 3 t H W) in [-1, 1] against the raw ones."""
    made, true = (detail.laplacian(v) for v in (output, video))
    ratio = made.flatten(2).var(-1).mean(0) / true.flatten(2).var(-1).mean(0)
    return Figures(
        psnr=float(run.psnr(output, video).mean()),
        psnr_first=float(run.psnr(output[:, :, :1], video[:, :, :1]).mean()),
        psnr_last=float(run.psnr(output[:, :, -1:], video[:, :, -1:]).mean()),
        lap=float(ratio.median()),
        lap_first=float(ratio[0]),
        kurtosis_first=float((detail.kurtosis(made[:, 0]) / detail.kurtosis(true[:, 0])).mean()),
        checkerboard=float(detail.checkerboard(output).mean()),
        checkerboard_raw=float(detail.checkerboard(video).mean()),
        stripes=float(detail.stripes(output).median()),
        stripes_raw=float(detail.stripes(video).median()),
    )


@torch.no_grad()
def reconstruct(vae: AutoencoderKLWan, video: Tensor) -> Tensor:
    """The clips (b 3 t H W) encoded to the mean and decoded, one by one."""
    return torch.cat([whole_clip.decode(vae, whole_clip.encode(vae, v[None])[0]) for v in video]).clamp(-1, 1)


def usual_clip(studio: Studio, subject: int, seed: int) -> Clip:
    """A held-out clip as the model learns from."""
    return draw(seed, studio.shapes, subject=subject)


def sharp_clip(studio: Studio, subject: int, seed: int) -> Clip:
    """A held-out clip whose frame pixels cover 2 to 3 pixels of the photograph."""
    return draw(seed, studio.shapes, subject=subject, sharp=True)


def kinds(studio: Studio) -> dict[str, tuple[Callable[[Studio, int, int], Clip], Sequence[int]]]:
    """What there is to look at: how a clip of each kind is drawn, and the subjects that there are of it."""
    return {"usual": (usual_clip, range(len(PHOTOGRAPHS))), "sharp": (sharp_clip, fine(studio.shapes))}


def held_out(
    studio: Studio,
    clip: Callable[[Studio, int, int], Clip],
    subject: int,
    *,
    per_subject: int,
    frames: int = 17,
) -> Tensor:
    """Raw held-out clips (per_subject 3 frames 192 192) of a subject."""
    seeds = [HELD_OUT + subject * 1000 + i for i in range(per_subject)]
    return studio.film([clip(studio, subject, seed) for seed in seeds], frames=frames)


def evaluate(
    vae: AutoencoderKLWan,
    studio: Studio,
    *,
    per_subject: int,
    frames: int = 17,
    subjects: Container[int] = range(len(PHOTOGRAPHS)),
) -> dict[str, dict[str, Figures]]:
    """Figures by subject of usual clips and of sharp ones, of the chosen subjects alone."""
    report: dict[str, dict[str, Figures]] = {}
    for kind, (clip, chosen) in kinds(studio).items():
        report[kind] = {}
        for subject in (s for s in chosen if s in subjects):
            video = held_out(studio, clip, subject, per_subject=per_subject, frames=frames)
            report[kind][PHOTOGRAPHS[subject].subject] = figures(reconstruct(vae, video), video)
    return report


def mean(rows: Mapping[str, Figures]) -> dict[str, float]:
    """Of every figure, over subjects."""
    return {f.name: fmean(asdict(row)[f.name] for row in rows.values()) for f in fields(Figures)}
