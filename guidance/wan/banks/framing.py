"""What is taken from videos: what was asked for, or else as a bank's own were, or else what suits the model."""

from __future__ import annotations

from shelllcc.anchors.bank import Bank
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import JsonObject
from shelllcc.guidance.media.footage import Framing
from shelllcc.guidance.wan.model.pipeline import Model
from shelllcc.guidance.wan.model.presets import preset_for


def framing_of(
    model: Model,
    bank: Bank | None = None,
    *,
    size: str | None = None,
    fps: float | None = None,
    frames: int | None = None,
    clips: int = 1,
) -> Framing:
    """How videos are framed for a model; None was not asked for, an fps of 0 keeps the file's own.

    Raises UsageError for a size that the model cannot encode.
    """
    given: JsonObject = {"size": size, "fps": fps, "frames": frames}
    wanted = _usual(model, bank) | {key: value for key, value in given.items() if value is not None}
    framing = Framing(wanted["size"], float(wanted["fps"] or 0) or None, wanted["frames"], clips)
    grid = model.grid if model.transformer else (8, 8)
    if "x" in framing.size and any(int(s) % g for s, g in zip(framing.size.split("x"), grid[::-1], strict=True)):
        raise UsageError(f"this model needs a size in multiples of {grid[1]}x{grid[0]}, got {framing.size}")
    return framing


def _usual(model: Model, bank: Bank | None) -> JsonObject:
    """Size, fps and frames where they are not asked for."""
    usual: JsonObject = {"size": "480p", "fps": 16, "frames": 81}
    if model.transformer:
        preset = preset_for(model.transformer, vae=model.vae)
        usual |= {"fps": preset.fps, "frames": preset.frames}
        usual |= {"size": f"{preset.width}x{preset.height}"} if preset.name == "tiny" else {}
    framed = bank.provenance.get("framing") if bank else None
    return usual | (framed if isinstance(framed, dict) else {})
