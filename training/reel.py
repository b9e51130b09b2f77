"""A reel of rendered clips on the device, cut afresh at every step and renewed as training goes.

A clip costs as much to film as a step to take; each is cut a few times, at other places, before another takes its
place.
"""

from __future__ import annotations

import random

import torch
from torch import Tensor

from training.clips import HELD_OUT, draw, fine
from training.photographs import FRAME
from training.studio import Studio

AT_ONCE = 16  # clips filmed together


class Reel:
    """`size` clips of `frames` x FRAME x FRAME, a share of `sharp` ones among them, as uint8."""

    def __init__(self, studio: Studio, size: int, frames: int, sharp: float, seed: str) -> None:
        self.studio, self.frames, self.sharp = studio, frames, sharp
        self.dice, self.next, self.due = random.Random(seed), 0, 0.0
        self.clips = torch.empty(size, 3, frames, FRAME, FRAME, dtype=torch.uint8, device=studio.sheet.device)
        for _ in range(0, size, AT_ONCE):
            self._film()

    def renew(self, count: float) -> None:
        """Replace the `count` oldest clips: some at one call, none at the next, so many on average."""
        self.due += count
        while self.due >= AT_ONCE:
            self.due -= AT_ONCE
            self._film()

    def cut(self, count: int, side: int) -> Tensor:
        """(count 3 frames side side) in [-1, 1]: parts of clips, all at one place of the frame."""
        top, left = (self.dice.randrange(0, FRAME - side + 1) for _ in range(2))
        chosen = torch.randint(len(self.clips), (count,), device=self.clips.device)
        return self.clips[..., top : top + side, left : left + side][chosen] / 127.5 - 1

    def _film(self) -> None:
        count = min(AT_ONCE, len(self.clips))
        shapes, sharp = self.studio.shapes, fine(self.studio.shapes)
        clips = [
            draw(self.dice.randrange(HELD_OUT), shapes, subject=self.dice.choice(sharp), sharp=True)
            if self.dice.random() < self.sharp
            else draw(self.dice.randrange(HELD_OUT), shapes)
            for _ in range(count)
        ]
        video = self.studio.film(clips, frames=self.frames)
        places = torch.arange(self.next, self.next + count, device=self.clips.device) % len(self.clips)
        self.clips[places] = ((video + 1) * 127.5).round().byte()
        self.next = (self.next + count) % len(self.clips)
