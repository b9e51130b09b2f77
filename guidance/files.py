"""Files that are written whole or not at all. Knows nothing of their contents."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shelllcc.guidance.errors import OutputError

WHOLE = 1 << 20  # bytes of a file up to which all of them count in a fingerprint
SAMPLED, BLOCK = 64, 4096  # blocks of a larger file that do, and their bytes


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, of its suffix, that takes its place at the end of the block.

    On an exception, or a kill, `path` keeps what it held. Raises OutputError where the system refuses.
    """
    part: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        part = Path(name)
        yield part
        part.chmod(0o666 & ~_umask())
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)


def _umask() -> int:
    """The process's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def sha256_of(path: Path) -> str:
    """As `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint_of(path: Path) -> str:
    """16 hex digits of a file: of all bytes of a small one, of its size and some blocks of a large one."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= WHOLE:
            digest.update(file.read())
        else:
            for number in range(SAMPLED):
                file.seek((size - BLOCK) * number // (SAMPLED - 1))
                digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]
