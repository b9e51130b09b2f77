"""Progress as people see it: on a pseudo-terminal of 80 and 200 columns, and where there is no terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import time

import pytest
import torch
from rich.cells import cell_len

from shelllcc import cli
from shelllcc.commands import progress, streams
from shelllcc.commands.progress import Part, TerminalReporter, clock, line_of
from shelllcc.guidance.wan.clips.sample import Moment

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SMALL = ["--frames", "9", "--size", "64x64", "--steps", "3", "--window", "0:1"]


def on_terminal(columns, work):
    """What `work` wrote in a child process whose terminal is so wide, by lines as they were drawn."""
    child, terminal = pty.fork()
    if child == 0:
        code = 1
        torch.set_num_threads(1)  # torch's pool of threads is made anew after a fork, by one thread alone
        with contextlib.suppress(BaseException):
            fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            for name in ("COLUMNS", "NO_COLOR", "CI"):
                os.environ.pop(name, None)
            os.environ["TERM"] = "xterm-256color"
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
            work()
            code = 0
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)
    got = b""
    with contextlib.suppress(OSError):  # Linux says so when the child has closed its end
        while part := os.read(terminal, 1 << 16):
            got += part
    os.close(terminal)
    assert os.waitpid(child, 0)[1] == 0, got.decode(errors="replace")
    return [line for line in re.split(r"[\r\n]+", CODES.sub("", got.decode())) if line.strip()]


def moment(step, alarm=None):
    return Moment(step, 50, 0.512, 1.234, alarm)


def drawn():
    with TerminalReporter() as reporter:
        reporter.expect(8)
        for _ in range(3):
            reporter.stage("07 a-variant-with-a-name sampling")
            for step in (1, 12):
                reporter.step(moment(step, alarm="noise"))
                reporter.progress.refresh()
        reporter.stage("07 a-variant-with-a-name decoding")
        reporter.count(2, 5)
        reporter.progress.refresh()


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_stage_step_and_time_left_are_never_cut(columns):
    lines = on_terminal(columns, drawn)
    assert max(map(cell_len, lines)) <= columns
    steps = [line for line in lines if "step 12/50" in line]
    assert steps
    assert all(re.search(r"eta \d+:\d\d", line) for line in steps)
    assert all(line.startswith("07 a-variant" if columns > 40 else "07 a") for line in steps)
    assert any("clip 3 of 8, 0:" in line for line in lines) == (columns >= 80)
    assert any("distance 1.234" in line and "━" in line for line in lines) == (columns == 200)
    assert any("decoding" in line and "2/5" in line for line in lines) or columns == 40


def planned_slowly():
    with progress.planned(passes=1) as planning:
        for index in planning.each(range(6000)):
            time.sleep(0.25 if index % 1000 == 0 else 0)


def test_planning_many_clips_is_drawn_with_the_share_that_is_done():
    lines = on_terminal(80, planned_slowly)
    shares = [int(share) for line in lines for share in re.findall(r"planning 6,000 clips  (\d+)%  eta", line)]
    assert shares == sorted(shares)
    assert {17, 50, 83} <= {*shares}


@pytest.mark.parametrize("columns", [80, 200])
def test_a_command_on_a_terminal_shows_steps_decoding_and_a_table(columns, prepared, tmp_path):
    def compare():
        os.chdir(tmp_path)
        prepared(pytest.MonkeyPatch())
        sys.argv = ["shelllcc", "compare", "-p", "a tabby cat", *SMALL, "-o", "run"]
        with pytest.raises(SystemExit, match="0"):
            cli.main()

    lines = on_terminal(columns, compare)
    assert max(cell_len(line) for line in lines if not re.match(r"\d\d |report|shelllcc:", line)) <= columns
    assert any("step" in line and "eta" in line for line in lines), lines
    head = next(line for line in lines if "verdict" in line and "clip" in line)
    row = next(line for line in lines[lines.index(head) + 1 :] if "strength 1" in line)
    assert {"clip", "verdict", "sharpness", "balance"} <= set(head.split())
    assert "strength 1" in row
    assert "…" not in row.partition("strength 1")[2]


def test_several_clips_are_counted_without_a_terminal(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with TerminalReporter() as reporter:
        assert not reporter.live
        reporter.expect(8)
        for _ in range(2):
            reporter.stage("guided sampling")
            now[0] += 50
        reporter.stage("guided sampling")
        reporter.step(moment(1))
        now[0] += 31
        reporter.step(moment(25))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "shelllcc: clip 1 of 8: guided sampling"
    assert lines[2] == "shelllcc: clip 3 of 8, 5:00 left: guided sampling"
    assert lines[3:] == ["shelllcc: clip 3 of 8, 4:29 left: guided sampling: step 25/50, eta 0:31"]


def test_what_was_there_before_is_not_taken_for_quickly_made(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    reporter = TerminalReporter()
    reporter.expect(6)
    reporter.passed(2)
    now[0] += 5
    reporter.passed(4)
    reporter.stage("guided sampling")
    now[0] += 10
    reporter.step(moment(25))
    assert reporter._of_clips() == "clip 5 of 6, 0:30 left"


def test_quiet_draws_nothing(capsys):
    with streams.own_stdout():
        streams.hush()
        with TerminalReporter() as reporter:
            reporter.stage("sampling")
            reporter.note("a note")
            reporter.step(moment(1))
    assert capsys.readouterr() == ("", "")


def test_a_line_leaves_out_what_ranks_last():
    parts = [Part("stage", 0), Part("bar", 5), Part("step 1/2", 0), Part("eta 0:01", 0)]
    assert line_of(parts, 80).plain == "stage  bar  step 1/2  eta 0:01"
    assert line_of(parts, 25).plain == "stage  step 1/2  eta 0:01"
    assert line_of(parts, 23).plain == "sta  step 1/2  eta 0:01"
    assert clock(250) == "4:10"
    assert clock(3723) == "1:02:03"
    assert progress.EVERY > 0


@pytest.mark.parametrize("pace", [1.0, 4.0])
def test_replayed_steps_count_for_nothing_in_the_time_that_is_left(monkeypatch, pace):
    """Of 50 steps 30 are kept for the next clip: it takes 20 steps and its decoding, 5 steps long."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    reporter = TerminalReporter()
    reporter.expect(4, 2)
    seconds = {"unguided": 55 * pace, "guided": 25 * pace}
    said = []
    for clip, name in enumerate(["unguided", "guided"] * 2):
        reporter.stage(f"{name} sampling")
        begun = now[0]
        for step in range(1, 51):
            replayed = name == "guided" and step <= 30
            now[0] += 0 if replayed else pace
            reporter.step(Moment(step, 50, 0.5, 1.0, None, replayed=replayed, kept=30))
            first = 30 if replayed else step
            assert reporter._left() == pytest.approx(pace * (50 - first)), (clip, step)
        reporter.stage(f"{name} decoding")
        if clip >= 1:
            rest = sum([*seconds.values()] * 2) - sum([*([*seconds.values()] * 2)[: clip + 1]])
            rest += seconds[name] - (now[0] - begun)
            said.append((reporter._of_clips(), rest))
        now[0] += 5 * pace
    for words, rest in said:
        left = re.search(r"(\d+):(\d+) left", words)
        assert int(left[1]) * 60 + int(left[2]) == pytest.approx(rest, abs=1)


def test_moments_say_which_steps_were_replayed(shelllcc, monkeypatch):
    heard = []
    monkeypatch.setattr(TerminalReporter, "step", lambda self, moment: heard.append(moment))
    words = ["-p", "a tabby cat", "--frames", "5", "--size", "32x32", "--steps", "6", "--window", "0:0.7"]
    code, _, err = shelllcc("generate", *words, "--compare", "-o", "a.mp4")
    assert code == 0, err
    unguided, guided = heard[:6], heard[6:]
    assert not any(moment.replayed for moment in unguided)
    kept = unguided[0].kept
    assert 1 < kept < 6
    assert [moment.replayed for moment in guided] == [True] * kept + [False] * (6 - kept)
    heard.clear()
    assert shelllcc("generate", *words, "-o", "b.mp4")[0] == 0
    assert not any(moment.replayed or moment.kept for moment in heard)
