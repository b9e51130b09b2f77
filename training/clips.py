"""Camera clips of photographs: what each shows, its path, its light and its words. Knows nothing of pixels or models.

A clip is a photograph seen through a moving, square frame. Everything about it follows from its seed, so that a
clip can be named by one integer and held-out clips are those of other seeds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, TEMPLATES, caption
from training.photographs import FRAME, PHOTOGRAPHS, Photograph

HELD_OUT = 1_000_000_000  # clips of this seed and above are never trained on
BLURRED = 0.2  # share of the moving clips that an open shutter blurs
TONED = 0.3  # share of the clips whose contrast is lower or higher


@dataclass(frozen=True)
class Clip:
    """One clip: what it shows and the camera's path from the first frame (0) to the last (1).

    Centres and half-widths are in units of the photograph's short side; the angle is in radians. `free` are the free
    words of its text, `ease` is how far the camera starts and stops gently (0 not at all, 1 at rest at both ends),
    `shutter` the share of a frame's time in which light falls, `tone` the gain of contrast about a middle grey.
    """

    subject: int
    move: str
    light: str
    free: tuple[str, ...]
    text: str
    centre: tuple[tuple[float, float], tuple[float, float]]
    half: tuple[float, float]
    angle: tuple[float, float]
    exposure: float
    ease: float
    shutter: float
    tone: float


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
    centre, half, angle = route(photograph, shape, move, start, u[4:10])
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


def route(
    photograph: Photograph, shape: tuple[int, int], move: str, start: float, u: Sequence[float]
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


def fine(shapes: Sequence[tuple[int, int]]) -> list[int]:
    """The subjects whose photographs can fill a frame with two of their pixels for each of its own."""
    return [i for i, shape in enumerate(shapes) if min(shape) >= 2 * FRAME]


def _wide(shape: tuple[int, int], u: float) -> float:
    """Half-width of a frame that covers 2 to 3 photograph pixels a frame pixel; fewer where the photograph is small."""
    most = min(shape) / FRAME
    low, high = min(2.0, 0.85 * most), min(3.0, most)
    return (low + (high - low) * u) * FRAME / min(shape) / 2


def _fit(middle: float, travel: float, reach: float, extent: float) -> float:
    """The middle of the path, moved so that the frame stays on the photograph where it can."""
    margin = reach + abs(travel) / 2
    return extent / 2 if 2 * margin >= extent else min(max(middle, margin), extent - margin)
