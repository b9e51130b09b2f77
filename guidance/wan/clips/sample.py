"""Sample one request with a pipeline, guided or not. Knows nothing of files, progress bars or the command line."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from shelllcc.guidance.errors import SamplingError
from shelllcc.guidance.faults import gpu_lost, ours_of
from shelllcc.guidance.guide import dose
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import PLAIN, guided, renoises
from shelllcc.guidance.guide.seams import begun_later, levels_exchanged, noise_drawn_from
from shelllcc.guidance.guide.trace import Step
from shelllcc.guidance.measures.balance import Alarm, alarm
from shelllcc.guidance.wan.clips.embeddings import Texts
from shelllcc.guidance.wan.clips.prefix import Prefix, replayed_together
from shelllcc.guidance.wan.clips.preview import x0_between
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.caches import cached
from shelllcc.guidance.wan.model.placing import reset
from shelllcc.guidance.wan.model.schedules import SCHEDULERS, given
from shelllcc.guidance.wan.model.seams import decoded, device_of, image_taken

if TYPE_CHECKING:
    from diffusers import WanPipeline
    from numpy.typing import NDArray
    from PIL.Image import Image

    from shelllcc.anchors.bank import Bank

    Frames = NDArray[np.uint8]

ADVICE = "use fewer --frames or a smaller --size"
Dice = torch.Generator | list[torch.Generator]  # of one clip, or of each clip of a batch


@dataclass(frozen=True)
class Start:
    """Where a sampling begins in place of pure noise: noised normalised latents (1 c t h w), at step `index`."""

    latents: Tensor
    index: int


@dataclass(frozen=True)
class Moment:
    """Where sampling stands after a step; `distance` is None where the guide did not act, `alarm` where all is well.

    A step that was `replayed` asked the transformer nothing; of a sampling so many first ones are `kept` for others.
    """

    step: int
    steps: int
    sigma: float
    distance: float | None
    alarm: Alarm | None
    replayed: bool = False
    kept: int = 0

    @property
    def is_last(self) -> bool:
        """Whether decoding comes next."""
        return self.step == self.steps


@dataclass(frozen=True)
class Clip:
    """A sampled video: uint8 frames (t, H, W, 3), its normalised latents (1 c t h w), and what the guide saw."""

    request: Request
    frames: Frames
    latents: Tensor
    trace: list[Step]

    @property
    def alarm(self) -> Alarm | None:
        """Whether the guide went too far."""
        return alarm(self.trace[-1], expected=self.request.guide.expected) if self.trace else None

    @property
    def frames_sha256(self) -> str:
        return hashlib.sha256(self.frames.tobytes()).hexdigest()


def set_shift(pipe: WanPipeline, shift: float) -> None:
    """Give the pipeline's scheduler another flow shift, as a new scheduler of its own class."""
    config = pipe.scheduler.config
    key = "flow_shift" if "flow_shift" in config else "shift"
    if config[key] != shift:
        pipe.scheduler = type(pipe.scheduler).from_config(config, **{key: shift})


@contextlib.contextmanager
def scheduled(pipe: WanPipeline, request: Request, dice: Dice | None = None) -> Iterator[None]:
    """Within the block the pipeline's scheduler is the request's, with its shift and its noise levels.

    What a scheduler noises anew is drawn from `dice`. Afterwards the pipeline has its own one again, of another shift.
    """
    kind, own = SCHEDULERS.get(request.scheduler), pipe.scheduler
    if kind is None or kind == type(own).__name__:
        set_shift(pipe, request.shift)
        own = pipe.scheduler
    else:
        pipe.scheduler = _of_kind(kind, request.shift)
    levels = given(request.scheduler, request.sigmas, request.shift, request.steps)
    try:
        with contextlib.ExitStack() as stack:
            if levels is not None:
                stack.enter_context(levels_exchanged(pipe.scheduler, levels))
            if dice is not None and renoises(pipe.scheduler):
                stack.enter_context(noise_drawn_from(pipe.scheduler, dice))
            yield
    finally:
        pipe.scheduler = own


def _of_kind(kind: str, shift: float) -> Any:
    """A new scheduler of diffusers' class of that name, for flows."""
    import diffusers

    flow = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    return getattr(diffusers, kind)(**({"shift": shift} if kind in PLAIN else flow))


def guide_for(request: Request, bank: Bank | None) -> ShellGuide | None:
    """The guide that the request asks for; None where it is off."""
    return None if bank is None or request.guide.strength == 0 else ShellGuide(bank, request.guide)


def sample(
    pipe: WanPipeline,
    request: Request,
    guide: ShellGuide | None = None,
    *,
    prefix: Prefix | None = None,
    texts: Texts | None = None,
    cache: str = "none",
    start: Start | None = None,
    images: Mapping[str, Image] | None = None,
    on_moment: Callable[[Moment], None] = lambda moment: None,
    on_decoded: Callable[[int, int], None] = lambda done, total: None,
    on_x0: Callable[[Tensor], None] | None = None,
) -> Clip:
    """Sample the clip; the noise comes from a CPU generator of the request's seed, so that seeds are portable.

    `prefix` holds what an earlier sampling that differs in the guide alone may share, `texts` embeddings on disk; the
    frames are the same without. `cache` names a feature cache of diffusers (see caches). With a `start` the steps
    before it are left out. `images` are those that the clip begins and ends with, `image` and `last_image`, of its
    size. Raises SamplingError as soon as the model gives NaN or infinity, OutOfMemoryError, and LostGpuError where the
    GPU failed.

    `on_moment` hears of every step, of the last one before decoding begins. What it raises ends the sampling, and the
    pipeline is as it was. It is no generator of moments: the loop is the pipeline's, which calls back and returns once,
    so that to yield from within it would take a thread. `on_decoded` hears how many latent frames, of how many, have
    been decoded; of tiles, those of each. `on_x0` hears of every step but the first the x0 (c t h w) that it went
    toward, in normalised latents.
    """
    steps = _Steps(request.steps - (start.index if start else 0), guide, on_moment, on_x0)
    prefixes, starts = [prefix] if prefix is not None else [], [start] if start else []
    [clip] = _sampled(pipe, [request], guide, steps, prefixes, texts, cache, starts, images or {}, on_decoded)
    return clip


def sample_together(
    pipe: WanPipeline,
    requests: Sequence[Request],
    guide: ShellGuide | None = None,
    *,
    starts: Sequence[Start],
    prefixes: Sequence[Prefix] = (),
    texts: Texts | None = None,
    on_moment: Callable[[Moment], None] = lambda moment: None,
) -> list[Clip]:
    """Clips as `sample` makes each, to rounding, sampled as one batch: requests that differ in prompt and seed alone.

    Each has its own noise, start, at one step for all, and prefix. A moment tells of the first. Not for models that
    need images, nor for feature caches, which look at a batch as one. Raises as `sample`.
    """
    steps = _Steps(requests[0].steps - starts[0].index, guide, on_moment, None)
    return _sampled(pipe, requests, guide, steps, prefixes, texts, "none", starts, {}, lambda done, total: None)


def _sampled(
    pipe: WanPipeline,
    requests: Sequence[Request],
    guide: ShellGuide | None,
    steps: _Steps,
    prefixes: Sequence[Prefix],
    texts: Texts | None,
    cache: str,
    starts: Sequence[Start],
    images: Mapping[str, Image],
    on_decoded: Callable[[int, int], None],
) -> list[Clip]:
    request, all_dice = requests[0], [torch.Generator("cpu").manual_seed(each.seed) for each in requests]
    for start, each in zip(starts, all_dice, strict=False):
        torch.randn(start.latents.shape, generator=each)  # what pure noise would have taken: none comes twice
    dice = all_dice if len(all_dice) > 1 else all_dice[0]
    with scheduled(pipe, request, dice):
        later = begun_later(pipe.scheduler, starts[0].index) if starts else contextlib.nullcontext()
        with later, _hooked(pipe, request, guide, prefixes, cache), _told(pipe, steps), decoded(pipe, on_decoded):
            frames = _call(pipe, requests, texts, steps, starts, dice, images)
    if not np.isfinite(frames).all():
        raise SamplingError("the VAE gave NaN or infinity: its weights are broken; fetch the model anew")
    shown, [latents] = (frames * 255).round().astype(np.uint8), steps.latents
    trace = guide.trace if guide else []
    return [Clip(each, shown[i], latents[i : i + 1], [step.of(i) for step in trace]) for i, each in enumerate(requests)]


class _Steps:
    """What the pipeline calls after every step: looks at it, tells of it, and keeps the last one's latents."""

    def __init__(
        self,
        steps: int,
        guide: ShellGuide | None,
        on_moment: Callable[[Moment], None],
        on_x0: Callable[[Tensor], None] | None,
    ) -> None:
        self.steps, self.guide, self.on_moment, self.on_x0 = steps, guide, on_moment, on_x0
        self.before: Tensor | None = None  # the latents before this step, where somebody hears of x0
        self.latents: list[Tensor] = []  # one, (b c t h w), when all steps are done

    def __call__(self, pipe: Any, index: int, _timestep: Any, state: Mapping[str, Any]) -> dict[str, Any]:
        moment = self._moment(index, float(pipe.scheduler.sigmas[index]))
        if not torch.isfinite(state["latents"]).all():
            raise SamplingError(
                f"the model gave NaN or infinity in step {moment.step} of {moment.steps} (sigma {moment.sigma:.3f}); "
                "try --dtype float32; if it does so there, the weights are broken: fetch them anew"
            )
        if moment.is_last:
            self.latents.append(state["latents"])
        if self.on_x0 is not None:
            if self.before is not None:
                levels = pipe.scheduler.sigmas
                ends = float(levels[index]), float(levels[index + 1])
                self.on_x0(x0_between(self.before, state["latents"], *ends)[0])
            self.before = state["latents"]
        self.on_moment(moment)
        return {}

    def _moment(self, index: int, sigma: float) -> Moment:
        last = self.guide.trace[-1] if self.guide and self.guide.trace else None
        distance = last.distance[0] if last and last.index == index else None
        warned = alarm(last, expected=self.guide.config.expected) if self.guide and last else None
        return Moment(index + 1, self.steps, sigma, distance, warned)


@contextlib.contextmanager
def _hooked(
    pipe: WanPipeline, request: Request, guide: ShellGuide | None, prefixes: Sequence[Prefix], cache: str
) -> Iterator[None]:
    """Within the block the pipeline is guided, its transformers cached, and what the prefixes know is replayed."""
    with contextlib.ExitStack() as stack:
        if guide is not None:
            stack.enter_context(guided(pipe, guide))
        if cache != "none":
            stack.enter_context(cached(pipe, cache, steps=request.steps))
        if prefixes:
            move = first_move(pipe, request, guide.config if guide else None)
            stack.enter_context(replayed_together(prefixes, pipe, 1 + move))
        yield


@contextlib.contextmanager
def _told(pipe: WanPipeline, steps: _Steps) -> Iterator[None]:
    """Within the block torch's errors become ours, of the stage that was reached; any other is let through.

    The pipeline forgets what it had begun, unless its GPU is lost: nothing can be moved from there.
    """
    try:
        yield
    except BaseException as error:
        if not gpu_lost(error):
            reset(pipe)
        if (ours := ours_of(error, "decoding" if steps.latents else "sampling", ADVICE)) is None:
            raise
        raise ours from error


def _call(
    pipe: WanPipeline,
    requests: Sequence[Request],
    texts: Texts | None,
    steps: _Steps,
    starts: Sequence[Start],
    dice: Dice,
    images: Mapping[str, Image],
) -> NDArray[np.float32]:
    """The pipeline's frames (b t H W 3), from 0 to 1."""
    request = requests[0]
    with image_taken(pipe) if images else contextlib.nullcontext():
        frames: NDArray[np.float32] = pipe(
            **images,
            **_texts(pipe, requests, texts),
            height=request.height,
            width=request.width,
            num_frames=request.frames,
            num_inference_steps=request.steps,
            guidance_scale=request.cfg,
            guidance_scale_2=request.cfg_2 if getattr(pipe, "transformer_2", None) is not None else None,
            generator=dice,
            latents=torch.cat([start.latents for start in starts]).to(device_of(pipe)) if starts else None,
            output_type="np",
            callback_on_step_end=steps,
        ).frames
    return frames


def first_move(pipe: WanPipeline, request: Request, config: GuideConfig | None) -> int:
    """The index of the step in which a guide of these knobs first moves; the number of steps where it never does.

    The transformer's calls up to that step's are those of the unguided sampling. No guide is built: the noise levels of
    the pipeline's scheduler tell. None stands for no guide.
    """
    return request.steps if config is None else dose.first_move(noise_levels(pipe, request), config)


def noise_levels(pipe: WanPipeline, request: Request) -> list[float]:
    """The noise levels of the request's sampling, one more than it has steps; the last is 0."""
    with scheduled(pipe, request):
        scheduler = copy.deepcopy(pipe.scheduler)
        scheduler.set_timesteps(request.steps)
        levels: list[float] = scheduler.sigmas.tolist()
    return levels


def _texts(pipe: WanPipeline, requests: Sequence[Request], texts: Texts | None) -> dict[str, Any]:
    """The pipeline's arguments for the prompts, as words or as known embeddings."""
    negative = requests[0].negative_prompt
    if texts is None:
        prompts = [request.prompt for request in requests]
        return {"prompt": prompts if len(prompts) > 1 else prompts[0], "negative_prompt": negative}
    device = device_of(pipe)
    known: dict[str, Any] = {"prompt_embeds": torch.cat([texts.embed(request.prompt) for request in requests])}
    if requests[0].cfg > 1:
        known["negative_prompt_embeds"] = texts.embed(negative).expand(len(requests), -1, -1)
    return {name: embedding.to(device) for name, embedding in known.items()}
