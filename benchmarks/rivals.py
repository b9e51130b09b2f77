"""Training-free rivals of the guide on the tiny Wan, by diffusers' own guiders. Knows nothing of banks or scores.

As diffusers 0.42 has them: CFG-Zero*, APG, TCFG, rescaled and magnitude-aware guidance (given flat predictions, as its
norm refuses those of a video), and skip-layer but at cfg 1. Written here by their papers' formulas, because diffusers'
guider cannot serve Wan: frequency-decoupled guidance (wants kornia), perturbed attention (does not know
WanAttnProcessor) and skip-layer at cfg 1 (its weakened pass gets the negative prompt and all layers). Rivals that leave
the rule alone and change the step lie in benchmarks.stepping.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers import guiders
from diffusers.guiders.guider_utils import BaseGuidance, GuiderOutput
from diffusers.hooks import LayerSkipConfig
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from benchmarks.stepping import STEPPINGS, Moment, Plain, Stepping
from shelllcc.guidance.wan.model.pipeline import quieten
from shelllcc.guidance.wan.model.presets import PRESETS

STOCK: dict[str, Callable[..., BaseGuidance]] = {
    "cfg": guiders.ClassifierFreeGuidance,
    "rescaled": guiders.ClassifierFreeGuidance,  # arXiv 2305.08891, section 3.4
    "cfg-zero": guiders.ClassifierFreeZeroStarGuidance,  # 2503.18886
    "tcfg": guiders.TangentialClassifierFreeGuidance,  # 2503.18137
}
NAMES = (*STOCK, "magnitude", "apg", "fdg", "skip-layer", "perturbed-attention", *STEPPINGS)
Weaken = Callable[[Any], list[RemovableHandle]]


@dataclass(frozen=True)
class Rival:
    """A rule and its setting; the knobs are keywords of its guider, or of its step in benchmarks.stepping.

    fdg: `band_scales` of the finer bands of frequencies, the finest first; cfg is the scale of the coarsest.
    skip-layer, perturbed-attention: `layers` (a tuple), `scale`, and the part of the sampling from `start` to `stop` in
    which the weakened model is asked.
    """

    name: str
    cfg: float
    knobs: tuple[tuple[str, float | tuple[float, ...]], ...] = ()

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"no rival is called {self.name}; there are {', '.join(NAMES)}")


def guider(rival: Rival, transformer: Any = None) -> BaseGuidance:
    """The rule as a guider of diffusers. Raises ValueError for layers that the transformer, if given, does not have."""
    quieten()  # diffusers calls its guiders experimental every time that one is made
    knobs: dict[str, Any] = dict(rival.knobs)
    if rival.name in STEPPINGS:
        return STOCK["cfg"](rival.cfg)
    if rival.name in STOCK:
        return STOCK[rival.name](rival.cfg, **knobs)
    if rival.name == "magnitude":
        return MagnitudeAware(rival.cfg, **knobs)
    if rival.name == "fdg":
        return FrequencyBands(rival.cfg, **knobs)
    if rival.name == "apg":  # 2410.02416 moves from cond by cfg - 1; diffusers by default from uncond by cfg
        return guiders.AdaptiveProjectedGuidance(rival.cfg - 1, use_original_formulation=True, **knobs)
    layers = list(knobs.pop("layers"))
    if transformer is not None and not set(layers) <= set(range(len(transformer.blocks))):
        raise ValueError(f"no layers {layers} to weaken; the transformer has 0 to {len(transformer.blocks) - 1}")
    if rival.name == "perturbed-attention":
        return WeakModel(rival.cfg, partial(perturb_attention, layers=layers), **knobs)
    knobs = {"start": 0.01, "stop": 1.0} | knobs  # diffusers never skips in the first step
    if rival.cfg == 1:
        return WeakModel(rival.cfg, partial(skip_layers, layers=layers), **knobs)
    knobs = {f"skip_layer_guidance_{key}": value for key, value in knobs.items()}
    return guiders.SkipLayerGuidance(rival.cfg, skip_layer_config=LayerSkipConfig(layers), **knobs)


def stepping(rival: Rival) -> Stepping:
    """What the rival makes of a step: nothing, if it is a rule."""
    return STEPPINGS[rival.name](**dict(rival.knobs)) if rival.name in STEPPINGS else Plain()


def forwards(rival: Rival, *, steps: int = PRESETS["tiny"].steps) -> float:
    """Transformer forwards per step, on the average of a sampling: what the rule costs."""
    rule, stepped, total = guider(rival), stepping(rival), 0
    for step in range(steps):
        rule.set_state(step, steps, None)
        total += rule.num_conditions * stepped.passes(step, steps)
    return total / steps


@torch.no_grad()
def sample_latents(
    pipe: Any,
    texts: list[str],
    seeds: list[int],
    *,
    rival: Rival,
    steps: int,
    height: int = 192,
    width: int = 192,
    num_frames: int = 17,
) -> Tensor:
    """Normalised latents (b c t h w), float32: as WanPipeline samples them, but for the rival's rule."""
    transformer, scheduler, device = pipe.transformer, pipe.scheduler, pipe.device
    rule, stepped, channels = guider(rival, transformer), stepping(rival), transformer.config.in_channels
    encoded = pipe.encode_prompt(texts, [""] * len(texts), True, max_sequence_length=512, device=device)
    states = tuple(state.to(transformer.dtype) for state in encoded)
    noise = [torch.Generator().manual_seed(seed) for seed in seeds]
    latents = pipe.prepare_latents(len(texts), channels, height, width, num_frames, torch.float32, device, noise)
    scheduler.set_timesteps(steps, device=device)
    scheduler.set_begin_index(0)
    shift = scheduler.config.get("flow_shift") or scheduler.config.get("shift")
    draw = partial(randn_tensor, latents.shape, generator=noise, device=device, dtype=torch.float32)
    for index, timestep in enumerate(scheduler.timesteps):
        at = Moment(index, len(scheduler.timesteps), float(scheduler.sigmas[index]), shift, rival.cfg)
        rule.set_state(index, at.steps, timestep)
        ask = partial(velocity, rule, transformer, timestep=timestep, states=states)
        given, predicted = stepped(latents, at, ask, draw)
        if given is not latents:  # what multistep samplers remember led to other latents: begin anew
            scheduler.set_timesteps(steps, device=device)
            scheduler.set_begin_index(index)
        latents = scheduler.step(predicted, timestep, given, return_dict=False)[0]
    return latents.float()


@torch.no_grad()
def sample_batch(pipe: Any, texts: list[str], seeds: list[int], *, rival: Rival, steps: int, **size: int) -> Tensor:
    """uint8 frames (b, t, H, W, 3) of the prompts, each with the noise of its own seed."""
    latents = sample_latents(pipe, texts, seeds, rival=rival, steps=steps, **size)
    statistics = pipe.vae.config.latents_mean, pipe.vae.config.latents_std
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(latents) for v in statistics)
    parts = []
    for part in (latents * std + mean).to(pipe.vae.dtype).split(16):
        video = pipe.video_processor.postprocess_video(pipe.vae.decode(part, return_dict=False)[0], output_type="pt")
        parts.append((video * 255).round().byte().permute(0, 1, 3, 4, 2).cpu())
    return torch.cat(parts)


def velocity(
    rule: BaseGuidance,
    transformer: Any,
    latents: Tensor,
    times: float,
    *,
    timestep: Tensor,
    states: tuple[Tensor, ...],
) -> Any:
    """The rule's velocity from as many passes as it asks for, told `times` the timestep.

    After each pass the transformer is as it was.
    """
    passes = rule.prepare_inputs({"encoder_hidden_states": states})
    for one in passes:
        try:
            rule.prepare_models(transformer)
            one.noise_pred = transformer(
                hidden_states=latents.to(transformer.dtype),
                timestep=(times * timestep).expand(len(latents)),
                encoder_hidden_states=one.encoder_hidden_states,
                return_dict=False,
            )[0]
        finally:
            rule.cleanup_models(transformer)
    return rule(passes).pred


class MagnitudeAware(guiders.MagnitudeAwareGuidance):  # type: ignore[misc]
    """diffusers' own rule (MAMBO-G, arXiv 2508.03442) on flat predictions."""

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor) -> GuiderOutput:
        pred = super().forward(pred_cond.flatten(1), pred_uncond.flatten(1)).pred.view_as(pred_cond)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)


class FrequencyBands(guiders.ClassifierFreeGuidance):  # type: ignore[misc]
    """Frequency-decoupled guidance (arXiv 2506.19713): classifier-free guidance with a scale for each band."""

    num_conditions = 2

    def __init__(self, cfg: float, band_scales: Iterable[float]) -> None:
        super().__init__(cfg)
        self.scales = (*band_scales, cfg)

    def forward(self, pred_cond: Tensor, pred_uncond: Tensor) -> GuiderOutput:
        change = (pred_cond - pred_uncond).flatten(1, 2)
        pred = pred_uncond + scale_bands(change, self.scales).view_as(pred_uncond)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)


def scale_bands(pictures: Tensor, scales: tuple[float, ...]) -> Tensor:
    """Pictures (b c h w) with each band of their Laplacian pyramid scaled, the finest first."""
    if len(scales) == 1:
        return scales[0] * pictures
    coarse = F.interpolate(pictures, scale_factor=0.5, mode="bilinear", antialias=True)
    smooth, scaled = (
        F.interpolate(v, size=pictures.shape[-2:], mode="bilinear") for v in (coarse, scale_bands(coarse, scales[1:]))
    )
    return scales[0] * (pictures - smooth) + scaled


class WeakModel(BaseGuidance):  # type: ignore[misc]
    """cond + (cfg - 1) (cond - uncond) + scale (cond - weak): also away from what the model says when weakened."""

    _input_predictions: ClassVar[list[str]] = ["pred_cond", "pred_uncond", "pred_weak"]

    def __init__(self, cfg: float, weaken: Weaken, *, scale: float, start: float = 0.0, stop: float = 1.0) -> None:
        super().__init__(start, stop)
        self.cfg, self.scale, self.weaken = cfg, scale, weaken
        self.handles: list[RemovableHandle] = []

    def asked(self) -> list[str]:
        inside = self._start <= self._step / self._num_inference_steps < self._stop
        wanted = (True, self.cfg != 1, self.scale != 0 and inside)
        return list(itertools.compress(self._input_predictions, wanted))

    @property
    def num_conditions(self) -> int:
        return len(self.asked())

    def prepare_inputs(self, data: dict[str, tuple[Tensor, Tensor]]) -> list[Any]:
        return [self._prepare_batch(data, int(name == "pred_uncond"), name) for name in self.asked()]

    def prepare_models(self, denoiser: nn.Module) -> None:
        if self.asked()[self._count_prepared] == "pred_weak":
            self.handles = self.weaken(denoiser)
        self._count_prepared += 1

    def cleanup_models(self, denoiser: nn.Module) -> None:
        while self.handles:
            self.handles.pop().remove()

    def forward(self, pred_cond: Tensor, *, pred_uncond: Any = None, pred_weak: Any = None) -> GuiderOutput:
        pred = pred_cond if pred_uncond is None else pred_uncond + self.cfg * (pred_cond - pred_uncond)
        if pred_weak is not None:
            pred = pred + self.scale * (pred_cond - pred_weak)
        return GuiderOutput(pred=pred, pred_cond=pred_cond, pred_uncond=pred_uncond)


def skip_layers(transformer: Any, *, layers: list[int]) -> list[RemovableHandle]:
    """Blocks that hand on what they get (Stable Diffusion 3.5; STG, arXiv 2411.18664)."""
    return [transformer.blocks[i].register_forward_hook(lambda _block, args, _out: args[0]) for i in layers]


def perturb_attention(transformer: Any, *, layers: list[int]) -> list[RemovableHandle]:
    """Self-attention by an identity map, so that every token gets its own value (PAG, arXiv 2403.17377)."""

    def own_value(attention: Any, args: tuple[Tensor, ...], _out: Tensor) -> Any:
        return attention.to_out[0](attention.to_v(args[0]))

    return [transformer.blocks[i].attn1.register_forward_hook(own_value) for i in layers]


def _cross(name: str, cfgs: Iterable[float], knobs: Mapping[str, tuple[Any, ...]]) -> list[Rival]:
    combinations = itertools.product(*knobs.values())
    return [Rival(name, cfg, tuple(zip(knobs, values, strict=True))) for values in combinations for cfg in cfgs]


CFGS = (1.5, 2.0, 3.0, 5.0)
APG_RESCALE, APG_MOMENTUM = "adaptive_projected_guidance_rescale", "adaptive_projected_guidance_momentum"
LAYERS = ((3,), (5,))  # of 0 to 6: the middle one, and the inner one whose loss changes the last steps most

# The settings tried to find each rival's best. Papers' settings suit larger models at higher cfg; the low ends are for
# a base that is too smooth at cfg 1, where cond - weak is one to three times as large as cond - uncond (norm 45 to 92).
GRID: tuple[Rival, ...] = (
    *_cross("cfg-zero", CFGS, {"zero_init_steps": (0, 1)}),
    *_cross("tcfg", (*CFGS, 7.5), {}),
    *_cross("tcfg", (2.0, 3.0, 5.0), {"guidance_rescale": (0.7,)}),
    *_cross("rescaled", CFGS, {"guidance_rescale": (0.3, 0.7)}),
    *_cross("rescaled", (3.0, 5.0), {"guidance_rescale": (1.0,)}),
    *_cross("magnitude", CFGS, {"alpha": (2.0, 8.0)}),
    *_cross("magnitude", (10.0,), {"alpha": (8.0,)}),
    *_cross("apg", CFGS, {"eta": (0.0,), APG_RESCALE: (0.0,)}),
    *_cross("apg", CFGS, {"eta": (0.0,), APG_RESCALE: (50.0,), APG_MOMENTUM: (-0.5,)}),
    *_cross("apg", (5.0, 10.0), {"eta": (0.0,), APG_RESCALE: (15.0,), APG_MOMENTUM: (-0.5,)}),
    *_cross("fdg", (1.0,), {"band_scales": ((1.5,), (2.0,), (3.0,), (5.0,), (3.0, 1.5))}),
    *_cross("fdg", (1.5,), {"band_scales": ((2.0,), (3.0,), (5.0,))}),
    *_cross("fdg", (2.0,), {"band_scales": ((3.0,), (5.0,))}),
    *_cross("fdg", (5.0,), {"band_scales": ((10.0,),)}),
    *_cross("skip-layer", (1.0,), {"layers": LAYERS, "scale": (0.25, 0.5, 1.0)}),
    *_cross("skip-layer", (1.0,), {"layers": ((3,),), "scale": (2.0,)}),  # as STG for Wan2.1
    *_cross("skip-layer", (1.5,), {"layers": LAYERS, "scale": (0.5, 1.0)}),
    *_cross("skip-layer", (2.0, 3.0), {"layers": ((3,),), "scale": (2.8,), "stop": (0.2,)}),  # diffusers' defaults
    *_cross("perturbed-attention", (1.0,), {"layers": LAYERS, "scale": (0.25, 0.5, 1.0)}),
    *_cross("perturbed-attention", (1.0,), {"layers": ((3,),), "scale": (3.0,)}),  # the paper's
    *_cross("perturbed-attention", (1.5,), {"layers": LAYERS, "scale": (0.5, 1.0)}),
    *_cross("perturbed-attention", (2.0, 3.0), {"layers": ((3,),), "scale": (0.5,)}),
    *_cross("detail-daemon", (1.0, 2.0), {"amount": (0.1, 0.25, 0.5, 1.0)}),
    *_cross("lying-sigma", (1.0, 2.0), {"factor": (-0.01, -0.02, -0.05, -0.1)}),
    *_cross("epsilon-scaling", (1.0, 2.0), {"scale": (1.0025, 1.005, 1.01, 1.02)}),
    *_cross("tsr", (1.0, 2.0), {"k": (0.8, 0.9, 0.95, 0.98)}),
    *_cross("self-refining", (1.0, 2.0), {"times": ((3, 1), (2, 0)), "threshold": (0.2, 0.25)}),
)
