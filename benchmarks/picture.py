"""Pictures of what the tiny model shows.

`python -m benchmarks.picture hero docs/images/petals.png`        the README's first: petals, unguided beside guided
`python -m benchmarks.picture guided docs/images/guided.png`      the README's second: unguided above, guided below
`python -m benchmarks.picture radial docs/images/radial.png`      a real clip, its residuals stretched from 0 to 2
`python -m benchmarks.picture report docs/images/report.jpg`      the page of a comparison, in a headless Chromium
`python -m benchmarks.picture montage runs/montage.png`           subjects, real clips above sampled ones, enlarged

The second and the last show the middle frames of clips of benchmarks.captions.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import imageio.v3 as iio
import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks.captions import Words, captions, prompts, real_clips, seeds
from benchmarks.samples import SMOKE, Arm, Sampler, sample_batch, usual_guide
from shelllcc.anchors.choose import choose_bank
from shelllcc.guidance.media.photographs import PHOTOGRAPHS, film, some
from shelllcc.guidance.media.pictures import labelled
from shelllcc.guidance.wan.banks.encode import encode_frames
from shelllcc.guidance.wan.banks.study import radial_tiles
from shelllcc.guidance.wan.model.pipeline import TINY, load_vae
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS
from training import options
from training.options import BankName, Cache, Device, Folder, Model, Smoke
from training.photographs import HELD, load
from training.studio import Studio

SHOWN = ("raccoon", "cat", "dogs", "grass", "forest", "stream", "gravel")  # fur first, then foliage, water and stone
CAT = "a tabby cat, zoom in, daylight"
FLOWER, PETALS = "a flower, zoom in, daylight", "0,28,144"
LIGHT = "daylight"  # in which texture is seen best
Enlarge = Annotated[int, typer.Option(help="Screen pixels a pixel.")]
app = typer.Typer(add_completion=False)


def montage(first: Tensor, second: Tensor, *, columns: int, enlarge: int) -> np.ndarray:
    """uint8 (h, w, 3): pairs of uint8 pictures (n h w 3), the first above the second, `columns` pairs in a row."""
    pairs = torch.cat([first, second], dim=1)
    pairs = torch.cat([pairs, pairs.new_zeros(-len(pairs) % columns, *pairs.shape[1:])])
    rows = [torch.cat(list(pairs[i : i + columns]), dim=1) for i in range(0, len(pairs), columns)]
    picture: np.ndarray = torch.cat(rows).repeat_interleave(enlarge, 0).repeat_interleave(enlarge, 1).cpu().numpy()
    return picture


def chosen(subjects: tuple[str, ...]) -> list[int]:
    """The caption of each subject, by number: in daylight and without a free word where there is such a one."""
    asked = list(enumerate(captions()))

    def rank(words: Words) -> tuple[bool, bool]:
        return bool(words.free), words.light != LIGHT

    return [min((n for n in asked if n[1].subject == subject), key=lambda n: rank(n[1]))[0] for subject in subjects]


def middle(clips: Tensor) -> Tensor:
    """The middle frames (n h w 3) of clips (n t h w 3)."""
    return clips[:, clips.shape[1] // 2]


def sampled(sampler: Sampler, numbers: list[int], arm: Arm) -> Tensor:
    """Middle frames (n h w 3) of the captions of these numbers."""
    guide, clips = sampler.guide(arm), []
    for first in range(0, len(numbers), sampler.batch):
        these = numbers[first : first + sampler.batch]
        texts, noise = [prompts()[n] for n in these], [seeds()[n] for n in these]
        clips.append(middle(sample_batch(sampler.pipe(), texts, noise, arm, guide, **sampler.size)))
    return torch.cat(clips)


def write(out: Path, picture: np.ndarray) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    iio.imwrite(out, picture)


@app.command()
def guided(
    out: Path,
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    cfg: Annotated[float, typer.Option(help="Classifier-free guidance.")] = Arm().cfg,
    smoke: Smoke = False,
) -> None:
    """Unguided above guided, a column a subject; some minutes on a CPU."""
    sampler = Sampler(device=device, batch=len(SHOWN), smoke=smoke, model=model, bank=bank)
    steps = 3 if smoke else Arm().steps
    arm = Arm(cfg, steps)
    rows = [sampled(sampler, chosen(SHOWN), each) for each in (arm, replace(arm, guide=usual_guide(arm)))]
    write(out, montage(*rows, columns=len(SHOWN), enlarge=1))


@app.command()
def hero(
    out: Path,
    prompt: Annotated[str, typer.Option(help="What to show.")] = FLOWER,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    frame: Annotated[int, typer.Option(help="Of the clip; -1 is the last.")] = -1,
    place: Annotated[str, typer.Option(help="X,Y,SIDE of a square of the frame, in pixels.")] = PETALS,
    enlarge: Enlarge = 5,
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    smoke: Smoke = False,
) -> None:
    """A place of a clip enlarged, unguided beside guided, at the default settings."""
    sampler = Sampler(device=device, batch=1, smoke=smoke, model=model, bank=bank)
    arm = Arm(steps=12) if smoke else Arm()  # of fewer none lies where the guide acts
    x, y, side = map(int, place.split(","))
    shown = {}
    for label, each in (("unguided", arm), ("guided", replace(arm, guide=usual_guide(arm)))):
        clip = sample_batch(sampler.pipe(), [prompt], [seed], each, sampler.guide(each), **sampler.size)
        cut = clip[:, frame, y : y + side, x : x + side].cpu()
        shown[label] = cut.repeat_interleave(enlarge, 1).repeat_interleave(enlarge, 2).numpy()
    write(out, next(labelled(shown, columns=2)))


@app.command()
def radial(
    out: Path,
    photograph: Annotated[str, typer.Option(help="One that ships, under its moving camera.")] = "raccoon",
    bank: BankName = "tiny-wan",
    smoke: Smoke = False,
) -> None:
    """The middle frame of a real clip through the tiny model's VAE, its residuals stretched by 0 to 2."""
    side, frames = (64, 5) if smoke else (192, 17)
    [take] = [take for take in some(side, len(PHOTOGRAPHS), known=True) if take.photograph.name == photograph]
    vae = load_vae(str(TINY), "local", device="cpu")
    latents = encode_frames(vae, film(take, side, frames=frames))
    tiles = radial_tiles(choose_bank(bank)[0], latents, vae)
    write(out, np.concatenate([middle(torch.from_numpy(tile)[None])[0].numpy() for tile in tiles], axis=1))


@app.command()
def report(
    out: Path,
    page: Annotated[Path | None, typer.Option(help="A report.html; without one a comparison is sampled.")] = None,
    width: Annotated[int, typer.Option(help="Of the window, in pixels.")] = 1400,
    height: Annotated[int, typer.Option(help="Of the window, in pixels.")] = 900,
    dark: Annotated[bool, typer.Option("--dark", help="The page in the dark.")] = False,
) -> None:
    """The page of a comparison of the cat, as a browser shows it; Chromium and its driver must be on the path."""
    from selenium import webdriver

    with tempfile.TemporaryDirectory() as folder:
        if page is None:
            page = Path(folder) / "run/report.html"
            words = ["-p", CAT, "--strengths", "0,1", "--output", str(page.parent)]
            subprocess.run([sys.executable, "-m", "shelllcc", "compare", *words], check=True)
        options = webdriver.ChromeOptions()
        for flag in ("--headless=new", "--no-sandbox", "--hide-scrollbars", f"--window-size={width},{height}"):
            options.add_argument(flag)
        if dark:
            options.add_argument("--force-dark-mode")
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or ""))
        try:
            driver.get(page.absolute().as_uri())
            time.sleep(3)  # its videos begin
            shot = iio.imread(driver.get_screenshot_as_png())[..., :3]
        finally:
            driver.quit()
    write(out, shot)


@app.command("montage")
def real_above_sampled(
    out: Path,
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    subjects: Annotated[str, typer.Option(help="Some subjects, comma-separated, or the first so many.")] = "16",
    guide: Annotated[bool, typer.Option("--guided", help="Sample with guidance.")] = False,
    cfg: Annotated[float, typer.Option(help="Classifier-free guidance.")] = Arm().cfg,
    columns: int = 4,
    enlarge: Enlarge = 2,
    folder: Folder = HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    """Real clips of the same captions above sampled ones."""
    names = tuple(SUBJECTS)[: int(subjects)] if subjects.isdigit() else tuple(subjects.split(","))
    if unknown := set(names) - set(SUBJECTS):
        raise typer.BadParameter(f"no subject {', '.join(unknown)}; there are {', '.join(SUBJECTS)}")
    sampler = Sampler(device=device, batch=len(names), smoke=smoke, model=model, bank=bank)
    studio = Studio(load(cache, folder=folder, stand_in=smoke), device)
    numbers, clips = chosen(names), real_clips(studio)
    size = {"frames": SMOKE["num_frames"], "size": SMOKE["height"]} if smoke else {}
    films = torch.cat([studio.film([clips[n]], **size) for n in numbers])  # type: ignore[arg-type]
    real = middle(((films + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu())
    arm = Arm(cfg, 3 if smoke else Arm().steps)
    arm = replace(arm, guide=usual_guide(arm) if guide else None)
    write(out, montage(real, sampled(sampler, numbers, arm), columns=columns, enlarge=enlarge))


if __name__ == "__main__":
    options.run(app)
