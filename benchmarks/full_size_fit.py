"""A starter bank and a fit at Wan's full size, on one GPU, with random weights: `python -m benchmarks.full_size_fit`

Wan2.1-1.3B's geometry, or with `--a14b` Wan2.2-A14B's two transformers. Prints one JSON line: seconds of the bank and
of the fit, those that the fit said it would take after its first clips, and peak memory beside what `--dry-run` plans
for the sampling that it is for; what is known already goes to stderr meanwhile, with the seconds of each stage.
Random weights bring no clip back as it was: here each counts as if it had come, so that the fit takes all its passes.
Prompts are embedded beforehand. `--toy` shrinks widths and clips, for a CPU.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any
from unittest import mock

import torch
import typer

from benchmarks.gpu import Bench, Noise
from benchmarks.wan_geometry import BOUNDARY, LARGE_TRANSFORMER, TOY_TRANSFORMER, TRANSFORMER, make_pipeline
from shelllcc.guidance.fit import fitting
from shelllcc.guidance.fit.fitting import Progress
from shelllcc.guidance.wan.banks.start import Shots, start_bank
from shelllcc.guidance.wan.clips.batch import Silent
from shelllcc.guidance.wan.clips.parallel import Ranks
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.fits import trips
from shelllcc.guidance.wan.fits.making import make_fit, shape_for
from shelllcc.guidance.wan.fits.trips import batch_for
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.memory import costs
from shelllcc.guidance.wan.model.pipeline import Model
from shelllcc.guidance.wan.model.presets import preset_for


class Told(Silent):
    """Says when a stage begins."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say

    def stage(self, name: str) -> None:
        self.say(f"begun: {name}")


def main(
    a14b: Annotated[bool, typer.Option("--a14b", help="Wan2.2-A14B, its prompts embedded beforehand.")] = False,
    toy: Annotated[bool, typer.Option(help="Small, on the CPU: no figure means anything.")] = False,
    clips: Annotated[int | None, typer.Option(help="Of the fit. (default: its own)")] = None,
    steps: Annotated[int | None, typer.Option(help="Of a sampling. (default: the preset's)")] = None,
) -> None:
    bench = Bench(toy=toy)
    pipe = make_pipeline(toy=toy, device=bench.device, large=a14b, two_stage=a14b, text_encoder=False)
    transformer = TOY_TRANSFORMER if toy else LARGE_TRANSFORMER if a14b else TRANSFORMER
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SHELLLCC_BANKS"] = str(Path(folder, "banks"))
        pipe.vae.save_pretrained(Path(folder, "vae"))
        boundary = BOUNDARY if a14b else None
        scheduler = type(pipe.scheduler).__name__
        model = Model(folder, "random", dict(transformer), dict(pipe.vae.config), a14b, {}, boundary, scheduler)
        began = time.perf_counter()

        def say(words: str) -> None:
            print(f"{words}, {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)

        def on_clip(done: int, total: int) -> None:
            if done % 12 == 0 or done == total:
                say(f"{done} of {total} clips filmed and encoded")

        shots = Shots(64, frames=5, moves=1) if toy else None
        bank_peak = bench.peak(lambda: start_bank(model, device=bench.device, shots=shots, on_clip=on_clip))
        bank = start_bank(model, device=bench.device).for_model(model.fingerprint)
        bank_seconds = time.perf_counter() - began
        say("bank built")
        preset = preset_for(LARGE_TRANSFORMER if a14b else TRANSFORMER, two_stage=a14b)
        small: dict[str, Any] = {"width": 64, "height": 64, "frames": 5} if toy else {}
        request = Request.resolve(preset, prompt="any", **small | ({"steps": steps} if steps else {}))
        studio: Any = SimpleNamespace(
            model=model, loading=Loading(), reporter=Told(say), device=bench.device, pipe=pipe, ranks=Ranks(),
            texts=Noise(transformer["text_dim"]), expect=lambda requests: None,
        )  # fmt: skip
        told: list[float] = []

        def on_cost(seconds: float) -> None:
            told.append(seconds)
            say(f"estimated: {seconds:.0f} s")

        def on_progress(progress: Progress) -> None:
            say(f"{progress.stage}, {progress.done} of {progress.total} clips, {progress.left or 0:.0f} s left")

        shape = shape_for(model, request, bench.device, clips)
        began = time.perf_counter()
        work = partial(make_fit, studio, request, bank, clips=clips, on_cost=on_cost, on_progress=on_progress)
        choose = (lambda *_: 3) if toy else batch_for
        with mock.patch.object(fitting, "LIKE", -1.0), mock.patch.object(trips, "batch_for", choose):
            fit_peak = bench.peak(work)
        fit_seconds = time.perf_counter() - began
        fitted = request.changed(width=shape.side, height=shape.side, frames=shape.frames)
        together = choose(studio, fitted)
        stages = costs(model, request, Loading(), dtype=torch.bfloat16).loaded("none", tiling=False)
        planned = max(stages[stage].peak for stage in ("sampling", "decoding"))
        record = {
            "model": "A14B" if a14b else "1.3B",
            "device": "cpu" if toy else torch.cuda.get_device_name(),
            "clips": shape.clips,
            "together": together,
            "size": [shape.side, shape.side, shape.frames],
            "steps": request.steps,
            "cfg": request.cfg,
            "bank_s": round(bank_seconds, 1),
            "bank_peak_GB": round(bank_peak, 2),
            "fit_s": round(fit_seconds, 1),
            "estimated_s": round(told[0], 1),
            "estimated_over_taken": round(told[0] / fit_seconds, 3),
            "fit_peak_GB": round(fit_peak, 2),
            "planned_GB": round(planned / 1e9, 2),
        }
        print(json.dumps(record))


if __name__ == "__main__":
    typer.run(main)
