"""Distil the tiny Wan into four steps without cfg, as a LoRA: `python -m training.distill --model runs/tiny`.

The teacher is the model itself under classifier-free guidance, solved in many small steps; the student is the model
with an adapter, and takes each of its few large steps at once: at noise level sigma it learns the mean velocity of the
teacher's way from there to the student's next level, and from the last one to the clip. First the student sees states
of the teacher, then those that its own steps lead to, and the teacher goes on from these (DAgger, arXiv 1011.0686), so
that the two never part. Latents alone are seen: neither photographs nor an autoencoder are needed.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel

from benchmarks.captions import captions
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.wan.model.pipeline import TINY, weights_sha256
from training import options, run
from training.clips import HELD_OUT, draw
from training.options import Model, Smoke
from training.photographs import FRAME, PHOTOGRAPHS
from training.transformer import CAPTION_LENGTH, embed

SIGMAS = (1.0, 0.9375, 0.8333, 0.625)  # 1000, 750, 500, 250 warped by shift 5, as LightX2V's; then 0
SHIFT = 3.0  # of the teacher's small steps, as the tiny Wan is usually sampled
FILE = "distilled.safetensors"
MOST_BYTES, MOST_RANK = 3_000_000, 64
HEADER = 40_000  # bytes that the names of the file's tensors take at most
AT_ONCE = 64  # clips that the teacher makes together

Velocity = Callable[[Tensor, float], Tensor]


class Adapted(nn.Linear):
    """A linear layer with a frozen weight and a product of low rank beside it: weight + up @ down."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        limit, device = layer.in_features**-0.5, layer.weight.device
        self.down = nn.Parameter(torch.empty(rank, layer.in_features, device=device).uniform_(-limit, limit))
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank, device=device))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.up @ self.down, self.bias)


def adapt(transformer: WanTransformer3DModel, rank: int | None) -> dict[str, Adapted]:
    """Freeze a transformer and put adapters of this rank on its linear layers but those of the text; they by name.

    Without a rank it is the largest, up to MOST_RANK, whose file has no more than MOST_BYTES.
    """
    transformer.requires_grad_(False)
    layers = {n: m for n, m in transformer.named_modules() if isinstance(m, nn.Linear) and "text_embedder" not in n}
    each = 2 * sum(m.in_features + m.out_features for m in layers.values())
    rank = rank or min(MOST_RANK, (MOST_BYTES - HEADER) // each)
    found = {name: Adapted(layer, rank) for name, layer in layers.items()}
    for name, layer in found.items():
        transformer.set_submodule(name, layer)
    return found


def warp(shift: float, u: float) -> float:
    """The noise level at `u`, from 0 to 1, of a schedule of this shift."""
    return shift * u / (1 + (shift - 1) * u)


def ways(sigmas: Sequence[float], steps: int) -> list[list[float]]:
    """The small steps of the teacher, about `steps` in all, from each of the student's levels to the next, then to 0.

    They are even in time at SHIFT.
    """
    times = [s / (SHIFT - (SHIFT - 1) * s) for s in (*sigmas, 0.0)]
    found = []
    for (start, end), (s, t) in zip(itertools.pairwise(times), itertools.pairwise((*sigmas, 0.0)), strict=True):
        parts = max(1, round(steps * (start - end)))
        inner = [warp(SHIFT, start + (end - start) * k / parts) for k in range(1, parts)]
        found.append([s, *inner, t])
    return found


def solve(velocity: Velocity, x: Tensor, sigmas: Sequence[float]) -> Tensor:
    """x (b c t h w) at the first noise level taken to the last by DPM-Solver++(2M) (arXiv 2211.01095)."""
    before: tuple[Tensor, float] | None = None
    for s, t in itertools.pairwise(sigmas):
        x0 = x - s * velocity(x, s)
        aim, h = x0, math.inf
        if t > 0 and s < 1:
            h = math.log((1 - t) / t) - math.log((1 - s) / s)
            if before is not None:
                aim = x0 + (x0 - before[0]) * (h / before[1] / 2)
        x = t / s * x + (1 - t - t / s * (1 - s)) * aim
        before = (x0, h) if h < math.inf else None
    return x


class Ring:
    """States of clips under way at each of the student's noise levels, and the velocities that the teacher gives there.

    `teacher` and `student` are called as (x, sigma, tokens) with AT_ONCE clips, or `size` where that is fewer.
    """

    def __init__(
        self,
        teacher: Callable[[Tensor, float, Tensor], Tensor],
        student: Callable[[Tensor, float, Tensor], Tensor],
        words_of: PreTrainedTokenizerFast,
        shape: tuple[int, int, int, int],
        *,
        size: int,
        steps: int,
        seed: str,
        device: torch.device,
    ) -> None:
        self.teacher, self.student, self.words_of = teacher, student, words_of
        self.ways, self.dice, self.own = ways(SIGMAS, steps), random.Random(seed), False
        self.noise = torch.Generator(device).manual_seed(self.dice.getrandbits(62))
        self.states, self.aims = (
            torch.empty(size, len(SIGMAS), *shape, dtype=torch.bfloat16, device=device) for _ in range(2)
        )
        self.tokens = torch.zeros(size, CAPTION_LENGTH, dtype=torch.long, device=device)
        self.next, self.due, self.at_once = 0, 0.0, min(AT_ONCE, size)
        for _ in range(0, size, self.at_once):
            self._add()

    def renew(self, count: float) -> None:
        """Replace the `count` oldest clips: some at one call, none at the next, so many on average."""
        self.due += count
        while self.due >= self.at_once:
            self.due -= self.at_once
            self._add()

    def draw(self, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """States (count c t h w), the teacher's velocities, tokens, and levels (count,) as indices, each as often."""
        device = self.states.device
        clip = torch.randint(len(self.states), (count,), device=device)
        level = torch.arange(count, device=device) % len(SIGMAS)
        return self.states[clip, level].float(), self.aims[clip, level].float(), self.tokens[clip], level

    @torch.no_grad()
    def _add(self) -> None:
        """New clips, whose next states are the teacher's, or where the student's own steps lead."""
        tokens = tokens_of(self.words_of, self._texts(self.at_once)).to(self.states.device)
        places = torch.arange(self.next, self.next + self.at_once, device=tokens.device) % len(self.states)
        x = torch.randn(self.at_once, *self.states.shape[2:], device=tokens.device, generator=self.noise)
        for level, way in enumerate(self.ways):
            end = solve(lambda x, s: self.teacher(x, s, tokens), x, way)
            gap = way[0] - way[-1]
            self.states[places, level], self.aims[places, level] = x.bfloat16(), ((x - end) / gap).bfloat16()
            x = x - gap * self.student(x, way[0], tokens) if self.own else end
        self.tokens[places] = tokens
        self.next = (self.next + self.at_once) % len(self.states)

    def _texts(self, count: int) -> list[str]:
        """Captions as training draws them, none of a subject, move and light that held-out captions show."""
        shapes = [(512, 700)] * len(PHOTOGRAPHS)  # no picture is looked at
        held_out = {(words.subject, words.move, words.light) for words in captions(64, "held-out")}
        clips = (draw(self.dice.randrange(HELD_OUT), shapes) for _ in itertools.count())
        shown = (c.text for c in clips if (PHOTOGRAPHS[c.subject].subject, c.move, c.light) not in held_out)
        return list(itertools.islice(shown, count))


def tokens_of(words_of: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    ids: Tensor = words_of(texts, padding="max_length", max_length=CAPTION_LENGTH, return_tensors="pt").input_ids
    if ids.shape[1] > CAPTION_LENGTH:
        raise ValueError(f"a caption has {ids.shape[1]} tokens; CAPTION_LENGTH is {CAPTION_LENGTH}")
    return ids


class Predictor:
    """A transformer's velocity at any state, noise level and caption, guided by cfg where that is above 1.

    Recorded on a GPU: all calls have the same number of clips.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, encoder: UMT5EncoderModel, empty: Tensor, *, cfg: float = 1.0
    ) -> None:
        self.transformer, self.encoder, self.empty, self.cfg = transformer, encoder, empty, cfg
        self.recorded = run.Recorded(self._call)
        self.inputs: tuple[Tensor, ...] = ()

    def __call__(self, x: Tensor, sigma: float, tokens: Tensor) -> Tensor:
        """The velocity (b c t h w), float32, until the next call."""
        given = (x, torch.full((len(x),), 1000 * sigma, device=x.device), tokens.expand(len(x), -1))
        self.inputs = self.inputs or tuple(v.clone(memory_format=torch.contiguous_format) for v in given)
        for kept, new in zip(self.inputs, given, strict=True):
            kept.copy_(new)
        made: Tensor = self.recorded()
        return made

    @torch.no_grad()
    def _call(self) -> Tensor:
        x, time, tokens = self.inputs
        if self.cfg > 1:
            x, time = torch.cat([x, x]), torch.cat([time, time])
            tokens = torch.cat([tokens, self.empty.expand_as(tokens)])
        velocity = predict(self.transformer, self.encoder, x, time, tokens)
        if self.cfg > 1:
            said, silent = velocity.chunk(2)
            velocity = silent + self.cfg * (said - silent)
        return velocity


def predict(
    transformer: WanTransformer3DModel, encoder: UMT5EncoderModel, x: Tensor, time: Tensor, tokens: Tensor
) -> Tensor:
    """The velocity (b c t h w), float32, at states x, times (b,) from 0 to 1000 and tokens (b n)."""
    with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
        made: Tensor = transformer(
            hidden_states=x, timestep=time, encoder_hidden_states=embed(encoder, tokens), return_dict=False
        )[0]
    return made.float()


@dataclass(frozen=True)
class Recipe:
    """What a run is made of.

    A step sees `batch` states on each GPU, of a ring of `ring` clips, of which `fresh` are new. The teacher takes
    `small` steps at `cfg`. After a share `own` of the run new clips are the student's own. `decay` is that of the
    weights' average; without a `rank` it is the largest that the file may have.
    """

    steps: int = 40_000
    minutes: float | None = None
    batch: int = 64
    lr: float = 2e-3
    cfg: float = 3.0
    small: int = 24
    ring: int = 2048
    fresh: float = 4.0
    own: float = 0.3
    rank: int | None = None
    decay: float = 0.998
    compile: bool = False
    seed: int = 0


class Distilling:
    """One run of a recipe: the student's adapters, what changes them, and all that a checkpoint holds."""

    def __init__(self, model: Path, recipe: Recipe, team: run.Team, *, begun: str, smoke: bool = False) -> None:
        self.recipe, self.model = recipe, weights_sha256(model / "transformer")
        teacher = WanTransformer3DModel.from_pretrained(model / "transformer", torch_dtype=torch.float32)
        self.transformer = copy.deepcopy(teacher)
        self.adapters = adapt(self.transformer, recipe.rank)
        encoder = UMT5EncoderModel.from_pretrained(model / "text_encoder", dtype=torch.float32)
        words_of = AutoTokenizer.from_pretrained(model / "tokenizer")
        parts: Sequence[nn.Module] = (teacher, self.transformer, encoder)
        for part in parts:
            part.to(team.device)
        self.encoder = encoder.requires_grad_(False)
        if recipe.compile:
            for part in (teacher, self.transformer):
                part.compile_repeated_blocks(dynamic=False)
        empty = tokens_of(words_of, [""]).to(team.device)
        frames, side = (5, 32) if smoke else (17, FRAME)
        self.ring = Ring(
            Predictor(teacher.requires_grad_(False), self.encoder, empty, cfg=recipe.cfg),
            Predictor(self.transformer, self.encoder, empty),
            words_of,
            (teacher.config.in_channels, 1 + (frames - 1) // 4, side // 8, side // 8),
            size=recipe.ring,
            steps=recipe.small,
            seed=begun,
            device=team.device,
        )
        self.ring.student(
            self.ring.states[: self.ring.at_once, 0].float(), SIGMAS[0], empty
        )  # compiled before the clock
        levels = torch.tensor([*SIGMAS, 0.0], device=team.device)
        self.times, self.weights = 1000 * levels[:-1], len(SIGMAS) * -levels.diff()
        self.batch = self.ring.draw(recipe.batch)
        self.descent = run.Descent(self.transformer.named_parameters(), self._losses, lr=recipe.lr, team=team)
        self.average = run.Average(self.descent.parameters, recipe.decay)
        self.budget = run.Budget(recipe.steps, recipe.minutes, team)

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"adapters": [p.detach() for p in self.descent.parameters], "model": self.model}
        state |= {"optimizer": self.descent.optimizer.state_dict(), "average": self.average.state()}
        return state | {"step": self.budget.step, "seconds": self.budget.seconds}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Raises UsageError for a checkpoint of another model or rank."""
        shapes = [[tuple(p.shape) for p in parameters] for parameters in (state["adapters"], self.descent.parameters)]
        if state["model"] != self.model or shapes[0] != shapes[1]:
            raise UsageError("the run in --out distils another model or has another rank; give another --out")
        for p, kept in zip(self.descent.parameters, state["adapters"], strict=True):
            p.copy_(kept)
        self.descent.optimizer.load_state_dict(state["optimizer"])
        self.average.restore(state["average"])
        self.budget.resume(state["step"], state["seconds"])

    def step(self) -> Tensor:
        """One step; its loss, on the device, until the next step."""
        self.ring.own = self.budget.progress >= self.recipe.own
        self.ring.renew(self.recipe.fresh)
        for kept, drawn in zip(self.batch, self.ring.draw(self.recipe.batch), strict=True):
            kept.copy_(drawn)
        losses = self.descent.step(self.budget.rate())
        self.average.update(self.budget.step)
        self.budget.tick()
        return losses["total"]

    def _losses(self, phase: Hashable) -> dict[str, Tensor]:
        """The squared error of the velocity, its mean over the way: each level counts by how far the next one is."""
        x, aim, tokens, level = self.batch
        made = predict(self.transformer, self.encoder, x, self.times[level], tokens)
        return {"total": ((made - aim).square().mean((1, 2, 3, 4)) * self.weights[level]).mean()}

    def save(self, path: Path) -> None:
        """Write the averaged adapters as a LoRA of diffusers' names, float16."""
        self.average.swap()
        tensors = {}
        for name, layer in self.adapters.items():
            for key, value in (("lora_A", layer.down), ("lora_B", layer.up)):
                tensors[f"transformer.{name}.{key}.weight"] = value.detach().half().cpu().contiguous()
        self.average.swap()
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata={"format": "pt"})


def distill(
    out: Path,
    model: Path,
    recipe: Recipe,
    *,
    smoke: bool = False,
    save_every: float = 60.0,
    stop: float | None = None,
) -> None:
    """Distil into `out`, resuming what is there; writes distilled.safetensors at the end.

    The run is left to be resumed after `stop` seconds; the averaged adapters so far are written then, too.
    """
    team = run.Team()
    torch.manual_seed(recipe.seed)  # of the adapters, which all processes begin with alike
    kept = run.load(out / "checkpoint.pt", team.device)
    distilling = Distilling(
        model, recipe, team, begun=f"{recipe.seed}/{team.rank}/{kept['step'] if kept else 0}", smoke=smoke
    )
    if kept:
        distilling.restore(kept)
    budget = distilling.budget
    torch.manual_seed(1_000_003 * (recipe.seed + 1) + 1009 * budget.step + team.rank)  # of what is drawn from the ring

    run.go_on(distilling, team, out / "checkpoint.pt", name="distill", save_every=save_every, stop=stop)
    if team.leads:
        distilling.save(out / FILE)
        print(f"{out / FILE}: {(out / FILE).stat().st_size / 1e6:.2f} MB", flush=True)


def main(
    model: Model = TINY,
    out: Annotated[Path, typer.Option(help="Folder of the run; a run found there is resumed.")] = Path("runs/distill"),
    steps: int = Recipe.steps,
    minutes: Annotated[float | None, typer.Option(help="Stop, and end the schedule, after so long.")] = None,
    batch: int = Recipe.batch,
    lr: float = Recipe.lr,
    cfg: Annotated[float, typer.Option(help="Of the teacher; what it adds is in the student without.")] = Recipe.cfg,
    ring: Annotated[int, typer.Option(help="Clips kept under way, on each GPU.")] = Recipe.ring,
    fresh: Annotated[float, typer.Option(help="New clips a step.")] = Recipe.fresh,
    own: Annotated[float, typer.Option(help="Share of the run after which new clips are the student's.")] = Recipe.own,
    rank: Annotated[int | None, typer.Option(help="Of the adapters; unless given, as much as 3 MB hold.")] = None,
    compile: Annotated[bool, typer.Option(help="torch.compile the blocks.")] = False,
    stop: Annotated[float | None, typer.Option(help="Leave the run to be resumed after so many seconds.")] = None,
    seed: int = 0,
    smoke: Smoke = False,
) -> None:
    recipe = Recipe(
        steps=steps, minutes=minutes, batch=batch, lr=lr, cfg=cfg, ring=ring, fresh=fresh, own=own, rank=rank,
        compile=compile, seed=seed,
    )  # fmt: skip
    if smoke:
        recipe = replace(recipe, steps=min(steps, 4), batch=4, ring=4, small=6)
    distill(out, model, recipe, smoke=smoke, stop=stop)


if __name__ == "__main__":
    options.run(main)
