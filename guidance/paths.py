"""Paths as people type them: what is there, and what the system says where it is not. Knows nothing of contents."""

from __future__ import annotations

from pathlib import Path


def here(source: str) -> Path | None:
    """The path with its `~` replaced, if something is there; None too for what can be no path at all."""
    try:
        path = Path(source).expanduser()
        path.stat()
    except (OSError, RuntimeError, ValueError):  # too long, no such home, a null byte
        return None
    return path


def reason(error: Exception) -> str:
    """What the system says, in its words alone: without a number, and without the path once more."""
    return getattr(error, "strerror", None) or str(error)
