"""Words for people: how many there are of something. Knows nothing of what."""

from __future__ import annotations


def plural(count: int, word: str) -> str:
    """A number and its noun: 1 clip, 2 clips, 8 processes."""
    return f"{count} {word}{'' if count == 1 else 'es' if word.endswith('s') else 's'}"
