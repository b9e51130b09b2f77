"""Train the tiny Wan's transformer and text encoder: `python -m training.transformer --vae runs/vae/vae`.

Flow matching (x = (1 - s) x0 + s noise, velocity = noise - x0) on normalised latents of camera clips, with captions
dropped for classifier-free guidance. A ring of encoded clips is refreshed as training goes, so that none is seen often.
"""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from shelllcc.guidance.wan.tiny.vocabulary import words
from training import options, photographs, run, whole_clip
from training.clips import HELD_OUT, draw
from training.optim import MuonAdamW
from training.options import Cache, Folder, Smoke
from training.studio import Studio

TEXT_LENGTH = 512  # what WanPipeline pads to unless told otherwise
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
        pad_token_id=0,
        eos_token_id=1,
    )
    return UMT5EncoderModel(config)


class Latents:
    """A ring of normalised latents of rendered clips, with their captions."""

    def __init__(self, vae: AutoencoderKLWan, studio: Studio, size: int, seed: int, frames: int, side: int) -> None:
        self.vae, self.studio, self.size = vae, studio, size
        self.dice, self.frames, self.side = random.Random(seed), frames, side
        device = studio.sheet.device
        self.mean, self.std = (
            torch.tensor(v, device=device).view(1, -1, 1, 1, 1)
            for v in (vae.config.latents_mean, vae.config.latents_std)
        )
        self.ring: Tensor | None = None
        self.texts: list[str] = []
        self.next = 0

    @torch.no_grad()
    def add(self, count: int) -> None:
        clips = [draw(self.dice.randrange(HELD_OUT), self.studio.shapes) for _ in range(count)]
        video = self.studio.film(clips, frames=self.frames, window=(0, 0, self.side))
        with torch.autocast("cuda", torch.bfloat16, enabled=video.is_cuda):
            mean, _ = whole_clip.encode(self.vae, video)
        latents = ((mean - self.mean) / self.std).to(torch.bfloat16)
        if self.ring is None:
            self.ring = latents.new_zeros(self.size, *latents.shape[1:])
        for latent, clip in zip(latents, clips, strict=True):
            self.ring[self.next] = latent
            self.texts[self.next : self.next + 1] = [clip.text]
            self.next = (self.next + 1) % self.size

    def draw(self, count: int) -> tuple[Tensor, list[str]]:
        assert self.ring is not None
        chosen = [self.dice.randrange(len(self.texts)) for _ in range(count)]
        return self.ring[chosen].float(), [self.texts[i] for i in chosen]


def embed(
    encoder: UMT5EncoderModel, words_of: PreTrainedTokenizerFast, texts: list[str], device: torch.device
) -> Tensor:
    """Text states (b, TEXT_LENGTH, d), zero after the end, exactly as WanPipeline makes them."""
    batch = words_of(texts, padding=True, return_tensors="pt")
    mask = batch.attention_mask.to(device)
    states = encoder(batch.input_ids.to(device), mask).last_hidden_state * mask[..., None]
    return torch.nn.functional.pad(states, (0, 0, 0, TEXT_LENGTH - states.shape[1]))


def train(
    out: Path,
    vae_path: Path,
    *,
    steps: int,
    minutes: float | None,
    batch: int = 64,
    lr: float = 1.5e-3,
    drop: float = 0.1,
    ring: int = 16384,
    fresh: int = 8,
    compile: bool = False,
    start: Path | None = None,
    folder: Path = photographs.HELD,
    cache: Path | None = None,
    seed: int = 0,
    smoke: bool = False,
    save_every: float = 60.0,
) -> None:
    """Train into `out`, resuming what is there; writes transformer/, text_encoder/ and tokenizer/ at the end.

    `ring` clips are kept encoded and `fresh` of them replaced each step; `drop` is the share of empty captions.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.manual_seed(seed)
    vae = AutoencoderKLWan.from_pretrained(vae_path).to(device).requires_grad_(False)
    studio = Studio(photographs.load(cache, folder=folder, stand_in=smoke), device)
    words_of = tokenizer()
    if start is None:
        transformer, encoder = WanTransformer3DModel(**(SMOKE if smoke else CONFIG)), text_encoder(len(words_of))
    else:
        transformer = WanTransformer3DModel.from_pretrained(start / "transformer", torch_dtype=torch.float32)
        encoder = UMT5EncoderModel.from_pretrained(start / "text_encoder", dtype=torch.float32)
    transformer.to(device), encoder.to(device)
    named = [*transformer.named_parameters(), *((f"text_embed.{n}", p) for n, p in encoder.named_parameters())]
    parameters = [p for _, p in named]
    optimizer = MuonAdamW(named, lr=lr)
    average = run.Average(parameters, 0.9995)
    budget = run.Budget(steps, minutes)
    if state := run.load(out / "checkpoint.pt", device):
        transformer.load_state_dict(state["transformer"])
        encoder.load_state_dict(state["encoder"])
        optimizer.load_state_dict(state["optimizer"])
        average.restore(state["average"])
        budget.step, budget.spent = state["step"], state["seconds"]
    if compile:
        transformer.compile_repeated_blocks()

    latents = Latents(vae, studio, ring, seed + budget.step, *((5, 32) if smoke else (17, 192)))
    for _ in range(1 if smoke else 128):
        latents.add(fresh * 2)
    saved = logged = budget.seconds
    running = 1.0
    while budget.progress < 1.0:
        latents.add(fresh)
        x0, texts = latents.draw(batch)
        dice = torch.Generator(device).manual_seed(seed * 7919 + budget.step)
        texts = [text if latents.dice.random() > drop else "" for text in texts]
        u = torch.sigmoid(torch.randn(batch, generator=dice, device=device))
        sigma = (3 * u / (1 + 2 * u)).view(-1, 1, 1, 1, 1)
        noise = torch.randn(x0.shape, generator=dice, device=device)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            velocity = transformer(
                hidden_states=(1 - sigma) * x0 + sigma * noise,
                timestep=1000 * sigma.flatten(),
                encoder_hidden_states=embed(encoder, words_of, texts, device),
                return_dict=False,
            )[0]
        loss = (velocity.float() - (noise - x0)).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step(budget.rate())
        average.update(budget.step)
        budget.step += 1
        if budget.step % 20 == 0 or smoke:
            running = 0.9 * running + 0.1 * float(loss.detach())
            if not math.isfinite(running):
                raise RuntimeError(f"the loss became {running} at step {budget.step}; lower --lr")
        if budget.seconds - logged > 15 or budget.progress >= 1.0:
            logged = budget.seconds
            print(
                f"transformer step {budget.step} {logged:.0f} s progress {budget.progress:.3f} loss {running:.4f}",
                flush=True,
            )
        if budget.seconds - saved > save_every or budget.progress >= 1.0:
            saved = budget.seconds
            state = {"transformer": transformer.state_dict(), "encoder": encoder.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "average": average.state()}
            run.save(out / "checkpoint.pt", state | {"step": budget.step, "seconds": budget.seconds})
    average.swap()
    transformer.save_pretrained(out / "transformer")
    encoder.save_pretrained(out / "text_encoder")
    words_of.save_pretrained(out / "tokenizer")


def main(
    vae: Annotated[Path, typer.Option(help="The trained autoencoder.")] = Path("runs/vae/vae"),
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")] = Path(
        "runs/transformer"
    ),
    steps: int = 40_000,
    minutes: Annotated[float | None, typer.Option(help="Stop, and end the schedule, after so long.")] = None,
    batch: int = 64,
    lr: float = 1.5e-3,
    compile: Annotated[bool, typer.Option(help="torch.compile the blocks.")] = False,
    start: Annotated[Path | None, typer.Option(help="A pipeline folder to go on from.")] = None,
    folder: Folder = photographs.HELD,
    cache: Cache = None,
    seed: int = 0,
    smoke: Smoke = False,
) -> None:
    toy = dict(ring=8, fresh=2) if smoke else {}
    if smoke:
        steps, batch = min(steps, 4), 2
    train(
        out, vae, steps=steps, minutes=minutes, batch=batch, lr=lr, compile=compile, start=start, folder=folder,
        cache=cache, seed=seed, smoke=smoke, **toy,
    )  # fmt: skip


if __name__ == "__main__":
    options.run(main)
