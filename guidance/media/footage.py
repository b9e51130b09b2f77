"""Video files as clips of uint8 frames: sized, cropped, at one frame rate, HDR tone-mapped.

Knows nothing of models or latents. ffmpeg decodes in one thread, so that the bytes do not depend on the core count.
Colours are read by their tags, and where there are none as BT.601 at any size: as ffmpeg and all that is built on it
(imageio, diffusers, decord) read and write them, though players take large ones for BT.709.
"""

from __future__ import annotations

import itertools
import math
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shelllcc.guidance.errors import UsageError, VideoError
from shelllcc.guidance.media.damage import TELLING, Damage, heard
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIZES: Mapping[str, tuple[tuple[int, int], ...]] = {  # (width, height)
    "272p": ((480, 272), (336, 336), (272, 480)),
    "480p": ((832, 480), (720, 480), (512, 512), (480, 720), (480, 832)),
    "720p": ((1280, 720), (960, 960), (720, 1280)),
    "1080p": ((1920, 1088), (1440, 1440), (1088, 1920)),
}
MAX_SIDE = 8192
FEWEST = 5  # frames: two latent frames
MAX_BYTES = 4 * 2**30  # of a whole video's frames
RAW = ("-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
RUN_UP = 10.0  # seconds decoded ahead of a clip: some containers seek to frames whose references lie before
FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg,mxf,mp3,aac,wav,flac"  # playlists name other files: none
SCALE = "flags=lanczos+accurate_rnd+full_chroma_int+bitexact"  # the same on every CPU
HDR = {"smpte2084": "PQ", "arib-std-b67": "HLG"}
TORN = ("File ended prematurely", "partial file")
TONE_MAP = (
    "zscale=transfer=linear:npl=100,format=gbrpf32le,zscale=primaries=bt709,"
    "tonemap=mobius:peak=10:desat=0,zscale=transfer=bt709:matrix=gbr:range=full,format=gbrp"
)


@dataclass(frozen=True)
class Framing:
    """What to take from a video: at most `clips` clips; `fps` None keeps its own frames. Raises UsageError."""

    size: str = "480p"  # a name of SIZES, or WIDTHxHEIGHT
    fps: float | None = 16
    frames: int = 81
    clips: int = 1

    def __post_init__(self) -> None:
        target_size(1, 1, self.size)
        if self.fps is not None and not 0 < self.fps <= 240:
            raise UsageError(f"fps must lie above 0 and up to 240, got {self.fps:g}")
        if self.frames < FEWEST or self.frames % 4 != 1:
            near = max(FEWEST, (self.frames + 1) // 4 * 4 + 1)
            raise UsageError(f"the number of frames must be 4n+1, got {self.frames}; the nearest is {near}")
        if self.clips < 1:
            raise UsageError(f"the number of clips must be at least 1, got {self.clips}")


class _Stream(NamedTuple):
    """The pictures of a file as they are shown: rotated, with square pixels; in seconds and frames a second."""

    width: float
    height: float
    colours: tuple[str, ...]  # matrix, primaries, transfer
    start: float
    end: float
    rate: float
    missing: int  # packets that the container ought to hold, and does not
    corrupt: int  # and those that it does not hold whole
    cut: bool  # the end is missing


class Footage(NamedTuple):
    """All frames of a video, uint8 (t, H, W, 3), and frames a second.

    damaged  of `total` frames, how many could not be decoded: they are missing from `frames`, or guessed by ffmpeg
    hdr      PQ or HLG, where the frames were tone-mapped; "" of SDR
    """

    frames: NDArray[np.uint8]
    rate: float
    damaged: int
    total: int
    hdr: str


def target_size(width: float, height: float, size: str) -> tuple[int, int]:
    """The entry of SIZES[size] nearest in aspect, or the explicit WIDTHxHEIGHT. Raises UsageError."""
    if size in SIZES:
        return min(SIZES[size], key=lambda entry: abs(math.log(entry[0] * height / (entry[1] * width))))
    numbers = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", size)
    if not numbers:
        raise UsageError(f"no size {size}; there are {', '.join(SIZES)} and WIDTHxHEIGHT")
    sides = int(numbers[1]), int(numbers[2])
    if any(side % 8 or not 16 <= side <= MAX_SIDE for side in sides):
        near = "x".join(str(min(MAX_SIDE, max(16, round(side / 8) * 8))) for side in sides)
        raise UsageError(f"a size has multiples of 8 from 16 to {MAX_SIDE}, got {size}; the nearest is {near}")
    return sides


def read_clips(
    path: Path, framing: Framing, *, on_hdr: Callable[[str], None] = lambda kind: None
) -> Iterator[NDArray[np.uint8]]:
    """Clips (t, H, W, 3) of a video, evenly spread, never overlapping, each decoded when it is asked for.

    A video shorter than a clip gives the largest 4n+1 frames that it has. `on_hdr` hears PQ or HLG where they are
    tone-mapped. Raises VideoError, also for a clip with
    frames that could not be decoded, or that lean on such.
    """
    stream = _examine(path)
    if stream.cut:
        raise _refusal(f"cannot read {path}: it is truncated")
    if lost := stream.missing + stream.corrupt:
        raise _refusal(f"{path} is damaged: {plural(lost, 'frame')} could not be read")
    if kind := HDR.get(stream.colours[2]):
        on_hdr(kind)
    rate = framing.fps or stream.rate
    frames = round((stream.end - stream.start) * rate)
    clips = max(1, min(framing.clips, frames // framing.frames))
    usable = max(clips * framing.frames, frames - 2)  # some packets are no frames
    for index in range(clips):
        first = index * (usable - framing.frames) // max(1, clips - 1)
        yield _read(path, stream, framing, rate=rate, first=first)


def read_video(path: Path) -> Footage:
    """All frames of a video at its own size, HDR tone-mapped as for `read_clips`, and how many are damaged.

    Raises VideoError where none can be decoded.
    """
    import numpy as np

    stream = _examine(path)
    width, height = round(stream.width), round(stream.height)
    size = round((stream.end - stream.start) * stream.rate) * width * height * 3
    if size > MAX_BYTES:
        raise _refusal(f"{path} has {size / 2**30:.0f} GiB of frames, {MAX_BYTES / 2**30:.0f} can be held; cut it")
    pixels, damage = _decode(path, 0, "-vf", ",".join(_picture(path, stream, width, height)), *RAW)
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, height, width, 3).copy()
    if not len(frames):
        raise _refusal(f"cannot read {path}: no frame can be decoded")
    total = len(frames) + len(damage.lost) + stream.missing
    damaged = min(total, max(damage.frames(), stream.corrupt) + stream.missing)
    return Footage(frames, stream.rate, damaged, total, HDR.get(stream.colours[2], ""))


def _read(path: Path, stream: _Stream, framing: Framing, *, rate: float, first: int) -> NDArray[np.uint8]:
    """The clip from frame `first` on, with the frames that an unbroken reading of the file would give."""
    import numpy as np

    width, height = target_size(stream.width, stream.height, framing.size)
    position = round(stream.start * rate) + first
    picture = _picture(path, stream, width, height)
    for sought in sorted({max(0, position - math.ceil(RUN_UP * rate)), 0}, reverse=True):
        begin, slack = (position - sought - 0.5) / rate, 1 / rate + 1 / stream.rate
        filters = [f"fps={framing.fps}"] if framing.fps else []
        filters += [f"trim=start={begin:.6f}", *picture]
        pixels, damage = _decode(path, sought / rate, "-vf", ",".join(filters), "-frames:v", str(framing.frames), *RAW)
        spoilt = damage.frames(begin - slack, begin + framing.frames / rate + slack)
        if not spoilt:  # else an unbroken reading tells damage from references that the seek has lost
            break
    if spoilt:
        raise _refusal(f"{path} is damaged: {plural(spoilt, 'frame')} that a clip needs could not be decoded")
    found = len(pixels) // (width * height * 3)
    kept = (found - 1) // 4 * 4 + 1
    if kept < FEWEST:
        place = f" at {framing.fps:g} fps" if framing.fps else ""
        raise _refusal(f"{path} has only {plural(found, 'frame')}{place}; {FEWEST} are needed")
    return np.frombuffer(pixels, np.uint8, count=kept * height * width * 3).reshape(kept, height, width, 3).copy()


def _picture(path: Path, stream: _Stream, width: int, height: int) -> list[str]:
    """Filters that scale to cover width x height, crop at the centre and bring HDR to SDR."""
    cover = max(width / stream.width, height / stream.height)
    scaled = max(width, round(stream.width * cover)), max(height, round(stream.height * cover))
    if scaled[0] * scaled[1] > 16 * width * height:
        raise _refusal(f"{path} is too narrow a strip to crop to {width}x{height}")
    resize, crop = f"scale={scaled[0]}:{scaled[1]}:{SCALE}", f"crop={width}:{height}"
    matrix, primaries, transfer = stream.colours
    if transfer not in HDR:
        return [resize, "format=rgb24", crop]
    matrix, primaries = matrix.replace("unknown", "bt2020nc"), primaries.replace("unknown", "bt2020")
    named = f"setparams=colorspace={matrix}:color_primaries={primaries}:color_trc={transfer}"
    return [named, resize, "format=yuv444p16le", crop, TONE_MAP]


def _examine(path: Path) -> _Stream:
    """Decode one frame, for geometry and colours, and list all packets, for the true length and a torn end."""
    try:
        if path.exists() and not path.is_file():
            raise _refusal(f"cannot read {path}: it is a folder or a device")
        with path.open("rb") as file:
            if not file.read(1):
                raise _refusal(f"cannot read {path}: it is empty")
    except (OSError, ValueError) as error:
        raise _refusal(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    show = ["-frames:v", "1", "-vf", "showinfo", "-f", "null", "-"]
    table, said = _ffmpeg(path, 0, *show, "-map", "0:V:0", "-c", "copy", "-f", "framecrc", "-")
    frame = re.search(r"pts_time:(\S+) .*? sar:(\d+)/(\d+) s:(\d+)x(\d+)", said)
    colours = re.search(r"color_space:(\S+) color_primaries:(\S+) color_trc:(\S+)", said)
    unit = re.search(rb"#tb 0: (\d+)/(\d+)", table)
    packets = [line.split(b",") for line in table.splitlines() if line.startswith(b"0,")]
    if not (frame and colours and unit and packets):
        raise _refusal(f"cannot read {path}: {_cause(said)}")
    times = [max(int(dts), int(pts)) * int(unit[1]) / int(unit[2]) for _, dts, pts, *_ in packets]  # pts may be missing
    begin, end = min(times), max(times)
    corrupt = [any(re.fullmatch(rb" F=0x[2367]", field) for field in fields) for fields in packets]
    cut = corrupt[-1] or any(words in said for words in TORN)
    torn = cut or bool(re.search(r"^\[(in#0/)?matroska.*\[error\]", said, re.MULTILINE))  # elements that are none
    rate = _rate(times, torn)
    pixel = int(frame[2]) / int(frame[3]) if int(frame[2]) and int(frame[3]) else 1.0
    start = begin if frame[1] == "NOPTS" else float(frame[1])
    missing = max(0, round(_duration(said) * rate) - len(times)) if torn else 0
    missing += torn and not missing and not any(corrupt)
    width, height = int(frame[4]) * pixel, int(frame[5])
    return _Stream(width, height, colours.groups(), start, end + 1 / rate, rate, missing, sum(corrupt), cut)


def _rate(times: Sequence[float], torn: bool) -> float:
    """Frames a second; of a torn video, by the frames that follow each other without a gap."""
    ordered = sorted(times)
    gaps = [after - before for before, after in itertools.pairwise(ordered) if after > before]
    if torn and gaps:
        usual = sorted(gaps)[len(gaps) // 2]
        near = [gap for gap in gaps if gap < 1.5 * usual]
        return len(near) / sum(near)
    return (len(ordered) - 1) / (ordered[-1] - ordered[0]) if gaps else 25.0


def _duration(said: str) -> float:
    """Seconds that the container claims; 0 where it claims none."""
    found = re.search(r"Duration: (\d+):(\d+):(\d+\.\d+)", said)
    return int(found[1]) * 3600 + int(found[2]) * 60 + float(found[3]) if found else 0.0


def _decode(path: Path, seek: float, *words: str) -> tuple[bytes, Damage]:
    """Pixels of the frames from `seek` seconds on, and what damage ffmpeg told of."""
    pixels, said = _ffmpeg(path, seek, *words, settings=TELLING)
    return pixels, heard(said)


def _ffmpeg(path: Path, seek: float, *words: str, settings: Sequence[str] = ()) -> tuple[bytes, str]:
    """What ffmpeg writes of the first moving pictures of a file, and what it says. Raises VideoError where it fails."""
    import imageio_ffmpeg

    command = ["-nostdin", "-hide_banner", "-nostats", "-v", "repeat+level+info", *settings]
    command += ["-threads", "1", "-filter_threads", "1"]
    command += ["-ss", f"{seek:.6f}"] if seek else []  # a seek to 0 would lose the first frames of an FLV
    command += ["-format_whitelist", FORMATS, "-i", f"file:{path}", "-map", "0:V:0", *words]
    void, pipe = subprocess.DEVNULL, subprocess.PIPE
    try:
        command.insert(0, imageio_ffmpeg.get_ffmpeg_exe())
        with subprocess.Popen(command, stdin=void, stdout=pipe, stderr=pipe) as process:
            try:
                written, complaints = process.communicate()
            except BaseException:
                process.kill()
                process.wait()  # which the end of the block leaves out after a KeyboardInterrupt
                raise
    except (OSError, RuntimeError) as error:
        raise _refusal(f"cannot run ffmpeg: {error}") from error
    said = complaints.decode(errors="replace")
    if process.returncode:
        cause = _cause(said, f"ffmpeg ended with {process.returncode} and said nothing")
        raise _refusal(f"cannot read {path}: {cause}")
    return written, said


def _cause(said: str, otherwise: str = "no frame can be decoded") -> str:
    """The first complaint of ffmpeg, or what it means."""
    meanings = {"matches no streams": "it holds no moving pictures", "partial file": "it is truncated"}
    meanings |= dict.fromkeys(("moov atom not found", "not on whitelist"), "it is no video, or truncated")
    known = [meaning for words, meaning in meanings.items() if words in said]
    return (known or re.findall(r"\[(?:error|fatal)\] (.+)", said) or [otherwise])[0]


def _refusal(text: str) -> VideoError:
    """One line, even where the name of the file holds line breaks."""
    return VideoError("".join(c if c.isprintable() else " " for c in text))
