"""Round trips of a Wan model in ComfyUI: its own sampler from a high sigma on, its VAE, its CLIP.

ComfyUI's objects are used as its nodes use them; its modules are imported when a trip begins. Knows nothing of what is
solved.
"""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shelllcc.comfy.guiding import guided_by
from shelllcc.comfy.models import ANEW, is_small, name_of, sampler_of
from shelllcc.guidance.fit.trips import RoundTrips, Sampled, Take
from shelllcc.guidance.media import photographs

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.fit.judge import Frames
    from shelllcc.guidance.guide.guide import ShellGuide

OF_A_CLIP = ("concat_latent_image", "concat_mask", "clip_vision_output")  # what a negative prompt may bring of another


@dataclass(frozen=True)
class Asked:
    """What a KSampler is asked for, and the clips: how many, pixels of a side, frames.

    `switch` is the step at which the second of two models takes over.
    """

    sampler: str
    scheduler: str
    steps: int
    cfg: float
    clips: int = 24
    side: int = 256
    frames: int = 17
    switch: int = 0


@dataclass(frozen=True)
class Returned:
    """A clip that came back."""

    frames: Frames
    latents: Tensor


class HostTrips(RoundTrips):
    """Round trips of `takes` as ComfyUI samples with one model, or two of which the second ends; `negative` is its
    conditioning, None an empty prompt."""

    def __init__(
        self,
        models: Sequence[Any],
        vae: Any,
        clip: Any,
        takes: Sequence[Take],
        bank: Bank,
        asked: Asked,
        *,
        shape: str,
        negative: Any = None,
    ) -> None:
        self.models, self.vae, self.asked = models, vae, asked
        sigmas = levels_of(models[0], asked)
        self._texts = {take.caption: _encoded(clip, take.caption) for take in takes}
        self._negative = _encoded(clip, "") if negative is None else negative
        about = Sampled(name_of(models[0]), shape, _print(self._negative), asked.side, asked.side)
        super().__init__(bank, takes, sigmas.tolist(), about, renoised=solver_of(asked) in ANEW)
        switch = max(asked.switch - self.index, 0) if len(models) > 1 else 0
        whole = sigmas[self.index :]
        cuts = [0, *([switch] if 0 < switch < len(whole) - 1 else []), len(whole) - 1]
        doing = models if len(cuts) > 2 else models[-1:]
        self._parts = [
            (model, whole[begin : end + 1]) for model, begin, end in zip(doing, cuts, cuts[1:], strict=False)
        ]
        self._replays: dict[tuple[int, int], Replay] = {}
        self._images: dict[int, dict[str, Tensor]] = {}

    @property
    def replayed(self) -> int:
        """How many answers of the model were known already."""
        return sum(replay.replayed for replay in self._replays.values())

    def decoded(self, latents: Tensor) -> Frames:
        images = self.vae.decode(self._raw(latents[None]))
        shown: Frames = (images.reshape(-1, *images.shape[-3:]) * 255).round().byte().cpu().numpy()
        return shown

    def _sample(self, number: int, guide: ShellGuide | None) -> Returned:
        raw, noise = self._raw(self.takes[number].latents[None]), self._noise(number)[None]
        prompts = [self._with_image(number, text) for text in (self._texts[self.takes[number].caption], self._negative)]
        for part, (model, sigmas) in enumerate(self._parts):
            replay = self._replays.setdefault((number, part), Replay(self.levels[self.shared - 1]))
            raw = importlib.import_module("comfy.sample").sample_custom(
                replay.on(model if guide is None else guided_by(model, guide)),
                noise,
                self.asked.cfg,
                _samplers().sampler_object(self.asked.sampler),
                sigmas.clone(),
                *prompts,
                raw,
                disable_pbar=True,
                seed=self.seed + number,
            )
            noise = torch.zeros_like(noise)
        latents = self.models[0].model.latent_format.process_in(raw.float()).cpu()
        return Returned(self.decoded(latents[0][:, : self.shown]), latents)

    def _raw(self, latents: Tensor) -> Tensor:
        """Normalised latents as ComfyUI's VAE has them."""
        raw: Tensor = self.models[0].model.latent_format.process_out(latents)
        return raw

    def _with_image(self, number: int, prompt: Any) -> Any:
        """The conditioning of a prompt; for an image-to-video model with the clip's first frame, as WanImageToVideo
        has it."""
        if not getattr(self.models[0].model, "image_to_video", False):
            return prompt
        if number not in self._images:
            real = torch.from_numpy(self.real(number)).float() / 255
            latents = self.vae.encode(torch.cat([real[:1], torch.full_like(real[1:], 0.5)]))
            mask = torch.ones(1, 1, *latents.shape[2:])
            mask[:, :, :1] = 0
            self._images[number] = dict(concat_latent_image=latents, concat_mask=mask)
        return [[text, {**more, **self._images[number]}] for text, more in prompt]


class Replay:
    """What a model said in the first sampling at noise levels from `down_to` up, said again bit for bit where it is
    asked the same: in every sampling of a clip it is shown the same latents, until a guide has moved them."""

    def __init__(self, down_to: float) -> None:
        self.down_to = down_to * 0.999
        self.replayed = 0
        self._known: list[tuple[Tensor, Tensor, list[Tensor | None]]] = []

    def on(self, patcher: Any) -> Any:
        """The ComfyUI model, which is asked no question twice."""
        found = patcher.clone()
        first, before = not self._known, found.model_options.get("sampler_calc_cond_batch_function")

        def say(asked: dict[str, Any]) -> list[Tensor | None]:
            latents, sigma = asked["input"], asked["sigma"]
            if float(sigma.max()) < self.down_to:
                return _said(before, asked)
            for heard, level, said in self._known:
                if torch.equal(level, sigma.cpu()) and torch.equal(heard, latents.cpu()):
                    self.replayed += 1
                    return [None if part is None else part.to(latents.device, copy=True) for part in said]
            answer = _said(before, asked)
            if not first:
                return answer
            kept = [part.detach().to("cpu", copy=True) if isinstance(part, Tensor) else None for part in answer]
            self._known.append((latents.to("cpu", copy=True), sigma.cpu(), kept))
            return answer

        found.set_model_sampler_calc_cond_batch_function(say)
        return found


def takes_of(vae: Any, patcher: Any, asked: Asked) -> list[Take]:
    """Camera clips of photographs that ship, as latents of ComfyUI's VAE."""
    takes = photographs.some(asked.side, asked.clips, known=is_small(patcher))
    return [Take(take.caption, encoded(vae, patcher, take, asked.side, asked.frames)) for take in takes]


def encoded(vae: Any, patcher: Any, take: photographs.Take, side: int, frames: int) -> Tensor:
    """Normalised latents (c t h w), float32, of a camera clip."""
    images = torch.from_numpy(photographs.film(take, side, frames=frames)).float() / 255
    latents: Tensor = patcher.model.latent_format.process_in(vae.encode(images).float())
    return latents[0].cpu()


def levels_of(patcher: Any, asked: Asked) -> Tensor:
    """The noise levels that a KSampler steps through."""
    sampler = _samplers().KSampler(patcher, asked.steps, "cpu", asked.sampler, asked.scheduler, denoise=1.0)
    levels: Tensor = sampler.sigmas
    return levels


def solver_of(asked: Asked) -> str:
    """The name of the sampler's function, as `sample_euler`."""
    return sampler_of(_samplers().sampler_object(asked.sampler))


def _said(before: Callable[..., Any] | None, asked: dict[str, Any]) -> list[Tensor | None]:
    """What ComfyUI's model says, or what another node has it say."""
    if before is not None:
        return list(before(asked))
    answer = _samplers().calc_cond_batch(
        asked["model"], asked["conds"], asked["input"], asked["sigma"], asked["model_options"]
    )
    return list(answer)


def _encoded(clip: Any, text: str) -> Any:
    """ComfyUI's conditioning of a text."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _print(conditioning: Any) -> str:
    """By what a conditioning is known again."""
    digest = hashlib.sha256()
    for text, _ in conditioning:
        digest.update(text.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _samplers() -> Any:
    return importlib.import_module("comfy.samplers")
