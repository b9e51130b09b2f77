"""Fits: how a guide must be set for one bank, model and sampler, and what shows it. A JSON file each. No torch.

A fit is data: a frozen value, checked when it is read, with a digest over all of it, so that a torn or edited file is
told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject, write_json
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.paths import reason
from shelllcc.guidance.words import plural

FORMAT = "shelllcc-fit/1"
MAX_BYTES = 1 << 20
LEAST = 4  # clips that must come back for anything to be said
FEW = 6  # with fewer the user is told
UNTOLD = 9.0  # error of a drift that none can be told of
SEEN = 0.05  # of an amplitude: less of a difference is none that a person sees


@dataclass(frozen=True)
class Belongs:
    """What a fit was made for. `weights` are those of the model with its adapters, `calibration` that in force.

    `sigmas` are noise levels that were given; without any the scheduler made them of steps and shift.
    """

    bank: str
    calibration: str | None
    weights: str
    scheduler: str
    steps: int
    cfg: float
    cfg_2: float | None
    shift: float
    sigmas: tuple[float, ...] = ()

    @cached_property
    def name(self) -> str:
        """Its file's name: 16 hex digits."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> JsonObject:
        """As JSON; without noise levels of its own as records had it before there were any."""
        found = asdict(self) | {"sigmas": list(self.sigmas)}
        return found if self.sigmas else {key: value for key, value in found.items() if key != "sigmas"}

    def distance(self, other: Belongs) -> float:
        """How far another sampling of the same bank and model is; infinite where a fit says nothing of it."""
        if (self.bank, self.weights) != (other.bank, other.weights) or (self.cfg > 1) != (other.cfg > 1):
            return math.inf
        pairs = [(self.cfg, other.cfg), (self.steps, other.steps), (self.shift, other.shift)]
        pairs += [(self.cfg_2 or 1.0, other.cfg_2 or 1.0)]
        apart = [abs(math.log(a / b)) for a, b in pairs]
        if apart[0] > math.log(1.5) or apart[1] > math.log(2) or apart[2] > math.log(3):
            return math.inf
        pairs = list(zip(self.sigmas, other.sigmas, strict=False))
        apart += (
            [abs(a - b) for a, b in pairs] if self.sigmas and other.sigmas else [float(self.sigmas != other.sigmas)]
        )
        return sum(apart) + (self.scheduler != other.scheduler) + 0.1 * (self.calibration != other.calibration)


@dataclass(frozen=True)
class Band:
    """Drift of a band, or of the contrast, unguided and guided: logarithms of an amplitude over real, with errors."""

    name: str
    before: float
    before_error: float
    after: float
    after_error: float


@dataclass(frozen=True)
class Fit:
    """How the guide is set, and why.

    guide     all its knobs, at strength 1
    bands     evidence; those of fit.judge.BANDS, finest first, then the contrast, then flat places
    clips     captions of the clips that came back as they were, `left_out` of those that did not
    seed      of the first clip's noise; the next ones have the next
    sigma     noise level from which they were sampled again
    size      (width, height, frames) of the clips
    model, bank   names, for people
    transformer   fingerprint of the model's shape (anchors.fingerprints), by which hosts that cannot know its
                  weights find fits; None in records of before
    """

    belongs: Belongs
    guide: GuideConfig
    bands: tuple[Band, ...]
    clips: tuple[str, ...]
    left_out: tuple[str, ...]
    seed: int
    sigma: float
    size: tuple[int, int, int]
    model: str
    bank: str
    versions: Mapping[str, str | None]
    transformer: str | None = None

    def as_dict(self) -> JsonObject:
        """As the file has it, but for the digest."""
        found = json.loads(json.dumps(asdict(self) | {"belongs": self.belongs.as_dict()}))
        if self.transformer is None:  # as records had it before it was kept
            del found["transformer"]
        return {"format": FORMAT} | found

    @cached_property
    def digest(self) -> str:
        return _digest(self.as_dict())

    @property
    def settings(self) -> dict[str, Any]:
        """The guide's knobs but its strength, by name."""
        names = [knob.name for knob in fields(GuideConfig) if knob.name != "strength"]
        return {name: getattr(self.guide, name) for name in names}

    def words(self) -> str:
        """What was found, for people."""
        named = {band.name: band for band in self.bands}
        fine, contrast = self.bands[0], named.get("contrast", self.bands[-1])
        told = [said for said in (_said("the finest detail", fine), _said("the contrast", contrast)) if said]
        few = f". Only {plural(len(self.clips), 'clip')} came back as they were: it is gentle"
        few = "" if len(self.clips) >= FEW else few
        if len(self.clips) < LEAST:
            came = f"{len(self.clips)} of {plural(len(self.clips) + len(self.left_out), 'clip')} came back as they were"
            return f"{came}, too few to tell of drift: the guide leaves this model's clips alone"
        if not self.guide.acts:
            return f"this model drifts by no more than chance at these settings: the guide leaves its clips alone{few}"
        if not told:
            return f"this model drifts by less than a person sees at these settings{few}"
        (verb, guided), *others = told
        more = "".join(f"; it {further}; guided, {after}" for further, after in others)
        return f"this model {verb} at these settings; guided, {guided}{more}{few}"


def write_fit(fit: Fit, folder: Path) -> Path:
    """Write a fit into `folder`, whole or not at all; returns its file. Raises OutputError."""
    path = folder / f"{fit.belongs.name}.json"
    write_json(path, fit.as_dict() | {"digest": fit.digest})
    return path


def read_fit(path: Path) -> Fit:
    """Read and check a fit. Raises UsageError in one line where the file is torn, edited or none."""
    hint = "remove it, and fit anew with `shelllcc fit`"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UsageError(f"{path} is larger than any fit may be; {hint}")
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read the fit {path}: {reason(error)}; {hint}") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UsageError(f"{path} is no fit ({FORMAT}); {hint}")
    if record.pop("digest", None) != _digest(record):
        raise UsageError(f"the fit {path} was changed after it was made: its digest does not match; {hint}")
    try:
        return from_dict(record)
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise UsageError(f"the fit {path} is no proper one: {error}; {hint}") from error


def from_dict(record: Mapping[str, Any]) -> Fit:
    """The fit of a record. Raises KeyError, TypeError, ValueError or UsageError where it is none."""
    values = {key: value for key, value in record.items() if key != "format"}
    guide = dict(values.pop("guide"))
    guide["window"] = tuple(map(float, guide["window"]))
    bands = tuple(Band(**band) for band in values.pop("bands"))
    numbers = [value for band in bands for value in list(asdict(band).values())[1:]]
    if len(bands) < 2 or not all(isinstance(value, int | float) for value in numbers):
        raise ValueError("it has no bands")
    return Fit(
        belongs=_belongs(values.pop("belongs")),
        guide=GuideConfig(**guide),
        bands=bands,
        clips=tuple(map(str, values.pop("clips"))),
        left_out=tuple(map(str, values.pop("left_out"))),
        size=_size(values.pop("size")),
        **values,
    )


def _belongs(record: Mapping[str, Any]) -> Belongs:
    return Belongs(**{**record, "sigmas": tuple(map(float, record.get("sigmas", ())))})


def _size(value: Any) -> tuple[int, int, int]:
    width, height, frames = map(int, value)
    return width, height, frames


def _said(what: str, band: Band) -> tuple[str, str] | None:
    """What a band's drift is in words, and what is left of it; None for what nobody sees or what may be chance."""
    before, after = (math.exp(value) - 1 for value in (band.before, band.after))
    if abs(before) < max(SEEN, 2 * band.before_error):
        return None
    return (
        f"leaves out {-before:.0%} of {what}" if before < 0 else f"has {before:.0%} too much of {what}",
        f"{after:+.0%}",
    )


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
