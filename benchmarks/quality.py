"""Are guided clips nearer to real ones, and than anything else gets? `python -m benchmarks.quality`

Clips of 64 captions that no setting was chosen on ("held-out"; `--split tuning` for the others), against real clips of
the same captions seen through the same VAE. Sharpness alone is fooled by noise: benchmarks.judge tells the columns. The
groups of arms, of which `--only` picks some:

cfg         unguided and guided at cfg 1, 1.5, 2, 3, 5
early       the same at cfg 1 and 2 from an early checkpoint of the transformer (`python -m benchmarks.early` first)
controls    a random direction of the same size, an unsharp mask to the same sharpness, twice the steps
rivals      every training-free rival at its best setting (benchmarks/rivals.json, from `benchmarks.best_rivals`)
strength    guided at cfg 2 with half, once, twice and four times the default strength (1 at most)
samplers    unguided and guided with every scheduler, 12, 25 and 50 steps, shift 3 and 5

It prints the table, each row against its base (what got better, worse), and what must hold with its figures; all of it
goes to runs/quality-SPLIT.json, and `--plot` draws it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import controls, gates, judge
from benchmarks.best_rivals import best_rivals
from benchmarks.captions import Split, real_frames, subjects
from benchmarks.judge import Measured
from benchmarks.samples import EARLY, FOLDER, SCHEDULERS, Arm, Sampler
from benchmarks.subjects import classifier
from shelllcc.guidance.config import GuideConfig
from shelllcc.guidance.files import whole_file
from shelllcc.guidance.wan.pipeline import TINY, weights_sha256
from shelllcc.guidance.wan.video import write_json
from training.clips import Studio
from training.photographs import load

CFGS = (1.0, 1.5, 2.0, 3.0, 5.0)
STRENGTHS = (0.5, 1.0, 2.0, 4.0)
GROUPS = ("cfg", "early", "controls", "rivals", "strength", "samplers")
GUIDE = GuideConfig()


@dataclass(frozen=True)
class Row:
    """An arm, judged: the columns, their intervals, and each column beside that of its base, an unguided arm."""

    group: str
    columns: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    sides: dict[str, judge.Side]
    broken: list[str]
    forwards: float
    moved: float


def pair(name: str, arm: Arm) -> dict[str, Arm]:
    return {f"{name}, unguided": arm, f"{name}, guided": replace(arm, guide=GUIDE)}


def arms(group: str) -> dict[str, Arm]:
    """The group's arms by name."""
    found: dict[str, Arm] = {}
    if group == "cfg":
        for cfg in CFGS:
            found |= pair(f"cfg {cfg:g}", Arm(cfg))
    elif group == "early":
        for cfg in (1.0, 2.0) if EARLY.exists() else ():
            found |= pair(f"early, cfg {cfg:g}", Arm(cfg, model="early"))
    elif group == "controls":
        for cfg in (1.0, 3.0):
            found[f"cfg {cfg:g}, random direction"] = Arm(cfg, guide=GUIDE, random=True)
            found[f"cfg {cfg:g}, twice the steps"] = Arm(cfg, steps=2 * Arm().steps)
    elif group == "rivals":
        for rival in best_rivals():
            found[f"{rival.name}, cfg {rival.cfg:g}"] = Arm(rival.cfg, rival=rival)
    elif group == "strength":
        for strength in STRENGTHS:
            share = min(1.0, strength * GUIDE.strength)
            found[f"cfg 2, strength {strength:g}"] = Arm(2.0, guide=replace(GUIDE, strength=share))
    elif group == "samplers":
        for scheduler, steps, shift in itertools.product(SCHEDULERS, (12, 25, 50), (3.0, 5.0)):
            found |= pair(f"{scheduler}, {steps} steps, shift {shift:g}", Arm(1.0, steps, shift, scheduler))
    return found


class Bench:
    """Measures arms once each, against the real clips of the sampler's captions."""

    def __init__(self, sampler: Sampler) -> None:
        self.sampler = sampler
        self.studio = Studio(load(), sampler.device)
        self.classifier: nn.Module = classifier(self.studio)
        self.real = self.measure(self.real_clips(0))
        self.measured: dict[Arm, Measured] = {}

    def real_clips(self, draw_number: int) -> Tensor:
        """Real clips of the captions through the pipeline's VAE, from disk if they are there."""
        s = self.sampler
        path = FOLDER / f"real-{s.split}-{s.count}-{draw_number}-{weights_sha256(TINY)[:12]}.safetensors"
        if not path.exists():
            films = real_frames(self.studio, s.count, s.split, draw_number=draw_number)
            with whole_file(path) as part:
                save_file({"frames": controls.through_vae(s.pipe().vae, films)}, part)
        return load_file(path)["frames"]

    def measure(self, frames: Tensor) -> Measured:
        return judge.measure(frames, subjects(self.sampler.count, self.sampler.split), self.classifier)

    def __getitem__(self, arm: Arm) -> Measured:
        if arm not in self.measured:
            self.measured[arm] = self.measure(self.sampler.sample(arm).frames)
        return self.measured[arm]

    def row(self, group: str, ours: Measured, base: Measured, *, forwards: float = 0.0, moved: float = 0.0) -> Row:
        return Row(
            group,
            judge.compare(ours, self.real),
            judge.bootstrap(ours, self.real),
            judge.worse(ours, base, self.real),
            judge.verdict(ours, base, self.real),
            forwards,
            moved,
        )

    def rows(self, group: str) -> Iterator[tuple[str, Row]]:
        """The group's rows by name. Rivals are judged beside plain guidance at cfg 1, the others beside their base."""
        for name, arm in arms(group).items():
            sampled, base = self.sampler.sample(arm), Arm() if arm.rival or arm.steps > Arm().steps else arm.base
            yield name, self.row(group, self[arm], self[base], forwards=arm.forwards, moved=sampled.moved)
        for cfg in (1.0, 3.0) if group == "controls" else ():
            plain = self.sampler.sample(Arm(cfg)).frames
            masked, amount = controls.unsharp_to(plain, float(self[Arm(cfg, guide=GUIDE)].lap.mean()))
            row = self.row(group, self.measure(masked), self[Arm(cfg)], forwards=Arm(cfg).forwards)
            yield f"cfg {cfg:g}, unsharp mask {amount:.2f}", row


def show(name: str, row: Row) -> None:
    shown = [column for column in judge.COLUMNS if column != "change"]
    figures = "".join(f"{row.columns[column]:>9.3f}" for column in shown)
    sides = {word: [c for c, side in row.sides.items() if side == word] for word in ("better", "worse")}
    words = "; ".join(f"{word}: {', '.join(names)}" for word, names in sides.items() if names)
    print(f"{name:<36}{figures}{row.forwards:>7.0f}  {words}", flush=True)


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Clips sampled at once.")] = 1,
    split: Annotated[str, typer.Option(help="held-out or tuning captions.")] = "held-out",
    only: Annotated[str, typer.Option(help="Groups, comma-separated.")] = ",".join(GROUPS),
    count: Annotated[int, typer.Option(help="Captions, of 64.")] = 64,
    plot: Annotated[Path | None, typer.Option(help="A PNG to draw.")] = None,
    smoke: Annotated[bool, typer.Option(help="A toy size, for a test.")] = False,
) -> None:
    chosen: Split = "tuning" if split == "tuning" else "held-out"
    bench = Bench(Sampler(device=device, batch=batch, split=chosen, count=count, smoke=smoke))
    heads = "".join(f"{column:>9}" for column in judge.COLUMNS if column != "change")
    print(f"{'arm, ' + split + ' captions':<36}{heads}{'passes':>7}")
    rows = {gates.FLOOR: bench.row("floor", bench.measure(bench.real_clips(1)), bench.real)}
    show(gates.FLOOR, rows[gates.FLOOR])
    for group in only.split(","):
        for name, row in bench.rows(group):
            rows[name] = row
            show(name, row)
    held = gates.check(rows)
    print(*held, sep="\n")
    record: dict[str, Any] = {"split": split, "count": count, "guide": asdict(GUIDE), "device": device}
    record |= {"rows": {name: asdict(row) for name, row in rows.items()}, "gates": [asdict(gate) for gate in held]}
    write_json(Path(f"runs/quality-{split}.json"), record)
    if plot is not None:
        gates.draw(rows, plot)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    typer.run(main)
