"""Does a fit make guided clips nearer to real ones, whatever the base, sampler and bank? `python -m benchmarks.fit`

Every cell of the matrix, a model, sampler, cfg and bank, is sampled unguided and guided by a fit, for the same
held-out captions in one run, and judged against real clips (benchmarks.judge). A fit comes from
round trips of other real clips (`--clips`), of captions and camera paths of their own. No setting is chosen by hand.

    python -m benchmarks.fit --device cuda --batch 16 --bank foreign=F.safetensors --bank manifold=M.safetensors

A cell's *gap* is its unguided swd less the floor, that of real clips of another draw; closed is the share of it that
guidance takes away. It prints the table, each fit in words, and the gates; all of it goes to runs/fit.json, frames of
unguided, guided and real clips to runs/fit/CELL.png. Fits are kept in runs/fit too, and a killed run goes on.

`--ablate` adds, for each cell, the fit without each clip's own excess, and with half and twice the strength.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import numpy as np
import typer
from torch import Tensor

from benchmarks import gates
from benchmarks.bench import Bench
from benchmarks.bounds import Gate
from benchmarks.captions import prompts, real_clips
from benchmarks.gates import Row, Rows
from benchmarks.judge import COLUMNS, compare
from benchmarks.quality import changed, row_of, show
from benchmarks.samples import EARLY, SCHEDULERS, STUDENT, Arm, Sampler, guidance_sha256
from shelllcc.anchors.choose import load_bank
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import write_json
from shelllcc.guidance.fit.fit import Belongs, Fit, read_fit, write_fit
from shelllcc.guidance.fit.fitting import Fitting
from shelllcc.guidance.fit.trips import Take
from shelllcc.guidance.wan.banks.encode import encode_frames
from shelllcc.guidance.wan.clips.parallel import Ranks
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.fits.trips import Trips
from shelllcc.guidance.wan.model.loading import SHIPPED, Loading
from shelllcc.guidance.wan.model.pipeline import find_model, weights_sha256
from shelllcc.guidance.wan.model.presets import PRESETS
from shelllcc.guidance.wan.model.schedules import even
from training import options
from training.options import Batch, Cache, Device, Folder, Smoke
from training.photographs import HELD, load
from training.studio import Studio

FOLDER = Path("runs/fit")
ARMS = ("unguided", "fitted")
SHUT = 0.01  # of a gap: below there is nothing to close
CLOSED = {  # share of the gap that must be closed, 0 for not worse, by bank, sampler and cfg
    ("auto", "unipc 25 3"): {1.0: 0.9, 2.0: 0.6, 3.0: 0.5, 5.0: 0.8},
    ("foreign", "unipc 25 3"): {1.0: 0.88, 3.0: 0.4, 5.0: 0.75},
    ("manifold", "unipc 25 3"): {1.0: 0.75, 2.0: 0.0, 3.0: 0.0, 5.0: 0.55},
    ("auto", "euler 8 5"): {1.0: 0.4},
}
FEW = (("euler", 4, 0.6), ("lcm", 4, 0.6), ("euler", 3, 0.0), ("euler", 8, 0.0))  # of the student
ODD_DRAW = 7  # of the real clips that fits are made with


@dataclass(frozen=True)
class Cell:
    """A row of the matrix: model, sampler and cfg as an unguided arm, the bank by name, and what must be closed."""

    name: str
    arm: Arm
    bank: str
    closed: float = 0.0


def cells(banks: Sequence[str]) -> Iterator[Cell]:
    """The matrix, as far as the banks and the early checkpoint are there."""
    for (bank, sampler), wanted in CLOSED.items():
        scheduler, steps, shift = sampler.split()
        for cfg, closed in wanted.items() if bank in banks else ():
            arm = Arm(cfg, int(steps), float(shift), scheduler)
            yield Cell(f"{bank}, {scheduler} {steps} steps shift {shift}, cfg {cfg:g}", arm, bank, closed)
    if EARLY.exists():
        yield Cell("early, cfg 1", Arm(1.0, model="early"), "auto")
    if SHIPPED["tiny-4step"].is_file():
        four = PRESETS["tiny-4step"]
        for stepping, few, closed in FEW:
            sigmas = four.sigmas if few == len(four.sigmas) else even(four.shift, few)
            arm = Arm(1.0, few, four.shift, stepping, model=STUDENT, sigmas=sigmas)
            yield Cell(f"student, {stepping} {few} steps", arm, "auto", closed)


def takes(bench: Bench, pipe: Any, count: int, size: dict[str, int]) -> list[Take]:
    """Real clips with captions, as latents of the pipeline's VAE: none of them is judged against."""
    side, frames = size.get("height", 192), size.get("num_frames", 17)
    texts = prompts(count, "tuning")
    films = [
        bench.studio.film([clip], frames=frames, size=side)[0]
        for clip in real_clips(bench.studio, count, "tuning", draw_number=ODD_DRAW)
    ]
    uint8 = [((film + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu().numpy() for film in films]
    return [Take(text, encode_frames(pipe.vae, clip).cpu()) for text, clip in zip(texts, uint8, strict=True)]


def fitted(cell: Cell, bench: Bench, count: int, file: str) -> Fit:
    """The fit of a cell, made now or found in runs/fit."""
    sampler, arm = bench.sampler, cell.arm
    pipe, size = sampler.pipe(arm.model), sampler.size
    bank = load_bank(file, pipe)
    code = hashlib.sha256((guidance_sha256() + _code()).encode()).hexdigest()[:16]
    weights = f"{arm.model} {weights_sha256(sampler.folder(arm.model))[:16]} {code} {count} {size} {sampler.device}"
    belongs = Belongs(
        bank.identity,
        bank.chosen.digest if bank.chosen else None,
        weights,
        arm.scheduler,
        arm.steps,
        arm.cfg,
        None,
        arm.shift,
        sigmas=arm.sigmas,
    )
    try:
        return read_fit(FOLDER / f"{belongs.name}.json")
    except UsageError:
        pass
    given: dict[str, Any] = {"cfg": arm.cfg, "shift": arm.shift, "frames": size.get("num_frames")}
    given |= {"sigmas": arm.sigmas, "scheduler": arm.scheduler} if arm.sigmas else {"steps": arm.steps}
    request = Request.resolve(
        PRESETS["tiny"], prompt="any", width=size.get("width"), height=size.get("height"), **given
    )
    usual = pipe.scheduler
    pipe.scheduler = SCHEDULERS[arm.scheduler](arm.shift)
    try:
        studio: Any = SimpleNamespace(
            pipe=pipe, texts=None, loading=Loading(), model=find_model(str(sampler.folder(arm.model))),
            device=sampler.device, ranks=Ranks(),
        )  # fmt: skip
        trips = Trips(studio, request, bank, takes(bench, pipe, count, size))
        fit = Fitting(trips, belongs, state=FOLDER / f"{belongs.name}.part").fit()
    finally:
        pipe.scheduler = usual
    write_fit(fit, FOLDER)
    return fit


def _code() -> str:
    """The bytes of what fits, hashed."""
    import shelllcc.guidance.fit.fit
    import shelllcc.guidance.wan.fits.trips

    files = [
        path
        for module in (shelllcc.guidance.fit.fit, shelllcc.guidance.wan.fits.trips)
        for path in sorted(Path(str(module.__file__)).parent.glob("*.py"))
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def arms_of(cell: Cell, fit: Fit, file: str, *, ablate: bool) -> dict[str, Arm]:
    found = dict(zip(ARMS, (None, fit.guide), strict=True))
    if ablate:
        found["fitted, no excess"] = replace(fit.guide, calm=0.0, contrast=0.0)
        found |= {f"fitted, strength {s:g}": replace(fit.guide, strength=s) for s in (0.5, 2.0)}
    return {name: replace(cell.arm, guide=guide, bank=file if guide else "auto") for name, guide in found.items()}


def check(cell: Cell, rows: Rows, real: Row, floor: float) -> Iterator[Gate]:
    """What must hold of a cell, fitted beside unguided."""
    base, ours = rows["unguided"], rows["fitted"]
    gap, left = base.columns["swd"] - floor, ours.columns["swd"] - floor
    share = 1 - left / gap if gap > 0 else 0.0
    figure = f"{base.columns['swd']:.3f} -> {ours.columns['swd']:.3f}, floor {floor:.3f}, closed {share:.0%}"
    if gap < SHUT or not cell.closed:
        yield Gate(f"{cell.name}: swd not worse", figure, ours.sides["swd"] != "worse")
    else:
        yield Gate(f"{cell.name}: {cell.closed:.0%} of the gap", figure, share >= cell.closed)
    before, after = base.columns["spec"], ours.columns["spec"]
    halved = before <= 0.1 or after <= before / 2
    yield Gate(f"{cell.name}: spec", f"{before:.3f} -> {after:.3f}", ours.sides["spec"] != "worse" and halved)
    for column in ("flat", "kurt", "contrast", "jitter"):
        pair = f"{base.columns[column]:.3f} -> {ours.columns[column]:.3f}"
        yield Gate(f"{cell.name}: {column}", pair, ours.sides[column] != "worse")
    named = [round(row.columns["acc"] * 64) for row in (base, ours)]
    yield Gate(f"{cell.name}: subjects", f"{named[0]} -> {named[1]}", named[1] >= named[0] - 1)


def montage(bench: Bench, arms: dict[str, Arm], path: Path, *, shown: int = 8) -> None:
    """Middle frames of some captions, a row for each of unguided, fitted and real."""
    import imageio.v3 as iio

    every = [*(bench.sampler.sample(arms[name]).frames for name in ("unguided", "fitted")), bench.real_clips(0)]
    side = min(frames.shape[2] for frames in every)  # a toy size has real clips of the usual one
    rows = [np.concatenate(list(_middles(frames[:, :, :side, :side], shown)), axis=1) for frames in every]
    path.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(path, np.concatenate(rows, axis=0))


def _middles(frames: Tensor, shown: int) -> Iterator[Any]:
    for index in range(0, len(frames), max(1, len(frames) // shown)):
        yield frames[index, frames.shape[1] // 2].numpy()


def main(
    device: Device = "cpu",
    batch: Batch = 1,
    count: Annotated[int, typer.Option(help="Captions, of 64.")] = 64,
    clips: Annotated[int, typer.Option(help="Real clips that each fit is made with.")] = 24,
    bank: Annotated[list[str] | None, typer.Option(help="NAME=FILE, of `foreign` and `manifold`.")] = None,
    only: Annotated[str, typer.Option(help="A part of the cells' names.")] = "",
    ablate: Annotated[bool, typer.Option(help="Also without the excess, and at other strengths.")] = False,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    files = {"auto": "auto"} | dict(text.split("=", 1) for text in bank or ())
    sampler = Sampler(device=device, batch=batch, split="held-out", count=count, smoke=smoke)
    bench = Bench(sampler, Studio(load(cache, folder=folder, stand_in=smoke), device))
    heads = "".join(f"{column:>9}" for column in COLUMNS)
    print(f"{'arm, held-out captions':<60}{heads}{'change':>9}{'passes':>7}")
    real = row_of("floor", bench.judge(bench.real_clips(1)), compare(bench.real, bench.real))
    show(gates.FLOOR, real, width=60)
    held: list[Gate] = []
    record: dict[str, Any] = {"count": count, "clips": clips, "device": device, "floor": asdict(real), "cells": {}}
    for cell in cells(list(files)):
        if only not in cell.name:
            continue
        fit = fitted(cell, bench, clips, files[cell.bank])
        arms, rows = arms_of(cell, fit, files[cell.bank], ablate=ablate), dict[str, Row]()
        for name, arm in arms.items():
            sampled, base = bench.sampler.sample(arm), arms["unguided"]
            differs = changed(sampled.frames, bench.sampler.sample(base).frames)
            rows[name] = row_of(
                "fit", bench[arm], bench[base], forwards=arm.forwards, moved=sampled.moved, change=differs
            )
            show(f"{cell.name}, {name}", rows[name], width=60)
        knobs = {key: round(getattr(fit.guide, key), 3) for key in ("coarse", "radius", "tone", "calm", "contrast")}
        print(f"    {fit.words()} {json.dumps(knobs)}")
        for evidence in fit.bands:
            was, now = (
                f"{m:+.3f} +- {e:.3f}"
                for m, e in ((evidence.before, evidence.before_error), (evidence.after, evidence.after_error))
            )
            print(f"    {evidence.name:<10} {was}  ->  {now}")
        found = list(check(cell, rows, real, real.columns["swd"]))
        print(*(f"    {gate}" for gate in found if not gate.held), sep="\n")
        held += found
        montage(bench, arms, FOLDER / f"{cell.name.replace(', ', '-').replace(' ', '-')}.png")
        record["cells"][cell.name] = {"fit": fit.as_dict(), "rows": {name: asdict(row) for name, row in rows.items()}}
        record["gates"] = [asdict(gate) for gate in held]
        write_json(Path("runs/fit.json"), record)
    print(*held, sep="\n")
    print(f"{sum(gate.held for gate in held)} of {len(held)} gates hold")


if __name__ == "__main__":
    options.run(main)
