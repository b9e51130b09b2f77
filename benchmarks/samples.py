"""Sampled clips for the benchmarks: the arms, on disk once they are made. Knows nothing of scores.

An arm is one way to sample the 64 captions of a split. Its frames are kept in runs/samples under a hash of its
settings, of the weights and the bank, and of the code that guides, so that a change to the guide makes new ones.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import shelllcc.guidance.guide.guide
from benchmarks import rivals
from benchmarks.captions import Split, prompts, seeds
from benchmarks.rivals import Rival
from shelllcc.anchors.choose import choose_bank, load_bank
from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.guidance.files import sha256_of, whole_file
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import guided
from shelllcc.guidance.guide.seams import levels_exchanged, noise_drawn_from
from shelllcc.guidance.wan.clips import fitted
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.loading import SHIPPED, Loading, Lora
from shelllcc.guidance.wan.model.pipeline import TINY, find_model, load_pipeline, weights_sha256
from shelllcc.guidance.wan.model.presets import PRESETS

FOLDER = Path("runs/samples")
EARLY = Path("runs/early")  # the over-smoothed base, made by benchmarks.early
SMOKE = dict(height=32, width=32, num_frames=5)
FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True)
SCHEDULERS = {
    "unipc": lambda shift: diffusers.UniPCMultistepScheduler(**FLOW, flow_shift=shift),
    "dpm++": lambda shift: diffusers.DPMSolverMultistepScheduler(**FLOW, flow_shift=shift),
    "euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
    "lcm": lambda shift: diffusers.FlowMatchLCMScheduler(shift=shift),
}
STUDENT = "student"  # the embedded model with its adapter of four steps
ADAPTER = Lora(PRESETS["tiny-4step"].lora or "")


@dataclass(frozen=True)
class Arm:
    """One way to sample; the defaults are the tiny model's own, unguided.

    guide   the guide's settings; with `random`, its moves in random directions
    rival   another rule than classifier-free guidance; it brings its own cfg
    model   the embedded tiny Wan, its early checkpoint, which is over-smoothed, its student, or any other folder
    bank    a file or a name; `auto` is the sampler's
    sigmas  the noise levels, where they are not those of the scheduler
    """

    cfg: float = PRESETS["tiny"].cfg
    steps: int = PRESETS["tiny"].steps
    shift: float = PRESETS["tiny"].shift
    scheduler: str = "unipc"
    guide: GuideConfig | None = None
    random: bool = False
    rival: Rival | None = None
    model: str = "tiny"
    bank: str = "auto"
    sigmas: tuple[float, ...] = ()

    @property
    def forwards(self) -> float:
        """Passes of the transformer for one clip: the cost."""
        rule = self.rival or Rival("cfg", self.cfg)
        return self.steps * rivals.forwards(rule, steps=self.steps)

    @property
    def base(self) -> Arm:
        """The same without guidance."""
        return replace(self, guide=None, random=False, bank="auto")


@dataclass(frozen=True)
class Sampled:
    """uint8 frames (n, t, H, W, 3) of an arm, and the RMS of the guide's moves, summed over the steps (0 unguided)."""

    frames: Tensor
    moved: float


class RandomGuide(ShellGuide):
    """A control: moves as large as the guide's, clip by clip and step by step, in a random direction."""

    def move(self, x0: Tensor, sigma: float, *, index: int = 0, **how: Any) -> Tensor:
        move = super().move(x0, sigma, index=index, **how)
        dice = torch.Generator().manual_seed(10**9 + index)  # no clip starts from this noise
        noise = torch.randn(move.shape, generator=dice).to(move.device)
        sizes = [v.flatten(1).square().mean(1).sqrt().view(-1, 1, 1, 1, 1) for v in (move, noise)]
        return noise * sizes[0] / sizes[1]


class Sampler:
    """Samples arms of a tiny Wan's folder with `batch` clips at once, or finds them on disk.

    `bank` is a file, or "auto". `smoke` is a toy size of three steps at most, for a test.
    """

    def __init__(
        self,
        *,
        device: str,
        batch: int,
        split: Split = "tuning",
        count: int = 64,
        smoke: bool = False,
        model: Path = TINY,
        bank: str = "auto",
    ) -> None:
        self.device, self.batch, self.split, self.count = device, batch, split, count
        self.smoke, self.model, self.bank = smoke, model, bank
        self.size = SMOKE if smoke else {}
        self.pipes: dict[str, Any] = {}

    @property
    def film(self) -> dict[str, int]:
        """The size of the clips in the words of benchmarks.captions.real_frames."""
        return {"frames": SMOKE["num_frames"], "side": SMOKE["height"]} if self.smoke else {}

    def pipe(self, model: str = "tiny") -> Any:
        if model not in self.pipes:
            loading = Loading(dtype="float32", loras=(ADAPTER,) if model == STUDENT else ())
            self.pipes[model] = load_pipeline(find_model(str(self.folder(model))), loading, device=self.device)
        return self.pipes[model]

    def folder(self, model: str) -> Path:
        """Where an arm's model lies."""
        return {"tiny": self.model, STUDENT: self.model, "early": EARLY}.get(model) or Path(model)

    def guide(self, arm: Arm) -> ShellGuide | None:
        if arm.guide is None:
            return None
        kind = RandomGuide if arm.random else ShellGuide
        return kind(load_bank(self.bank if arm.bank == "auto" else arm.bank, self.pipe(arm.model)), arm.guide)

    def sample(self, arm: Arm, captions: Sequence[str] | None = None) -> Sampled:
        """The arm's clips of the split's captions, or of as many others, each with the noise of its own seed."""
        arm = replace(arm, steps=min(arm.steps, 3), sigmas=arm.sigmas[:3]) if self.smoke else arm
        texts, numbers = list(captions or prompts(self.count, self.split)), seeds(self.count, self.split)
        path = self._path(arm, texts)
        if path.exists():
            with safe_open(path, "pt") as file:
                return Sampled(file.get_tensor("frames"), float(file.metadata()["moved"]))
        guide, parts, moved, started = self.guide(arm), [], 0.0, time.perf_counter()
        for first in range(0, self.count, self.batch):
            these = slice(first, first + self.batch)
            parts.append(sample_batch(self.pipe(arm.model), texts[these], numbers[these], arm, guide, **self.size))
            moved += sum(sum(step.move) for step in guide.trace) if guide else 0.0
            spent = time.perf_counter() - started
            print(f"{first + len(parts[-1])}/{self.count} clips, {spent:.0f} s", file=sys.stderr, flush=True)
        sampled = Sampled(torch.cat(parts), moved / self.count)
        with whole_file(path) as part:
            save_file({"frames": sampled.frames}, part, {"arm": repr(arm), "moved": str(sampled.moved)})
        return sampled

    def _path(self, arm: Arm, texts: list[str]) -> Path:
        key: dict[str, Any] = {"arm": asdict(arm), "split": self.split, "size": self.size}
        key |= {"captions": texts, "adapter": sha256_of(SHIPPED["tiny-4step"]) if arm.model == STUDENT else None}
        key |= {"weights": weights_sha256(self.folder(arm.model)), "device": self.device}
        if guide := self.guide(arm):
            key |= {"bank": guide.bank.sha256, "code": guidance_sha256()}
            if guide.bank.beside:
                key |= {"calibration": guide.bank.chosen and guide.bank.chosen.digest}
        return FOLDER / f"{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}.safetensors"


@torch.no_grad()
def sample_batch(
    pipe: Any, texts: list[str], numbers: list[int], arm: Arm, guide: ShellGuide | None = None, **size: int
) -> Tensor:
    """uint8 frames (b, t, H, W, 3) of the prompts, each with the noise of the seed of its number."""
    usual = pipe.scheduler
    pipe.scheduler = SCHEDULERS[arm.scheduler](arm.shift)
    size = dict(height=192, width=192, num_frames=17) | size
    try:
        if arm.rival is not None:
            return rivals.sample_batch(pipe, texts, numbers, rival=arm.rival, steps=arm.steps, **size)
        with contextlib.ExitStack() as stack:
            if arm.sigmas:
                stack.enter_context(levels_exchanged(pipe.scheduler, arm.sigmas))
            if arm.scheduler == "lcm":
                stack.enter_context(noise_drawn_from(pipe.scheduler, torch.Generator().manual_seed(numbers[0])))
            if guide is not None:
                stack.enter_context(guided(pipe, guide))
            video = pipe(
                prompt=texts,
                negative_prompt=[""] * len(texts),
                num_inference_steps=arm.steps,
                guidance_scale=arm.cfg,
                generator=[torch.Generator().manual_seed(number) for number in numbers],
                output_type="pt",
                **size,
            ).frames
    finally:
        pipe.scheduler = usual
    return (video * 255).round().byte().permute(0, 1, 3, 4, 2).cpu()


def guidance_sha256() -> str:
    """One hash over the modules beside the guide: what decides on a move."""
    folder = Path(shelllcc.guidance.guide.guide.__file__).parent
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def usual_guide(arm: Arm, *, model: str | None = None) -> GuideConfig:
    """The guide that `generate` takes for such a sampling of a tiny Wan: its fit, or the nearest one; else the
    defaults."""
    short = {"unipc": "", "dpm++": "dpm"}.get(arm.scheduler, arm.scheduler)
    how = {"sigmas": arm.sigmas} if arm.sigmas else {"steps": arm.steps, "shift": arm.shift}
    request = Request.resolve(PRESETS["tiny"], prompt="any", cfg=arm.cfg, scheduler=short or None, **how)
    found_model, loading = find_model(model), Loading(loras=(ADAPTER,) if arm.model == STUDENT else ())
    bank, _ = choose_bank(None, fingerprint(found_model.vae), found_model.fingerprint)
    found = fitted.find(request, found_model, loading, bank)
    return found.fit.guide if found.fit else GuideConfig()


def standard_arms(sampler: Sampler) -> dict[str, Tensor]:
    """The model's clips at its defaults, without and with guidance."""
    cfg = PRESETS["tiny"].cfg
    return {
        f"unguided, cfg {cfg:g}": sampler.sample(Arm()).frames,
        f"guided, cfg {cfg:g}": sampler.sample(Arm(guide=usual_guide(Arm()))).frames,
    }
