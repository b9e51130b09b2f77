"""How long commands take from their first import to their end: CPU seconds and wall time, each in processes of its own.

`python -m benchmarks.start` prints a table of three runs each: their median, and how far the least and the most lie
apart; `--json` has the same. CPU seconds are the figure to compare where other
processes share the cores; wall time is that of an idle machine alone.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
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


def timed(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU seconds, user and system, and wall seconds of one command. Raises CalledProcessError where it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = os.environ | {"SHELLLCC_CACHE": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "shelllcc", *words], cwd=folder, env=env, capture_output=True, check=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def row_of(runs: Sequence[tuple[float, float]]) -> dict[str, float]:
    """Of CPU and wall seconds, each their median and how far the least and the most lie apart."""
    row: dict[str, float] = {}
    for kind, seconds in zip(("cpu", "wall"), zip(*runs, strict=True), strict=True):
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
    print(f"{'seconds':<20}{'cpu':>9}{'spread':>9}{'wall':>9}{'spread':>9}")
    for name, row in table.items():
        print(f"{name:<20}" + "".join(f"{value:>9.2f}" for value in row.values()))


if __name__ == "__main__":
    main()
