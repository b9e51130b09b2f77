"""Progress on the terminal's stderr: stage, step and the time left, then what has room. Knows nothing of sampling."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

from shelllcc.commands import streams
from shelllcc.commands.pace import Pace
from shelllcc.commands.screen import Screen, Terminal
from shelllcc.guidance.measures.balance import ALARMS
from shelllcc.guidance.terminal import shown
from shelllcc.guidance.wan.clips.planning import Planning

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shelllcc.guidance.wan.clips.sample import Moment

BAR = 20  # cells
EVERY = 30.0  # seconds between lines of a stage where stderr is no terminal
MANY = 5000  # clips whose planning takes its time
SAMPLING = "sampling"  # what the stages end in that begin a clip


class Part(NamedTuple):
    """A part of the line, in its place; those of a higher rank go first where there is no room, rank 0 never."""

    text: str
    rank: int
    style: str = ""


def line_of(parts: list[Part], width: int) -> Text:
    """The parts that fit beside each other in `width` cells, in their order. The first one is cut if all else fails."""
    parts = [part for part in parts if part.text]
    kept: list[Part] = []
    for part in sorted(parts, key=lambda part: part.rank):
        if part.rank == 0 or sum(cell_len(one.text) + 2 for one in (*kept, part)) - 2 <= width:
            kept.append(part)
    over = sum(cell_len(one.text) + 2 for one in kept) - 2 - width
    if over > 0 and kept:
        room = max(1, cell_len(kept[0].text) - over)
        kept[0] = Part(set_cell_size(kept[0].text, room).rstrip(), 0, kept[0].style)
        parts[parts.index(next(part for part in parts if part.rank == 0))] = kept[0]
    return Text("  ").join(Text(part.text, part.style) for part in parts if part in kept)


def clock(seconds: float) -> str:
    """Seconds as 4:10, or 1:02:03."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def planned(*, passes: int = 5) -> Iterator[Planning]:
    """A planning that is told of while it goes, where there are many clips."""
    with contextlib.ExitStack() as stack:
        reporters: list[TerminalReporter] = []

        def told(clips: int, share: float) -> None:
            if clips < MANY:
                return
            if not reporters:
                reporters.append(stack.enter_context(TerminalReporter()))
                reporters[0].stage(f"planning {clips:,} clips")
            reporters[0].count(round(share * clips), clips, f"{share:.0%}")

        yield Planning(told, passes=passes)


class TerminalReporter(ProgressColumn):
    """One line on a terminal; plain lines, one a stage and one each half minute, where stderr is none.

    Of several clips it says which one is being made, and how long they will take together. On a `terminal` that draws
    pictures, these are above the line.
    """

    def __init__(self, terminal: Terminal | None = None) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal and not streams.is_quiet()
        self.screen = Screen(self.console, terminal) if self.live and terminal else None
        self.progress = Progress(self, console=self.console, disable=not self.live, transient=True)
        self.hooks = contextlib.ExitStack()
        self.task = self.progress.add_task("starting", total=None)
        self.name, self.begun, self.said = "starting", time.monotonic(), time.monotonic()
        self.done, self.total = 0, 0
        self.state, self.details, self.alarm = "", list[str](), ""
        self.pace = Pace()

    def __enter__(self) -> TerminalReporter:
        self.progress.start()
        if self.screen is not None:
            self.hooks.enter_context(self.screen.hooked())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hooks.close()
        self.progress.stop()

    def expect(self, clips: int, each: int = 1) -> None:
        """Say how many clips there will be, `each` of them in turn of one prompt and seed."""
        self.pace.clips, self.pace.each = clips, each

    def passed(self, clips: int) -> None:
        """Say how many of them are there, made now or before."""
        self.pace.end()
        self.pace.clip = clips

    def stage(self, name: str) -> None:
        """Say what is done now; a stage that ends in `sampling` begins a clip."""
        if self.screen is not None:
            self.screen.flush()
        if name.endswith(SAMPLING):
            self.pace.begin()
        self.name, self.begun, self.said = shown(name), time.monotonic(), time.monotonic()
        self.done, self.total = 0, 0
        self.state, self.details, self.alarm = "", [], ""
        before = f"{self._of_clips()}: " if name.endswith(SAMPLING) and self._of_clips() else ""
        self._plain(f"{before}{self.name}")

    def picture(self, frames: NDArray[np.uint8]) -> None:
        """Frames (t, h, w, 3) to be seen above the line, where the terminal draws any."""
        if self.screen is not None:
            self.screen.show(frames)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._print(f"shelllcc: note: {text}")

    def line(self, text: str) -> None:
        """A result that stays."""
        self._print(text)

    def count(self, done: int, total: int, state: str = "") -> None:
        """How many of a stage's things are done."""
        self._at(done, total, shown(state) or f"{done}/{total}")
        if not state:
            self._now_and_then()

    def fetched(self, done: int, total: int | None) -> None:
        """How many bytes are here."""
        self._at(done, total or 0, f"{done / 1e6:.1f} MB" + (f" of {total / 1e6:.1f}" if total else ""))

    def step(self, moment: Moment) -> None:
        """How far a sampling is."""
        self._at(moment.step, moment.steps, f"step {moment.step}/{moment.steps}")
        self.pace.step(moment)
        self.details = [f"sigma {moment.sigma:.3f}"]
        if moment.distance is not None:
            self.details.append(f"distance {moment.distance:.3f}")
        self.alarm = "" if moment.alarm is None else ALARMS[moment.alarm]
        self.progress.refresh()  # also of a sampling that is done before the line would be drawn
        self._now_and_then()

    def render(self, task: Task) -> Text:
        """The line as it is now, for rich."""
        width = self.console.width
        details = [Part(text, 4) for text in self.details]
        left, elapsed = self._left(), clock(time.monotonic() - self.begun)
        return line_of(
            [
                Part(self.name, 0, "bold"),
                Part(self.state, 0),
                Part("" if left is None else f"eta {clock(left)}", 0, "cyan"),
                Part(self._of_clips(), 1),
                Part(self.alarm, 2, "red"),
                *details,
                Part(self._bar(), 5),
                Part(f"after {elapsed}", 3 if left is None else 6),
            ],
            width,
        )

    def _at(self, done: int, total: int, state: str) -> None:
        self.done, self.total, self.state = done, total, state

    def _left(self) -> float | None:
        """Seconds of this stage, as far as it can be told."""
        if self.name.endswith(SAMPLING):
            return self.pace.steps_left()
        if not 0 < self.done <= self.total:
            return None
        return (time.monotonic() - self.begun) * (self.total - self.done) / self.done

    def _of_clips(self) -> str:
        """Which of several clips is being made, and how long all will take: "clip 3 of 8, 4:10 left"."""
        pace = self.pace
        if pace.clips < 2 or not pace.clip:
            return ""
        words, left = f"clip {min(pace.clip, pace.clips)} of {pace.clips}", pace.left()
        return words if left is None else f"{words}, {clock(left)} left"

    def _bar(self) -> str:
        if not self.total:
            return ""
        full, rest = ("━", "╌") if self.console.encoding.lower().startswith("utf") else ("=", "-")
        there = min(BAR, round(BAR * self.done / self.total))
        return full * there + rest * (BAR - there)

    def _now_and_then(self) -> None:
        """Where stderr is no terminal, a long stage says every half minute how far it is."""
        if not self.live and time.monotonic() - self.said > EVERY:
            self.said = time.monotonic()
            left = self._left()
            words = [self._of_clips(), self.name, self.state]
            self._plain(": ".join(filter(None, words)) + ("" if left is None else f", eta {clock(left)}"))

    def _plain(self, text: str) -> None:
        """A line where stderr is no terminal."""
        if not self.live and not streams.is_quiet() and sys.stderr is not None:  # print would take stdout
            print(shown(f"shelllcc: {text}"), file=sys.stderr, flush=True)

    def _print(self, text: str) -> None:
        if not streams.is_quiet():
            self.console.print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
