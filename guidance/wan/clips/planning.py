"""How far the planning of many clips is. Knows nothing of what is planned, or of terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

EVERY = 1000  # things between two words about them
Thing = TypeVar("Thing")


class Planning:
    """`told` hears of how many things there are, and which share, 0 to 1, of all `passes` over them is done."""

    def __init__(self, told: Callable[[int, float], None] = lambda things, share: None, *, passes: int = 5) -> None:
        self.told, self.passes, self.passed = told, passes, 0

    def each(self, things: Sequence[Thing]) -> Iterator[Thing]:
        """The things, in a pass of their own."""
        for index, thing in enumerate(things):
            if index % EVERY == 0:
                self.told(len(things), min(1.0, (self.passed + index / len(things)) / self.passes))
            yield thing
        self.passed += 1
