"""Which versions are installed. Knows nothing of what they are for."""

from __future__ import annotations

import platform
from importlib import metadata

LIBRARIES = ("torch", "diffusers", "transformers", "faiss-cpu", "imageio", "imageio-ffmpeg", "safetensors", "numpy")


def version(name: str = "shelllcc") -> str | None:
    """The version of an installed package; None where it is not, as in a checkout that is only on the path."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, KeyError):  # KeyError: its metadata name none
        return None


def versions() -> dict[str, str | None]:
    """Versions of this package, Python and the libraries behind a clip; None for one that is not installed."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("shelllcc", *LIBRARIES)}
