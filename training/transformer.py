"""Train the tiny Wan's transformer and text encoder: `python -m training.transformer --vae runs/vae/vae`.

Flow matching (x = (1 - s) x0 + s noise, velocity = noise - x0) on normalised latents of camera clips, with captions
dropped for classifier-free guidance. A ring of encoded clips is refreshed as training goes, so that none is seen often.
"""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shelllcc.guidance.wan.tiny.vocabulary import words
from training import options, photographs, run, whole_clip
from training.clips import HELD_OUT, draw
from training.options import Cache, Folder, Smoke
from training.photographs import FRAME
from training.reel import AT_ONCE
from training.studio import Studio

TEXT_LENGTH = 512  # what WanPipeline pads to unless told otherwise
CAPTION_LENGTH = 32  # tokens; more than any caption has
PAD = 0
CONFIG = dict(
    patch_size=(1, 2, 2),
    num_attention_heads=5,
    attention_head_dim=64,
    in_channels=16,
    out_channels=16,
    text_dim=128,
    freq_dim=256,
    ffn_dim=1280,
    num_layers=7,
)
SMOKE = CONFIG | dict(num_attention_heads=1, ffn_dim=64, num_layers=1)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the captions, lower-cased; anything else is unknown."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words()])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.normalizer = normalizers.Lowercase()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=TEXT_LENGTH
    )


def text_encoder(vocabulary: int) -> UMT5EncoderModel:
    config = UMT5Config(
        vocab_size=vocabulary,
        d_model=CONFIG["text_dim"],
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        relative_attention_num_buckets=8,
        dropout_rate=0.0,
        pad_token_id=PAD,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


class Latents:
    """A ring of `size` normalised latents of rendered clips on the device, with the tokens of their captions."""

    def __init__(
        self,
        vae: AutoencoderKLWan,
        studio: Studio,
        words_of: PreTrainedTokenizerFast,
        *,
        size: int,
        seed: str,
        frames: int = 17,
        side: int = FRAME,
    ) -> None:
        self.vae, self.studio, self.words_of = vae, studio, words_of
        self.dice, self.frames, self.side = random.Random(seed), frames, side
        device = studio.sheet.device
        self.mean, self.std = (
            torch.tensor(v, device=device).view(1, -1, 1, 1, 1)
            for v in (vae.config.latents_mean, vae.config.latents_std)
        )
        shape = (vae.config.z_dim, 1 + (frames - 1) // 4, side // 8, side // 8)
        self.latents = torch.empty(size, *shape, dtype=torch.bfloat16, device=device)
        self.tokens = torch.zeros(size, CAPTION_LENGTH, dtype=torch.long, device=device)
        self.empty = self._tokens([""])
        self.next, self.due = 0, 0.0
        for _ in range(0, size, AT_ONCE):
            self._add()

    def renew(self, count: float) -> None:
        """Replace the `count` oldest clips: some at one call, none at the next, so many on average."""
        self.due += count
        while self.due >= AT_ONCE:
            self.due -= AT_ONCE
            self._add()

    def draw(self, count: int, drop: float) -> tuple[Tensor, Tensor]:
        """Latents (count c t h w) and tokens (count CAPTION_LENGTH), those of no words in a share `drop` of them."""
        device = self.latents.device
        chosen = torch.randint(len(self.latents), (count,), device=device)
        silent = torch.rand(count, 1, device=device) < drop
        return self.latents[chosen].float(), torch.where(silent, self.empty, self.tokens[chosen])

    @torch.no_grad()
    def _add(self) -> None:
        count = min(AT_ONCE, len(self.latents))
        clips = [draw(self.dice.randrange(HELD_OUT), self.studio.shapes) for _ in range(count)]
        video = self.studio.film(clips, frames=self.frames, window=(0, 0, self.side))
        with torch.autocast("cuda", torch.bfloat16, enabled=video.is_cuda):
            mean, _ = whole_clip.encode(self.vae, video)
        places = torch.arange(self.next, self.next + count, device=mean.device) % len(self.latents)
        self.latents[places] = ((mean - self.mean) / self.std).to(torch.bfloat16)
        self.tokens[places] = self._tokens([clip.text for clip in clips])
        self.next = (self.next + count) % len(self.latents)

    def _tokens(self, texts: list[str]) -> Tensor:
        ids = self.words_of(texts, padding="max_length", max_length=CAPTION_LENGTH, return_tensors="pt").input_ids
        if ids.shape[1] > CAPTION_LENGTH:
            raise ValueError(f"a caption has {ids.shape[1]} tokens; CAPTION_LENGTH is {CAPTION_LENGTH}")
        return ids.to(self.latents.device, non_blocking=True)


def embed(encoder: UMT5EncoderModel, tokens: Tensor) -> Tensor:
    """Text states (b, TEXT_LENGTH, d) of tokens (b, n), zero after the end, exactly as WanPipeline makes them."""
    mask = (tokens != PAD).long()
    states = encoder(tokens, mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(states, (0, 0, 0, TEXT_LENGTH - states.shape[1]))


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    A step sees `batch` clips on each GPU out of `ring` encoded ones, of which `fresh` are new; `drop` is the share of
    empty captions, `decay` that of the weights' average.
    """

    steps: int = 40_000
    minutes: float | None = None
    batch: int = 64
    lr: float = 1.5e-3
    drop: float = 0.1
    ring: int = 16384
    fresh: float = 4.0
    decay: float = 0.9995
    compile: bool = False
    seed: int = 0


class Training:
    """One run of a recipe: transformer and text encoder, what changes them, and all that a checkpoint holds."""

    def __init__(
        self,
        transformer: WanTransformer3DModel,
        encoder: UMT5EncoderModel,
        latents: Latents,
        recipe: Recipe,
        team: run.Team,
    ) -> None:
        self.transformer, self.encoder, self.latents, self.recipe = transformer, encoder, latents, recipe
        named = [*transformer.named_parameters(), *((f"text_embed.{n}", p) for n, p in encoder.named_parameters())]
        self.descent = run.Descent(named, self._losses, lr=recipe.lr, team=team)
        self.average = run.Average(self.descent.parameters, recipe.decay)
        self.budget = run.Budget(recipe.steps, recipe.minutes, team)
        self.x0, self.tokens = latents.draw(recipe.batch, recipe.drop)
        if recipe.compile:
            transformer.compile_repeated_blocks()

    def state(self) -> dict[str, Any]:
        state = {"transformer": self.transformer.state_dict(), "encoder": self.encoder.state_dict()}
        state |= {"optimizer": self.descent.optimizer.state_dict(), "average": self.average.state()}
        return state | {"step": self.budget.step, "seconds": self.budget.seconds}

    def restore(self, state: dict[str, Any]) -> None:
        self.transformer.load_state_dict(state["transformer"])
        self.encoder.load_state_dict(state["encoder"])
        self.descent.optimizer.load_state_dict(state["optimizer"])
        self.average.restore(state["average"])
        self.budget.resume(state["step"], state["seconds"])

    def step(self) -> Tensor:
        """One step; its loss, on the device, until the next step."""
        recipe = self.recipe
        self.latents.renew(recipe.fresh)
        for kept, drawn in zip((self.x0, self.tokens), self.latents.draw(recipe.batch, recipe.drop), strict=True):
            kept.copy_(drawn)
        losses = self.descent.step(self.budget.rate())
        self.average.update(self.budget.step)
        self.budget.tick()
        return losses["total"]

    def _losses(self, phase: Hashable) -> dict[str, Tensor]:
        x0 = self.x0
        u = torch.sigmoid(torch.randn(len(x0), 1, 1, 1, 1, device=x0.device))
        sigma = 3 * u / (1 + 2 * u)
        noise = torch.randn_like(x0)
        with torch.autocast("cuda", torch.bfloat16, enabled=x0.is_cuda):
            velocity = self.transformer(
                hidden_states=(1 - sigma) * x0 + sigma * noise,
                timestep=1000 * sigma.flatten(),
                encoder_hidden_states=embed(self.encoder, self.tokens),
                return_dict=False,
            )[0]
        return {"total": (velocity.float() - (noise - x0)).square().mean()}

    def save(self, folder: Path) -> None:
        """Write the averaged transformer/, text_encoder/ and tokenizer/ into `folder`."""
        self.average.swap()
        self.transformer.save_pretrained(folder / "transformer")
        self.encoder.save_pretrained(folder / "text_encoder")
        self.latents.words_of.save_pretrained(folder / "tokenizer")
        self.average.swap()


def train(
    out: Path,
    vae_path: Path,
    recipe: Recipe,
    *,
    start: Path | None = None,
    folder: Path = photographs.HELD,
    cache: Path | None = None,
    smoke: bool = False,
    save_every: float = 60.0,
    stop: float | None = None,
) -> None:
    """Train into `out`, resuming what is there; writes transformer/, text_encoder/ and tokenizer/ at the end.

    `start` holds a trained transformer/ and text_encoder/ to go on from. The run is left to be resumed after `stop`
    seconds; the averaged weights so far are written then, too.
    """
    team = run.Team()
    torch.manual_seed(recipe.seed)
    vae = AutoencoderKLWan.from_pretrained(vae_path).to(team.device).requires_grad_(False)
    studio = Studio(photographs.load(cache, folder=folder, stand_in=smoke), team.device)
    words_of = tokenizer()
    if start is None:
        transformer, encoder = WanTransformer3DModel(**(SMOKE if smoke else CONFIG)), text_encoder(len(words_of))
    else:
        transformer = WanTransformer3DModel.from_pretrained(start / "transformer", torch_dtype=torch.float32)
        encoder = UMT5EncoderModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    kept = run.load(out / "checkpoint.pt", team.device)
    begun = f"{recipe.seed}/{team.rank}/{kept['step'] if kept else 0}"
    shape = dict(frames=5, side=32) if smoke else {}
    latents = Latents(vae, studio, words_of, size=recipe.ring, seed=begun, **shape)
    training = Training(transformer.to(team.device), encoder.to(team.device), latents, recipe, team)
    if kept:
        training.restore(kept)
    budget = training.budget
    torch.manual_seed(1_000_003 * (recipe.seed + 1) + 1009 * budget.step + team.rank)  # of the noise

    run.go_on(training, team, out / "checkpoint.pt", name="transformer", save_every=save_every, stop=stop)
    if team.leads:
        training.save(out)


def main(
    vae: Annotated[Path, typer.Option(help="The trained autoencoder.")] = Path("runs/vae/vae"),
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")] = Path(
        "runs/transformer"
    ),
    steps: int = Recipe.steps,
    minutes: Annotated[float | None, typer.Option(help="Stop, and end the schedule, after so long.")] = None,
    batch: int = Recipe.batch,
    lr: float = Recipe.lr,
    ring: Annotated[int, typer.Option(help="Clips kept encoded, on each GPU.")] = Recipe.ring,
    compile: Annotated[bool, typer.Option(help="torch.compile the blocks.")] = False,
    start: Annotated[Path | None, typer.Option(help="A pipeline folder to go on from.")] = None,
    folder: Folder = photographs.HELD,
    cache: Cache = None,
    stop: Annotated[float | None, typer.Option(help="Leave the run to be resumed after so many seconds.")] = None,
    seed: int = 0,
    smoke: Smoke = False,
) -> None:
    recipe = Recipe(steps=steps, minutes=minutes, batch=batch, lr=lr, ring=ring, compile=compile, seed=seed)
    if smoke:
        recipe = replace(recipe, steps=min(steps, 4), batch=2, ring=8)
    train(out, vae, recipe, start=start, folder=folder, cache=cache, smoke=smoke, stop=stop)


if __name__ == "__main__":
    options.run(main)
