"""Sampled clips for the benchmarks: the tiny Wan on the 64 captions, guided or not, kept on disk.

`python -m benchmarks.samples` fills runs/samples; the other benchmarks call `clips` and find them there. An arm is
known by its settings, weights and bank, not by the code: delete runs/ after a change to the guide.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.captions import prompts
from shelllcc.anchors.shelf import load_bank
from shelllcc.guidance.guide import ShellGuide
from shelllcc.guidance.scheduler import guided
from shelllcc.guidance.wan.pipeline import TINY, find_model, load_pipeline, weights_sha256
from shelllcc.guidance.wan.presets import PRESETS

FOLDER = Path("runs/samples")


class RandomGuide(ShellGuide):
    """A control: moves as large as the guide's, clip by clip and step by step, in a random direction."""

    def move(self, x0: Tensor, sigma: float, *, index: int = 0, last: bool = False) -> Tensor:
        move = super().move(x0, sigma, index=index, last=last)
        noise = torch.randn(move.shape, generator=torch.Generator().manual_seed(index)).to(move.device)
        sizes = [v.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1, 1) for v in (move, noise)]
        return noise * sizes[0] / sizes[1]


@torch.no_grad()
def sample_batch(
    pipe: Any,
    texts: list[str],
    seeds: list[int],
    *,
    cfg: float,
    steps: int,
    guide: ShellGuide | None = None,
) -> Tensor:
    """uint8 frames (b, t, H, W, 3) of the prompts, each with the noise of its own seed."""
    call = dict(
        prompt=texts,
        negative_prompt=[""] * len(texts),
        height=192,
        width=192,
        num_frames=17,
        num_inference_steps=steps,
        guidance_scale=cfg,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    )
    with contextlib.nullcontext() if guide is None else guided(pipe, guide):
        video = pipe(**call).frames
    return (video * 255).round().byte().permute(0, 1, 3, 4, 2).cpu()


def clips(
    pipe: Any,
    guide: ShellGuide | None = None,
    *,
    cfg: float | None = None,
    steps: int | None = None,
    count: int = 64,
    batch: int = 1,
) -> Tensor:
    """uint8 (count, 17, 192, 192, 3): the captions with seeds 0, 1, ..., from disk if this very arm is there."""
    preset = PRESETS["tiny"]
    cfg, steps = cfg or preset.cfg, steps or preset.steps
    arm = {"cfg": cfg, "steps": steps, "count": count, "weights": weights_sha256(TINY), "device": pipe.device.type}
    if guide is not None:
        arm |= {"bank": guide.bank.sha256, "guide": asdict(guide.config), "kind": type(guide).__name__}
    path = FOLDER / f"{hashlib.sha256(json.dumps(arm, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"
    if path.exists():
        return load_file(path)["frames"]
    texts, parts = prompts(count), []
    started = time.perf_counter()
    for first in range(0, count, batch):
        chosen = list(range(first, min(first + batch, count)))
        parts.append(sample_batch(pipe, [texts[i] for i in chosen], chosen, cfg=cfg, steps=steps, guide=guide))
        print(
            f"{first + len(chosen)}/{count} clips, {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True
        )
    frames = torch.cat(parts)
    FOLDER.mkdir(parents=True, exist_ok=True)
    save_file({"frames": frames}, path, {"arm": json.dumps(arm)})
    return frames


def standard_arms(*, device: str, batch: int) -> dict[str, Tensor]:
    """The tiny model's clips at its defaults, without and with guidance."""
    pipe = load_pipeline(find_model(None), device=device, dtype="float32")
    guide = ShellGuide(load_bank("auto", pipe))
    cfg = PRESETS["tiny"].cfg
    return {
        f"unguided, cfg {cfg:g}": clips(pipe, batch=batch),
        f"guided {guide.config.strength:g}, cfg {cfg:g}": clips(pipe, guide, batch=batch),
    }


if __name__ == "__main__":
    standard_arms(device="cuda" if torch.cuda.is_available() else "cpu", batch=1)
