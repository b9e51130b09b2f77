"""The words of the next tiny Wan's captions: more subjects, and free words beside subject, move and light.

It stands beside `shelllcc.guidance.wan.tiny.vocabulary`, which says what the shipped model knows, until new weights
replace that one. Knows nothing of pixels or weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from shelllcc.guidance.wan.tiny.vocabulary import LIGHTS, MOVES, TEMPLATES
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS as SHIPPED

SUBJECTS: Mapping[str, tuple[str, ...]] = {
    **SHIPPED,
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
FREE: Mapping[str, tuple[str, ...]] = {
    "close": ("close-up", "close shot"),
    "wide": ("wide shot", "from afar"),
    "blur": ("with motion blur", "long exposure"),
    "soft": ("soft light", "low contrast"),
    "hard": ("hard light", "high contrast"),
}


def caption(
    subject: str, move: str, light: str, free: Sequence[str] = (), *, template: int = 0, synonym: int = 0
) -> str:
    """The training caption of a clip, e.g. ``a tabby cat, zoom in, daylight, close-up, with motion blur``."""
    names = (SUBJECTS[subject], MOVES[move], LIGHTS[light], *(FREE[f] for f in free))
    s, m, li, *rest = (options[synonym % len(options)] for options in names)
    return ", ".join([TEMPLATES[template].format(subject=s, move=m, light=li), *rest])


def words() -> list[str]:
    """Every word of every caption, sorted; the tokenizer's vocabulary."""
    phrases = (phrase for table in (SUBJECTS, MOVES, LIGHTS, FREE) for names in table.values() for phrase in names)
    return sorted(set(re.findall(r"[a-z]+", " ".join(phrases))) | {",", "-"})
