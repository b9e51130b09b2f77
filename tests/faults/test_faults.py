"""Faults by table: after each, what was there before is there to the byte, finished files are whole, and the same
command ends well."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from shelllcc.anchors.bankfile import read_bank
from shelllcc.anchors.latents import open_latents
from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.files import sha256_of
from shelllcc.guidance.media.video import frames_in
from shelllcc.guidance.wan.clips.sidecar import read_sidecar

pytestmark = pytest.mark.faults

CLIP = ["--frames", "5", "--size", "64x64", "--steps", "2", "--window", "0:1"]  # the guide acts in the first step
CAT = ["--prompt", "a tabby cat, zoom in, daylight", *CLIP]
FILMS = ["--frames", "5", "--fps", "8", "--workers", "1", "--size"]
BANK = ["--anchors", "4", "--components", "12"]
COMMANDS = {
    "generate": ["generate", *CAT, "-o", "clip.mp4"],
    "generate --compare": ["generate", *CAT, "--compare", "-o", "new/clip.mp4"],
    "compare": ["compare", *CAT, "--strengths", "0,1", "-o", "run"],
    "compare videos": ["compare", "a.mp4", "b.mp4", "-o", "run"],
    "tune": ["tune", *CAT, "--budget", "2", "-o", "run"],
    "batch": ["batch", "prompts.txt", "-o", "clips", *CLIP],
    "build": ["anchors", "build", "films", "-o", "bank.safetensors", *FILMS, "64x64", *BANK],
    "train": [
        *("anchors", "train", "latents", "-o", "manifold.safetensors", "--export", "manifold.pth", "--bases", "16"),
        *("--hidden", "16", "--epochs-skeleton", "3", "--epochs-shell", "2", "--workers", "1"),
    ],
    "analyze": ["anchors", "analyze", "tiny-wan", "films", "-o", "study", *FILMS, "32x32"],
}  # fmt: skip
KILLS = 3  # of each command
ROOMS = (0, 6_000, 40_000, 120_000)  # bytes that are free
VIDEO = [name for name in COMMANDS if name not in ("build", "train")]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check(folder: Path, before: dict[Path, bytes]) -> None:
    """Everything that was there is as it was, and whatever else has a final name is whole."""
    for name, bytes_ in before.items():
        assert (folder / name).read_bytes() == bytes_, f"{name} was changed"
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder) not in before and not path.name.startswith("."):
            assert whole(path), f"{path.name} is torn"


def whole(path: Path) -> bool:
    """Whether a file that a command has finished is what its name says; clips are those that their sidecar names."""
    if path.suffix == ".mp4":
        return frames_in(path) > 0
    if path.suffix == ".safetensors":
        try:
            return bool(open_latents(path) if path.parent.suffix == ".latents" else read_bank(path))
        except BankError:
            return path.parent.name in ("latents", "study") and open_latents(path).clips > 0
    if path.suffix == ".jsonl":
        return all(json.loads(line) for line in path.read_text().splitlines())
    if path.suffix == ".html":
        return path.read_text().rstrip().endswith("</html>")
    if path.suffix != ".json":
        return path.stat().st_size > 0
    json.loads(path.read_text())
    try:
        record = read_sidecar(path)
    except UsageError:
        return True
    return all(
        sha256_of(path.parent / Path(video).name) == record["sha256"][label]
        for label, video in record["videos"].items()
    )


def ends_well(shell, words, before):
    done = shell.run(words)
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    check(shell.folder, before)
    left = [path.name for path in shell.folder.rglob(".*") if path.name.startswith(".part-") or path.suffix == ".lock"]
    assert set(left) <= {".part-of-mine"}, left
    return done


def one_line(done, *codes):
    errors = [line for line in done.err.splitlines() if line.startswith("shelllcc: error: ")]
    assert done.code in codes, done.err
    assert len(errors) == 1, done.err
    assert "Traceback" not in done.err
    assert "unexpected" not in done.err
    return errors[0]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_any_moment_costs_nothing(name, shell, inputs, tmp_path):
    before, words, dice = contents(shell.folder), COMMANDS[name], random.Random(name)
    seconds = ends_well(shell, words, before).seconds
    for number in range(KILLS):
        shutil.rmtree(shell.folder)
        shutil.copytree(inputs, shell.folder)
        moment = dice.uniform(0.6, 1.0) if number % 2 else dice.uniform(0.0, 1.0)  # files are written late
        done = shell.run(words, kill_after=moment * seconds)
        assert done.code in (-9, 0)
        check(shell.folder, before)
        ends_well(shell, words, before)
    ends_well(shell, words, before)  # and again, where all is there


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_said_and_costs_nothing(name, small):
    before, ballast = contents(small.folder), small.folder / "ballast"
    for room in ROOMS:  # what an earlier try has finished lies there already
        ballast.unlink(missing_ok=True)
        free = shutil.disk_usage(small.folder).free
        ballast.write_bytes(b"\0" * max(0, free - room))
        done = small.run(COMMANDS[name])
        if done.code:
            assert "disk full" in one_line(done, 1)
        else:
            assert room
        check(small.folder, before)
    ballast.unlink()
    ends_well(small, COMMANDS[name], before)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_may_not_grow_is_said_and_costs_nothing(name, shell):
    before = contents(shell.folder)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.RLIM_INFINITY))

    done = shell.run(COMMANDS[name], before=limit)
    if name == "batch":  # a clip that fails does not stop the others
        assert (done.code, done.err.count("failed: ")) == (1, 2)
    else:
        assert "cannot write" in one_line(done, 1)
    check(shell.folder, before)
    ends_well(shell, COMMANDS[name], before)


@pytest.mark.parametrize("name", VIDEO)
def test_an_ffmpeg_that_fails_is_said_and_costs_nothing(name, shell, tmp_path):
    import imageio_ffmpeg

    real = imageio_ffmpeg.get_ffmpeg_exe()
    fake = tmp_path / "ffmpeg"
    broken = "for out; do :; done; cat > /dev/null; head -c 2000 /dev/zero > ${out#file:}; exit 1"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in *encoder=*) exec {real} "$@";; *libx264*) {broken};; *) exec {real} "$@";; esac\n'
    )
    fake.chmod(0o755)

    def install():
        imageio_ffmpeg.get_ffmpeg_exe = lambda: str(fake)

    before = contents(shell.folder)
    done = shell.run(COMMANDS[name], before=install)
    if name == "batch":  # a clip that fails does not stop the others
        assert done.code == 1
    else:
        assert "ffmpeg ended with exit 1" in one_line(done, 1)
    check(shell.folder, before)
    ends_well(shell, COMMANDS[name], before)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_disk_that_is_read_only_is_said(name, small):
    before = contents(small.folder)
    subprocess.run(["mount", "-o", "remount,ro", small.folder], check=True)
    done = small.run(COMMANDS[name])
    subprocess.run(["mount", "-o", "remount,rw", small.folder], check=True)
    one_line(done, 1, 2)
    assert contents(small.folder) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_two_at_once_end_with_one_result(name, shell):
    before = contents(shell.folder)
    both = [shell.start(COMMANDS[name]) for _ in range(2)]
    done = [shell.end(*one) for one in both]
    assert sorted(one.code for one in done)[0] == 0, [one.err for one in done]
    for one in done:
        if one.code:
            assert "another run" in one.err, one.err
    check(shell.folder, before)
    ends_well(shell, COMMANDS[name], before)


def test_a_clip_is_not_replaced_by_one_that_fails(shell):
    words = [*COMMANDS["generate"], "--overwrite"]
    assert shell.run([*COMMANDS["generate"], "--seed", "3"]).code == 0
    before = contents(shell.folder)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (6 * 512, resource.RLIM_INFINITY))

    one_line(shell.run(words, before=limit), 1)
    assert contents(shell.folder) == before
    assert shell.run(words).code == 0


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_ends_a_run_in_one_line_and_leaves_nothing(name, code, shell):
    before = contents(shell.folder)

    def heard():
        """As in a terminal: who started the tests may have them ignore it, as nohup does, and it is inherited."""
        if name != "SIGINT":
            signal.signal(getattr(signal, name), signal.SIG_DFL)

    pid, out = shell.start(["generate", *CAT, "--steps", "900", "-o", "new/clip.mp4"], before=heard)
    said = out.with_suffix(".err")
    deadline = time.monotonic() + 60
    while not said.exists() or "sampling" not in said.read_text():
        assert time.monotonic() < deadline, said.read_text() if said.exists() else "it said nothing"
        time.sleep(0.01)
    os.kill(pid, getattr(signal, name))
    done = shell.end(pid, out)
    assert done.code == code
    assert done.err.splitlines()[-1] == f"shelllcc: {'interrupted' if code == 130 else 'ended by ' + name}"
    assert "Traceback" not in done.err
    assert contents(shell.folder) == before
    assert not (shell.folder / "new").exists()
