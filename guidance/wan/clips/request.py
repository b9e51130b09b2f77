"""What to sample: one frozen, checked request. Knows nothing of torch, pipelines or files' contents."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.model.presets import Preset

MAX_SIDE = 8192
MAX_FRAMES = 2001
KINDS: Mapping[str, tuple[type, ...]] = {  # what JSON may hold for a field's annotation
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "float | None": (int, float, type(None)),
    "tuple[float, float]": (list, tuple),
}


@dataclass(frozen=True)
class Request:
    """One clip to sample. `window` is in sigmas, `seed` draws the noise on the CPU, sizes are in pixels.

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
    strength: float
    radius: float
    window: tuple[float, float]
    preset: str
    calm: float = GuideConfig.calm
    trust: float = GuideConfig.trust

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError('the prompt is empty; say what to show, e.g. --prompt "a tabby cat, zoom in, daylight"')
        for text in (self.prompt, self.negative_prompt):
            if "\0" in text or not _encodes(text):
                raise UsageError("the prompt holds characters that are no text")
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
        if self.fps < 1 or self.fps > 240:
            raise UsageError(f"fps must lie in 1 .. 240, got {self.fps}")
        self.guide_config()
        for name in ("cfg", "shift", "cfg_2"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} must be positive, got {value:g}")

    @classmethod
    def resolve(cls, preset: Preset, **given: Any) -> Request:
        """The request of a preset with the given values in place of its own; None means not given."""
        defaults: dict[str, Any] = {name: getattr(GuideConfig, name) for name in KNOBS}
        defaults |= {"seed": 0, "preset": preset.name}
        for field in fields(cls):
            if hasattr(preset, field.name) and field.name != "name":
                defaults[field.name] = getattr(preset, field.name)
        return cls(**defaults | {key: value for key, value in given.items() if value is not None})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Request:
        """The request of a sidecar. Raises UsageError where it is not one."""
        values: dict[str, Any] = {}
        for field in fields(cls):
            value = record.get(field.name, None if field.default is MISSING else field.default)
            kinds = KINDS[str(field.type)]
            if isinstance(value, bool) or not isinstance(value, kinds) or (float in kinds and not _is_float(value)):
                raise UsageError(f"the sidecar's request has no proper {field.name}: {value!r}")
            values[field.name] = value
        window = values["window"]
        if len(window) != 2 or not all(isinstance(v, (int, float)) and _is_float(v) for v in window):
            raise UsageError(f"the sidecar's request has no proper window: {window!r}")
        return cls(**values | {"window": (float(window[0]), float(window[1]))})

    def guide_config(self) -> GuideConfig:
        """The guide's knobs. Raises UsageError."""
        return GuideConfig(**{name: getattr(self, name) for name in KNOBS})

    def as_dict(self) -> dict[str, Any]:
        """As JSON holds it: the window is a list."""
        return asdict(self) | {"window": list(self.window)}

    def unguided(self) -> Request:
        return replace(self, strength=0.0)


def _is_float(value: object) -> bool:
    """Whether a number is none too large for a float: JSON may hold any."""
    return not isinstance(value, int) or abs(value) < sys.float_info.max


def _encodes(text: str) -> bool:
    """Whether the text is proper Unicode: arguments that are no UTF-8 arrive as lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


KNOBS = tuple(knob.name for knob in fields(GuideConfig) if knob.name in {field.name for field in fields(Request)})
"""The guide's knobs that a request sets; the others have their defaults."""
