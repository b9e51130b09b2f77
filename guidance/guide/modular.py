"""`ShellGuider`: a guider of diffusers' modular pipelines that moves what another guider made of the predictions.

A guider's `forward` sees predictions alone. Latents come with the block state, before the model is called; noise levels
are the scheduler's own, since timesteps of a block state may be rounded to whole numbers (UniPC). The scheduler is left
as it is: it gets the moved prediction, as under `guided`, which exchanges its `step` instead.

Read in diffusers 0.42.1: guiders/guider_utils.py, modular_pipelines/wan/denoise.py. Imports diffusers, so that the
package loads it when `ShellGuider` is first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

from diffusers.guiders import BaseGuidance
from torch import Tensor

from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import MASK, Given, HasScheduler, begin_step, check_scheduler, moved_output

_begun: WeakKeyDictionary[ShellGuide, Tensor] = WeakKeyDictionary()  # the noise levels that a guide was begun with


class ShellGuider(BaseGuidance):  # type: ignore[misc]  # diffusers is not typed
    """A guider around the pipeline's own, whose prediction it moves; without a move it is that guider's to the bit.

    >>> pipe.update_components(guider=ShellGuider(ShellGuide(load_bank("auto", pipe), strength=0.3), pipe))
    >>> videos = pipe(prompt=prompt, output="videos")

    What cfg adds is told by the inner guider's conditional prediction. Every sampling begins the guide anew. Of Wan2.2,
    which has a guider for each transformer, both are replaced, with the same guide:

    >>> second = ShellGuider(guide, pipe, around=pipe.guider_2)
    >>> pipe.update_components(guider=ShellGuider(guide, pipe), guider_2=second)

    Frames that an image-to-video model was given are not moved. Raises ModelError for a scheduler that cannot be
    guided (see `guided`), as soon as there is one, and for a pipeline whose blocks hand guiders no latents.
    """

    _input_predictions = ["pred_cond", "pred_uncond"]  # noqa: RUF012  # diffusers wants a list, and never writes to it

    def __init__(self, guide: ShellGuide, pipe: HasScheduler, *, around: Any = None) -> None:
        inner: Any = getattr(pipe, "guider", None) if around is None else around
        if not isinstance(inner, BaseGuidance):
            raise UsageError(f"ShellGuider goes around a guider of diffusers, got {type(inner).__name__}")
        while isinstance(inner, ShellGuider):  # it takes the other's place: two of them would move twice
            inner = cast(Any, inner).inner
        super().__init__(enabled=inner.get_state()["enabled"])
        self.guide, self.pipe, self.inner = guide, pipe, inner
        self._latents: Tensor | None = None
        self._still: Tensor | None = None
        self.register_to_config(bank=guide.bank.name, strength=guide.config.strength, around=type(inner).__name__)
        if getattr(pipe, "scheduler", None) is not None:
            check_scheduler(pipe.scheduler)

    def new(self, **changes: Any) -> ShellGuider:
        """A copy with the same guide around a copy of the inner guider, some of whose settings are changed."""
        return ShellGuider(self.guide, self.pipe, around=self.inner.new(**changes))

    @classmethod
    def from_config(cls, *_args: Any, **_kwargs: Any) -> Any:
        """Raise UsageError: a config says which bank it was, and does not hold it."""
        raise UsageError("a ShellGuider is not made from a config; make it with ShellGuider(guide, pipe)")

    def enable(self) -> None:
        super().enable()
        self.inner.enable()

    def disable(self) -> None:
        """Switch the inner guider off: the prompt's own prediction is moved. Strength 0 moves none."""
        super().disable()
        self.inner.disable()

    def set_state(self, step: int, num_inference_steps: int, timestep: Any) -> None:
        super().set_state(step, num_inference_steps, timestep)
        self.inner.set_state(step, num_inference_steps, timestep)

    def get_state(self) -> dict[str, Any]:
        return cast(dict[str, Any], self.inner.get_state())

    def prepare_models(self, denoiser: Any) -> None:
        super().prepare_models(denoiser)
        self.inner.prepare_models(denoiser)

    def cleanup_models(self, denoiser: Any) -> None:
        self.inner.cleanup_models(denoiser)

    def prepare_inputs(self, data: Any) -> Any:
        """As the inner guider; no latents come this way, so that `forward` refuses what follows."""
        self._latents = self._still = None
        return self.inner.prepare_inputs(data)

    def prepare_inputs_from_block_state(self, data: Any, input_fields: Mapping[str, Any]) -> Any:
        self._latents = getattr(data, "latents", None)
        self._still = _given_frames(getattr(data, "image_condition_latents", None))
        return self.inner.prepare_inputs_from_block_state(data, input_fields)

    def forward(self, **predictions: Tensor) -> Any:
        """The inner guider's output, its `pred` (b c t h w) moved; called once a step, before the scheduler's step."""
        output = self.inner.forward(**predictions)
        latents, still, self._latents, self._still = self._latents, self._still, None, None
        if latents is None:
            raise ModelError("these pipeline blocks hand their guider no latents; sample within guided(pipe, guide)")
        index = self._index()
        conditional = output.pred_cond if len(predictions) > 1 else None
        output.pred = moved_output(self.guide, index, output.pred, latents, conditional, given=partial(_with, still))
        return output

    @property
    def is_conditional(self) -> bool:
        return bool(self.inner.is_conditional)

    @property
    def num_conditions(self) -> int:
        return int(self.inner.num_conditions)

    def _index(self) -> int:
        """The index of this step among the scheduler's noise levels; of new ones, the guide begins anew."""
        scheduler = self.pipe.scheduler
        check_scheduler(scheduler)
        fresh = _begun.get(self.guide) is not scheduler.sigmas
        _begun[self.guide] = scheduler.sigmas
        return begin_step(self.guide, scheduler, self._timestep, fresh=fresh)


def _with(still: Tensor | None, x0: Tensor) -> Given | None:
    return None if still is None else (still.to(x0.device).expand(len(x0), -1), x0)


def _given_frames(condition: Tensor | None) -> Tensor | None:
    """Of each latent frame (t,), whether an image-to-video model was given all of it; None where it was given none."""
    if condition is None or condition.ndim != 5 or condition.shape[1] <= MASK:
        return None
    given = condition[:, :MASK].float().amin(dim=(0, 1, 3, 4)) > 0.999
    return given if bool(given.any()) else None
