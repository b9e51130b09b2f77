"""Counts of models' parts that were made before: those of the embedded model ship, others are kept for the next time.

A count imports diffusers and transformers whole, which takes most of a dry run. Knows nothing of what is counted.
Importing it loads no library.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from shelllcc.guidance.errors import OutputError
from shelllcc.guidance.files import write_json
from shelllcc.guidance.paths import cache_folder
from shelllcc.guidance.versions import version

Count = Mapping[str, float]
SHIPPED = Path(__file__).parent.parent / "tiny" / "counted.json"
COUNTING = Path(__file__).with_name("counting.py")
LIBRARIES = ("torch", "diffusers", "transformers")  # whose code is counted


def known(count: Callable[..., Count], config: Mapping[str, Any], *facts: Any) -> Count:
    """What `count(config, *facts)`, one of counting.py, gives: found, or counted and kept in the user's cache folder.

    A kept count is of the installed libraries and of this counting. What is broken is counted anew, and where the
    folder cannot be written nothing is kept.
    """
    key = key_of(count, config, *facts)
    if (shipped := _shipped().get(key)) is not None:
        return shipped
    path = cache_folder("counts") / f"{_digest(key, _counting())}.json"
    if (kept := _read(path)) is not None:
        return kept
    fresh = count(config, *facts)
    try:
        write_json(path, fresh)
    except OutputError as error:
        logging.getLogger("shelllcc").info("counts are not kept for the next time: %s", error)
    return fresh


def key_of(count: Callable[..., Count], config: Mapping[str, Any], *facts: Any) -> str:
    """16 hex digits of what a count depends on beside its code."""
    geometry = {name: value for name, value in config.items() if not name.startswith("_")}
    return _digest(count.__name__, geometry, *facts)


def _digest(*facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@functools.cache
def _shipped() -> dict[str, dict[str, float]]:
    counts: dict[str, dict[str, float]] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return counts


@functools.cache
def _counting() -> str:
    """The code that counts, and is counted."""
    own = hashlib.sha256(COUNTING.read_bytes()).hexdigest()
    return _digest(own, [version(library) for library in LIBRARIES])


def _read(path: Path) -> dict[str, float] | None:
    with contextlib.suppress(OSError, ValueError):
        count = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(count, dict) and count and all(type(number) in (int, float) for number in count.values()):
            return count
    return None
