"""From words to plans: everything about a clip resolved and checked before anything heavy is loaded.

Knows nothing of sampling. Precedence: values given now, the sidecar that is replayed, the preset.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import BankError, UsageError
from shelllcc.guidance.files import at_home, claimed, sha256_of
from shelllcc.guidance.media.video import check_output
from shelllcc.guidance.paths import here, reason
from shelllcc.guidance.versions import version
from shelllcc.guidance.wan.clips import recorded
from shelllcc.guidance.wan.clips.parse import AUTO, Line, read_prompts, slug
from shelllcc.guidance.wan.clips.profiles import tuned_request
from shelllcc.guidance.wan.clips.replacing import in_the_way
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sidecar import read_sidecar
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import Model, find_model
from shelllcc.guidance.wan.model.presets import PRESETS, preset_for
from shelllcc.guidance.wan.model.trust import check_names
from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, SUBJECTS, understand

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


@dataclass(frozen=True)
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
        return "guided" if self.bank and self.request.strength else "unguided"

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

    def describe(self) -> dict[str, Any]:
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
        }

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

    def made(self, record: Mapping[str, Any]) -> bool:
        """Whether a record, a sidecar's or that in a video's tag, is of a clip of this very recipe."""
        mine = self.describe()
        same = record.get("request") == mine["request"] and recorded.is_model(record.get("model"), mine["model"])
        same &= recorded.is_bank(record.get("bank"), self.bank, self.model)
        same &= recorded.is_loading(record.get("loading", Loading().recipe()), mine["loading"])
        return same and record.get("dtype") == self.loading.dtype_on(str(record.get("device")))

    def check_free(self, *, quick: bool = False) -> None:
        """Raise UsageError where the clip would replace a file that is no earlier make of it (`replacing.py`)."""
        path = None if self.overwrite else in_the_way(self.videos, self.sidecar, self.made, quick=quick)
        if path is not None:
            what = "is no record of this clip" if path == self.sidecar else "holds another clip"
            raise UsageError(f"{path} {what}; give another --output, or --overwrite it")

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Within the block the clip's files are this process's to write. Raises OutputError, and UsageError."""
        with contextlib.ExitStack() as files:
            for path in sorted({*self.videos.values(), self.sidecar}):
                files.enter_context(claimed(path))
            self.check_free()
            yield


@dataclass(frozen=True)
class Resolved:
    """What to sample, and with what: one request a prompt, the bank that they share, and what the user should hear.

    `seeds` are those that prompts have of their own, from their line of a prompts file, `places` these lines.
    """

    model: Model
    requests: tuple[Request, ...]
    seeds: tuple[int | None, ...]
    bank: Bank | None
    loading: Loading
    notes: tuple[str, ...]
    places: tuple[str, ...] = ("",)

    def place(self, when: Callable[[Request], bool]) -> str:
        """How to begin a complaint about the first such request: with its line of a prompts file, if it has one."""
        found = (place for request, place in zip(self.requests, self.places, strict=True) if when(request))
        return f"{place}: " if (place := next(found, "")) else ""


def resolve(
    *,
    prompts: Sequence[str] = (),
    prompts_file: Path | None = None,
    model: str | None = None,
    bank: str | None = None,
    preset: str | None = None,
    loading: Mapping[str, Any] | None = None,
    record: Mapping[str, Any] | None = None,
    wanted: bool = False,
    check: Callable[[str | None, Loading], None] = lambda model, loading: None,
    values: Mapping[str, Any],
) -> Resolved:
    """The requests asked for; `values` holds fields of Request, `loading` of Loading, None where they were not set.

    A strength may be `auto`; `record` is the sidecar of a clip to replay, `wanted` says that guidance was asked for.
    `check` is told the model's name and the loading before anything is looked up on the hub, and may raise.
    Nothing is loaded but configs and the bank.
    """
    given = {key: value for key, value in values.items() if value is not None}
    lines = [*map(Line, prompts), *(read_prompts(prompts_file) if prompts_file else [])]
    source = model or ((record or {}).get("model") or {}).get("source")
    how = _loading(record or {}, loading or {})
    check(source, how)
    found = find_model(source)
    remark = None if model or not record else recorded.check_model(record, found)
    if not lines and not record:
        raise UsageError('give --prompt, e.g. --prompt "a tabby cat, zoom in, daylight"')
    told: list[dict[str, Any]] = [{**given, **line.values, "prompt": line.prompt} for line in lines] or [given]
    tuned = [words.get("strength") == AUTO for words in told]
    then = Request.from_dict(record["request"]) if record else None
    like = partial(replace, then) if then else partial(Request.resolve, _preset(preset, found))

    def request_of(words: Mapping[str, Any]) -> Request:
        request = like(**{key: value for key, value in words.items() if (key, value) != ("strength", AUTO)})
        _check_sizes(request, found)
        return request

    places = tuple(line.place for line in lines) or ("",)
    requests = [_placed(request_of, words, given, place) for words, place in zip(told, places, strict=True)]
    off = not wanted and all(request.strength == 0 for request in requests)
    wanted = wanted or bool(record) or bank is not None or "strength" in given
    chosen, notes = (None, []) if off else _bank_for(found, bank, record or {}, wanted=wanted)
    notes += [remark] if remark else []
    if chosen is None:
        requests = [request.unguided() for request in requests]
    for index, request in enumerate(requests):
        if tuned[index] and chosen is not None:
            requests[index], note = tuned_request(request, found, how, chosen)
            notes.append(note)
        notes += _unknown_to_tiny(found, request)
    seeds = tuple(line.values.get("seed") for line in lines) or (None,)
    return Resolved(found, tuple(requests), seeds, chosen, how, tuple(dict.fromkeys(notes)), places)


def plan_clips(
    *,
    output: Path | None = None,
    compare: bool = False,
    sidecar: Path | None = None,
    overwrite: bool = False,
    vouched: Collection[str] = (),
    may_fetch: Callable[[str], bool] = lambda name: False,
    values: Mapping[str, Any],
    **options: Any,
) -> list[Plan]:
    """The clips asked for: `options` and `values` as for `resolve`, `sidecar` of a clip to replay.

    What the sidecar names on the hub is not fetched unless it is among the `vouched` names, or `may_fetch` it.

    With several prompts, or a prompts file, `output` is a folder, and prompts without a seed of their own take
    consecutive ones. Raises UsageError and OutputError for a place that cannot be written to.
    """
    record: dict[str, Any] = {}
    _check_place(output)
    output = output and at_home(output)
    if sidecar is not None:
        if options.get("preset") is not None:
            raise UsageError("--preset and --from exclude each other: the sidecar holds every value")
        record = read_sidecar(sidecar)
        compare = compare or record.get("compare") is True
        known = {*vouched, options.get("model"), *(x.source for x in (options.get("loading") or {}).get("loras") or ())}
        options["check"] = lambda model, how: check_names(sidecar, model, how, known, may_fetch)
    resolved = resolve(**options, record=record, wanted=compare, values=values)
    if record:
        same_model = options.get("model") is None
        resolved = replace(resolved, notes=(*_other_than(record, resolved.model, same_model), *resolved.notes))
    if compare:
        check_comparable(resolved.loading)
        if any(request.strength == 0 for request in resolved.requests):
            place = resolved.place(lambda request: request.strength == 0)
            raise UsageError(f"{place}--compare needs a strength above 0: without guidance there is nothing to compare")

    many = options.get("prompts_file") is not None or len(resolved.requests) > 1
    _check_kind(output, many=many)
    plans = []
    for index, (request, seed) in enumerate(zip(resolved.requests, resolved.seeds, strict=True)):
        request = request if seed is not None else replace(request, seed=request.seed + index)
        path = _output_path(output, request, index if many else None)
        plan = Plan(resolved.model, request, resolved.bank, path, compare, resolved.loading, resolved.notes, overwrite)
        for file in (*plan.videos.values(), plan.sidecar):
            check_output(file)
        plan.check_free()
        plans.append(plan)
    return plans


def _placed(
    request_of: Callable[[Mapping[str, Any]], Request], words: Mapping[str, Any], given: Mapping[str, Any], place: str
) -> Request:
    """The request; an error that the line at `place` brings, and what was given for all prompts does not, names it."""
    try:
        return request_of(words)
    except UsageError as error:
        if place:
            request_of({**given, "prompt": "any"})
            raise UsageError(f"{place}: {error}") from error
        raise


def _preset(name: str | None, model: Model) -> Any:
    if name is None:
        return preset_for(model.transformer, two_stage=model.two_stage, vae=model.vae)
    if name not in PRESETS:
        raise UsageError(f"no preset {name}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def check_comparable(loading: Loading) -> None:
    """Raise UsageError for a loading with which clips differ by more than their guides."""
    if loading.cache != "none":
        raise UsageError("--cache is off when comparing: it reuses other steps in every clip")


def _loading(record: Mapping[str, Any], given: Mapping[str, Any]) -> Loading:
    """How the model is loaded: as the sidecar has it, with what was given in its place."""
    recipe = Loading.from_recipe(record.get("loading") or {})
    known: dict[str, Any] = {"dtype": record.get("dtype")}
    known |= {key: value for key, value in given.items() if value is not None}
    how = replace(recipe, **known)
    if not {"transformer", "transformer_2", "loras"} & set(known):
        recorded = (record.get("loading") or {}).get("fingerprints", {})
        for path, print_ in how.recipe()["fingerprints"].items():
            if recorded.get(path, print_) != print_:
                raise UsageError(f"{path} is not the file that the sidecar names; give --lora or --transformer anew")
    return how


def _other_than(record: Mapping[str, Any], model: Model, same_model: bool) -> Iterator[str]:
    """What a replay should know: another shelllcc, or another revision of the model, made the clip."""
    recorded, own = (record.get("versions") or {}).get("shelllcc"), version()
    if recorded is not None and own is not None and recorded != own:
        yield f"made by shelllcc {recorded}, this is {own}: the clip may differ"
    revision = (record.get("model") or {}).get("revision")
    if same_model and revision is not None and revision != model.revision and not model.is_local:
        yield f"made with revision {revision} of {model.name}, this is {model.revision}: the clip may differ"


def _check_sizes(request: Request, model: Model) -> None:
    """The model may need a coarser grid than 16 pixels, or have no second transformer."""
    for name, grid in (("width", model.grid[1]), ("height", model.grid[0])):
        side = getattr(request, name)
        if side % grid:
            near = max(grid, round(side / grid) * grid)
            raise UsageError(f"this model needs a {name} that is a multiple of {grid}, got {side}; nearest is {near}")
    if request.cfg_2 is not None and not model.two_stage:
        raise UsageError("--cfg-2 is for models with a second transformer (Wan2.2-A14B)")


def _bank_for(
    model: Model, bank: str | None, record: Mapping[str, Any], *, wanted: bool
) -> tuple[Bank | None, list[str]]:
    """The bank, with this model's calibration in force, and notes; None where no bank fits and none was asked for."""
    from shelllcc.anchors.choose import choose_bank, uncalibrated
    from shelllcc.anchors.fingerprints import fingerprint

    vae = fingerprint(model.vae)
    known = (record.get("bank") or {}) if bank is None else {}
    if known:
        now, remarks = choose_bank(here(str(known.get("path"))) or str(known.get("name")), vae)
        chosen, held = recorded.recorded_bank(record, now.for_model(model.fingerprint), model)
        return chosen, [*remarks, *(held or uncalibrated(chosen, model.name))]
    try:
        return choose_bank(bank, vae, model.fingerprint, model=model.name)
    except BankError as error:
        if wanted:
            raise
        return None, [f"sampling without guidance: {error}"]


def _unknown_to_tiny(model: Model, request: Request) -> list[str]:
    """For the tiny model: what it knows, where the prompt names no subject of it."""
    if not model.is_tiny or understand(request.prompt).subject is not None:
        return []
    subjects, moves, lights = (", ".join(names[0] for names in t.values()) for t in (SUBJECTS, MOVES, LIGHTS))
    return [f"the tiny model knows no subject of this prompt. Subjects: {subjects}. Camera: {moves}. Light: {lights}."]


def _check_place(output: Path | None) -> None:
    """Raise UsageError for an output that names nothing, or a folder that nobody means."""
    if output in (Path(), Path("~")):
        raise UsageError(f"{output} is no place for a clip; give an .mp4 file, or a folder of its own")
    try:
        Path(output or "").exists()
    except OSError as error:  # a name that is too long, a folder that may not be searched
        raise UsageError(f"{output} is no place for a clip: {reason(error)}") from error


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
