"""Which versions are installed. Knows nothing of what they are for."""

from __future__ import annotations

from importlib import metadata


def version(name: str = "shelllcc") -> str | None:
    """The version of an installed package; None where it is not, as in a checkout that is only on the path."""
    try:
        return metadata.version(name)
    except (metadata.PackageNotFoundError, KeyError):  # KeyError: its metadata name none
        return None
