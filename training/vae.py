"""Train the tiny Wan's autoencoder: `python -m training.vae --out runs/vae`.

A stock AutoencoderKLWan in its residual form, on camera clips rendered as they are needed. Two stages: the whole
autoencoder, then (`--decoder-only`) the decoder alone on frozen latents, so that the transformer can train meanwhile.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from diffusers import AutoencoderKLWan
from torch import Tensor

from training import photographs, run, whole_clip
from training.clips import HELD_OUT, Studio, draw
from training.optim import MuonAdamW

CONFIG = dict(
    base_dim=48,
    decoder_base_dim=64,
    z_dim=16,
    dim_mult=[1, 2, 2],
    num_res_blocks=1,
    attn_scales=[],
    temperal_downsample=[True, True],
    is_residual=True,
    patch_size=2,
    in_channels=12,
    out_channels=12,
    scale_factor_spatial=8,
    scale_factor_temporal=4,
)
SMOKE = CONFIG | dict(base_dim=16, decoder_base_dim=16)


def train(
    out: Path,
    *,
    steps: int,
    minutes: float | None,
    batch: int = 16,
    lr: float = 2e-3,
    muon: bool = True,
    texture: float = 0.02,
    beta: float = 3e-4,
    decoder_only: bool = False,
    start: Path | None = None,
    cache: Path | None = None,
    seed: int = 0,
    tail: bool = False,
    frames: int = 9,
    side: int = 128,
    whole: float = 0.66,
    smoke: bool = False,
    save_every: float = 60.0,
) -> AutoencoderKLWan:
    """Train into `out`, resuming what is there; writes `vae/` (averaged weights, with latent statistics) at the end.

    `batch` counts clips of `frames` x `side` x `side`; from the progress `whole` on the run sees a quarter as many of
    17 x 192 x 192. `texture` weighs the match of texture, `beta` the KL term. `start` holds a trained `vae/` to go on
    from; `tail` leaves all but the decoder's last block as it is.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(seed)
    studio = Studio(photographs.load(cache), device)
    vae = (
        AutoencoderKLWan(**(SMOKE if smoke else CONFIG))
        if start is None
        else AutoencoderKLWan.from_pretrained(start, dtype=torch.float32)
    )
    vae.to(device)
    if decoder_only:
        vae.requires_grad_(False)
        for part in (
            (vae.decoder.up_blocks[-1], vae.decoder.norm_out, vae.decoder.conv_out)
            if tail
            else (vae.post_quant_conv, vae.decoder)
        ):
            part.requires_grad_(True)
    named = [(n, p) for n, p in vae.named_parameters() if p.requires_grad]
    optimizer = MuonAdamW(named, lr=lr, muon=muon)
    average = run.Average([p for _, p in named], min(0.998, 1 - 10 / steps))
    budget = run.Budget(steps, minutes)
    if state := run.load(out / "checkpoint.pt", device):
        vae.load_state_dict(state["vae"])
        optimizer.load_state_dict(state["optimizer"])
        average.shadow = state["average"]
        budget.step, budget.spent = state["step"], state["seconds"]

    saved = logged = budget.seconds
    while budget.progress < 1.0:
        video = _batch(studio, budget, batch, seed, *((5, 32, 1.0) if smoke else (frames, side, whole)))
        noise = torch.Generator(device).manual_seed(seed * 7919 + budget.step)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            with torch.set_grad_enabled(not decoder_only):
                mean, logvar = whole_clip.encode(vae, video)
            draws = torch.randn(mean.shape, generator=noise, device=device)
            # Sampled latents are never quite real ones: the decoder must bear a little noise.
            latents = mean + draws * (0.03 * mean.std() if decoder_only else (0.5 * logvar).exp())
            output = whole_clip.decode(vae, latents)
        losses = _losses(output, video, mean, logvar)
        ramp = min(1.0, max(0.0, (budget.progress - 0.2) / 0.3)) if not decoder_only else 1.0
        loss = losses["l1"] + 2 * losses["mse"] + 0.25 * losses["edges"] + texture * ramp * losses["texture"]
        if not decoder_only:
            loss = loss + beta * losses["kl"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step(budget.rate())
        average.update(budget.step)
        budget.step += 1
        if budget.seconds - logged > 15 or budget.progress >= 1.0:
            logged = budget.seconds
            line = {k: round(float(v.detach()), 4) for k, v in losses.items()}
            dB = float(run.psnr(output.detach(), video).mean())
            print(
                f"vae step {budget.step} {budget.seconds:.0f} s progress {budget.progress:.3f} {dB:.2f} dB {line}",
                flush=True,
            )
            if not math.isfinite(float(loss.detach())):
                raise RuntimeError(f"the loss became {float(loss.detach())} at step {budget.step}; lower --lr")
        if budget.seconds - saved > save_every or budget.progress >= 1.0:
            saved = budget.seconds
            run.save(
                out / "checkpoint.pt",
                {
                    "vae": vae.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average.shadow,
                    "step": budget.step,
                    "seconds": budget.seconds,
                },
            )
    average.swap()
    if not decoder_only:
        set_latent_statistics(vae, studio, clips=8 if smoke else 512)
    vae.save_pretrained(out / "vae")
    report = evaluate(vae, studio, per_subject=1 if smoke else 6, frames=5 if smoke else 17)
    (out / "vae.json").write_text(json.dumps(report, indent=1))
    print(json.dumps(report), flush=True)
    return vae


def _batch(studio: Studio, budget: run.Budget, batch: int, seed: int, frames: int, side: int, whole: float) -> Tensor:
    """The clips of one step: they depend on the seed, the step and the progress alone."""
    dice = random.Random(f"{seed}/{budget.step}")
    if budget.progress > whole:
        frames, side, batch = 17, 192, max(1, batch // 4)
    corner = (dice.randrange(0, 192 - side + 1, 8), dice.randrange(0, 192 - side + 1, 8), side)
    clips = studio.draw([dice.randrange(HELD_OUT) for _ in range(batch)])
    return studio.film(clips, frames=frames, window=corner)


def _losses(output: Tensor, video: Tensor, mean: Tensor, logvar: Tensor) -> dict[str, Tensor]:
    """L1, squared and Laplacian errors, mismatch of texture, and KL per latent number.

    Texture is the mean |Laplacian| of every 16 x 16 block of every frame, compared as a logarithm. A mean square over
    the clip would not do: it is met most cheaply by a few bright dots in one frame.
    """
    error = output - video
    edges, true = run.laplacian(output), run.laplacian(video)
    strength, wanted = (F.avg_pool2d(e.abs(), 16) + 2 / 255 for e in (edges, true))
    return {
        "l1": error.abs().mean(),
        "mse": error.square().mean(),
        "edges": (edges - true).abs().mean(),
        "texture": (strength / wanted).log().abs().mean(),
        "kl": 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean(),
    }


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, studio: Studio, *, clips: int) -> None:
    """Write the per-channel mean and deviation of real latents into the config, as the pipeline expects them."""
    means = []
    for first in range(0, clips, 8):
        video = studio.film(studio.draw(range(first, first + 8)))
        means.append(whole_clip.encode(vae, video)[0].transpose(0, 1).flatten(1))
    channels = torch.cat(means, dim=1)
    vae.register_to_config(latents_mean=channels.mean(1).tolist(), latents_std=channels.std(1).tolist())


@torch.no_grad()
def evaluate(vae: AutoencoderKLWan, studio: Studio, *, per_subject: int, frames: int = 17) -> dict[str, object]:
    """Reconstruction of held-out camera paths, `frames` x 192 x 192.

    PSNR in dB, and the Laplacian variance over the source's: the median over frames, and of the first frame alone.
    """
    table: dict[str, dict[str, float]] = {}
    for index, photograph in enumerate(photographs.PHOTOGRAPHS):
        seeds = [HELD_OUT + index * 1000 + i for i in range(per_subject)]
        video = studio.film([draw(s, studio.shapes, subject=index) for s in seeds], frames=frames)
        output = torch.cat([whole_clip.decode(vae, whole_clip.encode(vae, v[None])[0]) for v in video]).clamp(-1, 1)
        edges, true = (run.laplacian(v).flatten(2).var(-1).mean(0) for v in (output, video))
        table[photograph.subject] = {
            "psnr": float(run.psnr(output, video).mean()),
            "laplacian_ratio": float((edges / true).median()),
            "laplacian_ratio_first": float(edges[0] / true[0]),
        }
    mean = sum(row["psnr"] for row in table.values()) / len(table)
    return {"psnr_mean": mean, "subjects": table}


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")] = Path("runs/vae"),
    steps: int = 60_000,
    minutes: Annotated[float | None, typer.Option(help="Stop, and end the schedule, after so long.")] = None,
    batch: int = 16,
    lr: float = 2e-3,
    muon: bool = True,
    texture: float = 0.02,
    beta: float = 3e-4,
    decoder_only: bool = False,
    start: Annotated[Path | None, typer.Option(help="A trained vae/ folder to go on from.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Photographs, written there if absent.")] = None,
    seed: int = 0,
    tail: Annotated[bool, typer.Option(help="Train the decoder's last block alone.")] = False,
    frames: Annotated[int, typer.Option(help="Of a training clip.")] = 9,
    side: Annotated[int, typer.Option(help="Of a training clip, in pixels.")] = 128,
    whole: Annotated[float, typer.Option(help="Progress from which whole clips are seen; 1 for never.")] = 0.66,
    smoke: Annotated[bool, typer.Option(help="A toy size, for a test.")] = False,
) -> None:
    if smoke:
        steps, batch = min(steps, 4), 2
    train(
        out, steps=steps, minutes=minutes, batch=batch, lr=lr, muon=muon, texture=texture, beta=beta,
        decoder_only=decoder_only, start=start, cache=cache, seed=seed, smoke=smoke,
        tail=tail, frames=frames, side=side, whole=whole,
    )  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
