"""Folders in which commands are disturbed: one with inputs, and the same on a small disk."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def inputs(tmp_path_factory) -> Path:
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
def shell(inputs, forked, tmp_path):
    """In a folder of its own with the inputs."""
    shutil.copytree(inputs, tmp_path / "work")
    return forked(tmp_path / "work")


@pytest.fixture
def small(inputs, forked, tmp_path) -> Iterator:
    """The same on a disk of 16 MB. Needs the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount one")
    try:
        shutil.copytree(inputs, folder, dirs_exist_ok=True)
        yield forked(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
