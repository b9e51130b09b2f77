"""The nodes as ComfyUI has them: names, inputs, what each calls. Knows nothing of how guidance works."""

from __future__ import annotations

import importlib
from typing import Any

from comfy_api.latest import ComfyExtension, io

from shelllcc.anchors.choose import choose_bank
from shelllcc.anchors.score import score_latents
from shelllcc.comfy.choosing import AUTO, banks, fits, label, shelves
from shelllcc.comfy.fitting import make_fit
from shelllcc.comfy.guiding import Wanted, guide_model
from shelllcc.comfy.models import space_of_format
from shelllcc.comfy.picture import frames_picture
from shelllcc.comfy.trips import Asked
from shelllcc.guidance.errors import BankError

CATEGORY = "sampling/shell-lcc"


class ShellLCCGuidance(io.ComfyNode):  # type: ignore[misc]
    """Shell-LCC Guidance: a Wan model whose samplings are guided."""

    @classmethod
    def define_schema(cls) -> Any:
        sigma = dict(min=0.0, max=1.0, step=0.01, advanced=True)
        return io.Schema(
            node_id="ShellLCCGuidance",
            display_name="Shell-LCC Guidance",
            category=CATEGORY,
            description="Gives Wan's videos the detail of real ones as they are sampled: no training, no extra passes.",
            search_aliases=["shelllcc", "wan detail", "sharpen wan"],
            inputs=[
                io.Model.Input("model", tooltip="Wan2.1 or Wan2.2, after any LoRA. Of Wan2.2 14B guide both."),
                io.Float.Input(
                    "strength", default=1.0, min=0.0, max=10.0, step=0.05, tooltip="0 is off, 1 what the fit says."
                ),
                io.Combo.Input("bank", options=banks(), default=AUTO, tooltip="Latents of real video to go by."),
                io.Combo.Input(
                    "fit",
                    options=fits(),
                    default=AUTO,
                    tooltip="How this model must be guided at these settings (`shelllcc fit`). auto: the nearest one "
                    "made with a model of this shape; with LoRAs choose the one that was made with them.",
                ),
                io.Float.Input("start", default=1.0, tooltip="Sigma above which nothing is moved.", **sigma),
                io.Float.Input("end", default=0.0, tooltip="Sigma below which nothing is moved.", **sigma),
                io.Int.Input(
                    "trim_latent",
                    default=0,
                    min=0,
                    max=64,
                    optional=True,
                    advanced=True,
                    tooltip="Reference frames in front: wire trim_latent of WanVaceToVideo or WanAnimateToVideo here.",
                ),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        """Another one where banks or fits were made or removed: what "auto" takes may differ then."""
        return shelves()

    @classmethod
    def execute(
        cls, model: Any, strength: float, bank: str, fit: str, start: float, end: float, trim_latent: int = 0
    ) -> Any:
        return io.NodeOutput(guide_model(model, Wanted(strength, bank, fit, start, end, trim_latent)))


class ShellLCCFit(io.ComfyNode):  # type: ignore[misc]
    """Shell-LCC Fit: how a model must be guided at these settings, measured and kept as a file."""

    @classmethod
    def define_schema(cls) -> Any:
        samplers = importlib.import_module("comfy.samplers").KSampler  # ComfyUI's own
        return io.Schema(
            node_id="ShellLCCFit",
            display_name="Shell-LCC Fit",
            category=CATEGORY,
            description="Measures what a Wan leaves out of real clips as you sample it, and keeps how to guide against "
            "it as a file: once for a model, its LoRAs, steps and cfg. Interrupted, it goes on where it was.",
            search_aliases=["shelllcc", "fit wan guidance"],
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="As your sampler has it: after LoRAs and shift, before Guidance."),
                io.Vae.Input("vae"),
                io.Clip.Input("clip"),
                io.Combo.Input("sampler_name", options=samplers.SAMPLERS, default="euler"),
                io.Combo.Input("scheduler", options=samplers.SCHEDULERS, default="simple"),
                io.Int.Input("steps", default=20, min=1, max=1000),
                io.Float.Input("cfg", default=5.0, min=1.0, max=30.0, step=0.1),
                io.Conditioning.Input("negative", optional=True, tooltip="Your negative prompt; none is an empty one."),
                io.Model.Input(
                    "low_noise", optional=True, tooltip="Of Wan2.2 14B the second model; the first is of high noise."
                ),
                io.Int.Input(
                    "switch_step", default=10, min=1, max=1000, optional=True, tooltip="Where low_noise takes over."
                ),
                io.Combo.Input("bank", options=banks(), default=AUTO, advanced=True, optional=True),
                io.Int.Input("clips", default=24, min=4, max=200, advanced=True, optional=True),
                io.Int.Input("size", default=256, min=64, max=1024, step=32, advanced=True, optional=True),
                io.Int.Input("frames", default=17, min=5, max=201, step=4, advanced=True, optional=True),
            ],
            outputs=[io.Model.Output(), io.String.Output(display_name="found")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return shelves()

    @classmethod
    def execute(
        cls, model: Any, vae: Any, clip: Any, sampler_name: str, scheduler: str, steps: int, cfg: float,
        negative: Any = None, low_noise: Any = None, switch_step: int = 10, bank: str = AUTO, clips: int = 24,
        size: int = 256, frames: int = 17,
    ) -> Any:  # fmt: skip
        bar = importlib.import_module("comfy.utils").ProgressBar(1)  # ComfyUI's own
        made = make_fit(
            [model] if low_noise is None else [model, low_noise],
            vae,
            clip,
            Asked(sampler_name, scheduler, steps, cfg, clips, size, frames, switch_step),
            bank=bank,
            negative=negative,
            on_progress=lambda progress: bar.update_absolute(progress.done, progress.total),
        )
        return io.NodeOutput(model, made.words(), ui={"text": (f"{label(made)}: {made.words()}",)})


class ShellLCCScore(io.ComfyNode):  # type: ignore[misc]
    """Shell-LCC Score: how far latents lie from those of real video."""

    @classmethod
    def define_schema(cls) -> Any:
        return io.Schema(
            node_id="ShellLCCScore",
            display_name="Shell-LCC Score",
            category=CATEGORY,
            description="How far a Wan latent lies from those of real video: 1 is the median of held-out real clips.",
            inputs=[
                io.Latent.Input("latent"),
                io.Combo.Input("bank", options=banks(), default=AUTO, tooltip="Latents of real video to measure by."),
            ],
            outputs=[io.Float.Output(display_name="distance"), io.Image.Output(display_name="frames")],
        )

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> str:
        return shelves()

    @classmethod
    def execute(cls, latent: Any, bank: str) -> Any:
        samples = latent["samples"]
        space = _format_of(samples)
        chosen, _ = choose_bank(bank, space_of_format(space))
        scores = [score_latents(chosen, clip) for clip in space.process_in(samples.float())]
        mean = sum(score.mean for score in scores) / len(scores)
        return io.NodeOutput(mean, frames_picture([score.per_frame for score in scores]))


def _format_of(samples: Any) -> Any:
    """ComfyUI's latent format of Wan's that has as many channels. Raises BankError for latents that are not Wan's."""
    formats = importlib.import_module("comfy.latent_formats")  # ComfyUI's own
    for kind in (formats.Wan21, formats.Wan22):
        if getattr(samples, "ndim", 0) == 5 and samples.shape[1] == kind.latent_channels:
            return kind()
    raise BankError(f"Shell-LCC scores video latents of Wan (b 16 t h w, or 48 channels), got {tuple(samples.shape)}")


class ShellLCC(ComfyExtension):  # type: ignore[misc]
    """What this package adds to ComfyUI."""

    async def get_node_list(self) -> list[type]:
        return [ShellLCCGuidance, ShellLCCFit, ShellLCCScore]


async def comfy_entrypoint() -> ShellLCC:
    return ShellLCC()
