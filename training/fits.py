"""The fits that ship: how the guide is set for the embedded model at its usual settings. `python -m training.fits`

Made as `shelllcc fit` makes them, but of more clips, and of all lights and moves that the model knows. About a minute a
cfg on one GPU. Run it last: a fit belongs to the weights, the bank and the bank's calibration as they are then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.captions import prompts, real_clips
from shelllcc.anchors.choose import choose_bank
from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.guidance.fit.fit import write_fit
from shelllcc.guidance.fit.fitting import Fitting
from shelllcc.guidance.fit.shelf import SHIPPED
from shelllcc.guidance.fit.trips import Take
from shelllcc.guidance.wan.banks.encode import encode_frames
from shelllcc.guidance.wan.clips.fitted import belonging
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.studio import Studio as Sampling
from shelllcc.guidance.wan.fits.trips import Trips
from shelllcc.guidance.wan.model.loading import Loading, Lora
from shelllcc.guidance.wan.model.pipeline import find_model
from shelllcc.guidance.wan.model.presets import PRESETS
from training import options
from training.options import Cache, Device, Folder, Smoke
from training.photographs import HELD, load
from training.studio import Studio

CFGS = "1,2,3,5"
STEPPINGS = ("euler", "lcm")  # that the student of few steps is sampled by
ODD_DRAW = 8  # of the real clips of the tuning captions: none that a benchmark looks at


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str) -> None:
        pass

    def step(self, moment: object) -> None:
        pass

    def count(self, done: int, total: int) -> None:
        pass


def main(
    device: Device = "cpu",
    clips: Annotated[int, typer.Option(help="Real clips that each fit is made with.")] = 48,
    cfgs: Annotated[str, typer.Option(help="Comma-separated.")] = CFGS,
    preset: Annotated[str, typer.Option(help="tiny, or tiny-4step for the student, by both steppings.")] = "tiny",
    out: Annotated[Path, typer.Option(help="Where the fits go, beside those of other settings.")] = SHIPPED,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    usual = PRESETS[preset]
    loras = (Lora(usual.lora),) if usual.lora else ()
    model, loading = find_model(None), Loading(dtype="float32", loras=loras)
    bank, _ = choose_bank(None, fingerprint(model.vae), model.fingerprint)
    sampling, filming = (
        Sampling(model, loading, Silent(), device=device),
        Studio(load(cache, folder=folder, stand_in=smoke)),
    )
    texts = prompts(clips, "tuning")
    sampling.texts.prepare(["", *texts])
    frames, side, steps = (5, 64, 4) if smoke else (usual.frames, usual.width, usual.steps)
    takes = []
    for text, clip in zip(texts, real_clips(filming, clips, "tuning", draw_number=ODD_DRAW), strict=True):
        film = ((filming.film([clip], frames=frames, size=side)[0] + 1) * 127.5).round().byte()
        takes.append(Take(text, encode_frames(sampling.pipe.vae, film.permute(1, 2, 3, 0).numpy()).cpu()))
    ways = [(1.0, name) for name in STEPPINGS] if usual.sigmas else [(cfg, "") for cfg in map(float, cfgs.split(","))]
    for cfg, scheduler in ways:
        size = {"width": side, "height": side, "frames": frames}
        schedule = {"scheduler": scheduler} if usual.sigmas else {"steps": steps}
        request = Request.resolve(usual, prompt="any", cfg=cfg, **schedule, **size)
        belongs = belonging(request, model, Loading(loras=loras), bank)
        fit = Fitting(Trips(sampling, request, bank, takes), belongs).fit()
        path = write_fit(fit, out)
        print(f"{path}: {fit.words()}", *fit.bands, fit.guide, sep="\n", flush=True)


if __name__ == "__main__":
    options.run(main)
