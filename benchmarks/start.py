"""How long commands take from their first import to their end: CPU seconds and wall time, each in processes of its own.

`python -m benchmarks.start` prints a table; `--runs 3 --json`. CPU seconds are the figure to compare where other
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
    "generate": ["generate", "--prompt", PROMPT, "--output", "clip.mp4", "--overwrite"],
}


def timed(words: Sequence[str], folder: Path) -> tuple[float, float]:
    """CPU seconds, user and system, and wall seconds of one command. Raises CalledProcessError where it fails."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = os.environ | {"SHELLLCC_CACHE": str(folder / "cache")}
    subprocess.run([sys.executable, "-m", "shelllcc", *words], cwd=folder, env=env, capture_output=True, check=True)
    wall, after = time.perf_counter() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def main(arguments: Sequence[str] | None = None) -> None:
    """Time every command and print its least and median seconds."""
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
        table[name] = {
            f"{kind}_{word}": round(of(run[column] for run in runs), 2)
            for column, kind in enumerate(("cpu", "wall"))
            for word, of in (("min", min), ("median", statistics.median))
        }
    if given.json:
        print(json.dumps(table))
        return
    print(f"{'seconds':<20}{'cpu min':>9}{'median':>9}{'wall min':>10}{'median':>9}")
    for name, row in table.items():
        cells = zip(row.values(), (9, 9, 10, 9), strict=True)
        print(f"{name:<20}" + "".join(f"{value:>{width}.2f}" for value, width in cells))


if __name__ == "__main__":
    main()
