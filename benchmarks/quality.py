"""Are guided clips nearer to real ones? `python -m benchmarks.quality`

Clips of the 64 captions, unguided, guided and under controls, against real clips of the same captions seen through the
same VAE. Sharpness alone is fooled by noise; the table therefore has, for each arm:

lap    mean Laplacian variance over the real clips'; 1 is right
spec   mean |log10 power ratio| of the radial spectra; 0 is right
swd    sliced Wasserstein distance of 7x7 patches of the finest Laplacian level; 0 is right
kurt   kurtosis of the gradients over the real clips'; falls under noise
flat   Laplacian deviation in the flattest blocks over the real clips'; rises under noise
jitter mean |second difference| over time, over the real clips'
acc    share of clips in which the classifier of benchmarks.subjects names the subject
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from benchmarks import samples
from benchmarks.captions import real_frames
from benchmarks.subjects import accuracy, classifier
from shelllcc.anchors.shelf import load_bank
from shelllcc.guidance.evaluation import metrics
from shelllcc.guidance.guide import ShellGuide
from shelllcc.guidance.wan.pipeline import TINY, find_model, load_pipeline, weights_sha256
from shelllcc.guidance.wan.presets import PRESETS
from training import whole_clip
from training.clips import Studio
from training.photographs import load

COLUMNS = ("lap", "spec", "swd", "kurt", "flat", "jitter", "acc")


@torch.no_grad()
def through_vae(vae: nn.Module, frames: Tensor) -> Tensor:
    """uint8 clips (n, t, H, W, 3) encoded and decoded: what the pipeline could show at best."""
    device = next(vae.parameters()).device
    parts = []
    for clip in frames:
        video = clip.to(device).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        decoded = whole_clip.decode(vae, whole_clip.encode(vae, video)[0])
        parts.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte()[0].permute(1, 2, 3, 0).cpu())
    return torch.stack(parts)


def real_clips(pipe: Any, studio: Studio, *, draw_number: int = 0) -> Tensor:
    """Real clips of the captions through the pipeline's VAE, from disk if they are there."""
    path = samples.FOLDER / f"real-{draw_number}-{weights_sha256(TINY)[:12]}.safetensors"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"frames": through_vae(pipe.vae, real_frames(studio, draw_number=draw_number))}, path)
    return load_file(path)["frames"]


def judge(frames: Tensor, real: Tensor, model: nn.Module) -> dict[str, float]:
    """The table's row of uint8 clips (n, t, H, W, 3) against real ones."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    video, reference = metrics.grey(frames.to(device)), metrics.grey(real.to(device))

    def ratio(measure: object) -> float:
        return float(measure(video).mean() / measure(reference).mean())  # type: ignore[operator]

    return {
        "lap": ratio(metrics.laplacian_variance),
        "spec": metrics.spectrum_distance(video, reference),
        "swd": metrics.sliced_wasserstein(video, reference),
        "kurt": ratio(metrics.gradient_kurtosis),
        "flat": ratio(metrics.flat_residual),
        "jitter": ratio(metrics.jitter),
        "acc": accuracy(model, frames),
    }


def show(name: str, row: dict[str, float]) -> None:
    print(f"{name:<34}" + "".join(f"{row[column]:>8.3f}" for column in COLUMNS), flush=True)


def unsharp(frames: Tensor, amount: float) -> Tensor:
    """A control: unsharp masking with a 5x5 binomial blur."""
    video = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    kernel = torch.outer(taps, taps).expand(3, 1, 5, 5)
    blurred = torch.cat([F.conv2d(F.pad(v, (2, 2, 2, 2), mode="reflect"), kernel, groups=3) for v in video.split(17)])
    sharp = (video + amount * (video - blurred)).round().clamp(0, 255).byte()
    return sharp.permute(0, 2, 3, 1).view(frames.shape)


def unsharp_to(frames: Tensor, lap: float) -> tuple[Tensor, float]:
    """The unsharp mask whose mean Laplacian variance is `lap`, by bisection, and its amount."""
    low, high = 0.0, 4.0
    for _ in range(12):
        middle = (low + high) / 2
        sharp = float(metrics.laplacian_variance(metrics.grey(unsharp(frames[:16], middle))).mean())
        low, high = (middle, high) if sharp < lap else (low, middle)
    return unsharp(frames, low), low


def main(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[int, typer.Option(help="Clips sampled at once.")] = 1,
    controls: Annotated[bool, typer.Option(help="Also a random direction, other cfg values and more steps.")] = False,
) -> None:
    studio = Studio(load(), device)
    pipe = load_pipeline(find_model(None), device=device, dtype="float32")
    model, guide, cfg = classifier(studio), ShellGuide(load_bank("auto", pipe)), PRESETS["tiny"].cfg
    real = real_clips(pipe, studio)
    print(f"{'arm':<34}" + "".join(f"{column:>8}" for column in COLUMNS))
    show("real, another draw", judge(real_clips(pipe, studio, draw_number=1), real, model))
    unguided, guided = samples.clips(pipe, batch=batch), samples.clips(pipe, guide, batch=batch)
    show(f"unguided, cfg {cfg:g}", judge(unguided, real, model))
    show(f"guided {guide.config.strength:g}, cfg {cfg:g}", judge(guided, real, model))
    wanted = float(metrics.laplacian_variance(metrics.grey(guided[:16])).mean())
    sharp, amount = unsharp_to(unguided, wanted)
    show(f"unsharp mask {amount:.2f}, cfg {cfg:g}", judge(sharp, real, model))
    if not controls:
        return
    more = {
        "random direction, same size": samples.clips(pipe, samples.RandomGuide(guide.bank), batch=batch),
        f"unguided, cfg {cfg:g}, 50 steps": samples.clips(pipe, steps=50, batch=batch),
    }
    for other in (1.5, 2.0, 3.0, 4.0):
        more[f"unguided, cfg {other:g}"] = samples.clips(pipe, cfg=other, batch=batch)
        more[f"guided {guide.config.strength:g}, cfg {other:g}"] = samples.clips(pipe, guide, cfg=other, batch=batch)
    for name, frames in more.items():
        show(name, judge(frames, real, model))


if __name__ == "__main__":
    typer.run(main)
