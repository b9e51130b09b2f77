"""From a plan to files: sample, write the videos, then the sidecar. Knows nothing of terminals.

The sidecar is written last, so that it proves a finished clip.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from shelllcc.guidance.files import sha256_of
from shelllcc.guidance.trace import alarm
from shelllcc.guidance.wan.plan import Plan
from shelllcc.guidance.wan.video import side_by_side, write_json, write_video

if TYPE_CHECKING:
    from diffusers import WanPipeline

    from shelllcc.guidance.wan.sample import Clip, Moment

LIBRARIES = ("torch", "diffusers", "transformers", "faiss-cpu", "imageio", "imageio-ffmpeg", "safetensors", "numpy")


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, name: str) -> None: ...

    def step(self, moment: Moment) -> None: ...


def generate(plan: Plan, pipe: WanPipeline, reporter: Reporter) -> dict[str, Any]:
    """Sample and write the clips of a plan; returns the sidecar's record."""
    from shelllcc.guidance.wan.sample import guide_for, sample

    clips: dict[str, Clip] = {}
    seconds: dict[str, float] = {}
    arms = {"unguided": plan.request.unguided()} if plan.compare else {}
    arms[plan.label] = plan.request
    for label, request in arms.items():
        reporter.stage(f"{label} sampling")
        started = time.perf_counter()
        decoding = [started]

        def on_decode(label: str = label, decoding: list[float] = decoding) -> None:
            decoding[0] = time.perf_counter()
            reporter.stage(f"{label} decoding")

        clips[label] = sample(pipe, request, guide_for(request, plan.bank), on_step=reporter.step, on_decode=on_decode)
        seconds[f"{label}_sampling"] = round(decoding[0] - started, 3)
        seconds[f"{label}_decoding"] = round(time.perf_counter() - decoding[0], 3)
    reporter.stage("writing")
    return _write(plan, pipe, clips, seconds)


def versions() -> dict[str, str | None]:
    """Versions of this package, Python and the libraries behind a clip; None for one that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in ("shelllcc", *LIBRARIES):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def _write(plan: Plan, pipe: WanPipeline, clips: dict[str, Clip], seconds: dict[str, float]) -> dict[str, Any]:
    recipe: dict[str, Any] = plan.describe() | {
        "device": str(pipe._execution_device),
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "scheduler": type(pipe.scheduler).__name__,
        "versions": versions(),
        "frames_sha256": {label: clip.frames_sha256 for label, clip in clips.items()},
    }
    record = recipe | {
        "seconds": seconds,
        "metrics": _metrics(clips),
        "trace": _trace(clips[plan.label]),
        "alarm": clips[plan.label].alarm,
    }
    frames = {label: clip.frames for label, clip in clips.items()}
    if plan.compare:
        frames["compare"] = side_by_side(frames["unguided"], frames["guided"])
    plan.sidecar.unlink(missing_ok=True)
    for label, path in plan.videos.items():
        write_video(path, frames[label], fps=plan.request.fps, record={"shows": label} | recipe)
    record["sha256"] = {label: sha256_of(path) for label, path in plan.videos.items()}
    write_json(plan.sidecar, record)
    return record


def _trace(clip: Clip) -> list[dict[str, Any]]:
    """Every step of the guide, with the alarm that stood after it."""
    return [asdict(step) | {"alarm": alarm(step)} for step in clip.trace]


def _metrics(clips: dict[str, Clip]) -> dict[str, Any]:
    """lap and hf of every clip, their ratios guided / unguided, and the mean change of a pixel."""
    import torch

    from shelllcc.guidance.evaluation import metrics

    grey = {label: metrics.grey(torch.from_numpy(clip.frames)[None]) for label, clip in clips.items()}
    table: dict[str, Any] = {
        label: {"lap": float(metrics.laplacian_variance(v)), "hf": float(metrics.high_frequency_share(v))}
        for label, v in grey.items()
    }
    if len(clips) == 2:
        guided, unguided = table["guided"], table["unguided"]
        table["lap_ratio"] = guided["lap"] / max(unguided["lap"], 1e-12)
        table["hf_ratio"] = guided["hf"] / max(unguided["hf"], 1e-12)
        table["change"] = float(metrics.change(grey["guided"], grey["unguided"]))
    return table
