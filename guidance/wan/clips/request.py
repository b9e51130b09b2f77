"""What to sample: one frozen, checked request. Knows nothing of torch, pipelines or files' contents."""

from __future__ import annotations

import itertools
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, replace
from typing import Any

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.model.presets import Preset
from shelllcc.guidance.wan.model.schedules import SCHEDULERS
from shelllcc.guidance.words import plural

MAX_SIDE = 8192
MAX_FRAMES = 2001
KINDS: Mapping[str, tuple[type, ...]] = {  # what JSON may hold for a field's annotation
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "tuple[float, float]": (list, tuple),
    "tuple[float, ...]": (list, tuple),
    "Still | None": (str, type(None)),
}
FIRST = ("strength", "window", "radius", "calm", "trust")  # knobs of the guide that records have always held
BEFORE: Mapping[str, Any] = {  # what a record holds that lacks a knob, or a field, which is younger than it is
    "toward": 1.0,
    "coarse": 1.0,
    "tone": 0.0,
    "usual": 0.0,
    "share": 0.34,
    "dose": 1.24,
    "last": False,
    "by_sigma": False,
    "edge": 5e-3,
    "contrast": 1.5,
    "colours": 3,
    "fine": 5 / 12,
    "least": 0.5,
    "most": 6.0,
    "expected": 0.264,
    "first": False,
    "flat": 1.0,
    "gate": 3.0,
    "scheduler": "",
    "sigmas": (),
}

IMAGES = ("image", "last_image")
INSTEAD: Mapping[str, tuple[str, ...]] = {"steps": ("sigmas",), "shift": ("sigmas",), "sigmas": ("steps", "shift")}
"""What leaves a value behind that was said with less force: by a default, or for all prompts of a file."""


@dataclass(frozen=True)
class Still:
    """An image that a clip begins or ends with: what it is, by its bytes' sha256, and the file where it lies now."""

    sha256: str
    path: str = field(default="", compare=False)


Value = str | float | tuple[float, ...] | Still  # of a field of Request, or of a knob of its guide


@dataclass(frozen=True, slots=True)
class Request:
    """One clip to sample. `seed` draws the noise on the CPU, sizes are in pixels, `guide` says how it is guided.

    `scheduler` is a short name (model.schedules), empty for the model's own. `sigmas` are the noise levels of all
    steps, falling, without the 0 at the end; without any the scheduler makes them of `steps` and `shift`. `image` is
    the clip's first frame and `last_image` its last, for models that take them.

    Raises UsageError with the nearest value that would do.
    """

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    cfg: float
    cfg_2: float | None
    shift: float
    preset: str
    guide: GuideConfig
    scheduler: str = ""
    sigmas: tuple[float, ...] = ()
    image: Still | None = None
    last_image: Still | None = None

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError('the prompt is empty; say what to show, e.g. --prompt "a tabby cat, zoom in, daylight"')
        for text in (self.prompt, self.negative_prompt):
            if "\0" in text or not _encodes(text):
                at = next(i for i, c in enumerate(text) if c == "\0" or not _encodes(c))
                raise UsageError(f"the prompt holds what is no text: character {at + 1}, {text[at]!r}; remove it")
        if self.seed < 0 or self.seed >= 2**63:
            raise UsageError(f"the seed must lie in 0 .. 2^63-1, got {self.seed}")
        for name in ("width", "height"):
            side = getattr(self, name)
            if side < 16 or side % 16 or side > MAX_SIDE:
                near = min(MAX_SIDE, max(16, (side + 7) // 16 * 16))
                raise UsageError(f"{name} must be a multiple of 16 up to {MAX_SIDE}, got {side}; the nearest is {near}")
        if not 1 <= self.frames <= MAX_FRAMES or self.frames % 4 != 1:
            near = min(MAX_FRAMES, max(1, (self.frames + 1) // 4 * 4 + 1))
            raise UsageError(f"the number of frames must be 4n+1, got {self.frames}; the nearest is {near}")
        if self.steps < 1 or self.steps > 1000:
            raise UsageError(f"the number of steps must lie in 1 .. 1000, got {self.steps}")
        if self.scheduler and self.scheduler not in SCHEDULERS:
            raise UsageError(f"the scheduler is one of {', '.join(SCHEDULERS)}, got {self.scheduler}")
        self._check_sigmas()
        if self.fps < 1 or self.fps > 240:
            raise UsageError(f"fps must lie in 1 .. 240, got {self.fps}")
        for name in ("cfg", "shift", "cfg_2"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be positive, got {value:g}")

    def _check_sigmas(self) -> None:
        """Raise UsageError for noise levels that are none, or not as many as the steps."""
        if not self.sigmas:
            return
        said = ", ".join(f"{sigma:g}" for sigma in self.sigmas)
        falling = all(a > b for a, b in itertools.pairwise(self.sigmas))
        if not falling or not all(0 < sigma <= 1 for sigma in self.sigmas):
            raise UsageError(
                f"sigmas fall from step to step, above 0 and at most 1, e.g. 1,.9375,.8333,.625, got {said}"
            )
        if len(self.sigmas) != self.steps:
            raise UsageError(f"the sigmas give {plural(len(self.sigmas), 'step')}, not {self.steps}; leave one out")

    @classmethod
    def resolve(cls, preset: Preset, **given: Value | None) -> Request:
        """The request of a preset with the given values, named as in a sidecar, in place of its own; None is not given.

        Raises UsageError.
        """
        usual = asdict(preset) | {"seed": 0, "preset": preset.name}
        values = usual | _scheduled({key: value for key, value in given.items() if value is not None})
        del values["name"], values["lora"]
        knobs = {field.name: values.pop(field.name) for field in fields(GuideConfig) if field.name in values}
        return cls(**values, guide=GuideConfig(**knobs))

    @classmethod
    def from_dict(cls, record: JsonObject) -> Request:
        """The request of a sidecar; what it does not hold is as it was before there was any (BEFORE).

        Raises UsageError where it is not one.
        """
        values = {field.name: _read(record, field) for field in fields(cls) if field.name != "guide"}
        return cls(**values, guide=GuideConfig(**{field.name: _read(record, field) for field in fields(GuideConfig)}))

    def changed(self, **values: Value) -> Request:
        """The request with other values, named as in a sidecar. Raises UsageError."""
        knobs = {name: values.pop(name) for name in self.guide.__dataclass_fields__.keys() & values.keys()}
        own: JsonObject = _scheduled(values)
        if knobs:
            own["guide"] = type(self.guide)(**asdict(self.guide) | knobs)
        return replace(self, **own)

    @property
    def stills(self) -> dict[str, Still]:
        """The images that there are, by the names of their fields."""
        found = {name: getattr(self, name) for name in IMAGES}
        return {name: still for name, still in found.items() if still is not None}

    def without_images(self) -> Request:
        return replace(self, image=None, last_image=None)

    def unguided(self) -> Request:
        return self.changed(strength=0.0)

    def as_dict(self) -> JsonObject:
        """As a sidecar has it: flat, knobs of the guide beside its own fields, pairs as lists, images by their sha256
        where there are any."""
        found = {name: value for name, value in asdict(self).items() if name not in IMAGES}
        found |= {name: still.sha256 for name, still in self.stills.items()}
        found |= found.pop("guide")
        return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}

    def lasting(self) -> JsonObject:
        """As `as_dict`, but for what older records do not have and is as it was then: what is named by it stays so."""
        newer: JsonObject = {knob.name: knob.default for knob in fields(self.guide) if knob.name not in FIRST}
        newer.update(BEFORE)
        usual = {key: list(value) if isinstance(value, tuple) else value for key, value in newer.items()}
        return {key: value for key, value in self.as_dict().items() if key not in usual or value != usual[key]}


def _read(record: JsonObject, field: Field[Any]) -> Any:
    """The value of a field in a sidecar's request. Raises UsageError."""
    usual = None if field.default is MISSING else field.default
    value = record.get(field.name, BEFORE.get(field.name, usual))
    kinds = KINDS[str(field.type)]
    sound = isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))
    if field.name in IMAGES and value is not None:
        sound &= bool(re.fullmatch("[0-9a-f]{64}", str(value)))
    parts: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if tuple in kinds:
        pair = field.type == "tuple[float, float]"
        sound &= len(parts) == 2 or not pair
        sound &= all(isinstance(part, int | float) and not isinstance(part, bool) for part in parts)
    if not sound or ((float in kinds or tuple in kinds) and not all(map(_is_float, parts))):
        raise UsageError(
            f"the sidecar's request has no proper {field.name}: {value!r}; give a sidecar that was not edited"
        )
    if field.name in IMAGES and value is not None:
        return Still(value)
    return tuple(map(float, parts)) if tuple in kinds else value


def _scheduled(given: Mapping[str, Any]) -> JsonObject:
    """Values given in place of others: noise levels bring their number of steps, and other steps or another shift leave
    levels that were there behind."""
    if "sigmas" in given:
        return {"steps": len(given["sigmas"]), **given} if given["sigmas"] else dict(given)
    return {"sigmas": (), **given} if {"steps", "shift"} & given.keys() else dict(given)


def _is_float(value: object) -> bool:
    """Whether a number is none too large for a float: JSON may hold any."""
    return not isinstance(value, int) or abs(value) < sys.float_info.max


def _encodes(text: str) -> bool:
    """Whether the text is proper Unicode: arguments that are no UTF-8 arrive as lone surrogates."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
