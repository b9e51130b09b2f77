"""What the embedded tiny Wan was trained to show, and how to say it: subjects, camera moves, lights, free words.

Knows nothing of pixels or weights. The training recipe draws its captions here, and `generate` reads here whether
a prompt names anything that the tiny model knows.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

# The first name is the canonical one; the others are synonyms that training captions use as often.
SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "astronaut": ("an astronaut", "a woman in a space suit"),
    "brick": ("a brick wall", "bricks"),
    "camera": ("a man with a camera", "a photographer"),
    "cat": ("a tabby cat", "a cat"),
    "coffee": ("a cup of coffee", "coffee"),
    "coins": ("ancient coins", "coins"),
    "grass": ("grass", "a meadow"),
    "gravel": ("gravel", "pebbles"),
    "hubble": ("distant galaxies", "stars"),
    "ihc": ("stained tissue", "tissue under a microscope"),
    "moon": ("the surface of the moon", "the moon"),
    "motorcycle": ("a motorcycle", "a motorbike"),
    "retina": ("a human retina", "a retina"),
    "rocket": ("a rocket launch", "a rocket"),
    "china": ("a chinese temple", "a temple"),
    "flower": ("a flower", "a dahlia"),
    "raccoon": ("a raccoon", "a raccoon among leaves"),
    "admiral": ("an admiral", "an old woman in uniform"),
    "dogs": ("two dogs", "dogs at a window"),
    "stream": ("a mountain stream", "water over rocks"),
    "forest": ("a forest", "trees in a wood"),
    "mountain": ("a rocky mountain", "mountains"),
    "path": ("a path in a pasture", "a trail"),
    "larches": ("autumn trees", "larches"),
    "fig": ("a fig in a bowl", "a fig"),
    "brushes": ("paint brushes", "brushes"),
    "dandelion": ("a dandelion", "a blowball"),
    "drum": ("a drum", "a drum on a cushion"),
}
MOVES: Mapping[str, tuple[str, ...]] = {
    "static": ("static shot", "still camera"),
    "pan left": ("pan left", "the camera pans left"),
    "pan right": ("pan right", "the camera pans right"),
    "tilt up": ("tilt up", "the camera tilts up"),
    "tilt down": ("tilt down", "the camera tilts down"),
    "zoom in": ("zoom in", "the camera zooms in"),
    "zoom out": ("zoom out", "the camera zooms out"),
    "roll": ("roll", "the camera rolls"),
}
LIGHTS: Mapping[str, tuple[str, ...]] = {
    "daylight": ("daylight", "sunny"),
    "sunset": ("sunset", "golden hour"),
    "night": ("night", "moonlight"),
    "fog": ("fog", "misty"),
}
FREE: Mapping[str, tuple[str, ...]] = {  # said of some clips, after the rest
    "close": ("close-up", "close shot"),
    "wide": ("wide shot", "from afar"),
    "blur": ("with motion blur", "long exposure"),
    "soft": ("soft light", "low contrast"),
    "hard": ("hard light", "high contrast"),
}
TEMPLATES: tuple[str, ...] = (
    "{subject}, {move}, {light}",
    "{light}, {subject}, {move}",
    "{move}, {subject}, {light}",
)


@dataclass(frozen=True)
class Understood:
    """What a prompt names of the vocabulary; a field is None, or empty, where it names nothing."""

    subject: str | None
    move: str | None
    light: str | None
    free: tuple[str, ...] = ()


def caption(
    subject: str, move: str, light: str, free: Sequence[str] = (), *, template: int = 0, synonym: int = 0
) -> str:
    """The training caption of a clip, e.g. ``a tabby cat, zoom in, daylight, close-up, with motion blur``."""
    names = (SUBJECTS[subject], MOVES[move], LIGHTS[light], *(FREE[f] for f in free))
    s, m, li, *rest = (options[synonym % len(options)] for options in names)
    return ", ".join([TEMPLATES[template].format(subject=s, move=m, light=li), *rest])


def words() -> list[str]:
    """Every word of every caption, sorted; the tokenizer's vocabulary."""
    tables = (SUBJECTS, MOVES, LIGHTS, FREE)
    text = " ".join(phrase for table in tables for names in table.values() for phrase in names)
    return sorted(set(_tokens(text)) | {",", "-"})


def understand(prompt: str) -> Understood:
    """Which subject, move and light the prompt names, by its longest phrase of each kind, and which free words."""
    text = " ".join(_tokens(prompt))
    move, light = _longest(text, _OF_MOVES), _longest(text, _OF_LIGHTS)
    free = tuple(key for key, names in _OF_FREE.items() if any(_says(text, name) for name in names))
    for name in filter(text.__contains__, _OF_CAMERAS):  # "the camera pans left" shows no camera
        text = re.sub(rf"\b{re.escape(name)}\b", ".", text)
    return Understood(_longest(text, _OF_SUBJECTS), move, light, free)


def spoken(phrase: str, known: Container[str]) -> bool:
    """Whether a tokenizer of the words `known` reads every word of a phrase."""
    return all(word in known for word in _tokens(phrase))


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _says(text: str, phrase: str) -> bool:
    return phrase in text and re.search(rf"\b{re.escape(phrase)}\b", text) is not None


def _longest(text: str, phrases: Mapping[str, str]) -> str | None:
    found = [(len(phrase), key) for phrase, key in phrases.items() if phrase in text and _says(text, phrase)]
    return max(found)[1] if found else None


def _phrases(table: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """What a prompt may say for each key."""
    return {phrase: key for key, names in table.items() for phrase in (key, *map(_bare, names))}


@functools.cache
def _bare(phrase: str) -> str:
    return re.sub(r"^(a|an|the) ", "", phrase)


_OF_SUBJECTS, _OF_MOVES, _OF_LIGHTS = map(_phrases, (SUBJECTS, MOVES, LIGHTS))
_OF_FREE = {key: [" ".join(_tokens(name)) for name in names] for key, names in FREE.items()}
_OF_CAMERAS = [_bare(name) for names in MOVES.values() for name in names]
