"""Text on its way to a terminal: control characters are shown as their escapes, never sent. Knows nothing of streams.

A prompt, a path or an error's message may hold an escape sequence, a bell or a sign that turns the writing direction:
whoever reads it is to see it, and the terminal is not to obey it.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

KINDS = ("Cc", "Cf", "Cs", "Zl", "Zp")  # controls, formats such as bidi, lone surrogates, line and paragraph breaks
JOINERS = "\u200c\u200d"  # formats that scripts and emoji are written with; they turn nothing


def shown(text: str) -> str:
    """The text in one line, each control character as Python writes its escape, e.g. `\\x1b`."""
    return "".join(repr(c)[1:-1] if _controls(c) else c for c in text)


def shown_lines(text: str) -> str:
    """The same for text of several lines, such as a traceback."""
    return "\n".join(map(shown, text.splitlines()))


def json_text(record: Any, *, indent: int | None = None) -> str:
    """As JSON, letters as they are and every control character escaped, e.g. `\\u009b`, to the same value."""
    text = json.dumps(record, ensure_ascii=False, indent=indent)
    return "".join(json.dumps(c)[1:-1] if c != "\n" and _controls(c) else c for c in text)


def _controls(character: str) -> bool:
    return unicodedata.category(character) in KINDS and character not in JOINERS
