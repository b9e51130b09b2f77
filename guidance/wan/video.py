"""Video files and sidecars, written whole or not at all. Knows nothing of models or sampling."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from shelllcc.guidance.errors import OutputError, UsageError
from shelllcc.guidance.files import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

CRF = 14  # visually lossless H.264; metrics are taken from frames before encoding all the same


def check_output(path: Path) -> None:
    """Raise OutputError unless a file could be written at `path`; leaves nothing behind."""
    if path.suffix.lower() not in (".mp4", ".json"):
        raise OutputError(f"the output must be an .mp4 file, got {path}")
    folder = path.parent
    try:
        if path.is_dir():
            raise OutputError(f"the output {path} is a folder; give a file in it")
        existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        raise OutputError(f"cannot write to {folder}: {error.strerror}") from error


def write_video(
    path: Path, frames: Iterable[NDArray[np.uint8]], *, fps: float, record: Mapping[str, Any] | None = None
) -> None:
    """Write uint8 frames (H, W, 3), or an array of them, as H.264 mp4, `record` as JSON in its comment tag."""
    import imageio.v2 as imageio

    tag = ["-metadata", f"comment={json.dumps(record, ensure_ascii=False)}"] if record else []
    with whole_file(path) as part:
        try:
            with imageio.get_writer(
                part,
                format="FFMPEG",
                fps=fps,
                codec="libx264",
                pixelformat="yuv420p",
                macro_block_size=2,
                ffmpeg_log_level="error",
                output_params=["-crf", str(CRF), "-movflags", "+faststart+use_metadata_tags", "-threads", "1", *tag],
            ) as writer:
                for frame in frames:
                    writer.append_data(frame)  # type: ignore[attr-defined]
        except (OSError, RuntimeError) as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def write_json(path: Path, record: Mapping[str, Any]) -> None:
    with whole_file(path) as part:
        part.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_sidecar(path: Path) -> dict[str, Any]:
    """The JSON record beside a clip. Raises UsageError."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the sidecar {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"the sidecar {path} is not JSON: {error}") from error
    if not isinstance(record, dict) or not isinstance(record.get("request"), dict):
        raise UsageError(f"{path} is no sidecar of a clip: it has no request")
    if not all(isinstance(record.get(key), (dict, type(None))) for key in ("model", "bank", "sha256")):
        raise UsageError(f"{path} is no proper sidecar: model, bank and sha256 must be objects")
    if not isinstance((record.get("model") or {}).get("source"), (str, type(None))):
        raise UsageError(f"{path} is no proper sidecar: the model's source must be a string")
    return record
