"""`guided(pipe, guide)`: a pipeline whose scheduler asks the guide in every step. Knows nothing of banks or video.

The model output is rewritten before `scheduler.step`, the one place that every scheduler honours: UniPC keeps a
history of predicted x0 and rebuilds the sample from it, so that latents edited after a step are mostly discarded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.geometry.flow import shift_velocity, x0_from_velocity
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.seams import begin, step_exchanged

PLAIN = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler")  # each a flow's, whatever its config says
MASK = 4  # channels of an image model's mask: the video frames of a latent one
Given = tuple[Tensor, Tensor]  # which latent frames (b t) a model was given images of, and x0 with what lies there
SUPPORTED = ("UniPCMultistepScheduler", "DPMSolverMultistepScheduler", *PLAIN)


class HasScheduler(Protocol):
    """Any diffusers pipeline."""

    scheduler: Any


@contextmanager
def guided(pipe: HasScheduler, guide: ShellGuide) -> Iterator[ShellGuide]:
    """Within the block, every sampling of `pipe` is guided; afterwards `pipe` is as it was, also on an exception.

    The scheduler keeps its identity, its config and its type's name: only its class is exchanged, for a subclass with
    another `step`. With strength 0, or outside the guide's window, `step` gets exactly what it was given. Hooks on the
    transformers read their outputs, since the prediction from the prompt alone tells what cfg adds to it.

    The switch is the pipeline's, not the block's: whoever samples with the same scheduler meanwhile, in any thread, is
    guided, too, and mixes into this guide's steps. Sample one at a time.

    Raises ModelError for a scheduler whose predicted x0 cannot be rewritten (Heun, epsilon predictions).
    """
    scheduler = pipe.scheduler
    check_scheduler(scheduler)
    outputs = Outputs(pipe)
    transformers = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    handles = list[Any]()
    for model in (model for model in transformers if model is not None):
        handles.append(model.register_forward_pre_hook(outputs.tell, with_kwargs=True, prepend=True))
        handles.append(model.register_forward_hook(outputs.hear))
    try:
        with step_exchanged(scheduler, functools.partial(_guided_step, guide, outputs)):
            yield guide
    finally:
        for handle in handles:
            handle.remove()


class Outputs:
    """What the transformers gave since the last step. Raises ModelError where the scheduler is not that guided."""

    def __init__(self, pipe: HasScheduler) -> None:
        self.pipe, self.scheduler = pipe, pipe.scheduler
        self.heard: list[Tensor] = []
        self.told: Mapping[str, Any] = {}

    def tell(self, _model: Any, _args: Any, told: Mapping[str, Any]) -> None:
        """What it is called with, before other hooks leave of it what one of several GPUs is to see."""
        self.told = dict(told)

    def hear(self, _model: Any, _args: Any, output: Any) -> None:
        if self.pipe.scheduler is not self.scheduler:
            raise ModelError("the pipeline got another scheduler within guided(); set it before")
        self.heard.append(output[0])

    def take(self) -> list[Tensor]:
        heard, self.heard = self.heard, []
        return heard


def given_frames(told: Mapping[str, Any], x0: Tensor) -> Given | None:
    """Which latent frames (b t) an image-to-video transformer was given images of, and x0 with what lies there.

    `told` are the arguments of its call, x0 (b c t h w) what they led to. Models of 36 channels are told by a mask
    behind the noised latents: 4 channels, one a video frame, 1 where an image lies. TI2V-5B is told by tokens of noise
    level 0, and sees the image's latents there in place of the sample. None where the model is told of no image.
    """
    seen, time, (b, channels, frames) = told.get("hidden_states"), told.get("timestep"), x0.shape[:3]
    if not isinstance(seen, Tensor) or seen.ndim != 5:
        return None
    if seen.shape[1] == 2 * channels + MASK:
        return seen[:, channels : channels + MASK].amax((1, 3, 4)) > 0.5, x0
    if isinstance(time, Tensor) and time.ndim == 2 and seen.shape == x0.shape:
        still = time.expand(b, -1).unflatten(1, (frames, -1)).amax(2) == 0
        return still, torch.where(still[:, None, :, None, None], seen.float(), x0)
    return None


def check_scheduler(scheduler: Any) -> None:
    """Raise ModelError unless the scheduler takes a flow velocity and one evaluation a step."""
    name = type(scheduler).__name__
    if name not in SUPPORTED:
        raise ModelError(f"cannot guide {name}; use one of {', '.join(SUPPORTED)}")
    if name in PLAIN:
        return
    if scheduler.config.prediction_type != "flow_prediction":
        raise ModelError(f"cannot guide {name} with {scheduler.config.prediction_type}; it needs flow_prediction")
    if not scheduler.config.get("use_flow_sigmas"):
        raise ModelError(f"cannot guide {name} without use_flow_sigmas=True")
    algorithm = scheduler.config.get("algorithm_type", "dpmsolver++")
    if not scheduler.config.get("predict_x0", True) or not algorithm.endswith("dpmsolver++"):
        raise ModelError(f"cannot guide {name} unless it solves for x0 (predict_x0=True, dpmsolver++)")


def renoises(scheduler: Any) -> bool:
    """Whether a scheduler noises the predicted x0 anew in every step."""
    return type(scheduler).__name__ == "FlowMatchLCMScheduler"


def begin_step(guide: ShellGuide, scheduler: Any, timestep: Any, *, fresh: bool = False) -> int:
    """The index of the step that a scheduler is about to take; where it is a sampling's first, the guide begins anew.

    So it does where the caller knows that it is `fresh` to the guide, whose first step need not be the scheduler's.
    """
    if begin(scheduler, timestep) or fresh:
        guide.begin(scheduler.sigmas.tolist(), renoised=renoises(scheduler))
    return int(scheduler.step_index)


def moved_output(
    guide: ShellGuide,
    index: int,
    output: Tensor,
    sample: Tensor,
    conditional: Tensor | None,
    *,
    given: Callable[[Tensor], Given | None] = lambda x0: None,
) -> Tensor:
    """The velocity (b c t h w) of a step whose x0 is moved, in its own dtype; the very tensor where nothing is moved.

    `conditional` is the velocity from the prompt alone, of two that cfg combined to `output`; None without cfg.
    `given` says which latent frames of x0 the model was given, which are not moved, and x0 with what lies there.
    """
    sigma, share = guide.step_at(index)
    if share <= 0:
        return output
    before = None if conditional is None else x0_from_velocity(sample, conditional, sigma)
    x0 = x0_from_velocity(sample, output, sigma)
    still, x0 = given(x0) or (None, x0)
    move = guide.move(x0, sigma, share=share, index=index, conditional=before, still=still)
    return shift_velocity(output, move, sigma)


def conditional_of(heard: list[Tensor], combined: Tensor) -> Tensor | None:
    """The prediction from the prompt alone, of the two that cfg combined; None unless there were two."""
    if len(heard) != 2 or any(pred.shape != combined.shape for pred in heard):
        return None
    first, second = (pred.float() for pred in heard)
    along = ((combined.float() - second) * (first - second)).sum()  # cfg goes from the other one past this one
    return torch.where(along > 0, first, second)


def _guided_step(guide: ShellGuide, outputs: Outputs, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def step(self: Any, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        index, heard = begin_step(guide, self, timestep), outputs.take()
        conditional = conditional_of(heard, model_output) if guide.step_at(index)[1] > 0 else None
        given = functools.partial(given_frames, outputs.told)
        model_output = moved_output(guide, index, model_output, sample, conditional, given=given)
        return original(self, model_output, timestep, sample, *args, **kwargs)

    return step
