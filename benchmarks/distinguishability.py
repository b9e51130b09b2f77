"""Does the default bank tell generated latents from real ones? `python -m benchmarks.distinguishability`

Real clips of the 64 captions, never seen by the bank or the model, against clips that the tiny Wan samples for the same
captions, unguided. A clip's distance is the mean over its patches; "same caption" is the share of captions whose real
clip lies nearer than the generated one, "any pair" the share of all real-generated pairs. "All" are all components of
the bank, which `score` uses, "guided" the leading ones, in which the guide moves. "As video" is after decoding to 8
bits and encoding again, which is all that `score` of a video file can see.

The clips' latents are kept in DIR of `--latents DIR` and used again; `shelllcc anchors analyze tiny-wan DIR/real
--generated DIR/cfg-3` then says more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks.captions import prompts, real_clips
from shelllcc.anchors.choose import load_bank
from shelllcc.anchors.latents import open_latents, save_latents
from shelllcc.guidance.geometry.shell import Shell
from shelllcc.guidance.wan.banks.analyze import degraded, share_of_pairs
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import TINY, find_model, load_pipeline
from training import options, whole_clip
from training.bank import encode
from training.options import BankName, Batch, Cache, Device, Folder, Model
from training.photographs import HELD, load
from training.studio import Studio


@torch.no_grad()
def generated(pipe: Any, *, cfg: float, count: int, batch: int) -> Tensor:
    """Latents (count c t h w) sampled for the captions with seeds 0, 1, ..."""
    parts = []
    for first in range(0, count, batch):
        seeds = list(range(first, min(first + batch, count)))
        call = dict(
            prompt=[prompts(count)[seed] for seed in seeds],
            negative_prompt=[""] * len(seeds),
            height=192,
            width=192,
            num_frames=17,
            num_inference_steps=25,
            guidance_scale=cfg,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="latent",
        )
        parts.append(pipe(**call).frames)
    return torch.cat(parts)


@torch.no_grad()
def as_video(pipe: Any, latents: Tensor) -> Tensor:
    """Latents (n c t h w) decoded to 8-bit frames and encoded again."""
    config = pipe.vae.config
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1).to(latents) for v in (config.latents_mean, config.latents_std))
    parts = []
    for clip in latents:
        video = whole_clip.decode(pipe.vae, clip[None] * std + mean).clamp(-1, 1)
        frames = ((video + 1) * 127.5).round() / 127.5 - 1
        parts.append((whole_clip.encode(pipe.vae, frames)[0] - mean) / std)
    return torch.cat(parts)


def distances(shell: Shell, clips: Tensor) -> list[float]:
    """Mean distance of each clip (n c t h w)."""
    return [float(shell.residuals(clip[None])[1].mean()) for clip in clips]


def show(name: str, real: list[float], other: list[float]) -> None:
    same = sum(a < b for a, b in zip(real, other, strict=True)) / len(real)
    mean, spread = torch.tensor(other).mean(), torch.tensor(other).std()
    print(f"{name:<42}{mean:>8.3f}{spread:>8.3f}{same:>14.3f}{share_of_pairs(real, other):>10.3f}", flush=True)


def kept(folder: Path, make: Callable[[], Tensor]) -> Tensor:
    """Latents (n c t h w) from the folder, one file a clip; made and written there if it is not."""
    if not folder.is_dir():
        for number, clip in enumerate(make().cpu()):
            save_latents(folder / f"{number:03d}.safetensors", clip[None], {})
    return torch.stack([open_latents(path).load(0, 16) for path in sorted(folder.iterdir())])


def main(
    model: Model = TINY,
    bank: BankName = "auto",
    device: Device = "cpu",
    batch: Batch = 1,
    count: Annotated[int, typer.Option(help="Captions, 64 at most.")] = 64,
    videos: Annotated[int, typer.Option(help="Captions that are decoded and encoded again.")] = 24,
    cfgs: Annotated[str, typer.Option(help="cfg values to sample at.")] = "1,2,5,3",
    latents: Annotated[Path, typer.Option(help="A folder for the clips' latents.")] = Path("runs/latents"),
    folder: Folder = HELD,
    cache: Cache = None,
) -> None:
    pipe = load_pipeline(find_model(str(model)), Loading(dtype="float32"), device=device)
    anchors, studio = load_bank(bank, pipe), Studio(load(cache, folder=folder), pipe.device)

    def filmed() -> Tensor:
        return torch.cat([encode(pipe, studio, real_clips(studio, count, draw_number=draw)) for draw in (0, 1)])

    real, another = kept(latents / "real", filmed).to(pipe.device).chunk(2)
    spoilt = [degraded(clip.cpu(), seed=i) for i, clip in enumerate(real)]
    sets = {"real": real, "real, another draw": another}
    sets |= {name: torch.stack([clip[name] for clip in spoilt]).to(real) for name in spoilt[0]}
    for cfg in cfgs.split(","):
        folder = latents / f"cfg-{cfg}"
        sampled = kept(folder, lambda cfg=cfg: generated(pipe, cfg=float(cfg), count=count, batch=batch))  # type: ignore[misc]
        sets[f"generated, cfg {cfg}"] = sampled.to(pipe.device)
    again = {f"{name}, as video": as_video(pipe, sets[name][:videos]) for name in ("real", list(sets)[-1])}
    print(f"{'':<42}{'mean':>8}{'spread':>8}{'same caption':>14}{'any pair':>10}")
    for label, components in (("all", anchors.shell.basis.shape[1]), ("guided", anchors.guided)):
        shell = anchors.shell.leading(components).to(pipe.device)
        reference = distances(shell, real)
        for name, clips in sets.items():
            show(f"{name} ({label})", reference, distances(shell, clips))
        for name, clips in again.items():
            show(f"{name} ({label})", reference[:videos], distances(shell, clips))


if __name__ == "__main__":
    options.run(main)
