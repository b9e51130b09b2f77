"""Make the over-smoothed base: `python -m benchmarks.early`, about a minute on one GPU.

The tiny Wan's transformer by its own recipe, stopped early: at cfg 1 its clips lack more than half of the power that
real ones have in the finest details. It goes to runs/early, beside the model's other parts.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.samples import EARLY
from shelllcc.guidance.wan.model.pipeline import TINY
from training import options
from training.options import Cache, Folder, Model, Smoke
from training.photographs import HELD
from training.transformer import Recipe, train

STEPS = 900


def main(
    steps: Annotated[int, typer.Option(help="Of training, at 64 clips each.")] = STEPS,
    model: Model = TINY,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    run = Path("runs/early-training")
    shutil.rmtree(run, ignore_errors=True)
    recipe = Recipe(steps=min(steps, 2), batch=2, ring=8) if smoke else Recipe(steps=steps)
    train(run, model / "vae", recipe, folder=folder, cache=cache, smoke=smoke)
    shutil.rmtree(EARLY, ignore_errors=True)
    shutil.copytree(model, EARLY)
    for part in ("transformer", "text_encoder", "tokenizer"):
        shutil.rmtree(EARLY / part)
        shutil.copytree(run / part, EARLY / part)


if __name__ == "__main__":
    options.run(main)
