"""Are guided clips nearer to real ones, and than anything else gets? `python -m benchmarks.quality --device cuda`

Clips of 64 captions that no setting was chosen on ("held-out"; `--split tuning` for the others), against real clips of
the same captions seen through the same VAE. Sharpness alone is fooled by noise: benchmarks.judge tells the columns. The
groups of arms, of which `--only` picks some:

cfg         unguided and guided at cfg 1, 1.5, 2, 3, 5
controls    a random direction of the same size, an unsharp mask to the same sharpness, twice the steps
rivals      every training-free rival at its best setting (benchmarks/rivals.json, from `benchmarks.best_rivals`)
strength    guided at cfg 3 with half, once, twice and four times the strength
samplers    unguided and guided with every scheduler, 12, 25 and 50 steps, shift 3 and 5, at cfg 1

Every arm is guided as `generate` guides it: by its fit, or the nearest one (benchmarks.fit makes fits for other banks
and models). It prints the table, each row against its base (what got better, worse), and what must hold with its
figures; all of it goes to runs/quality-SPLIT.json, docs/quality.md's table to runs/quality-SPLIT.md; `--plot` draws it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import controls, gates
from benchmarks.bench import Bench
from benchmarks.best_rivals import best_rivals
from benchmarks.bounds import RUNS, keep
from benchmarks.captions import Split
from benchmarks.gates import Row
from benchmarks.judge import COLUMNS, Judged, compare
from benchmarks.samples import SCHEDULERS, Arm, Sampler, usual_guide
from shelllcc.guidance.measures.figures import change
from shelllcc.guidance.wan.model.pipeline import TINY
from training import options
from training.options import BankName, Batch, Cache, Device, Folder, Model, Smoke
from training.photographs import HELD, load
from training.studio import Studio

CFGS = (1.0, 1.5, 2.0, 3.0, 5.0)
SAMPLERS = tuple(name for name in SCHEDULERS if name != "lcm")  # which is for distilled models
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
GROUPS = ("cfg", "controls", "rivals", "strength", "samplers")


def pair(name: str, arm: Arm) -> dict[str, Arm]:
    return {f"{name}, unguided": arm, f"{name}, guided": guided(arm)}


def guided(arm: Arm, **changes: Any) -> Arm:
    return replace(arm, guide=replace(usual_guide(arm), **changes))


def arms(group: str) -> dict[str, Arm]:
    """The group's arms by name."""
    found: dict[str, Arm] = {}
    if group == "cfg":
        for cfg in CFGS:
            found |= pair(f"cfg {cfg:g}", Arm(cfg))
    elif group == "controls":
        for cfg in (1.0, 3.0):
            found[f"cfg {cfg:g}, random direction"] = replace(guided(Arm(cfg)), random=True)
            found[f"cfg {cfg:g}, twice the steps"] = Arm(cfg, steps=2 * Arm().steps)
    elif group == "rivals":
        for rival in best_rivals():
            found[f"{rival.name}, cfg {rival.cfg:g}"] = Arm(rival.cfg, rival=rival)
    elif group == "strength":
        for strength in STRENGTHS:
            found[f"cfg 3, strength {strength:g}"] = guided(Arm(3.0), strength=strength)
    elif group == "samplers":
        for scheduler, steps, shift in itertools.product(SAMPLERS, (12, 25, 50), (3.0, 5.0)):
            found |= pair(f"{scheduler}, {steps} steps, shift {shift:g}", Arm(1.0, steps, shift, scheduler))
    return found


def row_of(
    group: str, ours: Judged, base: Judged, *, forwards: float = 0.0, moved: float = 0.0, change: float = 0.0
) -> Row:
    return Row(group, ours.values, ours.intervals(), ours.sides(base), ours.verdict(base), forwards, moved, change)


def rows_of(group: str, bench: Bench) -> Iterator[tuple[str, Row]]:
    """The group's rows by name. Rivals are judged beside plain guidance at cfg 1, the others beside their base."""
    sample = bench.sampler.sample
    for name, arm in arms(group).items():
        usual = replace(arm.base, steps=Arm().steps) if group == "controls" else arm.base
        base, sampled = Arm() if arm.rival else usual, sample(arm)
        differs = changed(sampled.frames, sample(base).frames)
        figures = dict(forwards=arm.forwards, moved=sampled.moved, change=differs)
        yield name, row_of(group, bench[arm], bench[base], **figures)
    for cfg in (1.0, 3.0) if group == "controls" else ():
        plain = sample(Arm(cfg)).frames
        lap = bench[guided(Arm(cfg))].values["lap"] * float(bench.real.lap.mean())
        masked, amount = controls.unsharp_to(plain, lap)
        figures = dict(forwards=Arm(cfg).forwards, change=changed(masked, plain))
        yield f"cfg {cfg:g}, unsharp mask {amount:.2f}", row_of(group, bench.judge(masked), bench[Arm(cfg)], **figures)


def changed(frames: Tensor, base: Tensor) -> float:
    """Mean |difference| of a pixel, in [0, 1], of uint8 clips (n, t, H, W, 3)."""
    return change(frames.flatten(0, 1).numpy(), base.flatten(0, 1).numpy())


def show(name: str, row: Row, *, width: int = 36) -> None:
    figures = "".join(f"{row.columns[column]:>9.3f}" for column in COLUMNS)
    sides = {word: [c for c, side in row.sides.items() if side == word] for word in ("better", "worse")}
    words = "; ".join(f"{word}: {', '.join(names)}" for word, names in sides.items() if names)
    print(f"{name:<{width}}{figures}{row.change:>9.3f}{row.forwards:>7.0f}  {words}", flush=True)


def markdown(rows: gates.Rows, count: int) -> str:
    """The table of docs/quality.md: the floor, every cfg, and the controls and rivals."""
    columns = ("lap", "spec", "swd", "kurt", "flat", "jitter", "contrast")
    lines = [f"| arm | passes | {' | '.join(columns)} | subject named |", "|---" * (len(columns) + 3) + "|"]
    for name, row in rows.items():
        if row.group in ("floor", "cfg", "controls", "rivals"):
            figures = (f"{row.columns[c]:.{3 if c in ('spec', 'swd') else 2}f}".removeprefix("0") for c in columns)
            passes = f"{row.forwards:.0f}" if row.forwards else ""
            shown = f"**{name}**" if name.endswith(", guided") else name
            lines.append(
                f"| {shown} | {passes} | {' | '.join(figures)} | {row.columns['acc'] * count:.0f} of {count} |"
            )
    return "\n".join(lines) + "\n"


def main(
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    batch: Batch = 1,
    split: Annotated[str, typer.Option(help="held-out or tuning captions.")] = "held-out",
    only: Annotated[str, typer.Option(help="Groups, comma-separated.")] = ",".join(GROUPS),
    count: Annotated[int, typer.Option(help="Captions, of 64.")] = 64,
    plot: Annotated[Path | None, typer.Option(help="A PNG to draw.")] = None,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    chosen: Split = "tuning" if split == "tuning" else "held-out"
    sampler = Sampler(device=device, batch=batch, split=chosen, count=count, smoke=smoke, model=model, bank=bank)
    bench = Bench(sampler, Studio(load(cache, folder=folder, stand_in=smoke), device))
    heads = "".join(f"{column:>9}" for column in COLUMNS)
    print(f"{'arm, ' + split + ' captions':<36}{heads}{'change':>9}{'passes':>7}")
    floor = row_of("floor", bench.judge(bench.real_clips(1)), compare(bench.real, bench.real))
    rows = {gates.FLOOR: floor}
    show(gates.FLOOR, floor)
    for group in only.split(","):
        for name, row in rows_of(group, bench):
            rows[name] = row
            show(name, row)
    held = gates.check(rows)
    print(*held, sep="\n")
    record: dict[str, Any] = {"split": split, "count": count, "guide": asdict(usual_guide(Arm())), "device": device}
    keep(f"quality-{split}", record | {"rows": {name: asdict(row) for name, row in rows.items()}}, held)
    (RUNS / f"quality-{split}.md").write_text(markdown(rows, count), encoding="utf-8")
    if plot is not None:
        gates.draw(rows, plot)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    options.run(main)
