"""Files that are written whole or not at all, and paths that one process claims. Knows nothing of their contents."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from shelllcc.guidance.errors import DiskFullError, OutputError, UsageError

try:
    import fcntl
except ImportError:  # Windows: an open file cannot be removed there, and none is swept
    fcntl = None  # type: ignore[assignment]

WHOLE = 1 << 20  # bytes of a file up to which all of them count in a fingerprint
SAMPLED, BLOCK = 64, 4096  # blocks of a larger file that do, and their bytes
PART = ".part-shelllcc-"  # begins the names of files that are being written, and of no others
FULL = (errno.ENOSPC, errno.EDQUOT)

JsonObject = dict[str, Any]  # what JSON holds, or is to hold

_swept = set[Path]()  # folders that this process has freed of what killed ones left


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`, of its suffix, that takes its place at the end of the block.

    On an exception, or a kill, `path` keeps what it held; what a killed process left is removed by the next one that
    writes in the folder. Raises DiskFullError where there is no room, OutputError where the system refuses.
    """
    part: Path | None = None
    handle = -1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path.parent)
        handle, part = _new_part(path)
        yield part
        part.chmod(0o666 & ~_umask())
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise refusal(path, error) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
        if handle >= 0:
            os.close(handle)


def write_bytes(path: Path, contents: bytes) -> None:
    """Write a file whole or not at all. Raises as `whole_file`."""
    with whole_file(path) as part:
        part.write_bytes(contents)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, lines ending in line feeds, whole or not at all. Raises as `whole_file`."""
    write_bytes(path, text.encode())


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    write_text(path, as_json(record))


def as_json(record: Mapping[str, Any]) -> str:
    """A record as our files hold it."""
    return json.dumps(record, indent=2, ensure_ascii=False) + "\n"


def refusal(path: Path, error: OSError) -> OutputError:
    """What the system said when `path` was written, as an error of ours."""
    if error.errno in FULL:
        return DiskFullError(f"disk full: cannot write {path}; free some space, and give the same command again")
    return OutputError(f"cannot write {path}: {error.strerror or error}")


def sweep(folder: Path) -> None:
    """Remove what killed processes were writing in a folder: temporary files that no living process holds.

    Once a folder in each process. Processes hold theirs by a lock, which the system lifts when they end.
    """
    if fcntl is None or (place := folder.absolute()) in _swept:
        return
    _swept.add(place)
    with contextlib.suppress(OSError):
        for name in os.listdir(place):  # noqa: PTH208 - a folder may hold very many
            if re.fullmatch(rf"{re.escape(PART)}[a-z0-9_]{{8}}(\.[^/]*)?", name):
                _remove_if_free(place / name)


@contextlib.contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Within the block `path` is this process's to write. Raises OutputError where another one has claimed it.

    Folders that are made for it, and stay empty, are removed again.
    """
    import filelock

    file = path.with_name(f".{path.name}.lock")
    if os.path.lexists(file) and (file.is_symlink() or file.stat().st_size):
        raise UsageError(f"{file} is in the way, and no lock of ours; give another --output")
    lock = filelock.FileLock(file, timeout=0)
    made = [folder for folder in path.absolute().parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(f"another run is writing {path}; wait for it, or give another --output") from error
    except OSError as error:
        raise refusal(path, error) from error
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is held: whoever waits for it looks again
        lock.release()
        with contextlib.suppress(OSError):
            for folder in made:
                folder.rmdir()


def at_home(path: Path) -> Path:
    """The path with `~` as the home folder it stands for. Raises UsageError."""
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise UsageError(f"{path} names no home folder of this machine") from error


def _new_part(path: Path) -> tuple[int, Path]:
    """A temporary file beside `path` and the handle that holds its lock."""
    while True:
        handle, name = tempfile.mkstemp(prefix=PART, suffix=path.suffix, dir=path.parent)
        if fcntl is None:
            os.close(handle)
            return -1, Path(name)
        with contextlib.suppress(OSError):  # some file systems know no locks: what is killed there stays
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # swept before it was locked


def _remove_if_free(part: Path) -> None:
    handle = os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        part.unlink()
    except OSError:
        pass  # it is held, or not ours to remove
    finally:
        os.close(handle)


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
