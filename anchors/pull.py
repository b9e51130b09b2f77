"""Published banks and manifolds, fetched into the user's folder. Knows nothing of pipelines.

What is fetched is data: a bank file, or a torch checkpoint of tensors alone, which becomes a bank.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.bankfile import MAX_BYTES, read_bank, save_bank
from shelllcc.anchors.download import download
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
from shelllcc.anchors.manifold import import_checkpoint
from shelllcc.guidance.errors import BankError, UsageError


@dataclass(frozen=True)
class Published:
    """A file that others publish; `limit` in bytes. `sha256` is None where nobody has vouched for one."""

    url: str
    about: str
    limit: int = MAX_BYTES
    sha256: str | None = None
    radius: float = 1.0  # of real latents on a manifold


PUBLISHED: Mapping[str, Published] = {
    "shell-lcc": Published(
        "https://raw.githubusercontent.com/needylove/Shell-LCC/HEAD/model/shell_lcc.pth",
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
) -> Bank:
    """Fetch a published name, or an http(s) URL of a bank (.safetensors) or manifold (.pth), into `folder`.

    The fetched file's sha256 is recorded in the provenance, and pinned by `sha256`. A bank that is there already, from
    the same URL and with that hash, is returned as it is. Raises UsageError, BankError, OutputError.
    """
    entry = PUBLISHED.get(name) or Published(name, "given by URL")
    parts = urlsplit(entry.url)
    if parts.scheme not in ("http", "https"):
        raise UsageError(f"no published bank {name}; there are {', '.join(PUBLISHED)}, or give an http(s) URL")
    suffix = Path(parts.path).suffix.lower()
    if suffix not in (".safetensors", ".pth", ".pt"):
        raise UsageError(f"{entry.url} names no .safetensors bank and no .pth manifold")
    stem = name if name in PUBLISHED else Path(parts.path).stem
    wanted, path = sha256 or entry.sha256, folder / f"{stem}.safetensors"
    there = _bank_at(path)
    if there is not None and there.provenance.get("url") != entry.url:
        raise BankError(f"{path} is a bank of another origin; move it away or give another --folder")
    if there is not None and wanted in (None, there.provenance.get("sha256")):
        return there
    fetched = folder / f".{stem}{suffix}"
    digest = download(entry.url, fetched, limit=entry.limit, sha256=wanted, on_progress=on_progress)
    try:
        origin = {"url": entry.url, "made_by": "shelllcc anchors pull"}
        if suffix == ".safetensors":
            bank = read_bank(fetched)
            bank = replace(bank, provenance={**bank.provenance, **origin, "sha256": digest})
        else:
            bank = import_checkpoint(
                fetched, model="Wan2.1 VAE", vae=fingerprint(WAN21_VAE), radius=entry.radius, origin=origin
            )
        return save_bank(bank, path)
    finally:
        fetched.unlink(missing_ok=True)


def _bank_at(path: Path) -> Bank | None:
    """The bank there; None where there is none, or a broken one that may be replaced."""
    try:
        return read_bank(path) if path.exists() else None
    except BankError:
        return None
