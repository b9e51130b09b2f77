"""A picture in the terminal, above the line of progress: which of the ways to draw one it knows, and where it goes.

What the environment does not tell is asked of the terminal. Knows nothing of what the picture shows.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.control import Control
from rich.live_render import LiveRender
from rich.segment import ControlType, Segment

from shelllcc.commands import streams
from shelllcc.guidance.media.inline import WAYS, Way

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TERMINAL = "terminal"  # whichever way it knows
WORDS = (TERMINAL, *WAYS)
ITERM2 = ("iTerm.app", "WezTerm")  # as TERM_PROGRAM says
KITTY = ("kitty", "ghostty")
WAIT = 1.0  # seconds for an answer; whoever has none is asked once
OFTEN = 0.3  # seconds between pictures
DEAR = 10  # times as long as one takes to be drawn is between two, at least
CELL = (6, 12)  # pixels of a cell that tells nothing: rather too few, so that a picture takes no more rows than it has
MOST_ROWS = 14  # that a picture takes
QUESTION = "\x1b[16t\x1b[c"  # how large is a cell; what can you (DA1): every terminal answers the latter
ANSWER = re.compile(rb"\x1b\[\?([\d;]*)c")
SIXEL = b"4"  # among the attributes of DA1
CELL_ANSWER = re.compile(rb"\x1b\[6;(\d+);(\d+)t")


class Terminal(NamedTuple):
    """How a terminal draws pictures, and how large one cell is, in pixels."""

    way: Way
    cell: tuple[int, int]


def find(wanted: str) -> Terminal | str:
    """How pictures come into the terminal at stderr, `wanted` being one of WORDS; else why none can, in words.

    It may be asked, which takes WAIT seconds at most and leaves it as it was.
    """
    if streams.is_quiet():
        return "nothing is shown with --quiet"
    if not (sys.stderr and sys.stderr.isatty()):
        return "stderr is no terminal"
    if os.environ.get("TERM", "dumb") == "dumb":
        return "this terminal can do no more than text (TERM)"
    way = next((way for way in WAYS if way == wanted), None)
    inside = within(os.environ)
    if inside and way is None:
        return f"{inside} passes no picture on by itself: name a way, e.g. --preview sixel"
    way = way or known(os.environ)
    size = _cell_size(sys.stderr.fileno())
    answer = b"" if inside or (way and (size or way != "sixel")) else ask()
    if way is None and (said := ANSWER.search(answer)) and SIXEL in said[1].split(b";"):
        way = "sixel"
    if way is None:
        return "this terminal draws no pictures (kitty, iTerm2 and those with sixel do)"
    if size is None and (told := CELL_ANSWER.search(answer)):
        size = int(told[2]), int(told[1])
    return Terminal(way, size or CELL)


def known(environment: Mapping[str, str]) -> Way | None:
    """The way of a terminal that says its name, kitty's or iTerm2's.

    A variable of the terminal itself goes before one that is only handed on, as from a kitty that an editor was started
    in. VS Code is none of them: whether it draws is a setting, which its answer tells.
    """
    name, kind = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if kind.removeprefix("xterm-") in KITTY or name in KITTY:
        return "kitty"
    if name in ITERM2:
        return "iterm2"
    if name:
        return None
    if environment.get("LC_TERMINAL") == "iTerm2":  # ssh hands it on
        return "iterm2"
    return "kitty" if environment.get("KITTY_WINDOW_ID") else None


def within(environment: Mapping[str, str]) -> str | None:
    """The multiplexer that is between us and the terminal."""
    kind = environment.get("TERM", "")
    if environment.get("TMUX") or kind.startswith("tmux"):
        return "tmux"
    return "screen" if environment.get("STY") or kind.startswith("screen") else None


def ask(wait: float = WAIT) -> bytes:
    """What the terminal answers to QUESTION; nothing where it cannot be asked, or says nothing in time.

    Only the process in the foreground may ask, and only where nobody has typed ahead. However it ends, the terminal is
    as it was, and no part of an answer is left for whoever reads next.
    """
    try:
        import termios
    except ImportError:  # Windows
        return b""
    if not _may_ask():
        return b""
    terminal, said = sys.stdin.fileno(), bytearray()
    until = time.monotonic() + wait
    before = termios.tcgetattr(terminal)
    now = [*before[:3], before[3] & ~(termios.ICANON | termios.ECHO), *before[4:]]

    def hear() -> None:
        while not ANSWER.search(said) and (left := until - time.monotonic()) > 0:
            if select.select([terminal], [], [], left)[0]:
                part = os.read(terminal, 1024)
                if not part:  # it is gone
                    return
                said.extend(part)

    how = termios.TCSADRAIN
    try:
        termios.tcsetattr(terminal, how, now)
        if select.select([terminal], [], [], 0)[0]:  # typed ahead: what is read would be gone
            return b""
        how = termios.TCSAFLUSH
        try:
            sys.stderr.write(QUESTION)
            sys.stderr.flush()
            hear()
        except BaseException:  # Ctrl-C: the answer is on its way all the same
            hear()
            raise
    finally:
        termios.tcsetattr(terminal, how, before)
    return bytes(said)


class Screen(RenderHook):
    """Pictures above the live line of a rich console, each in the place of the one before.

    A line that is printed meanwhile stays below the picture; the next picture then comes below that line.
    """

    def __init__(self, console: Console, terminal: Terminal) -> None:
        self.console, self.terminal = console, terminal
        self.number = os.getpid() % 2**16 * 2**8  # kitty's: others have theirs
        self._rows = 0  # that are held for a picture, right above the line
        self._size = console.size
        self._waiting: NDArray[np.uint8] | None = None
        self._next = 0.0  # when another one may come

    def show(self, frames: NDArray[np.uint8]) -> None:
        """Frames (t, h, w, 3) of uint8, in rows; of those that come too often the last is kept for `flush`."""
        self._waiting = frames
        if time.monotonic() >= self._next:
            self.flush()

    def flush(self) -> None:
        """Draw what waits."""
        frames, self._waiting = self._waiting, None
        if frames is None:
            return
        from shelllcc.guidance.media.inline import drawn

        begun = time.monotonic()
        width, height = self.console.size
        most = min(MOST_ROWS, height // 2)
        cell = self.terminal.cell
        image = sheet(frames, (width - 1) * cell[0], most * cell[1])
        columns, rows = (-(-side // part) for side, part in zip((image.shape[1], image.shape[0]), cell, strict=True))
        if (width, height) != self._size:
            self._size, self._rows = self.console.size, 0
        fresh = 0 if rows == self._rows else rows
        if fresh:
            self._rows, self.number = rows, self.number + 1
        text = drawn(self.terminal.way, image, columns=columns, rows=rows, number=self.number)
        self.console.print(_Room(fresh, _Drawn(passed_on(text, os.environ), above=self._rows)))
        self._next = time.monotonic() + max(OFTEN, DEAR * (time.monotonic() - begun))

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """What is printed, as rich asks its hooks: the live line is in it, and a picture comes behind that.

        Any other line parts the picture before from where the next one would be.
        """
        if not all(isinstance(part, (Control, LiveRender, _Room)) for part in renderables):
            self._rows = 0
        return [*renderables, *(part.picture for part in renderables if isinstance(part, _Room))]

    @contextlib.contextmanager
    def hooked(self) -> Iterator[None]:
        """Within the block it hears of what is printed; the live line is there before and after."""
        self.console.push_render_hook(self)
        try:
            yield
        finally:
            self.console.pop_render_hook()


class _Room:
    """So many empty rows, and the picture that is to come above the line which follows them."""

    def __init__(self, rows: int, picture: _Drawn) -> None:
        self.rows, self.picture = rows, picture

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from [Segment.line()] * self.rows


class _Drawn:
    """A picture `above` rows over the cursor's; the cursor is afterwards where it was."""

    def __init__(self, text: str, *, above: int) -> None:
        self.text, self.above = text, above

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = f"\x1b7\x1b[{self.above}A\r{self.text}\x1b8"
        yield Segment(text, None, [(ControlType.HOME,)])  # of any kind: it has no width, and is written as it is


def sheet(frames: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """Frames (t, h, w, 3) of uint8 in rows, as large as they can be in a picture of at most so many pixels."""
    import numpy as np
    from PIL import Image

    count, high, wide = frames.shape[:3]

    def scale(across: int) -> float:
        return min(width / (across * wide), height / (-(-count // across) * high))

    across = max(range(1, count + 1), key=scale)
    side = max(1, int(wide * scale(across))), max(1, int(high * scale(across)))
    large = [np.asarray(Image.fromarray(frame).resize(side, Image.Resampling.BILINEAR)) for frame in frames]
    found = np.zeros((-(-count // across) * side[1], across * side[0], 3), np.uint8)
    for index, frame in enumerate(large):
        y, x = index // across * side[1], index % across * side[0]
        found[y : y + side[1], x : x + side[0]] = frame
    return found


def passed_on(text: str, environment: Mapping[str, str]) -> str:
    """Escapes that tmux does not know, wrapped so that it hands them to its terminal, where it may; sixel it knows."""
    if within(environment) != "tmux" or text.startswith("\x1bP"):
        return text
    doubled = text.replace("\x1b", "\x1b\x1b")
    return f"\x1bPtmux;{doubled}\x1b\\"


def _may_ask() -> bool:
    """Whether stdin and stderr are one terminal, and it is ours to talk to."""
    try:
        terminal, line = sys.stdin.fileno(), sys.stderr.fileno()
        alike = os.isatty(terminal) and os.isatty(line) and os.ttyname(terminal) == os.ttyname(line)
        return alike and os.tcgetpgrp(terminal) == os.getpgrp()
    except (AttributeError, OSError, ValueError):
        return False


def _cell_size(terminal: int) -> tuple[int, int] | None:
    """Pixels of a cell, where the terminal's driver knows."""
    try:
        import fcntl
        import struct
        import termios

        rows, columns, wide, high = struct.unpack("HHHH", fcntl.ioctl(terminal, termios.TIOCGWINSZ, b"\0" * 8))
    except (ImportError, OSError):
        return None
    size = wide // max(columns, 1), high // max(rows, 1)
    return size if min(size) > 1 else None
