"""Video files, written whole or not at all, and the tags in them. Knows nothing of models or sampling."""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from shelllcc.guidance.errors import OutputError, UsageError
from shelllcc.guidance.files import refusal, whole_file
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]


ENCODER = "libx264"
BT709 = (  # limited range, and tagged so: players take what has no tag for this where it is large, and not where not
    "scale=out_color_matrix=bt709:out_range=tv:flags=accurate_rnd+full_chroma_int,format=yuv420p,"
    "setparams=colorspace=bt709:color_primaries=bt709:color_trc=bt709:range=tv"
)
CRF = 14  # visually lossless H.264; metrics are taken from frames before encoding all the same
BEGIN = b'{"shows": "'  # of every record that goes into a tag
FFMPEG = "unset IMAGEIO_FFMPEG_EXE and `pip install --force-reinstall imageio-ffmpeg`, whose ffmpeg has it"
MOST = 8 << 20  # bytes of an mp4's index that are searched for it
ROOM = 1 << 16  # bytes of free space below which a disk is full, where nobody said why a file is torn


def check_output(path: Path) -> None:
    """Raise OutputError, or UsageError for a folder, unless a file could be written there; leaves nothing behind."""
    check_outputs([path])


def check_outputs(paths: Iterable[Path]) -> None:
    """As `check_output` for each of them; a folder that many share is tried once."""
    tried: dict[Path, bool] = {}  # whether it is there: in one that is not, nothing is in the way
    for path in paths:
        folder = path.parent
        if tried.get(folder) is False:
            continue
        try:
            if path.is_dir():
                raise UsageError(f"{path} is a folder, and would be a file of the clip; give another --output")
            if folder in tried:
                continue
            existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
            with tempfile.TemporaryFile(dir=existing):
                tried[folder] = existing == folder
        except OSError as error:
            raise refusal(path, error) from error


def check_encoder() -> None:
    """Raise OutputError unless ffmpeg runs here and writes H.264."""
    import imageio_ffmpeg

    try:
        _check_encoder(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError as error:
        raise OutputError(f"cannot run ffmpeg: {' '.join(str(error).split())}; {FFMPEG}") from error


@functools.cache
def _check_encoder(program: str) -> None:
    words = [program, "-hide_banner", "-v", "error", "-h", f"encoder={ENCODER}"]
    try:
        told = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    except OSError as error:
        raise OutputError(f"cannot run {program}: {error.strerror}; {FFMPEG}") from error
    if f"Encoder {ENCODER} ".encode() not in told:
        raise OutputError(f"{program} has no encoder for H.264 ({ENCODER}), so that no clip could be written; {FFMPEG}")


def write_video(
    path: Path, frames: Iterable[NDArray[np.uint8]], *, fps: float, record: Mapping[str, Any] | None = None
) -> None:
    """Write uint8 frames (H, W, 3) of even sides as `encode` does, whole or not at all."""
    with whole_file(path) as part:
        encode(part, frames, path, fps=fps, record=record)


def encode(
    part: Path,
    frames: Iterable[NDArray[np.uint8]],
    path: Path,
    *,
    fps: float,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Write H.264 mp4 to `part`, BT.709 and tagged so, `record` as JSON in its comment, and read every frame back.

    Raises OutputError, about `path`, unless ffmpeg ended well and all frames can be decoded.
    """
    frames = iter(frames)
    first = next(frames, None)
    if first is None or first.shape[0] % 2 or first.shape[1] % 2:
        shape = None if first is None else first.shape
        raise OutputError(f"cannot write {path}: H.264 takes frames of even sides, got {shape or 'none'}")
    size, written = f"{first.shape[1]}x{first.shape[0]}", 0
    with tempfile.TemporaryFile() as said, _metadata(path, record or {}) as tags:
        words = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", f"{fps:.6g}", "-i", "-"]
        words += ["-f", "ffmetadata", "-i", str(tags), "-map", "0", "-map_metadata", "1", "-an", "-vf", BT709]
        words += ["-c:v", ENCODER, "-pix_fmt", "yuv420p", "-crf", str(CRF), "-threads", "1"]
        words += ["-movflags", "+faststart+use_metadata_tags", "-f", "mp4", f"file:{part}"]
        with _ffmpeg(path, words, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said) as process:
            with contextlib.suppress(BrokenPipeError):  # it has ended, and its exit status says why
                for frame in itertools.chain([first], frames):
                    process.stdin.write(np.ascontiguousarray(frame).data)
                    written += 1
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
        said.seek(0)
        if process.returncode:
            raise _failure(path, process.returncode, said.read().decode(errors="replace"))
    found = frames_in(part)
    if found != written:
        raise _failure(path, 0, f"{found} of {plural(written, 'frame')} can be read back")


def frames_in(path: Path) -> int:
    """How many frames of a video can be decoded; 0 where anything in it is broken."""
    words = ["-xerror", "-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough", "-f", "framecrc", "-"]
    with _ffmpeg(path, words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        table, said = process.communicate()
    return 0 if process.returncode or said else sum(not line.startswith(b"#") for line in table.splitlines())


def read_tag(path: Path) -> dict[str, Any]:
    """What the comment tag of an mp4 says, where we wrote it, else nothing. Reads the file's index, no frames."""
    try:
        with path.open("rb") as file:
            index = _index(file)
        begin = index.find(BEGIN)
        tag = json.JSONDecoder().raw_decode(index[begin:].decode(errors="replace"))[0] if begin >= 0 else None
    except (OSError, ValueError, RecursionError):
        return {}
    return tag if isinstance(tag, dict) else {}


@contextlib.contextmanager
def _metadata(path: Path, record: Mapping[str, Any]) -> Iterator[Path]:
    """A closed file of tags for the block's length: on Windows arguments are short, and open files locked."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            tags = Path(folder, "tags.txt")
            tags.write_text(_as_metadata(record), encoding="utf-8", newline="\n")
            yield tags
    except OSError as error:
        raise refusal(path, error) from error


def _as_metadata(record: Mapping[str, Any]) -> str:
    """A file of tags as ffmpeg reads it, with the record in its comment."""
    text = json.dumps(record, ensure_ascii=False) if record else ""
    return ";FFMETADATA1\ncomment=" + re.sub(r"([=;#\\\n])", r"\\\1", text) + "\n"


def _failure(path: Path, status: int, said: str) -> OutputError:
    """Why ffmpeg did not write a file, from its exit status and complaints."""
    if os.strerror(errno.ENOSPC) in said or shutil.disk_usage(path.parent).free < ROOM:
        return refusal(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit {status}"
    reason = (said.strip().splitlines() or ["it said nothing"])[0]
    return OutputError(f"cannot write {path}: {f'ffmpeg ended with {ended}: ' if status else ''}{reason}")


def _index(file: BinaryIO) -> bytes:
    """The `moov` box of an mp4, up to MOST bytes; empty where there is none."""
    while len(head := file.read(8)) == 8:
        size = int.from_bytes(head[:4])
        header = 8
        if size == 1:
            size, header = int.from_bytes(file.read(8)), 16
        if head[4:] == b"moov":
            return file.read(min(MOST, size - header) if size else MOST)
        if size < header:  # 0: the box lasts to the end
            return b""
        file.seek(size - header, 1)
    return b""


@contextlib.contextmanager
def _ffmpeg(path: Path, words: list[str], **streams: Any) -> Iterator[Any]:
    """A process of ffmpeg for the length of the block; killed where that ends by an exception. Raises OutputError."""
    import imageio_ffmpeg

    try:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-hide_banner", "-nostats", "-v", "error", *words]
        process = subprocess.Popen(command, **streams)
    except (OSError, RuntimeError) as error:
        raise OutputError(f"cannot run ffmpeg for {path}: {error}") from error
    try:
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.__exit__(None, None, None)
