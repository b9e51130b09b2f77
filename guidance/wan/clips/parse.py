"""Settings written as text: sizes, windows, strengths, variants, lines of a prompts file.

Knows nothing of models. Everything raises UsageError with an example of what would do.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import at_home
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.paths import reason
from shelllcc.guidance.wan.clips.request import IMAGES, Value

AUTO = "auto"
SLUG_BYTES = 80  # of a file's name made from a prompt
DIGITS = 100  # of a whole number, at most: Python makes none of thousands
SWITCH: Mapping[str, bool] = {"true": True, "false": False}  # words for a knob that is one
KNOBS = tuple(knob.name for knob in fields(GuideConfig))

Number = TypeVar("Number", int, float)
Knob = float | tuple[float, float]  # the value of one


@dataclass(frozen=True)
class Variant:
    """One way to guide: fields of GuideConfig that differ from the request's. `label` is safe in file names."""

    label: str
    title: str
    settings: Mapping[str, Knob]


@dataclass(frozen=True, slots=True)
class Line:
    """A prompt, and the fields of Request that its line of a prompts file sets; `place` is that line, as FILE:LINE."""

    prompt: str
    values: Mapping[str, Value] = field(default_factory=dict)
    place: str = ""

    @property
    def seed(self) -> int | None:
        """The seed that the line sets."""
        seed = self.values.get("seed")
        return seed if isinstance(seed, int) else None


def size(text: str | None) -> tuple[int | None, int | None]:
    """Width and height of WIDTHxHEIGHT."""
    if text is None:
        return None, None
    width, _, height = text.lower().partition("x")
    if not all(side.isdecimal() and len(side) < DIGITS for side in (width, height)):
        raise UsageError(f"the size is WIDTHxHEIGHT, e.g. 832x480, got {text}")
    return int(width), int(height)


def window(text: str | None) -> tuple[float, float] | None:
    """The sigmas of LOW:HIGH."""
    return None if text is None else _window(text)


def sigmas(text: str | None) -> tuple[float, ...] | None:
    """Comma-separated noise levels, e.g. 1,.9375,.8333,.625."""
    return None if text is None else tuple(_number("sigmas", part, float) for part in text.split(","))


def strength(text: str | None) -> float | str | None:
    """A number, or `auto`."""
    if text is None or text == AUTO:
        return text
    try:
        return _number("strength", text, float)
    except UsageError as error:
        raise UsageError(f"--strength takes a number, or {AUTO}, got {text}") from error


def numbers(name: str, text: str) -> list[float]:
    """Comma-separated numbers, e.g. 0,0.5,1."""
    return [_number(name, part, float) for part in text.split(",")]


def seeds(text: str) -> list[int]:
    """Comma-separated seeds, each once, e.g. 0,1,2."""
    found = [_number("seeds", part, int) for part in text.split(",")]
    if len(set(found)) < len(found):
        raise UsageError(f"a seed comes twice in {text}")
    return found


def strengths(text: str) -> list[Variant]:
    """A variant for each of comma-separated strengths."""
    return distinct([of_strength(value) for value in numbers("strengths", text)])


def of_strength(value: float) -> Variant:
    """The variant of a strength alone; 0 is `unguided`."""
    GuideConfig(strength=value)
    if value == 0:
        return Variant("unguided", "unguided", {"strength": 0.0})
    return Variant(f"strength-{value:.6g}", f"strength {value:.6g}", {"strength": value})


def variants(texts: Sequence[str]) -> list[Variant]:
    """Variants as [NAME: ]KNOB=VALUE,KNOB=VALUE, e.g. `soft: radius=2.5,strength=0.8`; `;` separates several."""
    parts = [part.strip() for text in texts for part in text.split(";")]
    return distinct([_variant(part) for part in parts if part])


def distinct(found: list[Variant]) -> list[Variant]:
    """The variants, if no two share a label."""
    labels = [variant.label for variant in found]
    if twice := next((label for label in labels if labels.count(label) > 1), None):
        raise UsageError(f"two variants are {twice}; leave one out, or name them, e.g. `soft: radius=2.5`")
    return found


def read_prompts(path: Path) -> list[Line]:
    """The prompts of a file, one a line with flags of its own at the end, e.g. `a cat, fog --seed 3 --steps 20`.

    Images that a line names lie beside the file, if not elsewhere. Blank lines and lines from # are passed over.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read the prompts file {path}: {reason(error)}") from error
    texts = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    found = [_line(f"{path}:{n}", text, path.parent) for n, text in texts if text and not text.startswith("#")]
    if not found:
        raise UsageError(f"the prompts file {path} holds no prompt")
    return found


def slug(text: str, otherwise: str = "clip") -> str:
    """A name for a file: letters and digits of any script, the rest as hyphens, at most SLUG_BYTES long."""
    words = re.sub(r"[\W_]+", "-", text.lower()).strip("-")
    return words.encode()[:SLUG_BYTES].decode(errors="ignore").strip("-") or otherwise


FLAGS: Mapping[str, tuple[str, Callable[[str], Any]]] = {  # of a line of a prompts file
    "seed": ("seed", lambda text: _number("seed", text, int)),
    "steps": ("steps", lambda text: _number("steps", text, int)),
    "num-inference-steps": ("steps", lambda text: _number("steps", text, int)),
    "frames": ("frames", lambda text: _number("frames", text, int)),
    "num-frames": ("frames", lambda text: _number("frames", text, int)),
    "cfg": ("cfg", lambda text: _number("cfg", text, float)),
    "guidance-scale": ("cfg", lambda text: _number("cfg", text, float)),
    "shift": ("shift", lambda text: _number("shift", text, float)),
    "flow-shift": ("shift", lambda text: _number("shift", text, float)),
    "sigmas": ("sigmas", sigmas),
    "scheduler": ("scheduler", str),
    "radius": ("radius", lambda text: _number("radius", text, float)),
    "strength": ("strength", strength),
    "window": ("window", window),
    "negative-prompt": ("negative_prompt", str),
    "size": ("size", size),
    "image": ("image", str),
    "last-image": ("last_image", str),
}


def _line(place: str, text: str, folder: Path) -> Line:
    begin = re.search(r"(?:^|\s)--(?=[A-Za-z])", text)
    prompt, rest = (text, "") if begin is None else (text[: begin.start()], text[begin.start() :])
    try:
        words = iter(shlex.split(rest.replace("\\", "\\\\")) if rest else ())
    except ValueError as error:
        raise UsageError(f"{place}: a quote is not closed in {rest.strip()}") from error
    values: dict[str, Value] = {}
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or name not in FLAGS:
            raise UsageError(f"{place}: no flag {word} for a prompt; there are {', '.join('--' + f for f in FLAGS)}")
        key, read = FLAGS[name]
        given = value if equals else next(words, "--")
        if given.startswith("--"):
            raise UsageError(f"{place}: --{name} takes one value, quoted if it has blanks")
        if key in values or (key == "size" and "width" in values):
            raise UsageError(f"{place}: --{name} comes twice")
        try:
            found = read(given)
        except UsageError as error:
            raise UsageError(f"{place}: {error}") from error
        values |= dict(zip(("width", "height"), found, strict=True)) if key == "size" else {key: found}
    images = {key: str(folder / at_home(Path(str(values[key])))) for key in IMAGES if key in values}
    return Line(prompt.strip(), values | images, place)


def _variant(text: str) -> Variant:
    name, colon, rest = text.partition(": ")
    title = name.strip() if colon else text
    settings: dict[str, Any] = {}
    for part in (rest if colon else text).split(","):
        knob, _, value = (word.strip() for word in part.partition("="))
        if knob not in KNOBS or not value:
            known = ", ".join(KNOBS)
            raise UsageError(
                f"a variant is [NAME: ]KNOB=VALUE,... with knobs {known}, e.g. soft: radius=2.5; got {text}"
            )
        if knob in settings:
            raise UsageError(f"{knob} comes twice in the variant {text}")
        settings[knob] = _knob(knob, value)
    GuideConfig(**settings)
    label = slug(title, "variant") if colon else _label(settings)
    return Variant(label, title, settings)


def _window(text: str) -> tuple[float, float]:
    low, _, high = text.partition(":")
    try:
        return float(low), float(high)
    except ValueError:
        raise UsageError(f"the window is LOW:HIGH in sigmas, e.g. 0.1:0.9, got {text}") from None


def _knob(name: str, text: str) -> Knob:
    kind = type(getattr(GuideConfig, name))
    if kind is bool:
        if text not in SWITCH:
            raise UsageError(f"{name} takes {' or '.join(SWITCH)}, got {text}")
        return SWITCH[text]
    if name == "window":
        return _window(text)
    return _number(name, text, kind)


def _label(settings: Mapping[str, Knob]) -> str:
    values = {k: "-".join(f"{x:.6g}" for x in v) if isinstance(v, tuple) else f"{v:.6g}" for k, v in settings.items()}
    return "-".join(f"{knob}-{value}" for knob, value in values.items())


def _number(name: str, text: str, kind: Callable[[str], Number]) -> Number:
    try:
        return kind(text.strip())
    except ValueError:
        what = "a whole number" if kind is int else "a number"
        raise UsageError(f"{name} takes {what}, got {text.strip() or 'nothing'}") from None
