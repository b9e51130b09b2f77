"""A fit from beginning to end: clips, round trips, what it will take, and the file in the end.

Knows nothing of terminals.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import TooLongError
from shelllcc.guidance.files import claimed
from shelllcc.guidance.fit import shelf
from shelllcc.guidance.fit.fit import Fit
from shelllcc.guidance.fit.fitting import Fitting, Progress
from shelllcc.guidance.fit.trips import Take
from shelllcc.guidance.media import photographs
from shelllcc.guidance.wan.banks.encode import encode_frames
from shelllcc.guidance.wan.banks.start import films
from shelllcc.guidance.wan.clips.fitted import belonging
from shelllcc.guidance.wan.fits.trips import Trips
from shelllcc.guidance.wan.model.presets import preset_for
from shelllcc.guidance.wan.model.seams import device_of

if TYPE_CHECKING:
    from diffusers import WanPipeline

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import Moment
    from shelllcc.guidance.wan.clips.studio import Studio
    from shelllcc.guidance.wan.model.pipeline import Model

SIDE, FRAMES = 256, 17  # pixels and frames of a fit's clips, where the model makes such large ones
CLIPS, CLIPS_LARGE, CLIPS_CPU = 24, 16, 8
LARGE = 1024  # numbers of a token within a transformer from which a clip takes long: Wan's 1.3B has 1536, the tiny 320
FEW = 10  # steps of a further trip up to which decoding is most of what it takes on the CPU
SHOWN = 2  # latent frames that are decoded then: drifts of so few lie within .02 to .04 of those of five


@dataclass(frozen=True)
class Shape:
    """How many clips a fit takes, and how large they are, in pixels and frames."""

    side: int
    frames: int
    clips: int


def shape_for(
    model: Model, request: Request, device: str, clips: int | None = None, given: Collection[str] = ()
) -> Shape:
    """What suits a model and a device: small, short clips, but none smaller or shorter than the request's; fewer of
    them where each takes long.

    Fields of the request that were `given`, `frames` and `width`, are taken as they are.
    """
    grid = max(model.grid)
    most = min(request.width, request.height)
    side = (most if "width" in given else min(SIDE, most)) // grid * grid
    frames = request.frames if "frames" in given else min(FRAMES, request.frames)
    width = model.transformer["num_attention_heads"] * model.transformer["attention_head_dim"]
    usual = CLIPS_CPU if device.startswith("cpu") else CLIPS_LARGE if width >= LARGE else CLIPS
    return Shape(max(side, grid), frames, clips or usual)


def make_fit(
    studio: Studio,
    request: Request,
    bank: Bank,
    *,
    clips: int | None = None,
    given: Collection[str] = (),
    seed: int = 0,
    most: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_cost: Callable[[float], None] = lambda seconds: None,
) -> Fit:
    """Fit the guide to the sampling of a request, and keep the fit in the user's folder.

    The time it will take is known after the first clips, and `on_cost` hears of it; with more than `most` seconds it
    raises TooLongError, and the next fit goes on from there. Raises OutputError where another process makes this one.
    """
    shape = shape_for(studio.model, request, studio.device, clips, given)
    small = request.without_images().changed(width=shape.side, height=shape.side, frames=shape.frames)
    chosen = chosen_takes(shape, studio.model)
    studio.expect(small.changed(prompt=take.caption) for take in chosen)
    pipe = studio.pipe
    studio.reporter.stage("encoding clips")
    began = time.monotonic()
    takes = list(encoded(pipe, chosen, shape))
    encoding = time.monotonic() - began
    watch = _Watch()
    trips = Trips(studio, small, bank, takes, seed=seed, on_moment=watch)
    if studio.device.startswith("cpu") and trips.tail <= FEW:
        trips.shown = SHOWN
    belongs = belonging(request, studio.model, studio.loading, bank)
    state = shelf.folder() / "begun" / f"{belongs.name}.json"
    told, done = False, 0

    def hear(progress: Progress) -> None:
        nonlocal told, done
        clips, done = progress.done - done, progress.done
        if not told and watch.steps:
            told = True
            seconds = encoding + cost(trips, watch, guided=fitting.guided, clips=clips, early=fitting.overdone)
            on_cost(seconds)
            if most is not None and seconds > most:
                raise TooLongError(seconds, most)
        on_progress(progress)

    studio.reporter.stage("fitting")
    with claimed(state):
        fitting = Fitting(trips, belongs, state=state, on_progress=hear)
        fit = fitting.fit()
        shelf.keep(fit)
    return fit


def chosen_takes(shape: Shape, model: Model) -> list[photographs.Take]:
    """Camera clips of the photographs that ship: for a small model of those that the tiny one knows, which come first,
    for others of all sorts."""
    small = preset_for(model.transformer, two_stage=model.two_stage).name == "tiny"
    return photographs.some(shape.side, shape.clips, known=small)


def encoded(pipe: WanPipeline, takes: Sequence[photographs.Take], shape: Shape) -> Iterator[Take]:
    """The clips as latents of a pipeline's VAE."""
    for take, frames in zip(takes, films(takes, shape.side, frames=shape.frames), strict=True):
        yield Take(take.caption, encode_frames(pipe.vae, frames, device=device_of(pipe)).cpu())


def cost(trips: Trips, watch: _Watch, *, guided: int, clips: int = 1, early: bool = False) -> float:
    """Seconds that a whole fit takes, by what its first call took, of so many clips: a step, and what follows the last.

    `guided` trips are under a guide; `early` says that it will begin early, which makes each of them longer.
    """
    count = len(trips.takes)
    steps = count * (len(trips.levels) - 1) + guided * (trips.early_tail if early else trips.tail)
    return (steps * watch.step + (2 * count + guided) * watch.decoding) / clips


class _Watch:
    """Times steps as they come; what lies between a last step and the next progress is decoding and judging."""

    def __init__(self) -> None:
        self.steps = list[float]()
        self._before: float | None = None
        self._ended: float | None = None

    def __call__(self, moment: Moment) -> None:
        now = time.monotonic()
        if self._before is not None and moment.step > 1:
            self.steps.append(now - self._before)
        self._before = None if moment.is_last else now
        if moment.is_last:
            self._ended = now

    @property
    def step(self) -> float:
        return statistics.median(self.steps)

    @property
    def decoding(self) -> float:
        """Of the clips of one call that came back, with what they are judged by."""
        return 0.0 if self._ended is None else time.monotonic() - self._ended
