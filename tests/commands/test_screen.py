"""Pictures in the terminal: what is drawn, which way a terminal knows, and where a picture stands beside progress."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shelllcc import cli
from shelllcc.commands import progress, screen, streams
from shelllcc.commands.progress import TerminalReporter
from shelllcc.commands.screen import CELL, Terminal, known, passed_on, sheet, within
from shelllcc.guidance.media.inline import CHUNK, WAYS, iterm2, kitty, sixel

CAT = "a tabby cat, zoom in, daylight"
TOY = ["-p", CAT, "--size", "32x32", "--frames", "5", "--steps", "4", "-o", "a.mp4"]
VT340, PLAIN, XTERM = b"\x1b[?63;1;2;4c", b"\x1b[?62;1;22c", b"\x1b[6;20;10t\x1b[?62;4;9;22c"
ESCAPES = re.compile(r"\x1b_G(?P<kitty>.*?)\x1b\\|\x1b\]1337;(?P<iterm2>.*?)\x07|\x1bP(?P<sixel>.*?)\x1b\\", re.DOTALL)
TOKENS = re.compile(ESCAPES.pattern + r"|\x1b\[(?P<csi>[?\d;]*[A-Za-z])|\x1b(?P<esc>[78])|(?P<sign>.)", re.DOTALL)


def noise(height=50, width=70, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def of_kitty(text):
    """The picture that kitty would show, and the keys of its first escape."""
    parts = [part["kitty"].split(";") for part in ESCAPES.finditer(text)]
    keys = dict(pair.split("=") for pair in parts[0][0].split(","))
    assert [part[0].rpartition("m=")[2] for part in parts] == ["1"] * (len(parts) - 1) + ["0"]
    assert max(len(data) for _, data in parts) <= CHUNK
    assert all(len(data) % 4 == 0 for _, data in parts)
    return opened(b64decode("".join(data for _, data in parts))), keys


def of_iterm2(text):
    keys, _, data = ESCAPES.fullmatch(text)["iterm2"].removeprefix("File=").partition(":")
    keys = dict(pair.split("=") for pair in keys.split(";"))
    assert int(keys["size"]) == len(b64decode(data))
    return opened(b64decode(data)), keys


def opened(data):
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


def of_sixel(text):
    """The picture (H, W, 3), colours in whole percents as they are sent; dots that nobody drew are -1."""
    head, _, body = ESCAPES.fullmatch(text)["sixel"].partition("q")
    assert head == "0;1;0"
    size = re.match(r'"1;1;(\d+);(\d+)', body)
    width, height = map(int, size.groups())
    found, palette = np.full((height, width, 3), -1), {}
    x = y = colour = 0
    for part in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|!(\d+)([?-~])|([?-~])|(\$)|(-)", body[size.end() :]):
        number, *levels, chosen, times, sign, lone, again, down = part.groups()
        if number:
            palette[number] = [int(level) for level in levels]
        elif chosen:
            colour = palette[chosen]
        elif again or down:
            x, y = 0, y + 6 * bool(down)
        else:
            for _ in range(int(times or 1)):
                for bit in range(6):
                    if (ord(sign or lone) - 63) >> bit & 1:
                        found[y + bit, x] = colour
                x += 1  # noqa: SIM113
    assert len(palette) <= 256
    return found


def test_kitty_and_iterm2_get_every_pixel():
    image = noise()
    found, keys = of_kitty(kitty(image, columns=40, rows=9, number=77))
    np.testing.assert_array_equal(found, image)
    expected = {"a": "T", "f": "100", "q": "2", "C": "1", "i": "77", "c": "40", "r": "9"}
    assert {key: keys[key] for key in expected} == expected
    found, keys = of_iterm2(iterm2(image, columns=40, rows=9))
    np.testing.assert_array_equal(found, image)
    assert (keys["inline"], keys["width"], keys["height"]) == ("1", "40", "9")


@pytest.mark.parametrize(("height", "width"), [(12, 30), (13, 1), (1, 40), (31, 17)])
def test_sixel_draws_every_dot_once_in_its_colour(height, width):
    levels = np.array([0, 51, 102, 204, 255], np.uint8)  # whole percents
    image = levels[np.random.default_rng(1).integers(0, 5, (height, width, 1))].repeat(3, 2)
    image[:, width // 2 :] = image[0, 0]  # a long run
    np.testing.assert_array_equal(of_sixel(sixel(image)), np.round(image / 2.55))


def test_sixel_of_many_colours_keeps_near_them():
    y, x = np.mgrid[:60, :90]
    image = np.stack([x * 255 // 89, y * 255 // 59, 128 + 0 * x], -1).astype(np.uint8)
    assert np.abs(of_sixel(sixel(image)) * 2.55 - image).mean() < 8


@pytest.mark.parametrize(
    ("environment", "way"),
    [
        ({"TERM": "xterm-kitty", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, "kitty"),
        ({"TERM": "xterm-ghostty", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "ghostty"}, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "WezTerm"}, "iterm2"),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, "iterm2"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "vscode", "KITTY_WINDOW_ID": "1"}, None),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "Apple_Terminal"}, None),
        ({"TERM": "xterm-256color"}, None),
        ({}, None),
    ],
)
def test_a_terminal_is_known_by_the_name_that_it_gives_itself(environment, way):
    assert known(environment) == way
    assert within(environment) is None


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1"}, "tmux"),
        ({"TERM": "screen-256color", "TMUX": "/tmp/tmux-0/default,1,0"}, "tmux"),
        ({"TERM": "screen.xterm-256color", "STY": "1.pts-0.host"}, "screen"),
    ],
)
def test_a_multiplexer_is_told_from_the_terminal_around_it(environment, name):
    assert within(environment) == name
    text = kitty(noise(9, 9), columns=2, rows=1, number=1)
    wrapped = passed_on(text, environment)
    if name == "tmux":
        wrapped = wrapped.removeprefix("\x1bPtmux;").removesuffix("\x1b\\").replace("\x1b\x1b", "\x1b")
    assert wrapped == text
    assert passed_on(sixel(noise(9, 9)), environment) == sixel(noise(9, 9))


def test_a_sheet_fills_what_room_there_is_and_no_more():
    frames = noise(21 * 30, 52).reshape(21, 30, 52, 3)
    for width, height in ((632, 224), (200, 30), (60, 900)):
        high, wide = sheet(frames, width, height).shape[:2]
        assert (wide <= width, high <= height) == (True, True)
        assert max(wide / width, high / height) > 0.8
    single = np.full((1, 4, 4, 3), (10, 200, 30), np.uint8)
    np.testing.assert_array_equal(np.unique(sheet(single, 64, 64).reshape(-1, 3), axis=0), [[10, 200, 30]])


def nothing(terminal):
    pass


def played(work, *, answer=b"", typed=b"", pixels=False, before=nothing, at_question=nothing, size=(24, 80)):
    """What `work` wrote on a pseudo-terminal of so many rows and columns, in a child process, whose exit code is asked
    for; the terminal answers QUESTION as a real one does."""
    child, terminal = pty.fork()
    if child == 0:
        code = 1
        torch.set_num_threads(1)  # torch's pool of threads is made anew after a fork, by one thread alone
        with contextlib.suppress(BaseException):
            rows, columns = size
            cells = (10 * columns, 20 * rows) if pixels else (0, 0)
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, *cells))
            for name in list(os.environ):
                if re.match("COLUMNS|LINES|NO_COLOR|CI$|TERM|TMUX|STY|KITTY|LC_TERMINAL", name):
                    del os.environ[name]
            os.environ["TERM"] = "xterm-256color"
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
            code = work() or 0
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    os.write(terminal, typed)
    before(terminal)
    got, asked = b"", False
    with contextlib.suppress(OSError):  # Linux says so when the child has closed its end
        while part := os.read(terminal, 1 << 16):
            got += part
            if not asked and screen.QUESTION.encode() in got:
                asked = True
                at_question(terminal)
                os.write(terminal, answer)
    os.close(terminal)
    return got.decode(errors="replace"), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def left_alone(before):
    """A line on what `ask` left: whether the terminal is as it was, and what a shell would read next."""
    time.sleep(0.05)
    same = termios.tcgetattr(0)[:6] == before[:6]
    after = [*before[:3], before[3] & ~(termios.ICANON | termios.ECHO), *before[4:]]
    termios.tcsetattr(0, termios.TCSADRAIN, after)
    unread = os.read(0, 100) if select.select([0], [], [], 0.05)[0] else b""
    return f"same={same} unread={unread!r}"


def asking(wait):
    def work():
        before = termios.tcgetattr(0)
        begun = time.monotonic()
        said = screen.ask(wait)
        print(f"said={said!r} soon={time.monotonic() - begun < wait / 2} {left_alone(before)}")

    return work


@pytest.mark.parametrize("answer", [VT340, PLAIN, XTERM])
def test_a_terminal_is_asked_and_left_as_it_was(answer):
    out, code = played(asking(5.0), answer=answer)
    assert code == 0, out
    assert f"said={answer!r} soon=True same=True unread=b''" in out
    assert out.count("\x1b[c") == 1


def test_a_terminal_that_does_not_answer_is_waited_for_no_longer():
    out, code = played(asking(0.2))
    assert code == 0, out
    assert "said=b'' soon=False same=True unread=b''" in out


def test_what_was_typed_ahead_is_not_lost():
    def work():
        time.sleep(0.1)
        return asking(5.0)()

    out, code = played(work, typed=b"ls\n")
    assert code == 0, out
    assert screen.QUESTION not in out
    assert "said=b'' soon=True same=True unread=b'ls\\n'" in out


@pytest.mark.parametrize("late", [0.0, 0.15])
def test_an_interrupt_leaves_no_part_of_the_answer_behind(late):
    def work():
        before = termios.tcgetattr(0)
        try:
            screen.ask(5.0)
        except KeyboardInterrupt:
            print(f"interrupted {left_alone(before)}")

    def at_question(terminal):
        os.write(terminal, b"\x03")
        time.sleep(late)

    out, code = played(work, answer=VT340, at_question=at_question)
    assert code == 0, out
    assert "interrupted same=True unread=b''" in out


def test_nobody_is_asked_in_a_pipe_or_from_the_background():
    def from_behind():
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)  # no longer the group in the foreground, which alone may change the terminal
            os.write(write, repr(screen.ask(5.0)).encode())
            os._exit(0)
        os.close(write)
        print(f"behind: {os.read(read, 100)!r}")
        return os.waitstatus_to_exitcode(os.waitpid(child, os.WUNTRACED)[1])

    def piped():
        with Path(os.devnull).open() as sys.stdin:
            print(f"piped: {screen.ask(5.0)!r}")

    for work, said in ((from_behind, "behind: b\"b''\""), (piped, "piped: b''")):
        out, code = played(work, answer=VT340)
        assert code == 0, out
        assert said in out
        assert screen.QUESTION not in out


def finding(wanted, **environment):
    def work():
        os.environ.update(environment)
        with streams.own_stdout():
            print(screen.find(wanted))

    return work


@pytest.mark.parametrize(
    ("work", "given", "says"),
    [
        (finding("terminal"), {"answer": VT340}, f"Terminal(way='sixel', cell={CELL})"),
        (finding("terminal"), {"answer": XTERM}, "Terminal(way='sixel', cell=(10, 20))"),
        (finding("terminal"), {"answer": VT340, "pixels": True}, "Terminal(way='sixel', cell=(10, 20))"),
        (finding("terminal"), {"answer": PLAIN}, "this terminal draws no pictures"),
        (finding("terminal", TERM="xterm-kitty"), {}, "Terminal(way='kitty'"),
        (finding("terminal", TERM="xterm-kitty", TMUX="x"), {"answer": VT340}, "tmux passes no picture on by itself"),
        (finding("sixel", TMUX="x"), {"pixels": True}, "Terminal(way='sixel', cell=(10, 20))"),
        (finding("kitty", TERM="dumb"), {}, "this terminal can do no more than text (TERM)"),
        (finding("kitty"), {}, "Terminal(way='kitty'"),
    ],
)
def test_a_way_is_found_or_it_is_said_why_there_is_none(work, given, says):
    out, code = played(work, **given)
    assert code == 0, out
    assert says in out


class Drawn:
    """What a terminal shows: text by line, from the first that was ever written, and pictures, by their first line."""

    def __init__(self, text, rows=24, columns=80, cell=CELL):
        self.rows, self.columns, self.cell = rows, columns, cell
        self.lines, self.pictures = {}, []
        self.top = self.row = self.column = 0
        kept = (0, 0)
        for token in TOKENS.finditer(text):
            kind, value = token.lastgroup, token[token.lastgroup]
            if kind == "csi":
                self._moved(value)
            elif kind == "esc":
                if value == "7":
                    kept = self.row, self.column
                else:
                    self.row, self.column = kept
            elif kind in WAYS:
                self._picture(kind, token[0])
            elif value == "\r":
                self.column = 0
            elif value == "\n":
                self._down()
            elif value >= " ":
                self._sign(value)

    def _sign(self, sign):
        if self.column == self.columns:
            self.column = 0
            self._down()
        line = self.lines.get(self.top + self.row, "").ljust(self.columns)
        self.lines[self.top + self.row] = line[: self.column] + sign + line[self.column + 1 :]
        self.column += 1

    def _down(self):
        if self.row == self.rows - 1:
            self.top += 1
        else:
            self.row += 1

    def _moved(self, how):
        number = int(re.sub(r"\D", "", how) or 1)
        if how.endswith("A"):
            self.row = max(0, self.row - number)
        elif how.endswith("K"):
            self.lines.pop(self.top + self.row, None)

    def _picture(self, kind, text):
        """Those of iTerm2 and sixel move the cursor down, and the screen where there is no room."""
        if kind == "kitty" and "a=T" not in text:
            return
        first = self.top + self.row
        if kind == "sixel":
            width, height = map(int, re.search(r'"1;1;(\d+);(\d+)', text).groups())
            rows, columns = -(-height // self.cell[1]), -(-width // self.cell[0])
        else:
            rows, columns = (
                int(re.search(rf"\b{key}=(\d+)", text)[1])
                for key in (("r", "c") if kind == "kitty" else ("height", "width"))
            )
        assert self.column + columns <= self.columns
        self.pictures.append((first, rows))
        for _ in range({"kitty": 0, "iterm2": rows - 1, "sixel": rows}[kind]):
            self._down()

    def text(self):
        return {number: line.rstrip() for number, line in sorted(self.lines.items()) if line.strip()}


END = "\x1b[?7777h"  # no terminal knows it


def pictured(way, *, notes=(), rows=24):
    def work():
        with streams.own_stdout(), TerminalReporter(Terminal(way, CELL)) as reporter:
            reporter.screen._next = 0
            reporter.stage("guided sampling")
            for step in range(6):
                reporter.count(step, 6)
                reporter.screen._next = 0  # whatever time it is
                reporter.picture(noise(12, 16, step)[None])
                reporter.progress.refresh()
                if step in notes:
                    reporter.note("n" * 100)
            reporter.stage("guided decoding")
            reporter.progress.refresh()
            os.write(2, END.encode())

    out, code = played(work, size=(rows, 80))
    assert code == 0, out
    assert [*Drawn(out, rows=rows).text()] == [*Drawn(out.partition(END)[0], rows=rows).text()][:-1]  # the line goes
    return Drawn(out.partition(END)[0], rows=rows)


@pytest.mark.parametrize("rows", [24, 9])
@pytest.mark.parametrize("way", WAYS)
def test_pictures_replace_each_other_above_the_line_of_progress(way, rows):
    found = pictured(way, rows=rows)
    assert len(found.pictures) == 6
    assert len(set(found.pictures)) == 1
    first, high = found.pictures[0]
    assert high <= rows // 2
    text = found.text()
    assert [*text] == [first + high], text
    assert text[first + high].startswith("guided decoding")


@pytest.mark.parametrize("way", WAYS)
def test_a_note_stays_below_the_picture_and_the_next_one_comes_below_the_note(way):
    found = pictured(way, notes=(2,), rows=40)
    places = list(dict.fromkeys(found.pictures))
    assert [found.pictures.count(place) for place in places] == [3, 3]
    (first, high), (second, _) = places
    text = found.text()
    assert [*text] == [first + high, first + high + 1, second + high], text
    assert second == first + high + 2
    assert text[second + high].startswith("guided decoding")


def test_pictures_that_come_too_often_are_left_out_but_the_last():
    def work():
        with streams.own_stdout(), TerminalReporter(Terminal("kitty", CELL)) as reporter:
            for step in range(30):
                reporter.picture(np.full((1, 8, 8, 3), step, np.uint8))
            reporter.stage("decoding")

    out, code = played(work)
    assert code == 0, out
    shown = [of_kitty(part)[0][0, 0, 0] for part in re.findall(r"\x1b_Ga=T.*?m=0;.*?\x1b\\", out)]
    assert shown == [0, 29]
    assert progress.TerminalReporter().screen is None


@pytest.mark.parametrize(
    ("words", "way"), [(["terminal"], "sixel"), (["kitty"], "kitty"), (["iterm2", "--compare"], "iterm2")]
)
def test_a_clip_is_seen_in_the_terminal_while_it_is_made(words, way, prepared, tmp_path):
    def work():
        os.chdir(tmp_path)
        prepared(pytest.MonkeyPatch())
        sys.argv = ["shelllcc", "generate", *TOY, "--preview", *words]
        with pytest.raises(SystemExit, match="0"):
            cli.main()

    out, code = played(work, answer=XTERM)
    assert code == 0, out
    found = Drawn(out, cell=(10, 20))
    assert found.pictures
    assert {part.lastgroup for part in ESCAPES.finditer(out)} == {way}
    covered = {line for first, high in found.pictures for line in range(first, first + high)}
    assert not covered & set(found.text()), found.text()
    assert max(map(len, found.text().values())) <= 80
    assert "guided    a.mp4" in found.text().values()


def test_where_nothing_can_be_drawn_the_clip_is_made_with_one_note(shelllcc, tmp_path):
    code, _, err = shelllcc("generate", *TOY, "--preview", "terminal")
    assert code == 0, err
    assert err.count("note: no preview: stderr is no terminal; --preview FILE.png keeps one in a file") == 1
    assert (tmp_path / "a.mp4").exists()
    code, _, err = shelllcc("generate", *TOY, "--preview", "kity")
    assert code == 2
    assert "takes `terminal`" in err


def test_the_line_of_progress_is_there_while_a_picture_comes():
    """A slow connection takes a while for one: the line is written anew before it, not after."""

    def work():
        with streams.own_stdout(), TerminalReporter(Terminal("kitty", CELL)) as reporter:
            reporter.stage("guided sampling")
            reporter.progress.refresh()
            reporter.picture(noise(200, 300)[None])

    out, code = played(work)
    assert code == 0, out
    found = Drawn(out[: out.index("\x1b_G")]).text()
    assert [line.split("  ")[0] for line in found.values()] == ["guided sampling"]


@pytest.mark.parametrize("way", ["kitty", "sixel"])
def test_an_interrupt_amid_a_picture_leaves_a_terminal_that_shows_text(way):
    def work():
        interrupted = contextlib.suppress(KeyboardInterrupt)
        with interrupted, streams.own_stdout(), TerminalReporter(Terminal(way, CELL)) as reporter:
            reporter.stage("guided sampling")
            reporter.picture(noise(800, 800)[None])
            time.sleep(10)
        print("interrupted")

    def before(terminal):
        time.sleep(0.6)  # it has filled what the terminal takes unread, and waits
        os.write(terminal, b"\x03")

    out, code = played(work, before=before)
    assert code == 0, out
    left = ESCAPES.sub("", out)  # ^C may be in the picture: the terminal echoes it
    assert not re.search(r"\x1b[_P\]]", left)
    assert re.search(r"^interrupted", left, re.MULTILINE) or "\x1b[2Kinterrupted" in left
