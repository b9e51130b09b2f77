"""What to sample: one frozen, checked request. Knows nothing of torch, pipelines or files' contents."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from shelllcc.guidance.config import GuideConfig
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.wan.presets import Preset

MAX_SIDE = 8192


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

    def __post_init__(self) -> None:
        if not self.prompt.strip():
            raise UsageError('the prompt is empty; say what to show, e.g. --prompt "a tabby cat, zoom in, daylight"')
        if self.seed < 0 or self.seed >= 2**63:
            raise UsageError(f"the seed must lie in 0 .. 2^63-1, got {self.seed}")
        for name in ("width", "height"):
            side = getattr(self, name)
            if side < 16 or side % 16 or side > MAX_SIDE:
                near = min(MAX_SIDE, max(16, round(side / 16) * 16))
                raise UsageError(f"{name} must be a multiple of 16 up to {MAX_SIDE}, got {side}; the nearest is {near}")
        if self.frames < 1 or self.frames % 4 != 1:
            near = max(1, round((self.frames - 1) / 4) * 4 + 1)
            raise UsageError(f"the number of frames must be 4n+1, got {self.frames}; the nearest is {near}")
        if self.steps < 1 or self.steps > 1000:
            raise UsageError(f"the number of steps must lie in 1 .. 1000, got {self.steps}")
        if self.fps < 1 or self.fps > 240:
            raise UsageError(f"fps must lie in 1 .. 240, got {self.fps}")
        self.guide_config()
        for name in ("cfg", "shift"):
            value = getattr(self, name)
            if not math.isfinite(value) or value <= 0:
                raise UsageError(f"{name} must be positive, got {value:g}")

    @classmethod
    def resolve(cls, preset: Preset, **given: Any) -> Request:
        """The request of a preset with the given values in place of its own; None means not given."""
        guide = GuideConfig()
        defaults: dict[str, Any] = {name: getattr(guide, name) for name in ("strength", "radius", "window")}
        defaults |= {"seed": 0, "preset": preset.name}
        for field in fields(cls):
            if hasattr(preset, field.name) and field.name != "name":
                defaults[field.name] = getattr(preset, field.name)
        return cls(**defaults | {key: value for key, value in given.items() if value is not None})

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Request:
        """The request of a sidecar. Raises UsageError where it is not one."""
        try:
            values = {field.name: record[field.name] for field in fields(cls)}
            return cls(**values | {"window": tuple(values["window"])})
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the sidecar holds no whole request: {error}") from error

    def guide_config(self) -> GuideConfig:
        """The guide's knobs. Raises UsageError."""
        return GuideConfig(strength=self.strength, radius=self.radius, window=self.window)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def unguided(self) -> Request:
        return replace(self, strength=0.0)
