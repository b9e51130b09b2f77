"""Clips that are no videos: animated GIF and WebP, and folders of frames, as ComfyUI writes them.

They are read by Pillow and handed on as a video without loss, so that sizes, frame rates and crops are made in one
place (footage). A folder's frames are ordered by the numbers in their names. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import tempfile
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import VideoError
from shelllcc.guidance.files import sha256_of
from shelllcc.guidance.terminal import shown

if TYPE_CHECKING:
    from PIL.Image import Image

ANIMATED = (".gif", ".webp")
FRAMES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
RATE = 16.0  # frames a second of a folder, which says none: Wan's own


def is_stills(path: Path) -> bool:
    """Whether a path is an animated picture by its name, or a folder that holds frames alone."""
    if path.is_dir():
        return bool(frames_of(path))
    return path.suffix.lower() in ANIMATED


def frames_of(folder: Path) -> list[Path]:
    """The frames in a folder, in the order of their numbers; none where it holds other files, too, but for text."""
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    others = [path for path in files if path.suffix.lower() not in (*FRAMES, ".txt", ".json")]
    frames = [path for path in files if path.suffix.lower() in FRAMES]
    return [] if others else sorted(frames, key=_numbers)


def content_sha256(path: Path) -> str:
    """The sha256 of a file, or of a folder's frames in their order."""
    if not path.is_dir():
        return sha256_of(path)
    digest = hashlib.sha256()
    for frame in frames_of(path):
        digest.update(bytes.fromhex(sha256_of(frame)))
    return digest.hexdigest()


@contextlib.contextmanager
def as_video(path: Path) -> Iterator[Path]:
    """A video of the clip, without loss, while the block lasts; a path that is no picture is given back as it is.

    A GIF or WebP whose frames last differently is taken at their mean rate. Raises VideoError.
    """
    if not is_stills(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "clip.mkv"
        try:
            _write(path, file)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            said = " ".join(str(error).split()).replace(str(file), "a copy")
            raise VideoError(f"cannot read {shown(str(path))}: {said or type(error).__name__}") from error
        yield file


def _write(path: Path, file: Path) -> None:
    """The clip as lossless RGB. Raises VideoError, and what Pillow raises."""
    import imageio_ffmpeg

    frames = _of_folder(path) if path.is_dir() else _of_picture(path)
    first, rate = next(frames)
    how = {"pix_fmt_in": "rgb24", "pix_fmt_out": "bgr0", "codec": "ffv1", "quality": None, "macro_block_size": 1}
    writer = imageio_ffmpeg.write_frames(str(file), first.size, fps=rate, **how)
    writer.send(None)
    try:
        for frame, _ in chain([(first, rate)], frames):
            if frame.size != first.size:
                sizes = " and ".join(f"{size[0]}x{size[1]}" for size in (first.size, frame.size))
                raise VideoError(f"{shown(str(path))} has frames of {sizes}; a clip has frames of one size")
            writer.send(frame.tobytes())
    finally:
        writer.close()


def _of_folder(folder: Path) -> Iterator[tuple[Image, float]]:
    """The frames, and how many there are a second."""
    from PIL import Image

    for path in frames_of(folder):
        with Image.open(path) as frame:
            if getattr(frame, "n_frames", 1) > 1:
                raise VideoError(f"{shown(str(path))} moves by itself; name it and not its folder")
            yield frame.convert("RGB"), RATE


def _of_picture(path: Path) -> Iterator[tuple[Image, float]]:
    """The frames, and how many there are a second in the mean."""
    from PIL import Image, ImageSequence

    with Image.open(path) as picture:
        count = getattr(picture, "n_frames", 1)
        if count < 2:
            raise VideoError(f"{shown(str(path))} has one frame; give a clip, or the folder of all its frames")
        lasting = 0.0
        for index in range(count):  # WebP says how long a frame lasts once it is decoded
            picture.seek(index)
            picture.load()
            lasting += picture.info.get("duration", 0)
        rate = 1000 * count / lasting if lasting else RATE
        for frame in ImageSequence.Iterator(picture):
            yield frame.convert("RGB"), rate


def _numbers(path: Path) -> tuple[object, ...]:
    """Names in the order of their numbers: 2 before 10."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]+)", path.name))
