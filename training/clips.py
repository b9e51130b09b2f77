"""Camera clips of photographs: what each shows, its path, its light and its words. Knows nothing of pixels or models.

A clip is a photograph seen through a moving, square frame (shelllcc.guidance.media.camera). Everything about it follows
from its seed, so that a clip can be named by one integer and held-out clips are those of other seeds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from shelllcc.guidance.media import camera
from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, TEMPLATES, caption
from training.photographs import FRAME, PHOTOGRAPHS

HELD_OUT = 1_000_000_000  # clips of this seed and above are never trained on
BLURRED = 0.2  # share of the moving clips that an open shutter blurs
TONED = 0.3  # share of the clips whose contrast is lower or higher


@dataclass(frozen=True)
class Clip(camera.Clip):
    """A clip, and the free words of its text."""

    free: tuple[str, ...] = ()


def draw(
    seed: int,
    shapes: Sequence[tuple[int, int]],
    *,
    subject: int | None = None,
    move: str | None = None,
    light: str | None = None,
    sharp: bool = False,
) -> Clip:
    """The clip named by `seed`. `shapes` are the (height, width) of all PHOTOGRAPHS; the rest may be pinned.

    A `sharp` clip is in focus and in daylight, and its frame so wide that each pixel covers 2 to 3 of the photograph.
    """
    dice = random.Random(seed)
    u = [dice.random() for _ in range(18)]
    subject = int(u[0] * len(PHOTOGRAPHS)) if subject is None else subject
    move = list(MOVES)[int(u[1] * len(MOVES))] if move is None else move
    light = list(LIGHTS)[int(u[2] * len(LIGHTS))] if light is None else light
    photograph, shape = PHOTOGRAPHS[subject], shapes[subject]
    lo, hi = photograph.view
    start = (lo + (hi - lo) * u[3]) / 2
    shutter = 0.6 + 0.4 * u[13] if move != "static" and u[14] < BLURRED else 0.0
    tone = {0: 0.7, 1: 1.25}.get(int(2 * u[15] / TONED), 1.0)
    if sharp:
        start, light, shutter, tone = _wide(shape, u[3]), "daylight", 0.0, 1.0
    centre, half, angle = camera.route(photograph, shape, move, start, u[4:10])
    free = (
        *(["close"] if u[3] < 0.3 and u[16] < 0.6 else ["wide"] if u[3] > 0.7 and u[16] < 0.6 else []),
        *({0.7: ["soft"], 1.25: ["hard"]}.get(tone, [])),
        *(["blur"] if shutter else []),
    )
    said = dict(template=int(u[10] * len(TEMPLATES)), synonym=int(u[11] * 2))
    return Clip(
        subject=subject,
        move=move,
        light=light,
        free=free,
        text=caption(photograph.subject, move, light, free, **said),
        centre=centre,
        half=half,
        angle=angle,
        exposure=0.92 + 0.16 * u[12],
        ease=min(1.0, 1.5 * u[17]),
        shutter=shutter,
        tone=tone,
    )


def fine(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The subjects whose photographs can fill a frame with two of their pixels for each of its own."""
    return [i for i, shape in enumerate(shapes) if min(shape) >= 2 * FRAME]


def _wide(shape: tuple[int, int], u: float) -> float:
    """Half-width of a frame that covers 2 to 3 photograph pixels a frame pixel; fewer where the photograph is small."""
    most = min(shape) / FRAME
    low, high = min(2.0, 0.85 * most), min(3.0, most)
    return (low + (high - low) * u) * FRAME / min(shape) / 2
