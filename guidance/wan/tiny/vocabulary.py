"""What the embedded tiny Wan was trained to show: subjects, camera moves and lights, and the words for each.

Knows nothing of pixels or weights. The training recipe draws its captions here, and `generate` reads here whether
a prompt names anything that the tiny model knows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
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
TEMPLATES: tuple[str, ...] = (
    "{subject}, {move}, {light}",
    "{light}, {subject}, {move}",
    "{move}, {subject}, {light}",
)


@dataclass(frozen=True)
class Understood:
    """What a prompt names of the vocabulary; a field is None where it names nothing."""

    subject: str | None
    move: str | None
    light: str | None


def caption(subject: str, move: str, light: str, *, template: int = 0, synonym: int = 0) -> str:
    """The training caption of a clip, e.g. ``a tabby cat, zoom in, daylight``."""
    names = (SUBJECTS[subject], MOVES[move], LIGHTS[light])
    s, m, li = (options[synonym % len(options)] for options in names)
    return TEMPLATES[template].format(subject=s, move=m, light=li)


def words() -> list[str]:
    """Every word of every caption, sorted; the tokenizer's vocabulary."""
    text = " ".join(phrase for table in (SUBJECTS, MOVES, LIGHTS) for names in table.values() for phrase in names)
    return sorted(set(_tokens(text)) | {","})


def understand(prompt: str) -> Understood:
    """Which subject, move and light the prompt names, by its longest phrase of each kind."""
    text = " ".join(_tokens(prompt))
    return Understood(*(_longest(text, table) for table in (SUBJECTS, MOVES, LIGHTS)))


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower())


def _longest(text: str, table: Mapping[str, tuple[str, ...]]) -> str | None:
    found = [
        (len(phrase), key)
        for key, names in table.items()
        for phrase in (key, *(_bare(n) for n in names))
        if re.search(rf"\b{re.escape(phrase)}\b", text)
    ]
    return max(found)[1] if found else None


def _bare(phrase: str) -> str:
    return re.sub(r"^(a|an|the) ", "", phrase)
