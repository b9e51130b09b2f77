"""How long clips will take, by those before and the steps so far. Knows nothing of terminals.

Steps that are replayed from another clip of the same prompt take no time: they count for nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shelllcc.guidance.wan.clips.sample import Moment


class Pace:
    """The clips of a command, of which `each` in turn are of one prompt and seed; times are in seconds."""

    def __init__(self) -> None:
        self.clips, self.each, self.clip = 0, 1, 0  # all, of a prompt, and at which it is, from 1
        self._made, self._spent = 0.0, 0.0  # clips that were made here, as whole ones, and how long they took
        self._steps_part = 1.0  # of a whole clip, which its steps take
        self._kept = 0.0  # share of its steps that a clip has from the one before
        self._begun: float | None = None  # this clip
        self._stepped: float | None = None  # how long its steps took
        self._free, self._since = 0, 0.0  # steps of it that were replayed, and when the first other one began
        self._step: float | None = None  # how long a step takes that is not replayed
        self._done, self._total = 0, 0

    def begin(self) -> None:
        """Another clip begins."""
        self.end()
        self.clip += 1
        self._begun = self._since = time.monotonic()
        self._stepped, self._free, self._done, self._total = None, 0, 0, 0

    def step(self, moment: Moment) -> None:
        """A step of it is done."""
        now = time.monotonic()
        self._done, self._total, self._kept = moment.step, moment.steps, moment.kept / moment.steps
        if moment.replayed:
            self._free, self._since = moment.step, now
        else:
            self._step = (now - self._since) / (moment.step - self._free)
        if moment.is_last and self._begun is not None:
            self._stepped = now - self._begun

    def end(self) -> None:
        """The clip is there."""
        if self._begun is not None:
            took = time.monotonic() - self._begun
            if self._stepped is not None and not self._free and took > 0:
                self._steps_part = self._stepped / took
            self._made, self._spent = self._made + self._whole(self.clip - 1), self._spent + took
        self._begun = None

    def steps_left(self) -> float | None:
        """How long the rest of its steps will take, as far as it can be told."""
        if self._step is None or not self._done:
            return None
        first = max(self._done, round(self._kept * self._total) if self._done == self._free else 0)
        return self._step * (self._total - first)

    def left(self) -> float | None:
        """How long this clip and all that follow will take."""
        now = 0.0 if self._begun is None else time.monotonic() - self._begun
        if self._made:
            whole = self._spent / self._made
        elif self._done and self._stepped is None:
            whole = now * self._total / self._done
        else:
            return None
        rest = 0.0 if self._begun is None else max(0.0, whole * self._whole(self.clip - 1) - now)
        return rest + whole * sum(map(self._whole, range(self.clip, self.clips)))

    def _whole(self, index: int) -> float:
        """What the clip of that index takes of one that has no steps from another."""
        return 1.0 if index % self.each == 0 else 1 - self._kept * self._steps_part
