"""The fit that a sampling takes, and what a request is under it. Knows nothing of how fits are made."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.fit import shelf
from shelllcc.guidance.fit.fit import Belongs, Fit, read_fit
from shelllcc.guidance.paths import here
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.pipeline import Model, find_model
from shelllcc.guidance.wan.model.placing import DENOISERS
from shelllcc.guidance.wan.model.schedules import SCHEDULERS, given
from shelllcc.guidance.wan.model.seams import source_of

if TYPE_CHECKING:
    from diffusers import WanPipeline

    from shelllcc.anchors.bank import Bank
    from shelllcc.guidance.guide.guide import ShellGuide

ASKED = ("auto", "never", "anew")  # how a fit may be asked for
SAME = ("offload", "tiling", "dtype")  # of a loading: they make no other video, or none that anybody could tell


def check_asked(fit: str) -> str:
    """Raise UsageError for what a fit cannot be asked for by."""
    if fit not in ASKED and here(fit) is None:
        raise UsageError(f"--fit is one of {', '.join(ASKED)}, or a fit's file; there is no {fit}")
    return fit


def named(fit: str) -> Fit | None:
    """The fit of the file that was asked for; None where none was. Raises UsageError."""
    path = None if fit in ASKED else here(check_asked(fit))
    return None if path is None else read_fit(path)


def belonging(request: Request, model: Model, loading: Loading, bank: Bank) -> Belongs:
    """What a fit for this sampling is made for. Where it is given its noise levels, the shift makes none: it is 1."""
    levels = given(request.scheduler, request.sigmas, request.shift, request.steps) or ()
    return Belongs(
        bank=bank.identity,
        calibration=bank.chosen.digest if bank.chosen else None,
        weights=weights_of(model, loading),
        scheduler=SCHEDULERS.get(request.scheduler, model.scheduler),
        steps=request.steps,
        cfg=float(request.cfg),
        cfg_2=None if request.cfg_2 is None else float(request.cfg_2),
        shift=1.0 if levels else float(request.shift),
        sigmas=tuple(round(level, 6) for level in levels),
    )


def weights_of(model: Model, loading: Loading) -> str:
    """16 hex digits of a model with its adapters, wherever its files lie: two of them make the same video."""
    recipe = {key: value for key, value in loading.recipe().items() if key not in SAME}
    prints: dict[str, str] = recipe.pop("fingerprints")

    def content(source: str | None) -> object:
        if source is None:
            return None
        place = Path(source)
        found = [told for path, told in sorted(prints.items()) if place in (Path(path), *Path(path).parents)]
        return found or source

    facts = {
        **recipe,
        "model": model.revision if model.is_tiny or model.is_local else [model.source, model.revision],
        "transformer": content(loading.transformer),
        "transformer_2": content(loading.transformer_2),
        "loras": [[content(o.source), o.weight, *([o.high, o.low] if o.staged else [])] for o in loading.loras],
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def under(request: Request, fit: Fit, by_hand: Collection[str]) -> Request:
    """The request with the knobs of a fit, but for those that were set by hand."""
    return request.changed(**{name: value for name, value in fit.settings.items() if name not in by_hand})


def defaults_hold(model: Model, bank: Bank, request: Request | None = None) -> bool:
    """Whether the guide's own defaults, which are a fit of the embedded model, say something of a sampling: of its
    latents, by anchors, without cfg, and at noise levels of the scheduler's own making."""
    plain = request is None or (request.cfg <= 1 and not request.sigmas)
    return model.is_tiny and plain and bank.kind == "anchors" and fingerprint(model.vae) == bank.vae


def find(request: Request, model: Model, loading: Loading, bank: Bank, asked: str = "auto") -> shelf.Found:
    """The fit for a sampling, or that of the file `asked` for. Raises UsageError where it is torn, was edited, or is of
    another bank or a model of another shape."""
    if (fit := named(asked)) is not None:
        if fit.belongs.bank != bank.identity:
            raise UsageError(f"the fit {asked} was made with the bank {fit.bank}, not with {bank.name}; give --bank")
        if fit.transformer not in (None, model.fingerprint):
            raise UsageError(f"the fit {asked} is of {fit.model}, a model of another shape than {model.name}")
        return shelf.Found(fit, True)
    return shelf.find(belonging(request, model, loading, bank))


def record_of(fit: Fit | None) -> JsonObject | None:
    """A fit as sidecars have it."""
    return None if fit is None else fit.as_dict() | {"digest": fit.digest}


def fitted_guide(
    pipe: WanPipeline,
    *,
    steps: int,
    cfg: float,
    cfg_2: float | None = None,
    bank: str | Path = "auto",
    strength: float = 1.0,
) -> ShellGuide:
    """The guide of the fit for a pipeline, modular or not, as it was loaded from a folder or the hub and is called.

    >>> with guided(pipe, fitted_guide(pipe, steps=50, cfg=5.0)):
    ...     frames = pipe(prompt, num_inference_steps=50, guidance_scale=5.0).frames[0]

    The shift is that of its scheduler. Remarks, as on a fit that is not just for these settings, are warnings. Raises
    UsageError where there is no fit, with the command that makes one, and for a pipeline with adapters, or put together
    of parts, whose files nobody knows; and BankError.
    """
    from shelllcc.anchors.choose import load_bank
    from shelllcc.guidance.guide.guide import ShellGuide

    if any(getattr(getattr(pipe, name, None), "peft_config", None) for name in DENOISERS):
        raise UsageError(
            "a pipeline with adapters has no fit of its own here; sample it with `shelllcc generate --lora`"
        )
    if not (source := source_of(pipe)):
        raise UsageError("nobody knows which files this pipeline was loaded from; load it from its folder or hub id")
    model = find_model(source)
    chosen = load_bank(bank, pipe)
    config = pipe.scheduler.config
    belongs = Belongs(
        bank=chosen.identity,
        calibration=chosen.chosen.digest if chosen.chosen else None,
        weights=weights_of(model, Loading()),
        scheduler=type(pipe.scheduler).__name__,
        steps=steps,
        cfg=float(cfg),
        cfg_2=None if cfg_2 is None else float(cfg_2),
        shift=float(config["flow_shift"] if "flow_shift" in config else config["shift"]),
    )
    found = shelf.find(belongs)
    if found.fit is None:
        command = f"shelllcc fit --model {model.name} --steps {steps} --cfg {cfg:g}"
        raise UsageError(f"no fit for {model.name} at these settings; `{command}` makes one")
    if found.remark:
        warnings.warn(found.remark, stacklevel=2)
    return ShellGuide(chosen, replace(found.fit.guide, strength=strength))


def followed(request: Request, model: Model, loading: Loading, bank: Bank | None) -> Fit | None:
    """The fit whose knobs a request has; None where it follows none, or some of them were set by hand."""
    if bank is None or request.guide.strength == 0:
        return None
    try:
        nearest = find(request, model, loading, bank).fit
    except UsageError:
        return None
    for fit in (nearest, *shelf.of_shape(model.fingerprint, bank.identity)):
        if fit is not None and replace(fit.guide, strength=request.guide.strength) == request.guide:
            return fit
    return None
