"""The captions that every benchmark samples, and real clips that show the same. Knows nothing of models.

Two splits of 64 captions, without one in common: what is chosen is chosen on "tuning", what is claimed is measured on
"held-out". Their noise and their real clips differ, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, SUBJECTS, caption
from training.clips import HELD_OUT, Clip, Studio, draw

Split = Literal["tuning", "held-out"]
SPLITS: tuple[Split, ...] = ("tuning", "held-out")
REAL = HELD_OUT + 500_000  # first seed of the real clips


def captions(count: int = 64, split: Split = "tuning") -> Iterator[tuple[str, str, str]]:
    """Subject, move and light: every subject four times with different moves and lights, every move eight times."""
    subjects, moves, lights = list(SUBJECTS), list(MOVES), list(LIGHTS)
    for i in range(count):
        turn, index = divmod(i, len(subjects))
        other = SPLITS.index(split)  # a subject's moves are the even ones of one split, the odd ones of the other
        yield subjects[index], moves[(index + 2 * turn + index // 8 + other) % 8], lights[(index + turn) % 4]


def prompts(count: int = 64, split: Split = "tuning") -> list[str]:
    return [caption(*words) for words in captions(count, split)]


def subjects(count: int = 64, split: Split = "tuning") -> Tensor:
    """(count,) index of each caption's subject."""
    names = list(SUBJECTS)
    return torch.tensor([names.index(subject) for subject, _, _ in captions(count, split)])


def seeds(count: int = 64, split: Split = "tuning") -> list[int]:
    """The seed of each caption's noise."""
    return [1000 * SPLITS.index(split) + i for i in range(count)]


def real_clips(studio: Studio, count: int = 64, split: Split = "tuning", *, draw_number: int = 0) -> list[Clip]:
    """Real clips, never trained on, that show what the captions say; another draw has other camera paths."""
    names, first = list(SUBJECTS), REAL + 100_000 * SPLITS.index(split) + 1000 * draw_number
    return [
        draw(first + i, studio.shapes, subject=names.index(s), move=m, light=li)
        for i, (s, m, li) in enumerate(captions(count, split))
    ]


def real_frames(studio: Studio, count: int = 64, split: Split = "tuning", *, draw_number: int = 0) -> Tensor:
    """uint8 (count, 17, 192, 192, 3) frames of those clips, one after the other to spare memory."""
    frames = [studio.film([clip])[0] for clip in real_clips(studio, count, split, draw_number=draw_number)]
    return torch.stack([((f + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu() for f in frames])
