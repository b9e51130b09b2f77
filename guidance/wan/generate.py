"""From a request to files: plan everything that can go wrong early, then sample and write. Knows nothing of terminals.

The sidecar is written last, so that a sidecar proves a finished clip.
"""

from __future__ import annotations

import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.files import sha256_of
from shelllcc.guidance.wan.pipeline import Model, find_model
from shelllcc.guidance.wan.presets import PRESETS, preset_for
from shelllcc.guidance.wan.request import Request
from shelllcc.guidance.wan.video import check_output, read_sidecar, side_by_side, write_json, write_video
from shelllcc.guidance.wan.vocabulary import LIGHTS, MOVES, SUBJECTS, understand

if TYPE_CHECKING:
    from diffusers import WanPipeline

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.wan.sample import Clip, Moment


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, name: str) -> None: ...

    def step(self, moment: Moment) -> None: ...


@dataclass(frozen=True)
class Plan:
    """One clip to make: everything resolved and checked, nothing loaded but the bank."""

    model: Model
    request: Request
    bank: Bank | None
    output: Path
    compare: bool

    @property
    def sidecar(self) -> Path:
        return self.output.with_suffix(".json")

    @property
    def videos(self) -> dict[str, Path]:
        """Label to file; the clip itself first."""
        if not self.compare:
            return {"guided" if self.bank else "unguided": self.output}
        stem = self.output.with_suffix("")
        return {"guided": self.output} | {
            label: stem.with_name(f"{stem.name}.{label}.mp4") for label in ("unguided", "compare")
        }

    def describe(self) -> dict[str, Any]:
        """What would be done, for --dry-run and the sidecar."""
        bank = self.bank and {"name": self.bank.name, "path": str(self.bank.path), "sha256": self.bank.sha256}
        return {
            "request": self.request.as_dict(),
            "model": {"source": self.model.name, "revision": self.model.revision},
            "bank": bank,
            "compare": self.compare,
            "videos": {label: str(path) for label, path in self.videos.items()},
            "sidecar": str(self.sidecar),
        }

    def finished(self) -> bool:
        """Whether the sidecar proves that this very clip is there, whole."""
        if not self.sidecar.exists():
            return False
        try:
            record = read_sidecar(self.sidecar)
        except UsageError:
            return False
        mine = self.describe()
        same = all(record.get(key) == _plain(mine[key]) for key in ("request", "model", "bank", "compare"))
        hashes = record.get("sha256", {})
        return same and all(p.exists() and sha256_of(p) == hashes.get(label) for label, p in self.videos.items())


def plan_clips(
    *,
    prompts: list[str],
    model: str | None,
    bank: str | None,
    preset: str | None,
    output: Path | None,
    compare: bool,
    sidecar: Path | None,
    given: dict[str, Any],
) -> list[Plan]:
    """The clips asked for. `given` holds the values of Request fields that were set; None means not set.

    Several prompts take consecutive seeds, and `output` is then a folder. `sidecar` is the record of a clip to replay.
    Nothing is loaded but configs and the bank, so that bad input is refused at once.
    """
    record = read_sidecar(sidecar) if sidecar else {}
    recorded = Request.from_dict(record["request"]).as_dict() if record else {}
    if record and model is None:
        model = str(record.get("model", {}).get("source"))
    if not prompts:
        if not recorded:
            raise UsageError('give --prompt, e.g. --prompt "a tabby cat, zoom in, daylight"')
        prompts = [recorded["prompt"]]
    if preset is not None and preset not in PRESETS:
        raise UsageError(f"no preset {preset}; there are {', '.join(PRESETS)}")

    found = find_model(model)
    defaults = PRESETS[preset] if preset else preset_for(found.transformer, two_stage=found.two_stage)
    values = recorded | {key: value for key, value in given.items() if value is not None}
    values.pop("prompt", None)
    values.pop("preset", None)
    first = int(values.pop("seed", 0))
    requests = [Request.resolve(defaults, **values, prompt=p, seed=first + i) for i, p in enumerate(prompts)]
    if compare and requests[0].strength == 0:
        raise UsageError("--compare needs a strength above 0: without guidance there is nothing to compare")
    chosen = None if requests[0].strength == 0 else _bank_for(found, bank, record)

    plans = []
    for index, request in enumerate(requests):
        path = _output_path(output, request, index if len(requests) > 1 else None)
        check_output(path)
        plans.append(Plan(found, request, chosen, path, compare))
    return plans


def generate(plan: Plan, pipe: WanPipeline, reporter: Reporter) -> dict[str, Any]:
    """Sample and write the clips of a plan; returns the sidecar's record."""
    from shelllcc.guidance.wan.sample import guide_for, sample

    plan.sidecar.unlink(missing_ok=True)
    clips: dict[str, Clip] = {}
    seconds: dict[str, float] = {}
    arms = {"unguided": plan.request.unguided()} if plan.compare else {}
    arms["guided" if plan.bank else "unguided"] = plan.request
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


def unknown_to_tiny(plan: Plan) -> str | None:
    """For the tiny model: what it knows, where the prompt names no subject of it; otherwise None."""
    if not plan.model.is_tiny or understand(plan.request.prompt).subject is not None:
        return None
    subjects, moves, lights = (", ".join(names[0] for names in t.values()) for t in (SUBJECTS, MOVES, LIGHTS))
    return (
        f"the tiny model knows none of this prompt's subjects. Subjects: {subjects}. Camera: {moves}. Light: {lights}."
    )


def read_prompts(path: Path) -> list[str]:
    """The prompts of a file, one a line; blank lines and lines from # are passed over. Raises UsageError."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the prompts file {path}: {error}") from error
    prompts = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not prompts:
        raise UsageError(f"the prompts file {path} holds no prompt")
    return prompts


def _write(plan: Plan, pipe: WanPipeline, clips: dict[str, Clip], seconds: dict[str, float]) -> dict[str, Any]:
    main = "guided" if plan.bank else "unguided"
    record: dict[str, Any] = {"shelllcc": version("shelllcc")} | plan.describe()
    record |= {
        "device": str(pipe.device),
        "dtype": str(pipe.transformer.dtype).removeprefix("torch."),
        "scheduler": type(pipe.scheduler).__name__,
        "versions": versions(),
        "frames_sha256": {label: clip.frames_sha256 for label, clip in clips.items()},
        "seconds": seconds,
        "metrics": _metrics(clips),
        "trace": [asdict(step) for step in clips[main].trace],
    }
    frames = {label: clip.frames for label, clip in clips.items()}
    if plan.compare:
        frames["compare"] = side_by_side(frames["unguided"], frames["guided"])
    for label, path in plan.videos.items():
        write_video(path, frames[label], fps=plan.request.fps, record=record)
    record["sha256"] = {label: sha256_of(path) for label, path in plan.videos.items()}
    write_json(plan.sidecar, record)
    return record


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the frames depend on."""
    libraries = ("torch", "diffusers", "transformers", "faiss-cpu", "imageio", "imageio-ffmpeg", "safetensors", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in libraries}


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


def _bank_for(model: Model, bank: str | None, record: dict[str, Any]) -> Bank:
    from shelllcc.anchors.bank import check_bank, find_bank, fingerprint, load_bank

    vae = fingerprint(model.vae)
    recorded = record.get("bank") or {}
    if bank is None and recorded:
        bank = recorded.get("path")
        name = str(recorded.get("name"))
        chosen = load_bank(bank if bank and Path(bank).exists() else name)
        if chosen.sha256 != recorded.get("sha256"):
            raise BankError(
                f"the bank {chosen.path} is not the one that the sidecar names; give --bank to use it anyway"
            )
    elif bank in (None, "auto"):
        return find_bank(vae)
    else:
        chosen = load_bank(str(bank))
    check_bank(chosen, vae)
    return chosen


def _output_path(output: Path | None, request: Request, index: int | None) -> Path:
    slug = "-".join("".join(c if c.isalnum() else " " for c in request.prompt.lower()).split())[:60] or "clip"
    if index is not None:
        return (output or Path("outputs")) / f"{index:03d}-{slug}.mp4"
    return output or Path("outputs") / f"{slug}-seed{request.seed}.mp4"


def _plain(value: Any) -> Any:
    """As JSON would give it back: tuples are lists."""
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, (list, tuple)) else value
