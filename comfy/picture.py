"""A picture of distances over frames, drawn with torch alone. Knows nothing of banks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WIDTH, HEIGHT, EDGE = 512, 256, 16  # pixels
PAPER, LINE, REAL = (1.0, 1.0, 1.0), (0.12, 0.35, 0.75), (0.65, 0.65, 0.65)


def frames_picture(rows: Sequence[Sequence[float]]) -> Tensor:
    """Images (b h w 3), 0 to 1, one a clip: a bar for the distance of every latent frame, and a line at 1, where real
    clips lie. All have one scale, from 0 to the largest distance, or 2."""
    most = max(2.0, *(value for row in rows for value in row))
    return torch.stack([_bars(row, most) for row in rows])


def _bars(values: Sequence[float], most: float) -> Tensor:
    picture, blue = torch.tensor(PAPER).repeat(HEIGHT, WIDTH, 1), torch.tensor(LINE)
    room, wide = HEIGHT - 2 * EDGE, (WIDTH - 2 * EDGE) / len(values)
    for number, value in enumerate(values):
        left, right = (EDGE + round((number + share) * wide) for share in (0.1, 0.9))
        top = HEIGHT - EDGE - round(value / most * room)
        picture[top : HEIGHT - EDGE, left : max(right, left + 1)] = blue
    level = HEIGHT - EDGE - round(room / most)
    picture[level : level + 2, EDGE : WIDTH - EDGE] = torch.tensor(REAL)
    return picture
