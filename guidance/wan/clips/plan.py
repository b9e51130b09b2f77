"""Plans: one clip to make, with its files and all that makes it, checked before anything heavy is loaded.

Knows nothing of sampling.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject, at_home, claimed, sha256_of
from shelllcc.guidance.media.video import check_outputs
from shelllcc.guidance.versions import version
from shelllcc.guidance.wan.clips import recorded
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.parse import slug
from shelllcc.guidance.wan.clips.planning import Planning
from shelllcc.guidance.wan.clips.replacing import in_the_way
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.resolve import Resolved, check_comparable, resolve
from shelllcc.guidance.wan.clips.sidecar import read_sidecar
from shelllcc.guidance.wan.clips.stills import copies
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import Model
from shelllcc.guidance.wan.model.trust import check_names

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


@dataclass(frozen=True, slots=True)
class Plan:
    """One clip to make."""

    model: Model
    request: Request
    bank: Bank | None
    output: Path
    compare: bool
    loading: Loading = field(default_factory=Loading)
    notes: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def label(self) -> str:
        return "guided" if self.bank and self.request.guide.strength else "unguided"

    @property
    def sidecar(self) -> Path:
        return self.output.with_suffix(".json")

    @property
    def videos(self) -> dict[str, Path]:
        """Label to file; the clip itself first."""
        videos = {self.label: self.output}
        if self.compare:
            stem = self.output.with_suffix("")
            videos |= {label: stem.with_name(f"{stem.name}.{label}.mp4") for label in ("unguided", "compare")}
        return videos

    @property
    def images(self) -> dict[str, Path]:
        """The copies of its images beside the clip, by the names of the request's fields."""
        return copies(self.request, self.output.parent)

    def describe(self) -> JsonObject:
        """What would be done, for --dry-run and the sidecar."""
        bank = recorded.bank_record(self.bank)
        if self.bank is not None and bank is not None:
            bank = {"name": self.bank.name, "path": str(self.bank.path)} | bank
        return {
            "request": self.request.as_dict(),
            "model": recorded.model_record(self.model),
            "loading": self.loading.recipe(),
            "bank": bank,
            "compare": self.compare,
            "videos": {label: str(path) for label, path in self.videos.items()},
            "sidecar": str(self.sidecar),
        } | ({"images": {name: str(path) for name, path in self.images.items()}} if self.images else {})

    def finished(self) -> bool:
        """Whether the sidecar proves that this very clip is there, whole."""
        try:
            record = read_sidecar(self.sidecar)
        except UsageError:
            return False
        same = self.made(record) and record.get("compare") == self.compare
        metrics, trace = record.get("metrics"), record.get("trace")
        same &= isinstance(metrics, dict) and isinstance(metrics.get(self.label), dict)
        same &= isinstance(trace, list) and all(isinstance(step, dict) for step in trace)
        hashes = record.get("sha256") or {}
        return same and all(p.is_file() and sha256_of(p) == hashes.get(label) for label, p in self.videos.items())

    def doubt(self) -> str | None:
        """A remark on this clip where it is there already, and its sidecar does not say which weights made it."""
        try:
            record = read_sidecar(self.sidecar)
        except UsageError:
            return None
        return recorded.check_model(record, self.model) if self.made(record) else None

    def made(self, record: JsonObject) -> bool:
        """Whether a record, a sidecar's or that in a video's tag, is of a clip of this very recipe."""
        mine = self.describe()
        same = recorded.is_request(record.get("request"), self.request)
        same &= recorded.is_model(record.get("model"), mine["model"])
        same &= recorded.is_bank(record.get("bank"), self.bank, self.model)
        same &= recorded.is_loading(record.get("loading", Loading().recipe()), mine["loading"])
        return same and record.get("dtype") == self.loading.dtype_on(str(record.get("device")))

    def check_free(self, *, quick: bool = False) -> None:
        """Raise UsageError where the clip would replace a file that is no earlier make of it (`replacing.py`)."""
        path = None if self.overwrite else in_the_way(self.videos, self.sidecar, self.made, quick=quick)
        if path is not None:
            what = self._instead() if path == self.sidecar else "holds another clip"
            raise UsageError(f"{path} {what}; give another --output, or --overwrite it")
        for name, copy in self.images.items():
            same = copy.is_file() and sha256_of(copy) == self.request.stills[name].sha256
            if os.path.lexists(copy) and not same:
                raise UsageError(f"{copy} is in the way, and not the copy of the clip's image; give another --output")

    def _instead(self) -> str:
        """What lies in the sidecar's place."""
        try:
            record = read_sidecar(self.sidecar)
        except UsageError:
            return "is no record of this clip"
        where = recorded.apart(record.get("request"), self.request)
        return f"is the record of another clip{f' ({where})' if where else ', of another model, bank or loading'}"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Within the block the clip's files are this process's to write. Raises OutputError, and UsageError."""
        with contextlib.ExitStack() as files:
            for path in sorted({*self.videos.values(), self.sidecar}):
                files.enter_context(claimed(path))
            self.check_free()
            yield


def plan_clips(
    asked: Asked,
    *,
    vouched: Collection[str] = (),
    may_fetch: Callable[[str], bool] = lambda name: False,
    planning: Planning | None = None,
) -> list[Plan]:
    """The clips asked for.

    What the sidecar of a replay names on the hub is not fetched unless it was asked for, is among the `vouched` names,
    or `may_fetch` it. With several prompts, or a prompts file, the output is a folder, and prompts without a seed of
    their own take consecutive ones. `planning` hears how far it is. Raises UsageError, and OutputError for a place that
    cannot be written to.
    """
    planning = planning or Planning()
    record = _replayed(asked)
    asked = replace(asked, compare=asked.compare or record.get("compare") is True)
    trusted = _trusted(asked, vouched, may_fetch)
    resolved = resolve(asked, record=record, wanted=asked.compare, check=trusted, planning=planning)
    if record:
        notes = _other_than(record, resolved.model, same_model=asked.model is None)
        resolved = replace(resolved, notes=(*notes, *resolved.notes))
    if asked.compare:
        _check_compared(resolved)
    plans = _placed(asked, resolved, planning)
    check_outputs(file for plan in plans for file in (*plan.videos.values(), plan.sidecar))
    for plan in planning.each(plans):
        plan.check_free()
    return plans


def _replayed(asked: Asked) -> JsonObject:
    """The sidecar to replay, empty where there is none. Raises UsageError."""
    if asked.sidecar is None:
        return {}
    if asked.preset is not None:
        raise UsageError("--preset and --from exclude each other: the sidecar holds every value")
    return read_sidecar(asked.sidecar)


def _trusted(
    asked: Asked, vouched: Collection[str], may_fetch: Callable[[str], bool]
) -> Callable[[str | None, Loading], None]:
    """What raises UsageError where a replay names something on the hub that nobody has asked for."""

    def check(model: str | None, loading: Loading) -> None:
        if asked.sidecar is not None:
            check_names(asked.sidecar, model, loading, {*vouched, *asked.sources}, may_fetch)

    return check


def _check_compared(resolved: Resolved) -> None:
    """Raise UsageError where a guided clip beside an unguided one would show something else, or, by what was asked for,
    nothing. What lacks a fit is made alone."""
    check_comparable(resolved.loading)
    off = [r for i, r in enumerate(resolved.requests) if r.guide.strength == 0 and i not in resolved.unguided]
    if off:
        place = resolved.place(lambda request: any(request is one for one in off))
        raise UsageError(f"{place}--compare needs a strength above 0: without guidance there is nothing to compare")


def _placed(asked: Asked, resolved: Resolved, planning: Planning) -> list[Plan]:
    """A plan for each request, with its seed and its file."""
    output = asked.output and at_home(asked.output)
    many = asked.prompts_file is not None or len(resolved.requests) > 1
    _check_kind(output, many=many)
    plans = []
    for index, (request, own) in enumerate(zip(planning.each(resolved.requests), resolved.seeds, strict=True)):
        request = request if own is not None else replace(request, seed=request.seed + index)
        path = _output_path(output, request, index if many else None)
        compare = asked.compare and index not in resolved.unguided
        how = compare, resolved.loading, resolved.notes, asked.overwrite
        plans.append(Plan(resolved.model, request, resolved.bank, path, *how))
    return plans


def _other_than(record: JsonObject, model: Model, *, same_model: bool) -> Iterator[str]:
    """What a replay should know: another shelllcc, or another revision of the model, made the clip."""
    then, now = (record.get("versions") or {}).get("shelllcc"), version()
    if then is not None and now is not None and then != now:
        yield f"made by shelllcc {then}, this is {now}: the clip may differ; `pip install shelllcc=={then}` is that one"
    revision = (record.get("model") or {}).get("revision")
    if same_model and revision is not None and revision != model.revision and not model.is_local:
        yield (
            f"made with revision {revision} of {model.name}, this is {model.revision}: the clip may differ; "
            f"--model {model.source.partition('@')[0]}@{revision} is that one"
        )


def _check_kind(output: Path | None, *, many: bool) -> None:
    """Raise UsageError where the output cannot be the .mp4 of one clip or the folder of several."""
    if output is None or output.is_dir():
        return
    video = output.suffix.lower() == ".mp4"
    if many and (video or output.exists()):
        raise UsageError(f"several prompts need a folder as --output, got {output}")
    if not many and not video:
        raise UsageError(f"the output must be an .mp4 file, or a folder that is there to put it into, got {output}")


def _output_path(output: Path | None, request: Request, index: int | None) -> Path:
    if index is not None:
        return (output or Path("outputs")) / f"{index:03d}-{slug(request.prompt)}.mp4"
    if output is None or output.is_dir():
        return (output or Path("outputs")) / f"{slug(request.prompt)}-seed{request.seed}.mp4"
    return output
