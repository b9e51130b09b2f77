"""Progress on the terminal's stderr: stage, step, sigma, distance and the time left. Knows nothing of sampling."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from shelllcc.guidance.terminal import shown

if TYPE_CHECKING:
    from shelllcc.guidance.wan.clips.sample import Moment


class TerminalReporter:
    """A rich progress bar on a terminal; plain lines, one a stage, where stderr is no terminal."""

    def __init__(self) -> None:
        self.console = Console(stderr=True)
        self.live = self.console.is_terminal
        self.progress = Progress(
            TextColumn("{task.description:<22}", style="bold", markup=False),
            BarColumn(bar_width=28),
            TextColumn("{task.fields[state]}", markup=False),
            TextColumn("{task.fields[alarm]}", style="red", markup=False),
            TimeElapsedColumn(),
            TextColumn("eta"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.live,
        )
        self.task = self.progress.add_task("starting", total=None, state="", alarm="")

    def __enter__(self) -> TerminalReporter:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def stage(self, name: str) -> None:
        if self.live:
            self.progress.reset(self.task, description=shown(name), total=None, state="", alarm="")
        elif sys.stderr is not None:  # print would take stdout
            print(shown(f"shelllcc: {name}"), file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """A line that stays."""
        self._print(f"shelllcc: note: {text}")

    def line(self, text: str) -> None:
        """A result that stays."""
        self._print(text)

    def count(self, done: int, total: int, state: str = "") -> None:
        """How many of a stage's things are done."""
        self.progress.update(self.task, completed=done, total=total, state=shown(state) or f"{done}/{total}")

    def fetched(self, done: int, total: int | None) -> None:
        """How many bytes are here."""
        state = f"{done / 1e6:.1f} MB" + (f" of {total / 1e6:.1f}" if total else "")
        self.progress.update(self.task, completed=done, total=total, state=state)

    def step(self, moment: Moment) -> None:
        state = f"step {moment.step}/{moment.steps}  sigma {moment.sigma:.3f}"
        if moment.distance is not None:
            state += f"  distance {moment.distance:.3f}"
        alarm = "" if moment.alarm is None else f"{moment.alarm} alarm"
        self.progress.update(self.task, completed=moment.step, total=moment.steps, state=state, alarm=alarm)

    def _print(self, text: str) -> None:
        self.console.print(shown(text), markup=False, emoji=False, highlight=False, soft_wrap=True)
