"""The captions that every benchmark samples, and real clips that show the same. Knows nothing of models.

Two splits of 64 captions, without one in common: what is chosen is chosen on "tuning", what is claimed is measured on
"held-out". Their noise and their real clips differ, too. Every third caption has a free word.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from shelllcc.guidance.wan.tiny.vocabulary import FREE, LIGHTS, MOVES, SUBJECTS, caption
from training.clips import HELD_OUT, Clip, draw
from training.photographs import FRAME
from training.studio import Studio

Split = Literal["tuning", "held-out"]
SPLITS: tuple[Split, ...] = ("tuning", "held-out")
REAL = HELD_OUT + 500_000  # first seed of the real clips
SOUGHT = 1000  # seeds among which a real clip of a caption is sought; one in five has its free words


class Words(NamedTuple):
    """What a caption asks for."""

    subject: str
    move: str
    light: str
    free: tuple[str, ...]


def captions(count: int = 64, split: Split = "tuning") -> Iterator[Words]:
    """Every subject twice or three times with different moves and lights, every move eight times, every light sixteen.

    A subject's moves are those of even distance in one split, those of odd distance in the other.
    """
    subjects, moves, lights, free = map(list, (SUBJECTS, MOVES, LIGHTS, FREE))
    other = SPLITS.index(split)
    for i in range(count):
        move, light = moves[(i + 2 * (i // 8) + other) % 8], lights[(i + i // 16 + other) % 4]
        word = free[(i // 3 + other) % len(free)]
        word = "wide" if (word, move) == ("blur", "static") else word  # which a shutter does not change
        yield Words(subjects[i % len(subjects)], move, light, (word,) if i % 3 == 0 else ())


def prompts(count: int = 64, split: Split = "tuning") -> list[str]:
    return [caption(*words) for words in captions(count, split)]


def subjects(count: int = 64, split: Split = "tuning") -> Tensor:
    """(count,) index of each caption's subject."""
    names = list(SUBJECTS)
    return torch.tensor([names.index(words.subject) for words in captions(count, split)])


def seeds(count: int = 64, split: Split = "tuning") -> list[int]:
    """The seed of each caption's noise."""
    return [1000 * SPLITS.index(split) + i for i in range(count)]


def real_clips(studio: Studio, count: int = 64, split: Split = "tuning", *, draw_number: int = 0) -> list[Clip]:
    """Real clips, never trained on, that show what the captions say and no more; another draw has other paths."""
    names, place = list(SUBJECTS), 2 * draw_number + SPLITS.index(split)
    clips = []
    for i, (subject, move, light, free) in enumerate(captions(count, split)):
        pinned = dict(subject=names.index(subject), move=move, light=light)
        first = REAL + SOUGHT * (64 * place + i)
        drawn = (draw(seed, studio.shapes, **pinned) for seed in itertools.count(first))  # type: ignore[arg-type]
        clips.append(next(clip for clip in drawn if clip.free == free))
    return clips


def real_frames(
    studio: Studio,
    count: int = 64,
    split: Split = "tuning",
    *,
    draw_number: int = 0,
    frames: int = 17,
    side: int = FRAME,
) -> Tensor:
    """uint8 (count, frames, side, side, 3) frames of those clips, one after the other to spare memory."""
    clips = real_clips(studio, count, split, draw_number=draw_number)
    films = [studio.film([clip], frames=frames, size=side)[0] for clip in clips]
    return torch.stack([((f + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu() for f in films])
