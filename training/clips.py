"""The camera clips that the shipped tiny Wan learned from. Knows nothing of models or files.

A clip is a photograph seen through a moving, square frame (shelllcc.guidance.media.camera). Everything about it follows
from its seed, so that a clip can be named by one integer and held-out clips are those of other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shelllcc.guidance.media.camera import Camera, Clip, route
from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, TEMPLATES, caption
from training.photographs import FRAME, PHOTOGRAPHS

__all__ = ["HELD_OUT", "Clip", "Studio", "draw", "route"]

HELD_OUT = 1_000_000_000  # clips of this seed and above are never trained on


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
    photograph = PHOTOGRAPHS[subject]
    lo, hi = photograph.view
    centre, half, angle = route(photograph, shapes[subject], move, (lo + (hi - lo) * u[3]) / 2, u[4:10])
    text = caption(photograph.subject, move, light, template=int(u[10] * len(TEMPLATES)), synonym=int(u[11] * 2))
    return Clip(
        subject=subject,
        move=move,
        light=light,
        text=text,
        centre=centre,
        half=half,
        angle=angle,
        exposure=0.92 + 0.16 * u[12],
    )


class Studio(Camera):
    """A camera that draws its clips by their seeds."""

    def draw(self, seeds: Sequence[int]) -> list[Clip]:
        return [draw(seed, self.shapes) for seed in seeds]

    def film(
        self, clips: Sequence[Clip], *, frames: int = 17, size: int = FRAME, window: tuple[int, int, int] | None = None
    ) -> torch.Tensor:
        return super().film(clips, frames=frames, size=size, window=window)
