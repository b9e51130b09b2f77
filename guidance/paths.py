"""Paths as people type them: what is there, and what the system says where it is not; and where caches lie.

Knows nothing of contents.
"""

from __future__ import annotations

import os
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


def cache_folder(kind: str) -> Path:
    """Where what can be made anew is kept: a folder in SHELLLCC_CACHE, or in the platform's cache folder."""
    if chosen := os.environ.get("SHELLLCC_CACHE"):
        return Path(chosen).expanduser() / kind
    import platformdirs

    return Path(platformdirs.user_cache_dir("shelllcc")) / kind
