"""Photographs under a moving camera: paths, lights and the renderer. Knows nothing of models, captions or files.

A clip is a photograph seen through a moving, square frame. It is real video's stand-in where there is none: every
pixel of it comes from a photograph, and the camera's path is known exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F

SUPERSAMPLE = 2  # the frame is sampled on a finer grid, then averaged
INSTANTS = 6  # averaged over an open shutter
STEPS = 16  # between the first frame and the last


class Framed(Protocol):
    """How a photograph may be framed.

    `view` is the least and greatest width of the frame over the photograph's short side, `focus` the (x, y), in 0..1,
    about which it lies, and `wander` how far its centre may stray from there, over the photograph's size.
    """

    @property
    def view(self) -> tuple[float, float]: ...

    @property
    def focus(self) -> tuple[float, float]: ...

    @property
    def wander(self) -> float: ...


@dataclass(frozen=True)
class Clip:
    """One clip: what it shows and the camera's path from the first frame (0) to the last (1).

    Centres and half-widths are in units of the photograph's short side; the angle is in radians. `ease` is how far the
    camera starts and stops gently (0 not at all, 1 at rest at both ends), `shutter` the share of a frame's time in
    which light falls, `tone` the gain of contrast about a middle grey.
    """

    subject: int
    move: str
    light: str
    text: str
    centre: tuple[tuple[float, float], tuple[float, float]]
    half: tuple[float, float]
    angle: tuple[float, float]
    exposure: float
    ease: float = 0.0
    shutter: float = 0.0
    tone: float = 1.0


def route(
    photograph: Framed, shape: tuple[int, int], move: str, start: float, u: Sequence[float]
) -> tuple[tuple[tuple[float, float], tuple[float, float]], tuple[float, float], tuple[float, float]]:
    """Centre, half-width and angle of the frame at both ends of a move; `start` is the half-width it begins with.

    `shape` is the photograph's (height, width); `u` are six numbers in 0..1: zoom, travel, spin, lean and the place.
    """
    height, width = shape
    short = min(height, width)
    extent = (width / short, height / short)
    end, lo = start, photograph.view[0]
    zoom = 1.2 + 0.35 * u[0]
    if move == "zoom in":
        start, end = max(start, 0.5 * lo * zoom), max(start, 0.5 * lo * zoom) / zoom
    elif move == "zoom out":
        start, end = max(start, 0.5 * lo * zoom) / zoom, max(start, 0.5 * lo * zoom)

    travel = (0.18 + 0.27 * u[1]) * 2 * start
    dx, dy = {
        "pan left": (-travel, 0.0),
        "pan right": (travel, 0.0),
        "tilt up": (0.0, -travel),
        "tilt down": (0.0, travel),
    }.get(move, (0.0, 0.0))
    spin = math.radians(12 + 18 * u[2]) if move == "roll" else 0.0
    lean = math.radians(4) * (2 * u[3] - 1)
    reach = max(start, end) * (abs(math.cos(spin)) + abs(math.sin(spin)))

    x, y = (
        _fit(
            photograph.focus[i] * extent[i] + photograph.wander * (2 * u[4 + i] - 1) * extent[i],
            move_i,
            reach,
            extent[i],
        )
        for i, move_i in enumerate((dx, dy))
    )
    centre = ((x - dx / 2, y - dy / 2), (x + dx / 2, y + dy / 2))
    return centre, (start, end), (lean - spin / 2, lean + spin / 2)


class Camera:
    """Photographs on a device, ready to be filmed."""

    def __init__(self, photographs: Sequence[torch.Tensor], device: torch.device | str = "cpu") -> None:
        self.shapes = [(int(p.shape[1]), int(p.shape[2])) for p in photographs]
        height, width = (max(s[i] for s in self.shapes) for i in (0, 1))
        self.sheet = torch.stack(
            [F.pad(p[None], (0, width - p.shape[2], 0, height - p.shape[1]), mode="replicate")[0] for p in photographs]
        ).to(device)

    @torch.no_grad()
    def film(
        self, clips: Sequence[Clip], *, frames: int = 17, size: int, window: tuple[int, int, int] | None = None
    ) -> torch.Tensor:
        """The clips as float (b, 3, t, h, w) in [-1, 1].

        `window` = (top, left, side) renders only that part of the size x size frame; `frames` below 17 renders the
        beginning of the path, at the same speed.
        """
        window = window or (0, 0, size)
        time = torch.arange(frames) / STEPS
        video = self.sheet.new_empty(len(clips), 3, frames, window[2], window[2])
        for blurred in (False, True):
            chosen = [i for i, clip in enumerate(clips) if (clip.shutter > 0) == blurred]
            if not chosen:
                continue
            some = [clips[i] for i in chosen]
            instants = (torch.arange(INSTANTS) + 0.5) / INSTANTS - 0.5 if blurred else torch.zeros(1)
            opened = torch.tensor([c.shutter for c in some])[:, None, None] / STEPS
            light = self._expose(some, (time[:, None] + opened * instants).flatten(1), size, window)
            video[chosen] = light.unflatten(2, (frames, len(instants))).mean(3)
        return video

    def _expose(
        self, clips: Sequence[Clip], time: torch.Tensor, size: int, window: tuple[int, int, int]
    ) -> torch.Tensor:
        """The clips at the instants `time` (b, t) of their paths, 0 their beginning and 1 their end."""
        device = self.sheet.device
        top, left, side = window
        n, b, frames = SUPERSAMPLE, len(clips), time.shape[-1]
        axis = (torch.arange(size * n, device=device) + 0.5) / (size * n) * 2 - 1
        y, x = torch.meshgrid(axis[top * n : (top + side) * n], axis[left * n : (left + side) * n], indexing="ij")

        ease = torch.tensor([c.ease for c in clips])[:, None]
        time = time + ease * (3 * time**2 - 2 * time**3 - time)

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
        about = torch.tensor([[*map(float, self.shapes[c.subject]), float(c.subject)] for c in clips])
        sent = torch.cat([path.transpose(0, 1).flatten(1), grade, about], dim=1)
        if device.type == "cuda":
            sent = sent.pin_memory().to(device, non_blocking=True)
        cx, cy, cos, sin = (v[..., None, None] for v in sent[:, : 4 * frames].view(b, 4, frames).unbind(1))
        grade, subject = sent[:, 4 * frames : -3].view(b, 6, 1, 1, 1), sent[:, -1].long()
        own = sent[:, -2].view(b, 1, 1, 1), sent[:, -3].view(b, 1, 1, 1)  # width and height of each photograph

        height, width = self.sheet.shape[-2:]
        across, down = _mirror(cx + cos * x - sin * y, own[0]), _mirror(cy + sin * x + cos * y, own[1])
        grid = torch.stack([across * 2 / width - 1, down * 2 / height - 1], -1)
        grid = grid.view(b, frames * side * n, side * n, 2)
        pixels = F.grid_sample(self.sheet[subject], grid, padding_mode="border", align_corners=False)
        pixels = F.avg_pool2d(pixels.view(b * 3, frames, side * n, side * n), n).view(b, 3, frames, side, side)
        depth = ((top + 0.5 + torch.arange(side, device=device)) / size).view(-1, 1)  # 0 at the top of the frame
        gain, low_sun, contrast, lift = grade[:, :3], grade[:, 3:4], grade[:, 4:5], grade[:, 5:]
        pixels = pixels * (1 + low_sun * (0.25 * depth - 0.15)) * contrast + lift
        return (pixels * gain).clamp(0, 1) * 2 - 1


def _mirror(place: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Pixel coordinates, those beyond 0 and `size` mirrored back into the photograph."""
    place = place % (2 * size)
    return torch.minimum(place, 2 * size - place)


def _fit(middle: float, travel: float, reach: float, extent: float) -> float:
    """The middle of the path, moved so that the frame stays on the photograph where it can."""
    margin = reach + abs(travel) / 2
    return extent / 2 if 2 * margin >= extent else min(max(middle, margin), extent - margin)


def _grade(clip: Clip) -> list[float]:
    """What a light does: gain of red, green and blue, how much the low sun warms the ground, contrast, lift."""
    gains = {"sunset": (1.12, 0.82, 0.58), "night": (0.34, 0.44, 0.72)}
    low_sun = 1.0 if clip.light == "sunset" else 0.0
    contrast, lift = (0.58, 0.32) if clip.light == "fog" else (1.0, 0.0)
    contrast, lift = contrast * clip.tone, lift * clip.tone + 0.45 * (1 - clip.tone)
    return [g * clip.exposure for g in gains.get(clip.light, (1.0, 1.0, 1.0))] + [low_sun, contrast, lift]
