"""Find each rival's best setting: `python -m benchmarks.best_rivals --device cuda --batch 64`

Every setting of benchmarks.rivals.GRID, and plain classifier-free guidance, samples the tuning captions; a rival's best
is the one whose spectrum and patches lie nearest to real clips' (the product of the two distances), among those that
name as many subjects as the unguided model but one. They go to benchmarks/rivals.json, where the held-out bench looks;
with `--only`, for some rivals alone, those of others stay there where they are of the same weights and captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.bench import Bench
from benchmarks.rivals import GRID, NAMES, Rival
from benchmarks.samples import Arm, Sampler
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.wan.model.pipeline import TINY, weights_sha256
from training import options
from training.options import BankName, Batch, Cache, Device, Folder, Model
from training.photographs import HELD, load
from training.studio import Studio

BEST = Path(__file__).with_name("rivals.json")
PLAIN = tuple(Rival("cfg", cfg) for cfg in (1.5, 2.0, 2.5, 3.0))


def best_rivals() -> list[Rival]:
    """Each rival at the best of its settings. Raises UsageError where they have not been sought."""
    if not BEST.exists():
        raise UsageError("no rival's best setting is known; find them by `python -m benchmarks.best_rivals`")
    rows = json.loads(BEST.read_text(encoding="utf-8"))["best"]
    return [_rival(row["rival"]) for row in rows]


def choose(rows: list[dict[str, Any]], least: float) -> list[dict[str, Any]]:
    """The best row of each rival, in the order of NAMES."""
    best = []
    for name in NAMES:
        if not (mine := [row for row in rows if row["rival"]["name"] == name]):
            continue
        true = [row for row in mine if row["acc"] >= least] or mine
        best.append(min(true, key=lambda row: row["spec"] * row["swd"]))
    return best


def chosen(only: Sequence[str] | None) -> tuple[str, ...]:
    """The rivals whose settings are sought. Raises UsageError for a name that is none."""
    if unknown := set(only or ()) - set(NAMES):
        raise UsageError(f"no rival is called {min(unknown)}; there are {', '.join(NAMES)}")
    return tuple(name for name in NAMES if name in (only or NAMES))


def _rival(row: dict[str, Any]) -> Rival:
    knobs = tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in row["knobs"])
    return Rival(row["name"], row["cfg"], knobs)


def main(
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    batch: Batch = 1,
    count: Annotated[int, typer.Option(help="Captions, of 64.")] = 64,
    only: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NAMES)}; may be repeated.")] = None,
    folder: Folder = HELD,
    cache: Cache = None,
) -> None:
    sampler = Sampler(device=device, batch=batch, split="tuning", count=count, model=model, bank=bank)
    bench = Bench(sampler, Studio(load(cache, folder=folder), device))
    columns = ("lap", "spec", "swd", "kurt", "flat", "acc")
    plain = bench[Arm()].values
    print(f"{'unguided, cfg 1':<58}" + "".join(f"{plain[column]:>8.3f}" for column in columns), flush=True)
    names = chosen(only)
    of = {"weights": weights_sha256(model)[:16], "count": count}
    record = json.loads(BEST.read_text(encoding="utf-8")) if BEST.exists() else {}
    before = record["tried"] if of.items() <= record.items() else []
    rows = [row for row in before if row["rival"]["name"] not in names]
    for rival in (*PLAIN, *GRID):
        if rival.name not in names:
            continue
        arm = Arm(rival.cfg, rival=rival)
        seen = bench[arm].values
        rows.append({"rival": asdict(rival), "forwards": arm.forwards} | {c: round(seen[c], 4) for c in columns})
        knobs = ", ".join(f"{key.split('_')[-1]} {value}" for key, value in rival.knobs)
        print(f"{f'{rival.name} {rival.cfg:g} {knobs}':<58}" + "".join(f"{seen[c]:>8.3f}" for c in columns), flush=True)
    best = choose(rows, plain["acc"] - 1.5 / count)
    BEST.write_text(json.dumps(of | {"best": best, "tried": rows}, indent=1) + "\n", encoding="utf-8")
    for row in best:
        print(f"best: {row}")


if __name__ == "__main__":
    options.run(main)
