"""From words to requests: what to sample and with what, checked before anything heavy is loaded.

Knows nothing of files to write. Precedence: values given now, the sidecar that is replayed, the preset.
"""

from __future__ import annotations

import functools
import json
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import BankError, UsageError, VideoError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.fit.shelf import Found, banks_fitted
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.media.video import check_encoder
from shelllcc.guidance.paths import here
from shelllcc.guidance.wan.clips import fitted, recorded
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.parse import AUTO, KNOBS, Line, read_prompts
from shelllcc.guidance.wan.clips.planning import Planning
from shelllcc.guidance.wan.clips.profiles import tuned_request
from shelllcc.guidance.wan.clips.request import IMAGES, INSTEAD, Request
from shelllcc.guidance.wan.clips.stills import check_images, replayed, sized, still_at
from shelllcc.guidance.wan.model import distilled, schedules
from shelllcc.guidance.wan.model.loading import SHIPPED, Loading, Lora
from shelllcc.guidance.wan.model.pipeline import Model, find_model
from shelllcc.guidance.wan.model.presets import PRESETS, Preset, preset_for
from shelllcc.guidance.wan.model.tokens import said_of_cuts
from shelllcc.guidance.wan.tiny.vocabulary import FREE, LIGHTS, MOVES, SUBJECTS, spoken, understand

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


@dataclass(frozen=True)
class Resolved:
    """What to sample, and with what: one request a prompt, the bank that they share, and what the user should hear.

    `seeds` are those that prompts have of their own, from their line of a prompts file, `places` these lines,
    `unfitted` the requests that would be guided by a fit just for them if there were one, and `unguided` the indices of
    those that are not guided for want of any.
    """

    model: Model
    requests: tuple[Request, ...]
    seeds: tuple[int | None, ...]
    bank: Bank | None
    loading: Loading
    notes: tuple[str, ...]
    places: tuple[str, ...] = ("",)
    unfitted: tuple[Request, ...] = ()
    unguided: frozenset[int] = frozenset()

    def place(self, when: Callable[[Request], bool]) -> str:
        """How to begin a complaint about the first such request: with its line of a prompts file, if it has one."""
        found = (place for request, place in zip(self.requests, self.places, strict=True) if when(request))
        return f"{place}: " if (place := next(found, "")) else ""


def resolve(
    asked: Asked,
    *,
    record: JsonObject | None = None,
    wanted: bool = False,
    check: Callable[[str | None, Loading], None] = lambda model, loading: None,
    pictured: bool = True,
    planning: Planning | None = None,
) -> Resolved:
    """The requests asked for, and the bank that they share. Nothing is loaded but configs and the bank.

    `record` is the sidecar of a clip to replay, `wanted` says that guidance is needed. `check` is told the model's name
    and the loading before anything is looked up on the hub, and may raise. Without `pictured` a model that needs
    an image gets none: a fit takes those of its clips. `planning` hears how far it is. Raises UsageError, VideoError
    for an image, BankError, ModelError, and OutputError where this machine could write no clip.
    """
    record, planning = record or {}, planning or Planning()
    then = None
    if record:
        then = replayed(record, asked.sidecar or Path(), asked.values)
    lines = _lines(asked, then)
    source = asked.model or (record.get("model") or {}).get("source")
    loading = _loading(record, asked)
    check(source, loading)
    check_encoder()
    model = find_model(source)
    doubt = recorded.check_model(record, model) if record and not asked.model else None
    if not lines:
        raise UsageError('give --prompt, e.g. --prompt "a tabby cat, zoom in, daylight"')
    usual = then.changed if then else functools.partial(Request.resolve, _preset(asked.preset, model))
    requests = _requests(asked, lines, usual, model, planning, pictured=pictured)
    bank, notes = _bank_for(asked, record, requests, model, loading, wanted=wanted)
    notes += [doubt] if doubt else []
    unfitted, unguided = list[Request](), frozenset[int]()
    if bank is not None and not record and fitted.check_asked(asked.fit) != "never":
        fits = _fitted(asked, lines, requests, model, loading, bank, planning, wanted=wanted and not asked.compare)
        requests, unfitted, unguided, told = fits
        notes += told
    requests, found = _settled(asked, lines, requests, model, loading, bank)
    notes += [*found, *_otherwise_trained(model, loading, requests)]
    notes += [*said_of_cuts(model, requests), *_unheard(asked, requests), *_unknown_to_tiny(model, requests, planning)]
    seeds, places = tuple(line.seed for line in lines), tuple(line.place for line in lines)
    said = tuple(dict.fromkeys(notes))
    return Resolved(model, tuple(requests), seeds, bank, loading, said, places, tuple(unfitted), unguided)


def _unheard(asked: Asked, requests: Sequence[Request]) -> Iterator[str]:
    """What was asked for and has no part in any clip."""
    if asked.values.get("negative_prompt") and all(request.cfg <= 1 for request in requests):
        yield "a --negative-prompt has no part in clips at cfg 1; give a higher --cfg"


def check_comparable(loading: Loading) -> None:
    """Raise UsageError for a loading with which clips differ by more than their guides."""
    if loading.cache != "none":
        raise UsageError("leave --cache out when comparing: it reuses other steps in every clip")


def _lines(asked: Asked, then: Request | None) -> list[Line]:
    """The prompts; a replay has that of its sidecar where none is given."""
    lines = [*map(Line, asked.prompts), *(read_prompts(asked.prompts_file) if asked.prompts_file else [])]
    return lines or ([Line(then.prompt)] if then else [])


def _loading(record: JsonObject, asked: Asked) -> Loading:
    """How the model is loaded: as the sidecar has it, with what was given in its place."""
    recipe = Loading.from_recipe(record.get("loading") or {})
    known: JsonObject = {"dtype": record.get("dtype")} | dict(asked.loading)
    loading = replace(recipe, **known)
    if (preset := PRESETS.get(asked.preset or "")) is not None and preset.lora is not None:
        loading = _with_shipped(loading, preset.lora, asked)
    if not {"transformer", "transformer_2", "loras"} & set(known):
        recorded = (record.get("loading") or {}).get("fingerprints", {})
        for path, print_ in loading.recipe()["fingerprints"].items():
            if recorded.get(path, print_) != print_:
                raise UsageError(f"{path} is not the file that the sidecar names; give --lora or --transformer anew")
    return loading


def _with_shipped(loading: Loading, name: str, asked: Asked) -> Loading:
    """With the adapter of a preset before others. Raises UsageError where it is not there, or for another model."""
    if asked.model not in (None, "tiny"):
        raise UsageError(f"the preset {asked.preset} is for the embedded tiny Wan; leave --model out")
    if not SHIPPED[name].is_file():
        raise UsageError(
            f"the preset {asked.preset} needs {SHIPPED[name].name} beside the embedded tiny Wan, which is not there: "
            "install shelllcc anew, or give another LoRA as --lora FILE with --preset lightx2v-4step"
        )
    others = tuple(lora for lora in loading.loras if lora.source != name)
    return replace(loading, loras=(Lora(name), *others))


def _preset(name: str | None, model: Model) -> Preset:
    if name is None:
        return preset_for(model.transformer, two_stage=model.two_stage, vae=model.vae, name=model.source)
    if name not in PRESETS:
        raise UsageError(f"no preset {name}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _requests(
    asked: Asked,
    lines: Sequence[Line],
    usual: Callable[..., Request],
    model: Model,
    planning: Planning,
    *,
    pictured: bool,
) -> list[Request]:
    """The request of each line; an error that a line brings, and what was given for all prompts does not, names it."""
    given = ({"seed": asked.seeds[0]} if asked.seeds else {}) | dict(asked.values)

    still_of = functools.cache(still_at)
    alike: dict[object, Request] = {}  # by all but the prompt and the seed, which most lines share

    def request_of(line: Line) -> Request:
        kept = {key: value for key, value in given.items() if not {*INSTEAD.get(key, ())} & line.values.keys()}
        words = {**kept, **line.values, "prompt": line.prompt}
        words |= {name: still_of(str(words[name])) for name in IMAGES if name in words}
        own: JsonObject = {key: words.pop(key) for key in ("prompt", "seed") if key in words}
        key = tuple(words.items())
        if key not in alike:
            settings = {name: value for name, value in words.items() if (name, value) != ("strength", AUTO)}
            request = usual(**settings, prompt=line.prompt)
            if pictured:
                check_images(request, model)
            if {*IMAGES, "width"} & words.keys():
                request = sized(request, model)
            _check_sizes(request, model)
            alike[key] = request
        return replace(alike[key], **own)

    def placed(line: Line) -> Request:
        try:
            return request_of(line)
        except (UsageError, VideoError) as error:
            if line.place:
                if not line.values.keys() & {*IMAGES}:
                    request_of(Line("any"))
                raise UsageError(f"{line.place}: {error}") from error
            raise

    try:
        return [placed(line) for line in planning.each(lines)]
    except VideoError as error:
        raise UsageError(str(error)) from error


def _check_sizes(request: Request, model: Model) -> None:
    """The model may need a coarser grid than 16 pixels, or have no second transformer."""
    for name, grid in (("width", model.grid[1]), ("height", model.grid[0])):
        side = getattr(request, name)
        if side % grid:
            near = max(grid, round(side / grid) * grid)
            raise UsageError(f"this model needs a {name} that is a multiple of {grid}, got {side}; nearest is {near}")
    if request.cfg_2 is not None and not model.two_stage:
        raise UsageError("--cfg-2 is for models with a second transformer (Wan2.2-A14B); leave it out")


def _bank_for(
    asked: Asked, record: JsonObject, requests: Sequence[Request], model: Model, loading: Loading, *, wanted: bool
) -> tuple[Bank | None, list[str]]:
    """The bank, with this model's calibration in force, and notes; None where nothing is to be guided, or no bank fits
    and none was asked for."""
    from shelllcc.anchors.choose import choose_bank
    from shelllcc.anchors.fingerprints import fingerprint

    if not wanted and all(request.guide.strength == 0 for request in requests):
        return None, []
    if record.get("bank") and asked.bank is None:
        return _bank_of_then(record, model)
    needed = wanted or bool(record) or asked.bank is not None or "strength" in asked.values
    try:
        fit = fitted.named(asked.fit)
        known = frozenset([fit.belongs.bank]) if fit else banks_fitted(fitted.weights_of(model, loading))
        return choose_bank(asked.bank, fingerprint(model.vae), model.fingerprint, model=model.name, fitted=known)
    except BankError as error:
        if needed:
            raise
        return None, [f"sampling without guidance: {error}"]


def _bank_of_then(record: JsonObject, model: Model) -> tuple[Bank, list[str]]:
    """The bank of a sidecar, with the calibration in force that was so then, and notes."""
    from shelllcc.anchors.choose import choose_bank, uncalibrated
    from shelllcc.anchors.fingerprints import fingerprint

    known = record["bank"]
    now, remarks = choose_bank(here(str(known.get("path"))) or str(known.get("name")), fingerprint(model.vae))
    bank, held = recorded.recorded_bank(record, now.for_model(model.fingerprint), model)
    return bank, [*remarks, *(held or uncalibrated(bank, model.name))]


def _fitted(
    asked: Asked,
    lines: Sequence[Line],
    requests: Sequence[Request],
    model: Model,
    loading: Loading,
    bank: Bank,
    planning: Planning,
    *,
    wanted: bool,
) -> tuple[list[Request], list[Request], frozenset[int], list[str]]:
    """The requests under their fits, those that lack one, the indices of those that none guides, and notes.

    Without a fit nothing is guided but what the guide's defaults were found for, or what was set by hand. Raises
    UsageError where guidance is `wanted`, and for a fit that is torn or was edited.
    """
    found, lacking, unguided, notes = list(requests), list[Request](), set[int](), list[str]()

    guide_of: dict[tuple[object, ...], GuideConfig] = {}
    known_of: dict[tuple[object, ...], tuple[Found, bool]] = {}  # of many prompts few are sampled otherwise
    for index, (line, request) in enumerate(zip(lines, planning.each(requests), strict=True)):
        if request.guide.strength == 0:
            continue
        given = {*asked.values, *line.values} & set(KNOBS) - {"strength"}
        way = (request.scheduler, request.sigmas, request.shift, request.steps, request.cfg, request.cfg_2)
        if way not in known_of:
            holds = fitted.defaults_hold(model, bank, request)
            known_of[way] = fitted.find(request, model, loading, bank, asked.fit), holds
        known, usual = known_of[way]
        if not known.exact:
            lacking.append(request)
        if known.fit is not None:
            key = (*way, request.guide, frozenset(given))
            if key not in guide_of:
                guide_of[key] = fitted.under(request, known.fit, given).guide
            found[index] = replace(request, guide=guide_of[key])
            notes += [known.remark] if known.remark else []
        elif not given and not usual:
            told = f"no fit says how to guide {model.name} at these settings; make one with `{fit_command(asked)}`"
            if wanted:
                raise UsageError(f"{told}, or give --fit never")
            found[index] = request.unguided()
            unguided.add(index)
            alone = ", and nothing to compare" if asked.compare else ""
            notes.append(f"sampling without guidance{alone}: {told}")
    return found, lacking, frozenset(unguided), notes


def loading_of(asked: Asked) -> Loading:
    """How the model is loaded where nothing is replayed. Raises UsageError."""
    return _loading({}, asked)


def fit_command(asked: Asked) -> str:
    """The command that fits the guide to what is asked for."""
    words = ["shelllcc", "fit"]
    words += ["--model", asked.model] if asked.model else []
    words += ["--bank", asked.bank] if asked.bank else []
    words += ["--preset", asked.preset] if asked.preset else []
    for name in ("steps", "cfg", "cfg_2", "shift"):
        if isinstance(value := asked.values.get(name), int | float):
            words += [f"--{name.replace('_', '-')}", f"{value:g}"]
    if isinstance(levels := asked.values.get("sigmas"), tuple):
        words += ["--sigmas", ",".join(repr(level).removesuffix(".0") for level in levels)]
    words += ["--scheduler", str(asked.values["scheduler"])] if "scheduler" in asked.values else []
    for name in ("transformer", "transformer_2", "quantize", "cache"):
        if isinstance(how := asked.loading.get(name), str):
            words += [f"--{name.replace('_', '-')}", how]
    loras = asked.loading.get("loras")
    for lora in loras if isinstance(loras, tuple) else ():
        words += ["--lora", str(lora)]
    return shlex.join(words)


def _settled(
    asked: Asked, lines: Sequence[Line], requests: Sequence[Request], model: Model, loading: Loading, bank: Bank | None
) -> tuple[list[Request], list[str]]:
    """The requests at the strengths of their profiles, where these are asked for, and a note on each; without a bank
    unguided."""
    if bank is None:
        return [request.unguided() for request in requests], []
    found, notes = list(requests), list[str]()
    for index, line in enumerate(lines):
        if {**asked.values, **line.values}.get("strength") == AUTO:
            found[index], note = tuned_request(found[index], model, loading, bank)
            notes.append(note)
    return found, notes


def _otherwise_trained(model: Model, loading: Loading, requests: Sequence[Request]) -> list[str]:
    """Of a distilled model, that a request samples it otherwise than it was trained."""
    sources = [*(lora.source for lora in loading.loras), loading.transformer, loading.transformer_2]
    known = [source for source in (*sources, None if model.is_tiny else model.source) if source is not None]

    def said(request: Request) -> str | None:
        how = request.scheduler, request.sigmas, request.shift, request.steps
        cfgs = [request.cfg, *([] if request.cfg_2 is None else [request.cfg_2])]
        levels = schedules.expected(model.scheduler, *how)
        two = model.two_stage
        return distilled.remark(known, levels, request.scheduler, cfgs, preset=request.preset, two_stage=two)

    return list(filter(None, map(said, requests)))


def _unknown_to_tiny(model: Model, requests: Sequence[Request], planning: Planning) -> list[str]:
    """For the tiny model: what it knows, where a prompt names no subject of it."""
    if not model.is_tiny:
        return []
    tokenizer = json.loads((Path(model.source) / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    known = tokenizer["model"]["vocab"]
    named = (understand(request.prompt).subject for request in planning.each(requests))
    if all(subject is not None and spoken(SUBJECTS[subject][0], known) for subject in named):
        return []
    tables = {"Subjects": SUBJECTS, "Camera": MOVES, "Light": LIGHTS, "Free words": FREE}
    canonical = {kind: [names[0] for names in table.values()] for kind, table in tables.items()}
    spoken_of = {kind: [name for name in names if spoken(name, known)] for kind, names in canonical.items()}
    listed = (f"{kind}: {', '.join(names)}." for kind, names in spoken_of.items() if names)
    return [f"the tiny model knows no subject of this prompt. {' '.join(listed)}"]
