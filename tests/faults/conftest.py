"""Commands in forked processes that have the model loaded already, so that each costs its own work alone."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, or -n by signal n, and what it said."""

    code: int
    out: str
    err: str
    seconds: float


class Shell:
    """Runs commands in `folder`; what they say lies in `folder.said`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.said = folder, folder.with_name(f"{folder.name}.said")
        self.said.mkdir(exist_ok=True)
        self.count = 0

    def start(self, words: list[str], before: Callable[[], None] = lambda: None) -> tuple[int, Path]:
        self.count += 1
        out = self.said / f"{self.count}"
        pid = os.fork()
        if pid == 0:
            _child(self.folder, out, words, before)
        return pid, out

    def end(self, pid: int, out: Path, *, kill_after: float | None = None) -> Ended:
        began = time.monotonic()
        deadline = began + (60 if kill_after is None else kill_after)
        while not (done := os.waitpid(pid, os.WNOHANG))[0]:
            if time.monotonic() >= deadline:
                os.kill(pid, signal.SIGKILL)
                done = os.waitpid(pid, 0)
                break
            time.sleep(0.002)
        texts = (out.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err"))
        return Ended(os.waitstatus_to_exitcode(done[1]), *texts, time.monotonic() - began)

    def run(
        self, words: list[str], *, kill_after: float | None = None, before: Callable[[], None] = lambda: None
    ) -> Ended:
        return self.end(*self.start(words, before), kill_after=kill_after)


def _child(folder: Path, out: Path, words: list[str], before: Callable[[], None]) -> None:
    """The command line in this forked process, which it ends."""
    code = 99
    try:
        os.chdir(folder)
        for number, path in ((1, out.with_suffix(".out")), (2, out.with_suffix(".err"))):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        sys.argv = ["shelllcc", *words]
        from shelllcc import cli
        from shelllcc.guidance import files

        files._swept.clear()
        os.environ["SHELLLCC_PROFILES"] = str(out.parent / "profiles" / folder.name)
        before()
        cli.main()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


@pytest.fixture(scope="session")
def ready(pipe, tmp_path_factory) -> Iterator[None]:
    """The model is loaded, one thread computes, caches and profiles lie apart."""
    from shelllcc.guidance.wan.model import pipeline

    torch.set_num_threads(1)
    real = pipeline.load_pipeline
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "load_pipeline", lambda model, *a, **k: pipe if model.is_tiny else real(model, *a, **k))
        patch.setenv("SHELLLCC_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def inputs(ready, tmp_path_factory) -> Path:
    """What commands read, and files of the user's own that none may touch."""
    from shelllcc.anchors.latents import save_latents
    from shelllcc.guidance.media.video import write_video

    folder = tmp_path_factory.mktemp("inputs")
    dice = np.random.default_rng(0)
    (folder / "films").mkdir()
    for number in range(6):
        blots = np.kron(dice.integers(0, 255, (9, 16, 16, 3)), np.ones((1, 4, 4, 1))).astype(np.uint8)
        write_video(folder / "films" / f"{number}.mp4", blots, fps=8)
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(folder / "films" / "0.mp4", folder / name)
    (folder / "latents").mkdir()
    for number in range(6):
        noise = torch.randn(1, 16, 2, 8, 8, generator=torch.Generator().manual_seed(number))
        save_latents(folder / "latents" / f"{number}.safetensors", noise, {})
    (folder / "prompts.txt").write_text("a tabby cat\na rocket\n")
    (folder / "clip.txt").write_text("notes of mine")
    (folder / ".part-of-mine").write_text("not a file of ours")
    return folder


@pytest.fixture
def shell(inputs, tmp_path) -> Shell:
    """In a folder of its own with the inputs."""
    shutil.copytree(inputs, tmp_path / "work")
    return Shell(tmp_path / "work")


@pytest.fixture
def small(inputs, tmp_path) -> Iterator[Shell]:
    """The same on a disk of 16 MB. Needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        shutil.copytree(inputs, folder, dirs_exist_ok=True)
        yield Shell(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
