"""Camera clips of photographs: paths, lights and the renderer. Knows nothing of models or files.

A clip is a photograph seen through a moving, square frame. Everything about it follows from its seed, so that a
clip can be named by one integer and held-out clips are those of other seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, TEMPLATES, caption
from training.photographs import FRAME, PHOTOGRAPHS

HELD_OUT = 1_000_000_000  # clips of this seed and above are never trained on
SUPERSAMPLE = 2  # the frame is sampled on a finer grid, then averaged


@dataclass(frozen=True)
class Clip:
    """One clip: what it shows and the camera's path from the first frame (0) to the last (1).

    Centres and half-widths are in units of the photograph's short side; the angle is in radians.
    """

    subject: int
    move: str
    light: str
    text: str
    centre: tuple[tuple[float, float], tuple[float, float]]
    half: tuple[float, float]
    angle: tuple[float, float]
    exposure: float


def draw(
    seed: int,
    shapes: Sequence[tuple[int, int]],
    *,
    subject: int | None = None,
    move: str | None = None,
    light: str | None = None,
) -> Clip:
    """The clip named by `seed`. `shapes` are the (height, width) of the photographs; the rest may be pinned."""
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(16, generator=g).tolist()
    subject = int(u[0] * len(PHOTOGRAPHS)) if subject is None else subject
    move = list(MOVES)[int(u[1] * len(MOVES))] if move is None else move
    light = list(LIGHTS)[int(u[2] * len(LIGHTS))] if light is None else light
    photograph, (height, width) = PHOTOGRAPHS[subject], shapes[subject]
    short = min(height, width)
    extent = (width / short, height / short)

    lo, hi = photograph.view
    start = end = (lo + (hi - lo) * u[3]) / 2
    zoom = 1.2 + 0.35 * u[4]
    if move == "zoom in":
        start, end = max(start, 0.5 * lo * zoom), max(start, 0.5 * lo * zoom) / zoom
    elif move == "zoom out":
        start, end = max(start, 0.5 * lo * zoom) / zoom, max(start, 0.5 * lo * zoom)

    travel = (0.18 + 0.27 * u[5]) * 2 * start
    dx, dy = {
        "pan left": (-travel, 0.0),
        "pan right": (travel, 0.0),
        "tilt up": (0.0, -travel),
        "tilt down": (0.0, travel),
    }.get(move, (0.0, 0.0))
    spin = math.radians(12 + 18 * u[6]) if move == "roll" else 0.0
    lean = math.radians(4) * (2 * u[7] - 1)
    reach = max(start, end) * (abs(math.cos(spin)) + abs(math.sin(spin)))

    middle = [
        _fit(
            photograph.focus[i] * extent[i] + photograph.wander * (2 * u[8 + i] - 1) * extent[i],
            move_i,
            reach,
            extent[i],
        )
        for i, move_i in enumerate((dx, dy))
    ]
    text = caption(photograph.subject, move, light, template=int(u[10] * len(TEMPLATES)), synonym=int(u[11] * 2))
    return Clip(
        subject=subject,
        move=move,
        light=light,
        text=text,
        centre=((middle[0] - dx / 2, middle[1] - dy / 2), (middle[0] + dx / 2, middle[1] + dy / 2)),
        half=(start, end),
        angle=(lean - spin / 2, lean + spin / 2),
        exposure=0.92 + 0.16 * u[12],
    )


class Studio:
    """Photographs on a device, ready to be filmed."""

    def __init__(self, photographs: Sequence[torch.Tensor], device: torch.device | str = "cpu") -> None:
        self.shapes = [(int(p.shape[1]), int(p.shape[2])) for p in photographs]
        height, width = (max(s[i] for s in self.shapes) for i in (0, 1))
        self.sheet = torch.stack(
            [F.pad(p[None], (0, width - p.shape[2], 0, height - p.shape[1]), mode="replicate")[0] for p in photographs]
        ).to(device)

    def draw(self, seeds: Sequence[int]) -> list[Clip]:
        return [draw(seed, self.shapes) for seed in seeds]

    @torch.no_grad()
    def film(
        self, clips: Sequence[Clip], *, frames: int = 17, size: int = FRAME, window: tuple[int, int, int] | None = None
    ) -> torch.Tensor:
        """The clips as float (b, 3, t, h, w) in [-1, 1].

        `window` = (top, left, side) renders only that part of the size x size frame; `frames` below 17 renders the
        beginning of the path, at the same speed.
        """
        device = self.sheet.device
        top, left, side = window or (0, 0, size)
        n, b = SUPERSAMPLE, len(clips)
        axis = (torch.arange(size * n, device=device) + 0.5) / (size * n) * 2 - 1
        y, x = torch.meshgrid(axis[top * n : (top + side) * n], axis[left * n : (left + side) * n], indexing="ij")

        time = torch.arange(frames) / 16

        def along(pairs: list[tuple[float, float]]) -> torch.Tensor:
            first, last = torch.tensor(pairs).unbind(-1)
            return first[:, None] + (last - first)[:, None] * time  # (b, t)

        half = along([(math.log(c.half[0]), math.log(c.half[1])) for c in clips]).exp()
        angle = along([c.angle for c in clips])
        # Everything small is made on the CPU and sent at once: a GPU must not wait for many little copies.
        short = torch.tensor([float(min(self.shapes[c.subject])) for c in clips])[:, None]
        cx = along([(c.centre[0][0], c.centre[1][0]) for c in clips])
        cy = along([(c.centre[0][1], c.centre[1][1]) for c in clips])
        path = torch.stack([cx * short, cy * short, half * angle.cos() * short, half * angle.sin() * short])
        grade = torch.tensor([_grade(c) for c in clips])
        subject = torch.tensor([[float(c.subject)] for c in clips])
        sent = torch.cat([path.transpose(0, 1).flatten(1), grade, subject], dim=1)
        if device.type == "cuda":
            sent = sent.pin_memory().to(device, non_blocking=True)
        cx, cy, cos, sin = (v[..., None, None] for v in sent[:, : 4 * frames].view(b, 4, frames).unbind(1))
        grade, subject = sent[:, 4 * frames : -1].view(b, 6, 1, 1, 1), sent[:, -1].long()

        height, width = self.sheet.shape[-2:]
        grid = torch.stack([(cx + cos * x - sin * y) * 2 / width - 1, (cy + sin * x + cos * y) * 2 / height - 1], -1)
        grid = grid.view(b, frames * side * n, side * n, 2)
        pixels = F.grid_sample(self.sheet[subject], grid, padding_mode="reflection", align_corners=False)
        pixels = F.avg_pool2d(pixels.view(b * 3, frames, side * n, side * n), n).view(b, 3, frames, side, side)
        depth = ((top + 0.5 + torch.arange(side, device=device)) / size).view(-1, 1)  # 0 at the top of the frame
        gain, low_sun, contrast, lift = grade[:, :3], grade[:, 3:4], grade[:, 4:5], grade[:, 5:]
        pixels = pixels * (1 + low_sun * (0.25 * depth - 0.15)) * contrast + lift
        return (pixels * gain).clamp(0, 1) * 2 - 1


def _fit(middle: float, travel: float, reach: float, extent: float) -> float:
    """The middle of the path, moved so that the frame stays on the photograph where it can."""
    margin = reach + abs(travel) / 2
    return extent / 2 if 2 * margin >= extent else min(max(middle, margin), extent - margin)


def _grade(clip: Clip) -> list[float]:
    """What a light does: gain of red, green and blue, how much the low sun warms the ground, contrast, lift."""
    gains = {"sunset": (1.12, 0.82, 0.58), "night": (0.34, 0.44, 0.72)}
    low_sun = 1.0 if clip.light == "sunset" else 0.0
    contrast, lift = (0.58, 0.32) if clip.light == "fog" else (1.0, 0.0)
    return [g * clip.exposure for g in gains.get(clip.light, (1.0, 1.0, 1.0))] + [low_sun, contrast, lift]
