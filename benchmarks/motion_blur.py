"""Does guidance take motion blur away? `python -m benchmarks.motion_blur --device cuda --batch 64`

The shell of Shell-LCC is said to remove it. Held-out captions are made to pan, left and right by turns, at the speed
that the model has learnt (2 to 5 pixels a frame), each once plainly and once "with motion blur". Beside them stand
real clips of the same captions through the same VAE, rendered twice on the same path: sharp, and with the shutter open
for .6 to 1 of a frame, as in the model's training data.

The measure is `metrics.pan_sharpness` of the decoded frames, gradient energy along the move over that across it: blur
in all directions hardly changes it, noise pulls it to 1. Each arm's logarithm is compared with that of the sharp real
clip of its caption; 0% of a shutter's blur is that clip, 100% the clip of the open shutter. Its framing is not the
model's, so that only the mean over captions counts. Surer are the differences of clips that share caption and noise,
guided less unguided, and of those that share but the words of blur. Figures are means with their standard errors over
captions, and go to runs/motion_blur.json.

Clips are guided as `generate` guides them, by the fit for their cfg or the nearest one.
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
from benchmarks.samples import Arm, Sampler, usual_guide
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


def unguided(name: str) -> str | None:
    """The arm of the same clips without guidance; None for one that is not guided."""
    return name.removesuffix("guided") + "unguided" if name.endswith(", guided") else None


def check(found: Mapping[str, Tensor]) -> Iterator[Gate]:
    """What must hold of the logarithms (n,) by arm: the measure sees a shutter, and guidance is not farther off.

    An arm asked for sharp clips is compared with sharp real ones, one asked for blur with those of an open shutter.
    """
    opened = mean(found["real, blurred"] - found["real, sharp"])
    yield Gate("an open shutter shows", str(opened), opened.value < -ERRORS * opened.error)
    for name in found:
        if (base := unguided(name)) is not None:
            real = found["real, blurred" if "asked blurred" in name else "real, sharp"]
            ours, theirs, move = (mean(v) for v in (found[name] - real, found[base] - real, found[name] - found[base]))
            chance = abs(move.value) <= ERRORS * move.error
            figure = f"{theirs} -> {ours}, paired {move}"
            yield Gate(f"{name}, no farther from real", figure, chance or abs(ours.value) <= abs(theirs.value))


@dataclass(frozen=True)
class Row:
    """An arm's mean log ratio to the sharp real clips, what that is of a shutter's blur, and beside its own clips.

    `guided` is beside the unguided clips of the same captions, `asked` beside the clips, real or of the same noise,
    that were not asked to be blurred: less than 0 is blurrier along the move.
    """

    to_sharp: Mean
    percent: float
    guided: Mean | None
    asked: Mean | None


def table(found: Mapping[str, Tensor]) -> dict[str, Row]:
    """A row for each arm's logarithms (n,)."""
    sharp = found["real, sharp"]
    opened = float((found["real, blurred"] - sharp).mean())

    def beside(name: str, other: str | None) -> Mean | None:
        return None if other is None else mean(found[name] - found[other])

    return {
        name: Row(
            mean(values - sharp),
            100 * float((values - sharp).mean()) / opened + 0.0,  # no -0
            beside(name, unguided(name)),
            beside(name, name.replace("blurred", "sharp") if "blurred" in name else None),
        )
        for name, values in found.items()
    }


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
    for scale, (asked, free) in itertools.product(sorted({*(cfg or [PRESETS["tiny"].cfg])}), ASKED.items()):
        texts = [caption(*one._replace(free=free)) for one in words]
        for how, guide in {"unguided": None, "guided": usual_guide(Arm(scale), model=str(sampler.model))}.items():
            name = f"cfg {scale:g}, asked {asked}, {how}"
            found[name] = log_sharpness(sampler.sample(Arm(scale, guide=guide), texts).frames)
    heads = "".join(f"{head:>20}" for head in ("log ratio to sharp", "guided less", "asked to blur less"))
    print(f"{'arm, pans of held-out captions':<34}{heads}{'of the blur':>13}")
    rows = table(found)
    for name, row in rows.items():
        columns = "".join(f"{'' if v is None else str(v):>20}" for v in (row.to_sharp, row.guided, row.asked))
        print(f"{name:<34}{columns}{row.percent:>12.0f}%")
    gates = list(check(found))
    print(*gates, sep="\n")
    record: dict[str, Any] = {"count": count, "device": device, "captions": [caption(*one) for one in words]}
    record |= {"rows": {name: asdict(row) for name, row in rows.items()}}
    keep("motion_blur", record | {"log_sharpness": {name: v.tolist() for name, v in found.items()}}, gates)


if __name__ == "__main__":
    options.run(main)
