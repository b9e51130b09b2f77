"""Train the tiny Wan's autoencoder: `python -m training.vae --out runs/vae`.

A stock AutoencoderKLWan in its residual form, on camera clips rendered as they are needed. Two stages: the whole
autoencoder, then (`--decoder-only`) the decoder alone on frozen latents and against a critic of its detail, so that the
transformer can train meanwhile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Container, Hashable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKLWan
from torch import Tensor

from training import detail, options, photographs, run, whole_clip
from training.clips import draw
from training.critic import Critic, balance, critic_loss, maker_loss
from training.options import Cache, Folder, Smoke
from training.reconstruction import evaluate, mean
from training.reel import Reel
from training.studio import Studio

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


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    A step sees `batch` clips of `frames` x `side` x `side` on each GPU, cut out of `reel` filmed ones, of which `fresh`
    are new; `sharp` is the share of clips whose pixels cover 2 to 3 of the photograph. `texture`, `alternation`,
    `phase` and `critic` weigh the losses of detail, `beta` the KL term; the critic joins at the progress `critic_from`.
    Clips are whole in time: an autoencoder that has seen nine frames alone loses the later ones of seventeen, by 9 dB
    at the last. In space it carries over.
    """

    steps: int = 60_000
    minutes: float | None = None
    batch: int = 16
    frames: int = 17
    side: int = 96
    reel: int = 4096
    fresh: float = 2.0
    sharp: float = 0.35
    lr: float = 2e-3
    texture: float = 0.05
    alternation: float = 1.0
    phase: float = 2.0
    critic: float = 0.0
    critic_from: float = 0.0
    beta: float = 3e-4
    decoder_only: bool = False
    compile: bool = False
    seed: int = 0


class Training:
    """One run of a recipe: the network, what changes it, and all that a checkpoint holds."""

    def __init__(self, vae: AutoencoderKLWan, studio: Studio, recipe: Recipe, team: run.Team) -> None:
        self.vae, self.recipe = vae, recipe
        self.device = studio.sheet.device
        if recipe.decoder_only:
            vae.requires_grad_(False)
            vae.post_quant_conv.requires_grad_(True)
            vae.decoder.requires_grad_(True)
        self.critic = Critic().to(self.device) if recipe.critic else None
        if self.critic is not None:
            capturable = dict(capturable=True, fused=True) if self.device.type == "cuda" else {}
            self.critic_optimizer = torch.optim.AdamW(
                self.critic.parameters(), lr=3e-4, betas=(0.5, 0.95), **capturable
            )
        self.descent = run.Descent(vae.named_parameters(), self._losses, lr=recipe.lr, team=team)
        self.average = run.Average(self.descent.parameters, min(0.999, 1 - 10 / recipe.steps))
        self.budget = run.Budget(recipe.steps, recipe.minutes, team)
        self.reel = Reel(studio, recipe.reel, recipe.frames, recipe.sharp, f"{recipe.seed}/{team.rank}")
        self.video = torch.empty(recipe.batch, 3, recipe.frames, recipe.side, recipe.side, device=self.device)
        self.ramp = torch.zeros((), device=self.device)
        self.encode: Callable[..., Any] = whole_clip.encode
        self.decode: Callable[..., Any] = whole_clip.decode
        self.errors: Callable[..., dict[str, Tensor]] = _errors
        if recipe.compile:
            torch._functorch.config.donated_buffer = False  # `balance` goes through the graph more than once
            self.encode = torch.compile(self.encode, dynamic=False)
            self.decode = torch.compile(self.decode, dynamic=False)
            self.errors = torch.compile(self.errors, dynamic=False)

    def state(self) -> dict[str, Any]:
        state = {"vae": self.vae.state_dict(), "optimizer": self.descent.optimizer.state_dict()}
        if self.critic is not None:
            state |= {"critic": self.critic.state_dict(), "critic_optimizer": self.critic_optimizer.state_dict()}
        budget = {"step": self.budget.step, "seconds": self.budget.seconds}
        return state | {"average": self.average.state()} | budget

    def restore(self, state: dict[str, Any]) -> None:
        self.vae.load_state_dict(state["vae"])
        self.descent.optimizer.load_state_dict(state["optimizer"])
        self.average.restore(state["average"])
        if self.critic is not None:
            self.critic.load_state_dict(state["critic"])
            self.critic_optimizer.load_state_dict(state["critic_optimizer"])
        self.budget.resume(state["step"], state["seconds"])

    def step(self) -> dict[str, Tensor]:
        """One step; its losses and the PSNR of its clips in dB, on the device, until the next step."""
        recipe, budget = self.recipe, self.budget
        self.reel.renew(recipe.fresh)
        self.video.copy_(self.reel.cut(recipe.batch, recipe.side))
        self.ramp.fill_(1.0 if recipe.decoder_only else min(1.0, max(0.0, (budget.progress - 0.1) / 0.3)))
        judged = self.critic is not None and budget.progress >= recipe.critic_from
        losses = self.descent.step(budget.rate(), judged)
        self.average.update(budget.step)
        budget.tick()
        return losses

    def _losses(self, judged: Hashable) -> dict[str, Tensor]:
        recipe, video = self.recipe, self.video
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            with torch.set_grad_enabled(not recipe.decoder_only):
                mean, logvar = self.encode(self.vae, video)
            # Sampled latents are never quite real ones: the decoder must bear a little noise.
            spread = 0.03 * mean.std() if recipe.decoder_only else (0.5 * logvar).exp()
            output = self.decode(self.vae, mean + torch.randn_like(mean) * spread)
        losses = self.errors(output, video)
        loss = losses["l1"] + 2 * losses["mse"] + 0.25 * losses["edges"]
        loss = loss + self.ramp * (recipe.texture * losses["texture"] + recipe.alternation * losses["alternation"])
        loss = loss + recipe.phase * losses["phase"]
        if not recipe.decoder_only:
            losses["kl"] = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
            loss = loss + recipe.beta * losses["kl"]
        if judged and self.critic is not None:
            losses |= self._criticise(self.critic, output, video)
            factor = balance(loss, losses["made"], self.vae.decoder.conv_out.weight)
            loss = loss + recipe.critic * factor * losses["made"]
        return losses | {"psnr": run.psnr(output.detach(), video).mean(), "total": loss}

    def _criticise(self, critic: Critic, output: Tensor, video: Tensor) -> dict[str, Tensor]:
        """One step of the critic, of which each GPU has its own; its loss, and what the decoder is to learn from it."""
        with torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda"):
            critic.requires_grad_(True)
            judged = critic_loss(critic(video).float(), critic(output.detach()).float())
            self.critic_optimizer.zero_grad(set_to_none=True)
            judged.backward()
            self.critic_optimizer.step()
            critic.requires_grad_(False)
            made = maker_loss(critic(video).float(), critic(output).float())
        return {"critic": judged.detach(), "made": made}


def _errors(output: Tensor, video: Tensor) -> dict[str, Tensor]:
    error = output - video
    return {
        "l1": error.abs().mean(),
        "mse": error.square().mean(),
        "edges": (detail.laplacian(output) - detail.laplacian(video)).abs().mean(),
        "texture": detail.texture_loss(output, video),
        "alternation": detail.alternation_loss(output, video),
        "phase": detail.phase_loss(output, video),
    }


def train(
    out: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    folder: Path = photographs.HELD,
    cache: Path | None = None,
    smoke: bool = False,
    save_every: float = 60.0,
    look_every: float = 120.0,
    stop: float | None = None,
) -> None:
    """Train into `out`, resuming what is there; writes `vae/` (averaged weights, with latent statistics) at the end.

    `start` holds a trained `vae/` to go on from, `folder` photographs of other packages. The run is left to be resumed
    after `stop` seconds. Held-out clips are looked at every `look_every` seconds, with the averaged weights.
    """
    team = run.Team()
    torch.manual_seed(recipe.seed)
    studio = Studio(photographs.load(cache, folder=folder, stand_in=smoke), team.device)
    if start is None:
        vae = AutoencoderKLWan(**(SMOKE if smoke else CONFIG))
        start_alike(vae)
    else:
        vae = AutoencoderKLWan.from_pretrained(start, torch_dtype=torch.float32)
    training = Training(vae.to(team.device), studio, recipe, team)
    if state := run.load(out / "checkpoint.pt", team.device):
        training.restore(state)
        del state
    torch.manual_seed(1_000_003 * (recipe.seed + 1) + 1009 * training.budget.step + team.rank)  # of the noise

    budget = training.budget
    saved = logged = looked = first = budget.seconds
    while budget.progress < 1.0 and (stop is None or budget.seconds - first < stop):
        losses = training.step()
        if budget.seconds - logged > 15 or budget.progress >= 1.0:
            logged = budget.seconds
            line = {k: round(float(v), 4) for k, v in losses.items()}
            if team.leads:
                print(f"vae step {budget.step} {logged:.0f} s progress {budget.progress:.3f} {line}", flush=True)
            if not math.isfinite(line["total"]):
                raise RuntimeError(f"the loss became {line['total']} at step {budget.step}; lower --lr")
        if budget.seconds - saved > save_every:
            saved = budget.seconds
            if team.leads:
                run.save(out / "checkpoint.pt", training.state())
        if budget.seconds - looked > look_every:
            looked = budget.seconds
            if team.leads:
                training.average.swap()
                report(vae, studio, per_subject=1)
                training.average.swap()
    if not team.leads:
        return
    run.save(out / "checkpoint.pt", training.state())
    training.average.swap()
    if not recipe.decoder_only:
        set_latent_statistics(vae, studio, clips=2 if smoke else 512)
    vae.save_pretrained(out / "vae")
    written = report(vae, studio, **(dict(per_subject=1, frames=5, subjects=(0, 14)) if smoke else dict(per_subject=4)))
    (out / "vae.json").write_text(json.dumps(written, indent=1))


def report(
    vae: AutoencoderKLWan,
    studio: Studio,
    *,
    per_subject: int,
    frames: int = 17,
    subjects: Container[int] = range(len(photographs.PHOTOGRAPHS)),
) -> dict[str, Any]:
    """Print the mean figures of held-out clips; returns those of every subject."""
    figures = evaluate(vae, studio, per_subject=per_subject, frames=frames, subjects=subjects)
    for kind, rows in figures.items():
        print(f"held-out {kind} clips: { ({k: round(v, 3) for k, v in mean(rows).items()}) }", flush=True)
    return {kind: {subject: asdict(row) for subject, row in rows.items()} for kind, rows in figures.items()}


@torch.no_grad()
def start_alike(vae: AutoencoderKLWan) -> None:
    """Make the pixels, and the frames, that one place of a layer is unfolded into start alike (Aitken et al. 2017).

    Otherwise a decoder begins with a checkerboard, and never quite forgets it.
    """
    last = vae.decoder.conv_out
    for tensor in (last.weight, last.bias):
        pixels = tensor.view(3, vae.config.patch_size**2, *tensor.shape[1:])
        pixels.copy_(pixels[:, :1].expand_as(pixels))
    for block in vae.decoder.up_blocks:
        if block.upsampler is not None and block.upsampler.mode == "upsample3d":
            for tensor in (block.upsampler.time_conv.weight, block.upsampler.time_conv.bias):
                first, second = tensor.chunk(2)
                second.copy_(first)


@torch.no_grad()
def set_latent_statistics(vae: AutoencoderKLWan, studio: Studio, *, clips: int) -> None:
    """Write the per-channel mean and deviation of real latents into the config, as the pipeline expects them."""
    means = []
    for first in range(0, clips, 8):
        video = studio.film([draw(seed, studio.shapes) for seed in range(first, min(clips, first + 8))])
        means.append(whole_clip.encode(vae, video)[0].transpose(0, 1).flatten(1))
    channels = torch.cat(means, dim=1)
    vae.register_to_config(latents_mean=channels.mean(1).tolist(), latents_std=channels.std(1).tolist())


def main(
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")] = Path("runs/vae"),
    steps: int = Recipe.steps,
    minutes: Annotated[float | None, typer.Option(help="Stop, and end the schedule, after so long.")] = None,
    batch: int = Recipe.batch,
    frames: Annotated[int, typer.Option(help="Of a training clip.")] = Recipe.frames,
    side: Annotated[int, typer.Option(help="Of a training clip, in pixels.")] = Recipe.side,
    sharp: Annotated[float, typer.Option(help="Share of the sharpest clips.")] = Recipe.sharp,
    lr: float = Recipe.lr,
    texture: float = Recipe.texture,
    alternation: float = Recipe.alternation,
    phase: float = Recipe.phase,
    critic: Annotated[float, typer.Option(help="Pull of the critic over that of all else.")] = Recipe.critic,
    critic_from: Annotated[float, typer.Option(help="Progress at which it joins.")] = Recipe.critic_from,
    beta: float = Recipe.beta,
    decoder_only: bool = False,
    compile: Annotated[bool, typer.Option(help="torch.compile both halves.")] = False,
    seed: int = 0,
    start: Annotated[Path | None, typer.Option(help="A trained vae/ folder to go on from.")] = None,
    folder: Folder = photographs.HELD,
    cache: Cache = None,
    stop: Annotated[float | None, typer.Option(help="Leave the run to be resumed after so many seconds.")] = None,
    smoke: Smoke = False,
) -> None:
    recipe = Recipe(
        steps=steps, minutes=minutes, batch=batch, frames=frames, side=side, sharp=sharp, lr=lr, texture=texture,
        alternation=alternation, phase=phase, critic=critic, critic_from=critic_from, beta=beta,
        decoder_only=decoder_only, compile=compile, seed=seed,
    )  # fmt: skip
    if smoke:
        recipe = replace(recipe, steps=min(steps, 4), batch=2, frames=5, side=32, reel=4)
    train(out, recipe, start=start, folder=folder, cache=cache, smoke=smoke, stop=stop)


if __name__ == "__main__":
    options.run(main)
