"""One clip over several GPUs: `torchrun --standalone --nproc-per-node 2 -m benchmarks.context_parallel`

Every process samples a guided clip alone, with the 1.3B's geometry and random weights, then all sample it together.
Prints one JSON line: how far the two clips lie apart, whether the processes ended alike to the bit, and the median time
of a step. `--toy` shrinks the widths; with `--device cpu` it needs no GPU.
"""

from __future__ import annotations

import json
import time
from itertools import pairwise
from statistics import median
from typing import Annotated

import torch
import typer
from diffusers import WanPipeline
from torch import Tensor

from benchmarks.wan_geometry import make_pipeline, smooth_noise_bank
from shelllcc.guidance.errors import SamplingError, UsageError
from shelllcc.guidance.wan.clips.parallel import Ranks, agree_on_clip, check, joined, spread
from shelllcc.guidance.wan.clips.parse import size as parse_size
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import Clip, Moment, guide_for, sample
from shelllcc.guidance.wan.model.pipeline import quieten
from shelllcc.guidance.wan.model.presets import PRESETS

WINDOW = (0.0, 0.9)  # so that few steps are guided


def main(
    size: Annotated[str, typer.Option(help="Of the clip.")] = "832x480",
    frames: Annotated[int, typer.Option(help="4n+1.")] = 81,
    steps: Annotated[int, typer.Option(help="The first is not timed.")] = 6,
    device: Annotated[str | None, typer.Option(help="cuda or cpu. (default: cuda if there is one)")] = None,
    toy: Annotated[bool, typer.Option(help="Shrink the widths.")] = False,
) -> None:
    with joined(device) as ranks:
        if ranks.count == 1:
            raise UsageError("start it with torchrun --standalone --nproc-per-node 2 -m benchmarks.context_parallel")
        quieten()
        width, height = parse_size(size)
        values = {"width": width, "height": height, "frames": frames, "steps": steps, "cfg": 5.0, "window": WINDOW}
        request = Request.resolve(PRESETS["tiny"], prompt="a tabby cat, zoom in, daylight", **values)
        pipe = _pipeline(ranks, toy=toy)
        alone, seconds_alone = _timed(pipe, request)
        spread(pipe, ranks)
        clip, seconds = _timed(pipe, request)
        record = {
            "processes": ranks.count,
            "device": torch.cuda.get_device_name() if str(ranks.device).startswith("cuda") else "cpu",
            "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
            "tokens": clip.latents.shape[2] * clip.latents[0, 0, 0].numel() // 4,
            "guided_steps": len(clip.trace),
            "relative_difference": _apart(clip.latents, alone.latents),
            "largest_difference": float((clip.latents - alone.latents).abs().max()),
            "alike_alone": _alike(ranks, alone),
            "alike": _alike(ranks, clip),
            "seconds_a_step_alone": round(seconds_alone, 3),
            "seconds_a_step": round(seconds, 3),
        }
        print(json.dumps(record))


def _pipeline(ranks: Ranks, *, toy: bool) -> WanPipeline:
    pipe = make_pipeline(toy=toy, device=str(ranks.device))
    check(ranks, pipe.transformer.config.num_attention_heads)
    pipe.text_encoder.eval()
    pipe.vae.to(torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _timed(pipe: WanPipeline, request: Request) -> tuple[Clip, float]:
    """A guided clip, and the median seconds of its steps but the first."""
    ends: list[float] = []

    def on_moment(_moment: Moment) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    clip = sample(pipe, request, guide_for(request, smooth_noise_bank(dict(pipe.vae.config))), on_moment=on_moment)
    return clip, median(after - before for before, after in pairwise(ends))


def _apart(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def _alike(ranks: Ranks, clip: Clip) -> bool:
    try:
        agree_on_clip(ranks, clip)
    except SamplingError:
        return False
    return True


if __name__ == "__main__":
    typer.run(main)
