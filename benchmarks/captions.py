"""The 64 captions that every benchmark samples, and real clips that show the same. Knows nothing of models."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from shelllcc.guidance.wan.vocabulary import LIGHTS, MOVES, SUBJECTS, caption
from training.clips import HELD_OUT, Clip, Studio, draw

REAL = HELD_OUT + 500_000  # first seed of the real clips


def captions(count: int = 64) -> Iterator[tuple[str, str, str]]:
    """Subject, move and light: every subject four times with different moves and lights, every move eight times."""
    subjects, moves, lights = list(SUBJECTS), list(MOVES), list(LIGHTS)
    for i in range(count):
        turn, index = divmod(i, len(subjects))
        yield subjects[index], moves[(index + 2 * turn + index // 8) % 8], lights[(index + turn) % 4]


def prompts(count: int = 64) -> list[str]:
    return [caption(*words) for words in captions(count)]


def real_clips(studio: Studio, count: int = 64, *, draw_number: int = 0) -> list[Clip]:
    """Real clips, never trained on, that show what the captions say; another draw has other camera paths."""
    subjects = list(SUBJECTS)
    return [
        draw(REAL + 1000 * draw_number + i, studio.shapes, subject=subjects.index(s), move=m, light=li)
        for i, (s, m, li) in enumerate(captions(count))
    ]


def real_frames(studio: Studio, count: int = 64, *, draw_number: int = 0) -> Tensor:
    """uint8 (count, 17, 192, 192, 3) frames of those clips, one after the other to spare memory."""
    frames = [studio.film([clip])[0] for clip in real_clips(studio, count, draw_number=draw_number)]
    return torch.stack([((f + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu() for f in frames])
