"""Published banks and manifolds, fetched into the user's folder. Knows nothing of pipelines.

What is fetched is data: a bank file, or a torch checkpoint of tensors alone, which becomes a bank.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.bankfile import MAX_BYTES, read_bank, save_bank
from shelllcc.anchors.download import download
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
from shelllcc.anchors.manifold import import_checkpoint
from shelllcc.guidance.errors import BankError, UsageError

POINTER = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Published:
    """A file that others publish, at one revision; `limit` in bytes. `sha256` is None where nobody vouches for one."""

    url: str
    about: str
    limit: int = MAX_BYTES
    sha256: str | None = None
    radius: float = 1.0  # of real latents on a manifold


PUBLISHED: Mapping[str, Published] = {
    "shell-lcc": Published(
        "https://raw.githubusercontent.com/needylove/Shell-LCC/1cd503c232dfc773a3d0a1b197e5aa0593a3a285/model/shell_lcc.pth",
        "the manifold of Shell-LCC's authors, for every model with the Wan2.1 VAE",
        limit=128 << 20,
        radius=0.88,  # mean distance of real latents as the paper reports it
    ),
}


def pull(
    name: str,
    folder: Path,
    *,
    sha256: str | None = None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    on_note: Callable[[str], None] = lambda note: None,
) -> Bank:
    """Fetch a published name, or an http(s) URL of a bank (.safetensors) or manifold (.pth), into `folder`.

    The fetched file's sha256, size and revision are recorded in the provenance; `on_note` hears them and how to pin
    them, unless `sha256` does. A bank that is there already, from the same URL and with that hash, is returned as it
    is. Raises UsageError, BankError, OutputError.
    """
    entry = check_name(name)
    parts = urlsplit(entry.url)
    suffix = Path(parts.path).suffix.lower()
    stem = name if name in PUBLISHED else Path(parts.path).stem
    wanted, path = sha256 or entry.sha256, folder / f"{stem}.safetensors"
    there = _bank_at(path)
    if there is not None and there.provenance.get("url") != entry.url:
        raise BankError(f"{path} is a bank of another origin; move it away or give another --folder")
    if there is not None and wanted in (None, there.provenance.get("sha256")):
        return there
    fetched, told = folder / f".{stem}{suffix}", _Told()
    digest = download(
        entry.url, fetched, limit=entry.limit, sha256=wanted, on_progress=on_progress, on_headers=told.hear
    )
    try:
        told.check(digest, fetched)
        origin: dict[str, Any] = {"url": entry.url, "made_by": "shelllcc anchors pull", "size": fetched.stat().st_size}
        revision = told.revision or _revision_in(parts.path)
        if revision is not None:
            origin["revision"] = revision
        if suffix == ".safetensors":
            bank = read_bank(fetched)
            bank = replace(bank, provenance={**bank.provenance, **origin, "sha256": digest})
        else:
            bank = import_checkpoint(
                fetched, model="Wan2.1 VAE", vae=fingerprint(WAN21_VAE), radius=entry.radius, origin=origin
            )
        bank = save_bank(bank, path)
    finally:
        fetched.unlink(missing_ok=True)
    if wanted is None:
        on_note(
            f"nobody has vouched for what came: {origin['size']:,} bytes, sha256 {digest}, "
            f"revision {revision or 'unknown'}; `shelllcc anchors pull {shlex.quote(name)} --sha256 {digest}` pins it"
        )
    return bank


def check_name(name: str) -> Published:
    """What a published name, or a URL, stands for. Raises UsageError for another name, or file of another kind."""
    entry = PUBLISHED.get(name) or Published(name, "given by URL")
    parts = urlsplit(entry.url)
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"no published bank {name}; known by name: {', '.join(PUBLISHED)}; or give an http(s) URL")
    if Path(parts.path).suffix.lower() not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"{entry.url} names no .safetensors bank and no .pth manifold")
    return entry


@dataclass
class _Told:
    """What a hub tells of a file beside the file: its revision, and its sha256 where Git LFS keeps it."""

    revision: str | None = None
    sha256: str | None = None

    def hear(self, headers: Message) -> None:
        revision, tag = headers.get("X-Repo-Commit", ""), headers.get("X-Linked-ETag", "").strip('"')
        self.revision = revision if re.fullmatch(r"[0-9a-f]{40}", revision) else self.revision
        self.sha256 = tag if re.fullmatch(r"[0-9a-f]{64}", tag) else self.sha256

    def check(self, digest: str, file: Path) -> None:
        """Raise BankError unless the file is the one that was told of, and no pointer to it."""
        if self.sha256 not in (None, digest):
            raise BankError(f"what came has sha256 {digest}, but the hub says {self.sha256}; fetch it again")
        with file.open("rb") as opened:
            if opened.read(len(POINTER)) == POINTER:
                raise BankError("what came is no file but a pointer of Git LFS to one; give the URL of the file itself")


def _revision_in(path: str) -> str | None:
    """The revision that a URL's path names."""
    return next((part for part in path.split("/") if re.fullmatch(r"[0-9a-f]{40}", part)), None)


def _bank_at(path: Path) -> Bank | None:
    """The bank there; None where there is none, or a broken one that may be replaced."""
    try:
        return read_bank(path) if path.exists() else None
    except BankError:
        return None
