"""What guidance costs at Wan2.1's full size, on one GPU, with random weights in the released geometry.

`python -m benchmarks.gpu`             every part below, printed and written to runs/gpu.json
`python -m benchmarks.gpu --part step` one of them

guide    one move of the guide beside the reward of Shell-LCC's authors with autograd: time and memory
step     one sampling step with cfg, guided and unguided in turn: time, ratio and peak memory
sample   a whole sampling of 50 steps at 480p with decoding, unguided and guided
few      a sampling in four steps at 480p, as a distilled model goes, unguided and guided in turn, every step guided
sweep    five strengths at 480p, with prefix replay
memory   the peak of each stage and way to offload beside what `--dry-run` says
studio   the same for 1.3B from files, through the code of `shelllcc generate`: prompts are encoded first
large    the same for 14B

Times and memory do not depend on what the weights are; the pictures mean nothing. `--toy` runs all of it on a CPU.
"""

from __future__ import annotations

import functools
import gc
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import WanPipeline
from torch import Tensor

from benchmarks.anchors import SHAPES, authors_bank, bank_of, on_gpu, smooth_noise
from benchmarks.wan_geometry import (
    LARGE_TRANSFORMER,
    TOY_TRANSFORMER,
    TOY_VAE,
    TRANSFORMER,
    VAE,
    make_pipeline,
)
from shelllcc.guidance.geometry.patches import to_tokens
from shelllcc.guidance.geometry.precision import full_precision
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import guided
from shelllcc.guidance.wan.clips.batch import Silent
from shelllcc.guidance.wan.clips.generate import make
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import Moment, first_move, guide_for, sample
from shelllcc.guidance.wan.clips.studio import Studio, prompts_of
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.memory import Stage, costs
from shelllcc.guidance.wan.model.pipeline import Model, find_model
from shelllcc.guidance.wan.model.placing import place
from shelllcc.guidance.wan.model.presets import PRESETS
from shelllcc.guidance.wan.model.seams import device_of

STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0)
QUEUE = 200_000_000  # clock ticks, some 100 ms, that the GPU is busy while work is queued behind
BANK = bank_of("covariance", 3)  # in the shape that `anchors build` makes by default


class EveryOther(ShellGuide):
    """Guides the steps of odd index alone, so that a GPU's moods fall on guided and unguided steps alike."""

    def step_at(self, index: int) -> tuple[float, float]:
        sigma, share = super().step_at(index)
        return sigma, share if index % 2 else 0.0


class Noise:
    """Stands for embedded texts."""

    def __init__(self, width: int) -> None:
        self.embedding = torch.randn(1, 512, width, generator=torch.Generator().manual_seed(0))

    def embed(self, prompt: str) -> Tensor:
        return self.embedding


class Bench:
    """The device, sizes and what was measured."""

    def __init__(self, *, toy: bool) -> None:
        self.toy, self.device = toy, "cpu" if toy else "cuda"
        self.sizes = {"toy": (64, 64, 5)} if toy else {"480p": (832, 480, 81), "720p": (1280, 720, 81)}
        self.texts = Noise((TOY_TRANSFORMER if toy else TRANSFORMER)["text_dim"])

    def request(self, size: str, **values: Any) -> Request:
        width, height, frames = self.sizes[size]
        preset = PRESETS["diffusers-720p" if size == "720p" else "diffusers-480p"]
        return Request.resolve(preset, prompt="noise", width=width, height=height, frames=frames, **values)

    def peak(self, work: Callable[[], object]) -> float:
        """GB allocated at the worst moment."""
        self.clear()
        work()
        self.wait()
        return 0.0 if self.toy else torch.cuda.max_memory_allocated() / 1e9

    def clear(self) -> None:
        gc.collect()
        if not self.toy:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        if not self.toy:
            torch.cuda.synchronize()

    def latents(self, pipe: WanPipeline, request: Request, guide: ShellGuide | None) -> list[float]:
        """Sample as far as the latents; returns seconds of each step but the first."""
        marks: list[Any] = []

        def mark(_pipe: Any, _index: int, _time: Any, _state: Any) -> dict[str, Any]:
            if self.toy:
                marks.append(time.perf_counter())
            else:
                marks.append(torch.cuda.Event(enable_timing=True))
                marks[-1].record()
            return {}

        def call() -> None:
            texts = self.texts.embedding.to(device_of(pipe), pipe.transformer.dtype)
            pipe(
                prompt_embeds=texts, negative_prompt_embeds=texts, height=request.height, width=request.width,
                num_frames=request.frames, num_inference_steps=request.steps, guidance_scale=request.cfg,
                generator=torch.Generator("cpu").manual_seed(0), output_type="latent", callback_on_step_end=mark,
            )  # fmt: skip

        if guide is None:
            call()
        else:
            with guided(pipe, guide):
                call()
        self.wait()
        return [b - a if self.toy else a.elapsed_time(b) / 1e3 for a, b in pairwise(marks)]


def authors_reward(skeleton: Any, x: Tensor) -> Tensor:
    """The gradient of the authors' reward, all voxels at once, as their formulas have it."""
    leaf = x.clone().requires_grad_()
    _, distance = skeleton.residuals(to_tokens(leaf, size=1)[0])
    return torch.autograd.grad(distance.mean(), leaf)[0]


def queued(work: Callable[[], object], *, rounds: int = 9) -> float:
    """Milliseconds of the GPU for work that it finds queued, as it does behind a transformer."""
    times = []
    for _ in range(rounds):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(QUEUE)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def guide(bench: Bench) -> dict[str, Any]:
    """Milliseconds and GB of one move at each size, beside the authors' reward in float32 and TF32."""
    found: dict[str, Any] = {}
    skeleton = authors_bank().shell.skeleton.to(torch.device(bench.device))
    for size, shape in SHAPES.items():
        x = smooth_noise(shape).to(bench.device)
        mine = ShellGuide(BANK, GuideConfig(window=(0.0, 1.0)))
        mine.begin([0.5, 0.4, 0.3, 0.0])
        mine.move(x, 0.5, share=0.3, conditional=x)
        torch.cuda.set_sync_debug_mode("error")
        mine.move(x, 0.4, share=0.3)
        torch.cuda.set_sync_debug_mode("default")

        def first(x: Tensor = x, mine: ShellGuide = mine) -> None:
            mine.begin([0.5, 0.4, 0.3, 0.0])
            mine.move(x, 0.5, share=0.3, conditional=x)

        def later(x: Tensor = x, mine: ShellGuide = mine) -> None:
            mine.move(x, 0.4, share=0.3)

        def exact(x: Tensor = x) -> Tensor:
            with full_precision():
                return authors_reward(skeleton, x)

        row: dict[str, Any] = {}
        with torch.no_grad():
            row["move_queued_ms"] = queued(later)
            row["first_move_queued_ms"] = queued(first)
            row["move_alone_ms"], row["move_GB"] = on_gpu(later)
            row["first_move_alone_ms"], row["first_move_GB"] = on_gpu(first)
        row["authors_ms"], row["authors_GB"] = on_gpu(exact)
        torch.backends.cuda.matmul.allow_tf32 = True
        row["authors_tf32_ms"] = on_gpu(lambda x=x: authors_reward(skeleton, x))[0]  # type: ignore[misc]
        torch.backends.cuda.matmul.allow_tf32 = False
        row["times_faster"] = row["authors_ms"] / row["move_queued_ms"]
        row["times_faster_alone"] = row["authors_ms"] / row["move_alone_ms"]
        row["times_less_memory"] = row["authors_GB"] / row["move_GB"]
        found[size] = row
        bench.clear()
    return found


def step(bench: Bench) -> dict[str, Any]:
    """Seconds of a step, guided and not in turn, and the peak memory of a guided and an unguided sampling."""
    found: dict[str, Any] = {}
    pipe = make_pipeline(toy=bench.toy, device=bench.device, text_encoder=False)
    for size in bench.sizes:
        request = bench.request(size, steps=12 if size == "720p" else 20)
        everywhere = GuideConfig(window=(0.0, 1.0))
        short = replace(request, steps=4)
        peaks = {
            name: bench.peak(functools.partial(bench.latents, pipe, short, way))
            for name, way in (("unguided", None), ("guided", ShellGuide(BANK, everywhere)))
        }
        seconds = bench.latents(pipe, request, EveryOther(BANK, everywhere))[1:-1]  # the last is never guided
        even, odd = seconds[::2], seconds[1::2]  # of index 2, 4, ... and 3, 5, ...
        found[size] = {
            "unguided_s": statistics.mean(even),
            "guided_s": statistics.mean(odd),
            "ratio": statistics.mean(odd) / statistics.mean(even),
            "ratio_of_medians": statistics.median(odd) / statistics.median(even),
            "spread": statistics.stdev(even) / statistics.mean(even),
            "unguided_peak_GB": peaks["unguided"],
            "guided_peak_GB": peaks["guided"],
            "added_GB": peaks["guided"] - peaks["unguided"],
        }
    return found


def whole(bench: Bench) -> dict[str, Any]:
    """Seconds of a whole sampling at the default strength and window, unguided and guided."""
    pipe = make_pipeline(toy=bench.toy, device=bench.device, text_encoder=False)
    size = next(iter(bench.sizes))
    request = bench.request(size, steps=4 if bench.toy else 50)
    sample(pipe, replace(request, steps=2), texts=bench.texts)  # type: ignore[arg-type]
    found: dict[str, Any] = {}
    for name, wanted in (("unguided", request.unguided()), ("guided", request)):
        decoding: list[float] = []

        def on_moment(moment: Moment, decoding: list[float] = decoding) -> None:
            if moment.is_last:
                bench.wait()
                decoding.append(time.perf_counter())

        started = time.perf_counter()
        clip = sample(pipe, wanted, guide_for(wanted, BANK), texts=bench.texts, on_moment=on_moment)  # type: ignore[arg-type]
        bench.wait()
        ended = time.perf_counter()
        found[name] = {"sampling_s": decoding[0] - started, "decoding_s": ended - decoding[0], "moves": len(clip.trace)}
    found["ratio"] = found["guided"]["sampling_s"] / found["unguided"]["sampling_s"]
    return found


def few(bench: Bench, *, rounds: int = 5) -> dict[str, Any]:
    """Seconds of a distilled model's four steps without cfg, guided in every step, the last included; of decoding, too.

    The ratio is the median of `rounds` pairs, each unguided and guided in turn, the first pair left out.
    """
    pipe = make_pipeline(toy=bench.toy, device=bench.device, text_encoder=False)
    width, height, frames = next(iter(bench.sizes.values()))
    sized = {"width": width, "height": height, "frames": frames}
    request = Request.resolve(PRESETS["lightx2v-4step"], prompt="noise", window=(0.0, 1.0), last=True, **sized)
    pairs, decoding = list[tuple[float, float]](), list[float]()
    for _ in range(1 + rounds):
        seconds = []
        for wanted in (request.unguided(), request):
            marks = [time.perf_counter()]

            def on_moment(moment: Moment, marks: list[float] = marks) -> None:
                if moment.is_last:
                    bench.wait()
                    marks.append(time.perf_counter())

            clip = sample(pipe, wanted, guide_for(wanted, BANK), texts=bench.texts, on_moment=on_moment)  # type: ignore[arg-type]
            bench.wait()
            seconds.append(marks[1] - marks[0])
            decoding.append(time.perf_counter() - marks[1])
        pairs.append((seconds[0], seconds[1]))
    return {
        "unguided_s": statistics.median(pair[0] for pair in pairs[1:]),
        "guided_s": statistics.median(pair[1] for pair in pairs[1:]),
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs[1:]),
        "decoding_s": statistics.median(decoding[2:]),
        "moves": len(clip.trace),
    }


def sweep(bench: Bench) -> dict[str, Any]:
    """Seconds of five strengths that share their first steps, and of the first, which shares with none."""
    pipe = make_pipeline(toy=bench.toy, device=bench.device, text_encoder=False)
    request = bench.request(next(iter(bench.sizes)), steps=8 if bench.toy else 50)
    prefix = Prefix(1 + first_move(pipe, request, request.guide))
    seconds = []
    for strength in STRENGTHS:
        wanted = request.changed(strength=strength)
        started = time.perf_counter()
        sample(pipe, wanted, guide_for(wanted, BANK), prefix=prefix, texts=bench.texts)  # type: ignore[arg-type]
        bench.wait()
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds, "share": sum(seconds) / (len(seconds) * seconds[0]), "replay_GB": prefix.bytes / 1e9}


@torch.no_grad()
def memory(bench: Bench, *, large: bool = False) -> dict[str, Any]:
    """Peak GB of sampling two steps and of decoding, measured and planned, for every way to offload.

    At 480p; where nothing is offloaded, 720p is decoded too.
    """
    configs = (TOY_TRANSFORMER, TOY_VAE) if bench.toy else (LARGE_TRANSFORMER if large else TRANSFORMER, VAE)
    transformer, vae = (dict(config) for config in configs)
    model = Model("random", "none", transformer, vae, False)
    requests = [bench.request(size, steps=2, window=(0.0, 1.0)) for size in bench.sizes]
    planned = [costs(model, request, Loading(), dtype=torch.bfloat16) for request in requests]
    found: dict[str, Any] = {"step_TFLOP": planned[0].flops / 1e12}
    for way in ("none",) if bench.toy else ("none", "model", "group"):
        pipe = make_pipeline(toy=bench.toy, device=bench.device, text_encoder=False, large=large)
        if way != "none":
            pipe.to("cpu")
            bench.clear()
        place(pipe, way, bench.device)
        sampling = functools.partial(bench.latents, pipe, requests[0], guide_for(requests[0], BANK))
        started = time.perf_counter()
        found[f"{way}, sampling"] = _beside(bench.peak(sampling), planned[0].loaded(way, tiling=False)["sampling"])
        found[f"{way}, two steps, s"] = time.perf_counter() - started
        for tiling in (False, True):
            pipe.vae.enable_tiling() if tiling else pipe.vae.disable_tiling()
            for size, plan in zip(bench.sizes, planned if way == "none" else planned[:1], strict=False):
                latents = torch.randn(plan.latents, device=bench.device)
                peak = bench.peak(functools.partial(pipe.vae.decode, latents, return_dict=False))
                row = _beside(peak, plan.loaded(way, tiling=tiling)["decoding"])
                found[f"{way}, decoding {size}{', tiled' if tiling else ''}"] = row
        pipe.maybe_free_model_hooks()
        del pipe, sampling
        bench.clear()
    return found


def _beside(measured: float, planned: Stage) -> list[float]:
    """GB measured, planned, and their ratio."""
    return [measured, planned.peak / 1e9, measured / (planned.peak / 1e9)]


def studio(bench: Bench) -> dict[str, Any]:
    """Peak GB of each stage of a clip of four steps at 480p, its model read from a folder."""
    found: dict[str, Any] = {}
    os.environ["SHELLLCC_CACHE"] = tempfile.mkdtemp()
    with tempfile.TemporaryDirectory() as folder:
        make_pipeline(toy=bench.toy, device=bench.device).save_pretrained(folder)
        bench.clear()
        model = find_model(folder)
        for index, way in enumerate(("none",) if bench.toy else ("none", "model", "group")):
            request = bench.request(next(iter(bench.sizes)), steps=4, window=(0.0, 1.0))
            request = replace(request, prompt=f"noise {index}")  # one that is not on disk yet
            place = Studio(model, Loading(offload=way), Silent(), device=bench.device)
            row = {"encoding": bench.peak(lambda place=place, r=request: place.texts.prepare(prompts_of(r)))}  # type: ignore[misc]
            row["loading"] = bench.peak(lambda place=place: place.pipe)  # type: ignore[misc]
            row["all"] = bench.peak(lambda place=place, r=request: make(r, BANK, place, name=""))  # type: ignore[misc]
            planned = costs(model, request, place.loading, dtype=torch.bfloat16).loaded(way, tiling=False)
            found[way] = row | {"planned": {name: round(stage.peak / 1e9, 3) for name, stage in planned.items()}}
            del place
    return found


PARTS: Mapping[str, Callable[[Bench], dict[str, Any]]] = {
    "guide": guide,
    "step": step,
    "sample": whole,
    "few": few,
    "sweep": sweep,
    "memory": memory,
    "studio": studio,
    "large": lambda bench: memory(bench, large=True),
}


def main(
    part: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(PARTS)}; may be repeated.")] = None,
    output: Annotated[Path, typer.Option(help="The JSON file; other parts that it holds stay.")] = Path(
        "runs/gpu.json"
    ),
    toy: Annotated[bool, typer.Option(help="Small, on the CPU: no figure means anything.")] = False,
) -> None:
    bench = Bench(toy=toy)
    chosen = part or [name for name in PARTS if not (toy and name in ("guide", "large"))]
    record = json.loads(output.read_text()) if output.is_file() else {}
    record["device"] = "cpu" if toy else torch.cuda.get_device_name()
    record["torch"] = torch.__version__
    print(record["device"], record["torch"], flush=True)
    for name in chosen:
        started = time.perf_counter()
        record[name] = PARTS[name](bench)
        print(json.dumps({name: _rounded(record[name])}), f"({time.perf_counter() - started:.0f} s)", flush=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(record, indent=1) + "\n")
        bench.clear()


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    typer.run(main)
