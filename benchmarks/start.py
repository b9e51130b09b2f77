"""How long commands take from their first import to their end, and how much memory: each in processes of its own.

`python -m benchmarks.start` prints a table of three runs each: the median of CPU seconds, wall seconds and most MB at a
time, and how far the least and the most lie apart; `--json` has the same. CPU seconds are the figure to compare where
other processes share the cores; wall time is that of an idle machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

PROMPT = "a tabby cat, zoom in, daylight"
COMMANDS = {
    "--help": ["--help"],
    "generate --dry-run": ["generate", "--prompt", PROMPT, "--dry-run"],
    "anchors info": ["anchors", "info", "tiny-wan"],
    "doctor": ["doctor"],
    "batch of 100,000": ["batch", "prompts.txt", "--output", "clips", "--dry-run"],
    "generate of 100,000": ["generate", "--prompts-file", "prompts.txt", "--output", "clips", "--dry-run"],
    "generate": ["generate", "--prompt", PROMPT, "--output", "clip.mp4", "--overwrite"],
    "tiny-4step": ["generate", "--preset", "tiny-4step", "--prompt", PROMPT, "--output", "clip.mp4", "--overwrite"],
}


def timed(words: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """CPU seconds, user and system, wall seconds, and most MB at a time of one command.

    Raises CalledProcessError where it fails.
    """
    env, command = os.environ | {"SHELLLCC_CACHE": str(folder / "cache")}, [sys.executable, "-m", "shelllcc", *words]
    begun = time.perf_counter()
    running = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(running.pid, 0)
    wall, running.returncode = time.perf_counter() - begun, os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise subprocess.CalledProcessError(running.returncode, command)
    return used.ru_utime + used.ru_stime, wall, used.ru_maxrss / (1e6 if sys.platform == "darwin" else 1024)


def row_of(runs: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Of CPU and wall seconds and MB, each their median and how far the least and the most lie apart."""
    row: dict[str, float] = {}
    for kind, seconds in zip(("cpu", "wall", "mb"), zip(*runs, strict=True), strict=True):
        row |= {f"{kind}_median": statistics.median(seconds), f"{kind}_spread": max(seconds) - min(seconds)}
    return {name: round(value, 2) for name, value in row.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every command and print its median seconds, and their spread."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--only", choices=COMMANDS, action="append", help="may be repeated; all if not given")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    table: dict[str, dict[str, float]] = {}
    for name in given.only or COMMANDS:
        with tempfile.TemporaryDirectory() as folder:
            many = "".join(f"a tabby cat, take {number}\n" for number in range(100_000))
            (Path(folder) / "prompts.txt").write_text(many, encoding="utf-8")
            runs = [timed(COMMANDS[name], Path(folder)) for _ in range(given.runs)]
        table[name] = row_of(runs)
    if given.json:
        print(json.dumps(table))
        return
    print(f"{'seconds':<20}{'cpu':>9}{'spread':>9}{'wall':>9}{'spread':>9}{'MB':>9}{'spread':>9}")
    for name, row in table.items():
        print(f"{name:<20}" + "".join(f"{value:>9.2f}" for value in row.values()))


if __name__ == "__main__":
    main()
