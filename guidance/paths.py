"""Paths as people type them: what is there, and what the system says where it is not; and where caches lie.

Knows nothing of contents.
"""

from __future__ import annotations

import os
import sys
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


def data_folder(kind: str) -> Path:
    """Where what a user made or fetched is kept: a folder in the platform's data folder.

    A host that lacks platformdirs, as ComfyUI, finds the same one.
    """
    try:
        import platformdirs
    except ImportError:
        return _data_home() / "shelllcc" / kind
    return Path(platformdirs.user_data_dir("shelllcc")) / kind


def cache_folder(kind: str) -> Path:
    """Where what can be made anew is kept: a folder in SHELLLCC_CACHE, or in the platform's cache folder."""
    if chosen := os.environ.get("SHELLLCC_CACHE"):
        return Path(chosen).expanduser() / kind
    import platformdirs

    return Path(platformdirs.user_cache_dir("shelllcc")) / kind


def _data_home() -> Path:
    """What platformdirs makes of the system's conventions for data of a program named shelllcc, one folder up."""
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "shelllcc"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support"
    return Path(os.environ.get("XDG_DATA_HOME", "").strip() or Path.home() / ".local" / "share")
