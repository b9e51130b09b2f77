"""All that follows from new weights, made anew: `python -m benchmarks.remake runs/tiny --device cuda --batch 64`

The parts of a trained pipeline folder take the place of the embedded model's; then come, each a command of its own,

place      the parts themselves            bank      anchors/tiny-wan.safetensors, calibrated
fits       the fits that ship              counts    what --dry-run knows
vae        benchmarks.vae_reconstruction   subjects  benchmarks.subjects
moves      benchmarks.camera_moves
pictures   docs/images/guided.png, runs/montage.png (real above sampled) and runs/montage-guided.png
early      benchmarks.early                rivals    benchmarks.best_rivals
quality    benchmarks.quality              distances benchmarks.distinguishability
tuning     benchmarks.tuning               card      MODEL_CARD.md, from the tables and all records in runs/
before     tests/before

`--only` picks some, e.g. to work in pieces; samples that are in runs/ already are not made again. What is left to write
by hand are the figures in README.md, docs/quality.md and docs/banks.md (runs/quality-held-out.md has their table).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from shelllcc.guidance.errors import ShellLCCError, UsageError
from shelllcc.guidance.wan.model.pipeline import TINY
from training import options
from training.options import Batch, Cache, Device, Folder
from training.photographs import HELD

PARTS = ("vae", "transformer", "text_encoder", "tokenizer", "scheduler")
BANK = "anchors/tiny-wan.safetensors"
FAST = ("place", "bank", "fits", "counts", "vae", "subjects", "moves", "pictures")  # minutes on a GPU
SLOW = ("early", "rivals", "quality", "distances", "tuning", "card", "before")


def steps(*, device: str, batch: int, photographs: list[str]) -> Mapping[str, list[list[str]]]:
    """The commands of every step but `place`, as words after `python`."""
    here = ["--device", device]
    many = [*here, "--batch", str(batch)]

    def bench(name: str, *words: str) -> list[str]:
        return ["-m", f"benchmarks.{name}", *words]

    return {
        "bank": [["-m", "training.bank", BANK, *photographs]],
        "fits": [["-m", "training.fits", *here, *photographs]],
        "counts": [["-m", "training.counts"]],
        "vae": [bench("vae_reconstruction", "--pictures", "runs/pictures", *here, *photographs)],
        "subjects": [bench("subjects", *many, *photographs)],
        "moves": [bench("camera_moves", *many, *photographs)],
        "pictures": [
            bench("picture", "guided", "docs/images/guided.png", *here),
            bench("picture", "montage", "runs/montage.png", *here, *photographs),
            bench("picture", "montage", "runs/montage-guided.png", "--guided", *here, *photographs),
        ],
        "early": [bench("early", *photographs)],
        "rivals": [bench("best_rivals", *many, *photographs)],
        "quality": [bench("quality", "--plot", "runs/quality.png", *many, *photographs)],
        "distances": [bench("distinguishability", *many, *photographs)],
        "tuning": [bench("tuning", "--count", "64", *here, *photographs)],
        "card": [["-m", "training.card"]],
        "before": [["tests/before/remake.py"]],
    }


def place(model: Path, to: Path = TINY) -> None:
    """Copy the parts of a pipeline folder over those of another."""
    if missing := [part for part in PARTS if not (model / part).is_dir()]:
        raise UsageError(f"{model} has no {', '.join(missing)}; make it by `python -m training.export {model}`")
    for part in PARTS:
        shutil.rmtree(to / part, ignore_errors=True)
        shutil.copytree(model / part, to / part)


def main(
    model: Annotated[Path, typer.Argument(help="A trained pipeline folder, of training.export.")],
    device: Device = "cpu",
    batch: Batch = 1,
    only: Annotated[str, typer.Option(help="Some steps, comma-separated; they run in their own order.")] = "",
    folder: Folder = HELD,
    cache: Cache = None,
) -> None:
    photographs = ["--folder", str(folder), *(["--cache", str(cache)] if cache else [])]
    known = steps(device=device, batch=batch, photographs=photographs)
    chosen = only.split(",") if only else [*FAST, *SLOW]
    if unknown := set(chosen) - {*FAST, *SLOW}:
        raise UsageError(f"no step {', '.join(sorted(unknown))}; there are {', '.join((*FAST, *SLOW))}")
    if "place" in chosen:
        place(model)
    for name in (name for name in (*FAST, *SLOW) if name in chosen and name != "place"):
        for words in known[name]:
            print(f"== {name}: python {' '.join(words)}", flush=True)
            started = time.monotonic()
            code = subprocess.run([sys.executable, *words], check=False).returncode
            if code:
                rest = [*FAST, *SLOW][[*FAST, *SLOW].index(name) :]
                raise ShellLCCError(f"{name} ended with {code}; go on with --only {','.join(rest)}")
            print(f"== {name}: {time.monotonic() - started:.0f} s", flush=True)


if __name__ == "__main__":
    options.run(main)
