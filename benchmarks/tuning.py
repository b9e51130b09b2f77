"""Does tuning find the strength that a prompt needs? `python -m benchmarks.tuning`, 15 minutes on two CPU cores

Each caption is sampled at nine strengths and tuned, with one prefix. The regret is what the tuned strength misses of
the best of the nine, by the verdict's own balance; whether that balance deserves trust, distances to real clips of
the same caption tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import controls
from benchmarks.captions import Split, prompts, real_frames, seeds
from benchmarks.samples import Arm, usual_guide
from shelllcc.anchors.bank import Bank
from shelllcc.anchors.choose import load_bank
from shelllcc.anchors.score import typical_distance
from shelllcc.guidance.files import write_json
from shelllcc.guidance.measures import metrics
from shelllcc.guidance.measures.figures import change, figures
from shelllcc.guidance.wan.clips.generate import trace_of
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import Clip, first_move, guide_for, sample
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import TINY, find_model, load_pipeline
from shelllcc.guidance.wan.model.presets import PRESETS
from shelllcc.guidance.workbench.runs import Shown, verdict_of
from shelllcc.guidance.workbench.search import Probe, best, search
from shelllcc.guidance.workbench.tune import BUDGET, HIGH
from training import options
from training.options import BankName, Cache, Device, Folder, Model
from training.photographs import HELD, load
from training.studio import Studio

GRID = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
DRAWS = 4  # of real clips of a caption


@dataclass(frozen=True)
class Tried:
    """A strength's balance and alarm, and how far its clip lies from real ones of its caption."""

    probe: Probe
    spectrum: float
    patches: float


class Caption:
    """One caption's clips: `tried(strength)` samples each strength once."""

    def __init__(self, request: Request, pipe: Any, bank: Bank, real: Tensor) -> None:
        self.request, self.pipe, self.bank, self.real = request, pipe, bank, metrics.grey(real)
        guided = request.changed(strength=1.0)
        self.prefix = Prefix(1 + first_move(pipe, guided, guided.guide))
        self.unguided = self._sample(0.0)
        self.excess = self._sample(1.0).trace[0].excess[0]
        self.known: dict[float, Tried] = {}

    def tried(self, strength: float) -> Tried:
        if strength not in self.known:
            self.known[strength] = self._try(strength)
        return self.known[strength]

    def _sample(self, strength: float) -> Clip:
        request = self.request.changed(strength=strength)
        return sample(self.pipe, request, guide_for(request, self.bank), prefix=self.prefix)

    def _try(self, strength: float) -> Tried:
        clip = self._sample(strength)
        shown = [self._shown(self.unguided), self._shown(clip)]
        alarm = strength > 0 and verdict_of(shown[1], shown[0])[0].word.endswith("alarm")
        video = metrics.grey(torch.from_numpy(clip.frames)[None])
        return Tried(
            Probe(strength, shown[1].sampled.balance(self.excess)["balance"], alarm),
            metrics.spectrum_distance(video, self.real),
            metrics.sliced_wasserstein(video, self.real, patches=8192),
        )

    def _shown(self, clip: Clip) -> Shown:
        own = figures(clip.frames) | {"distance": typical_distance(self.bank, clip.latents[0])}
        size, moved = (clip.frames.shape[2], clip.frames.shape[1]), change(clip.frames, self.unguided.frames)
        return Shown("", "", "", size, len(clip.frames), {}, own, moved, trace_of(clip))


def main(
    model: Model = TINY,
    bank: BankName = "auto",
    count: Annotated[int, typer.Option(help="Captions.")] = 16,
    split: Annotated[str, typer.Option(help="tuning or held-out.")] = "held-out",
    cfg: Annotated[float, typer.Option(help="Classifier-free guidance.")] = PRESETS["tiny"].cfg,
    device: Device = "cpu",
    out: Annotated[Path, typer.Option(help="JSON to write.")] = Path("runs/tuning.json"),
    folder: Folder = HELD,
    cache: Cache = None,
) -> None:
    part: Split = "tuning" if split == "tuning" else "held-out"
    pipe = load_pipeline(find_model(str(model)), Loading(dtype="float32"), device=device)
    anchors, studio = load_bank(bank, pipe), Studio(load(cache, folder=folder), device)
    films = [controls.through_vae(pipe.vae, real_frames(studio, count, part, draw_number=d)) for d in range(DRAWS)]
    rows, guide = [], asdict(usual_guide(Arm(cfg)))
    for i, (text, seed) in enumerate(zip(prompts(count, part), seeds(count, part), strict=True)):
        request = Request.resolve(PRESETS["tiny"], prompt=text, seed=seed, cfg=cfg).changed(**guide)
        caption = Caption(request, pipe, anchors, torch.stack([film[i] for film in films]))
        grid = [caption.tried(strength) for strength in GRID]
        found = list(search(lambda s, c=caption: c.tried(s).probe, most=BUDGET, high=HIGH))  # type: ignore[misc]
        rows.append(row := _row(caption, grid, found))
        print(
            f"{i + 1}/{count} {text}: strength {row['strength']:g} in {row['samples']} clips",
            file=sys.stderr,
            flush=True,
        )
    summary = _summary(rows)
    write_json(out, {"cfg": cfg, "split": split, "summary": summary, "captions": rows})
    for name, value in summary.items():
        print(f"{name:<44}{value:8.3f}")


def _row(caption: Caption, grid: list[Tried], found: list[Probe]) -> dict[str, float]:
    tuned, finest = caption.tried(best(found).strength), min(tried.probe.cost for tried in grid)
    arms: dict[str, Tried] = {"unguided": grid[0], "strength 1": caption.tried(1.0), "tuned": tuned}
    truest: Callable[[Tried], float] = lambda tried: tried.spectrum + tried.patches  # noqa: E731
    arms["nearest to real of the nine"] = min(grid, key=truest)
    distances = {f"{name}, {d}": getattr(arm, d) for name, arm in arms.items() for d in ("spectrum", "patches")}
    return {
        "strength": tuned.probe.strength,
        "samples": len(found),
        "gain": grid[0].probe.cost - finest,
        "regret": max(0.0, tuned.probe.cost - finest),
    } | distances


def _summary(rows: list[dict[str, float]]) -> dict[str, float]:
    means = {name: mean(row[name] for row in rows) for name in rows[0]}
    return {
        "regret / gain": means["regret"] / means["gain"],
        "most samples": max(row["samples"] for row in rows),
    } | means


if __name__ == "__main__":
    options.run(main)
