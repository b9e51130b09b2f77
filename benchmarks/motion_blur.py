"""Does guidance take motion blur away? `python -m benchmarks.motion_blur --device cuda --batch 64`

The shell of Shell-LCC is said to remove it. Held-out captions are made to pan, left and right by turns, at the speed
that the model has learnt (2 to 5 pixels a frame), each once plainly and once "with motion blur". Beside them stand
real clips of the same captions through the same VAE, rendered twice on the same path: sharp, and with the shutter open
for .6 to 1 of a frame, as in the model's training data.

The measure is `metrics.pan_sharpness` of the decoded frames, gradient energy along the move over that across it: blur
in all directions hardly changes it, noise pulls it to 1. Each arm's logarithm is compared with that of the sharp real
clip of its caption; 0% of a shutter's blur is that clip, 100% the clip of the open shutter. Its framing is not the
model's, so that only the mean over captions counts; guided and unguided clips share caption and noise. Figures are
means with their standard errors over captions, and go to runs/motion_blur.json.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import controls
from benchmarks.bounds import Gate, keep
from benchmarks.captions import REAL, SOUGHT, Words, captions
from benchmarks.samples import Arm, Sampler
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.measures import metrics
from shelllcc.guidance.wan.model.pipeline import TINY
from shelllcc.guidance.wan.model.presets import PRESETS
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS, caption
from training import options
from training.clips import Clip, draw
from training.options import BankName, Batch, Cache, Device, Folder, Model, Smoke
from training.photographs import HELD, load
from training.studio import Studio

PANS = ("pan left", "pan right")
ASKED: Mapping[str, tuple[str, ...]] = {"sharp": (), "blurred": ("blur",)}
PLACE = 40  # among the seeds of real clips: no other bench's
ERRORS = 2.0  # standard errors that chance explains


@dataclass(frozen=True)
class Mean:
    """A mean over captions and its standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} +- {self.error:.3f}"


def mean(values: Tensor) -> Mean:
    return Mean(float(values.mean()), float(values.std() / len(values) ** 0.5))


def pans(count: int = 64) -> list[Words]:
    """Subject and light of the held-out captions, panning; in neither way one of the tuning captions."""
    tuning, found = {(w.subject, w.move, w.light) for w in captions(64, "tuning")}, []
    for i, (subject, _, light, _) in enumerate(captions(count, "held-out")):
        move = next(m for m in (PANS[i % 2], PANS[1 - i % 2]) if (subject, m, light) not in tuning)
        found.append(Words(subject, move, light, ()))
    return found


def blurred_clips(studio: Studio, words: list[Words]) -> list[Clip]:
    """Real clips, never trained on, of an open shutter and no other free word."""
    names, clips = list(SUBJECTS), []
    for i, (subject, move, light, _) in enumerate(words):
        seeds = itertools.count(REAL + SOUGHT * (64 * PLACE + i))
        pinned = dict(subject=names.index(subject), move=move, light=light)
        drawn = (draw(seed, studio.shapes, **pinned) for seed in seeds)  # type: ignore[arg-type]
        clips.append(next(clip for clip in drawn if clip.free == ASKED["blurred"]))
    return clips


def real_frames(studio: Studio, clips: list[Clip], *, frames: int = 17, side: int = 192) -> Tensor:
    """uint8 (n, t, side, side, 3), one clip after the other to spare memory."""
    films = (studio.film([clip], frames=frames, size=side)[0] for clip in clips)
    return torch.stack([((film + 1) * 127.5).round().byte().permute(1, 2, 3, 0).cpu() for film in films])


def log_sharpness(frames: Tensor) -> Tensor:
    """(n,) natural logarithm of the measure of uint8 clips (n, t, H, W, 3)."""
    return torch.cat([metrics.pan_sharpness(metrics.grey(clip[None])) for clip in frames]).log()


def check(found: Mapping[str, Tensor]) -> Iterator[Gate]:
    """What must hold of the logarithms (n,) by arm: the measure sees a shutter, and guidance is not farther off.

    An arm asked for sharp clips is compared with sharp real ones, one asked for blur with those of an open shutter.
    """
    opened = mean(found["real, blurred"] - found["real, sharp"])
    yield Gate("an open shutter shows", str(opened), opened.value < -ERRORS * opened.error)
    for name in found:
        if name.endswith(", guided"):
            base = name.replace(", guided", ", unguided")
            real = found["real, blurred" if "asked blurred" in name else "real, sharp"]
            ours, theirs, move = (mean(v) for v in (found[name] - real, found[base] - real, found[name] - found[base]))
            chance = abs(move.value) <= ERRORS * move.error
            figure = f"{theirs} -> {ours}, paired {move}"
            yield Gate(f"{name}, no farther from real", figure, chance or abs(ours.value) <= abs(theirs.value))


def table(found: Mapping[str, Tensor]) -> Iterator[tuple[str, Mean, float, Mean | None]]:
    """By arm: log ratio to the sharp real clips, percent of a shutter's blur, guided less unguided."""
    sharp = found["real, sharp"]
    opened = float((found["real, blurred"] - sharp).mean())
    for name, values in found.items():
        base = found[name.replace(", guided", ", unguided")] if name.endswith(", guided") else None
        offset = mean(values - sharp)
        yield name, offset, 100 * offset.value / opened, None if base is None else mean(values - base)


def main(
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    batch: Batch = 1,
    count: Annotated[int, typer.Option(min=2, max=64, help="Captions, of 64.")] = 64,
    cfg: Annotated[list[float] | None, typer.Option(help="May be given more than once; else the model's own.")] = None,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    sampler = Sampler(device=device, batch=batch, split="held-out", count=count, smoke=smoke, model=model, bank=bank)
    studio = Studio(load(cache, folder=folder, stand_in=smoke), device)
    words, vae = pans(count), sampler.pipe().vae
    clips = blurred_clips(studio, words)
    renders = {"real, sharp": [replace(clip, shutter=0.0) for clip in clips], "real, blurred": clips}
    found = {
        name: log_sharpness(controls.through_vae(vae, real_frames(studio, some, **sampler.film)))
        for name, some in renders.items()
    }
    for scale, (asked, free) in itertools.product(cfg or [PRESETS["tiny"].cfg], ASKED.items()):
        texts = [caption(*one._replace(free=free)) for one in words]
        for guide in (None, GuideConfig()):
            name = f"cfg {scale:g}, asked {asked}, {'unguided' if guide is None else 'guided'}"
            found[name] = log_sharpness(sampler.sample(Arm(scale, guide=guide), texts).frames)
    print(f"{'arm, pans of held-out captions':<34}{'log ratio to sharp':>20}{'of the blur':>13}{'guided less':>20}")
    rows: dict[str, Any] = {}
    for name, offset, percent, move in table(found):
        print(f"{name:<34}{offset!s:>20}{percent:>12.0f}%{'' if move is None else str(move):>20}", flush=True)
        rows[name] = {"to_sharp": asdict(offset), "percent": percent, "guided": move and asdict(move)}
    gates = list(check(found))
    print(*gates, sep="\n")
    record = {"count": count, "device": device, "captions": [caption(*one) for one in words], "rows": rows}
    keep("motion_blur", record | {"log_sharpness": {name: v.tolist() for name, v in found.items()}}, gates)


if __name__ == "__main__":
    options.run(main)
