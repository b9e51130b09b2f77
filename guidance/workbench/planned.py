"""What a run is to sample, and where: its prompts, each with its seeds, checked before anything heavy is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.fitted import followed
from shelllcc.guidance.wan.clips.parse import Variant, slug
from shelllcc.guidance.wan.clips.recorded import bank_record, model_record
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.resolve import Resolved, check_comparable, resolve
from shelllcc.guidance.workbench.runs import Run

VARYING = ("prompt", "seed", "strength", "image", "last_image")  # in a run: no settings of all its clips
TAKEN = ("compare", "montage", "trace")  # an item's pictures are called so


@dataclass(frozen=True)
class Planned:
    """A run of `compare` or `tune`; `groups` are its prompts, each with its seeds."""

    title: str
    folder: Path
    resolved: Resolved
    groups: tuple[tuple[Request, ...], ...]

    @property
    def requests(self) -> list[Request]:
        """All prompts and seeds, in the order of the run's items."""
        return [request for group in self.groups for request in group]

    def check_variants(self, variants: Sequence[Variant]) -> None:
        """Raise UsageError for variants that cannot be compared."""
        if len(variants) < 2:
            raise UsageError("there is nothing to compare; give two --strengths or --variants or more, e.g. 0,1")
        if taken := next((v.label for v in variants if v.label in TAKEN), None):
            raise UsageError(f"a variant cannot be named {taken}: a file of the run is; give it another name")
        for variant in variants:
            guides = any(request.changed(**variant.settings).guide.strength for request in self.requests)
            if guides and self.resolved.bank is None:
                raise UsageError("to guide there must be a bank; " + " ".join(self.resolved.notes))

    def describe(self, variants: Sequence[Variant]) -> JsonObject:
        """What would be sampled, for --dry-run."""
        bank = self.resolved.bank
        clips = [
            {"file": str(self.folder / f"{index:02d}_{way.label}.mp4"), "prompt": request.prompt, "seed": request.seed}
            | {"settings": dict(way.settings)}
            for index, request in enumerate(self.requests)
            for way in variants
        ]
        return {"output": str(self.folder), "model": self.resolved.model.name, "bank": bank and bank.name} | {
            "clips": clips
        }

    def run(self, variants: Sequence[Variant] = ()) -> Run:
        """The run in its folder; `variants` are those that are compared, which decide on its clips."""
        resolved, first = self.resolved, self.requests[0]
        asked: JsonObject = {
            "title": self.title,
            "model": model_record(resolved.model),
            "bank": bank_record(resolved.bank),
            "dtype": resolved.loading.dtype,
            "loading": resolved.loading.recipe(),
            "requests": [request.lasting() for request in self.requests],
        }
        if variants:
            asked["variants"] = [{"label": way.label, "settings": dict(way.settings)} for way in variants]
        settings = {"model": resolved.model.name, "bank": resolved.bank and resolved.bank.name}
        settings |= {k: v for k, v in first.lasting().items() if k not in VARYING and v is not None}
        found = followed(first, resolved.model, resolved.loading, resolved.bank)
        fit: JsonObject | None = None
        if found is not None:
            fit = {"words": found.words(), "bands": [asdict(band) for band in found.bands]}
            fit |= {"radius": found.guide.radius, "coarse": found.guide.coarse}
        images = [Path(still.path) for request in self.requests for still in request.stills.values()]
        return Run(self.folder, title=self.title, asked=asked, settings=settings, fps=first.fps, inputs=images, fit=fit)


def plan_run(title: str, asked: Asked) -> Planned:
    """The run that is asked for, in `outputs` if no folder is; the seed is 0 if none is given.

    Raises UsageError, BankError and ModelError.
    """
    asked = replace(asked, seeds=asked.seeds or (0,))
    resolved = resolve(asked, wanted=True)
    check_comparable(resolved.loading)
    name = slug(asked.prompts_file.stem if asked.prompts_file else resolved.requests[0].prompt)
    folder = asked.output or Path("outputs") / f"{title}-{name}"
    return Planned(title, folder, resolved, with_seeds(resolved, asked.seeds or ()))


def with_seeds(resolved: Resolved, seeds: Sequence[int]) -> tuple[tuple[Request, ...], ...]:
    """Each prompt with every seed; one whose line has a seed of its own is taken with that one alone."""
    return tuple(
        tuple(request.changed(seed=seed) for seed in (seeds if own is None else [own]))
        for request, own in zip(resolved.requests, resolved.seeds, strict=True)
    )
