"""A ComfyUI model whose samplings are guided: the guide hears of each, and moves x0 after cfg. Imports no ComfyUI.

ComfyUI calls a wrapper around every sampling (`outer_sample`), and a function after every cfg
(`sampler_post_cfg_function`), which sees x0 in float32 normalised latents, the space of the banks. A sampler may be
handed a part of a schedule, call twice at a noise level or between two: how far a step goes follows from its noise
level and the next alone (GuideConfig.by_sigma). All that is kept between steps is made anew for every sampling.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from shelllcc.comfy.choosing import Sampling, choose
from shelllcc.comfy.models import (
    ANEW,
    SAMPLERS,
    check_model,
    known_frames,
    sampler_of,
    shapes_of,
    shift_of,
    space_of,
)
from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.guide.guide import ShellGuide

WRAPPER = "outer_sample"  # comfy.patcher_extension.WrappersMP.OUTER_SAMPLE
KEY = "shelllcc"
RENOISED = tuple(SAMPLERS[name] for name in ANEW)
KEPT = 16  # parts of samplings whose excess is remembered for the part that goes on from there

_excesses: OrderedDict[str, Tensor] = OrderedDict()  # by the latents that a part ended with


@dataclass(frozen=True)
class Wanted:
    """What the node was asked for. `start` and `end` are sigmas: above the one and below the other nothing is moved.

    `references` counts latent frames in front that are no part of the clip (`trim_latent`); they are left alone.
    """

    strength: float = 1.0
    bank: str = "auto"
    fit: str = "auto"
    start: float = 1.0
    end: float = 0.0
    references: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.end < self.start <= 1:
            raise UsageError(f"start and end are sigmas, 1 >= start > end >= 0, got {self.start:g} and {self.end:g}")
        if not 0 <= self.strength <= 10:
            raise UsageError(f"strength goes from 0 (off) over 1 to 10, got {self.strength:g}")


def guide_model(patcher: Any, wanted: Wanted) -> Any:
    """The ComfyUI model, guided in every sampling; the model itself at strength 0. Raises ModelError for no Wan."""
    check_model(patcher)
    if wanted.strength == 0:
        return patcher
    check_unguided(patcher)
    return _hooked(patcher, _Guided(wanted))


def guided_by(patcher: Any, guide: ShellGuide) -> Any:
    """The ComfyUI model under this very guide, whose trace then is that of the last sampling."""
    return _hooked(patcher, _Guided(Wanted(), guide))


def check_unguided(patcher: Any) -> None:
    """Raise UsageError for a model that a node guides."""
    if patcher.wrappers.get(WRAPPER, {}).get(KEY):
        raise UsageError("this model is guided already; wire the one from before its Shell-LCC Guidance node")


def _hooked(patcher: Any, node: _Guided) -> Any:
    found = patcher.clone()
    found.add_wrapper_with_key(WRAPPER, KEY, node.sampling)
    found.set_model_sampler_post_cfg_function(node.after_cfg)
    return found


class _Guided:
    """The two hooks of a model; between them the sampling that runs, if one does."""

    def __init__(self, wanted: Wanted, guide: ShellGuide | None = None) -> None:
        self.wanted, self.guide = wanted, guide
        self.running: _Run | None = None

    def sampling(
        self, executor: Callable[..., Tensor], noise: Tensor, latents: Tensor, sampler: Any, sigmas: Tensor, *more: Any,
        **named: Any,
    ) -> Tensor:  # fmt: skip
        """Around a sampling: what is known of it, and nothing that an earlier one left."""
        outer, guider = self.running, executor.class_obj  # type: ignore[attr-defined]
        levels = sigmas.tolist()
        try:
            plan = _plan(guider.model_patcher, sampler, levels, _cfg(guider))
            guide = self.guide or _guide(self.wanted, plan)
            self.running = run = _Run(self.wanted, guide, plan, _excesses.get(_print(latents)))
            result = executor(noise, latents, sampler, sigmas, *more, **named)
            run.end(result)
            return result
        finally:
            self.running = outer

    def after_cfg(self, told: dict[str, Any]) -> Tensor:
        """x0 after cfg, moved."""
        if self.running is None:
            raise ModelError("Shell-LCC guides ComfyUI's own samplers; this one goes another way")
        return self.running.moved(told)


class _Run:
    """One sampling, or a part of one."""

    def __init__(self, wanted: Wanted, guide: ShellGuide, sampling: Sampling, excess: Tensor | None) -> None:
        self.wanted, self.guide, self.sigmas = wanted, guide, list(sampling.sigmas)
        self.whole = self.sigmas[-1] == 0
        planned = self.sigmas if self.whole else [*self.sigmas, *sampling.after, 0.0]
        guide.begin(planned, renoised=sampling.scheduler in RENOISED, excess=excess)

    def end(self, result: Tensor) -> None:
        """Remember what cfg added, for the part that goes on from here."""
        if not self.whole and (excess := self.guide.excess) is not None:
            _excesses[_print(result)] = excess
            while len(_excesses) > KEPT:
                _excesses.popitem(last=False)

    def moved(self, told: dict[str, Any]) -> Tensor:
        """x0 after cfg, moved; the very tensor where this noise level is one at which nothing is."""
        x0, sigma = told["denoised"], float(told["sigma"].max())
        index = self._step(sigma)
        share = self.guide.step_at(index)[1]
        if share == 0 or not self.wanted.end <= sigma <= self.wanted.start:
            return x0
        if x0.ndim != 5:
            raise ModelError(f"Shell-LCC guides video latents (b c t h w); these are packed as {tuple(x0.shape)}")
        front, frames = self.wanted.references, x0.shape[2]
        if front >= frames:
            raise UsageError(f"{front} reference frames in front leave nothing of {frames} latent frames")
        conditional = told["cond_denoised"][:, :, front:] if told.get("uncond") is not None else None
        move = self.guide.move(x0[:, :, front:], sigma, share=share, index=index, conditional=conditional)
        known = known_frames(told.get("cond"), frames)
        still = torch.tensor(known[front:], device=move.device).view(1, 1, -1, 1, 1)
        result = x0.clone()
        result[:, :, front:] += move.masked_fill(still, 0.0).to(x0.dtype)
        return result

    def _step(self, sigma: float) -> int:
        """The index of the step that a noise level belongs to: the last that begins no lower."""
        begun = [index for index, level in enumerate(self.sigmas[:-1]) if level >= sigma * 0.999]
        at_end = len(self.sigmas) - 1
        if not self.whole and sigma <= self.sigmas[-1] * 1.001:  # heun looks ahead: the next part's first step
            return at_end
        return begun[-1] if begun else 0


def _plan(patcher: Any, sampler: Any, sigmas: Sequence[float], cfg: float) -> Sampling:
    """What is known of a sampling. Raises UsageError where its noise levels do not fall."""
    if any(after >= before for before, after in itertools.pairwise(sigmas)):
        raise UsageError("Shell-LCC guides samplings whose sigmas fall; these rise or repeat")
    name = sampler_of(sampler)
    scheduler, space, shapes = SAMPLERS.get(name, name), space_of(patcher), shapes_of(patcher)
    return Sampling(space, shapes, scheduler, tuple(sigmas), shift_of(patcher), cfg)


def _guide(wanted: Wanted, sampling: Sampling) -> ShellGuide:
    """The guide of the bank and fit that are wanted, or suit."""
    bank, config, remark = choose(wanted.bank, wanted.fit, sampling)
    if remark:
        logging.info(remark)
    return ShellGuide(bank, replace(config, strength=wanted.strength))


def _cfg(guider: Any) -> float:
    """The cfg of a ComfyUI guider; of one that has several, the one that the prompt has."""
    return float(getattr(guider, "cfg1", getattr(guider, "cfg", 1.0)))


def _print(latents: Tensor) -> str:
    """By what latents are known again: their content in float32."""
    whole = latents.detach().float().cpu().contiguous()
    return hashlib.sha256(f"{tuple(whole.shape)}".encode() + whole.numpy().tobytes()).hexdigest()
