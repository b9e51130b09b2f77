"""Images that clips are made from: found, checked, sized as the model's own scripts do, and kept beside the clips.

An image is what its bytes are: their sha256 names it in records, and its copy. Knows nothing of sampling.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import UsageError, VideoError
from shelllcc.guidance.files import JsonObject, at_home
from shelllcc.guidance.media.image import cut, floored_size, nearest_size, read_image, stretched
from shelllcc.guidance.paths import reason
from shelllcc.guidance.wan.clips.request import Request, Still
from shelllcc.guidance.wan.model.pipeline import Model

if TYPE_CHECKING:
    from PIL.Image import Image

ENDING = r"\.[a-z0-9]+"  # of a file's name
EXAMPLE = "e.g. Wan-AI/Wan2.2-I2V-A14B-Diffusers"


def still_at(path: str) -> Still:
    """The image in a file. Raises UsageError where none is there, VideoError where it cannot be read."""
    place = at_home(Path(path)).absolute()
    try:
        contents = place.read_bytes()
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read the image {path}: {reason(error)}; give --image FILE") from error
    read_image(contents, path)
    return Still(hashlib.sha256(contents).hexdigest(), str(place))


@functools.lru_cache(maxsize=16)
def contents_of(still: Still) -> bytes:
    """The bytes of an image. Raises VideoError where it is gone, or is another one by now."""
    try:
        contents = Path(still.path).read_bytes()
    except (OSError, ValueError) as error:
        raise VideoError(f"cannot read the image {still.path}: {reason(error)}; put it back") from error
    if hashlib.sha256(contents).hexdigest() != still.sha256:
        raise VideoError(f"the image {still.path} is not what it was when this was planned; give the command anew")
    return contents


def pictures(request: Request, model: Model) -> dict[str, Image]:
    """The images of a request at its size, by the names of its fields. Raises VideoError.

    As Wan's own scripts fit them: its 36-channel models see all of an image, stretched by less than a step of their
    grid, and 5B its middle. A last image of another shape than the first is seen in its middle by both.
    """
    found = {name: read_image(contents_of(still), still.path) for name, still in request.stills.items()}
    whole = {name for name, image in found.items() if model.needs_image and image.size == found["image"].size}
    return {
        name: (stretched if name in whole else cut)(image, request.width, request.height)
        for name, image in found.items()
    }


def check_images(request: Request, model: Model) -> None:
    """Raise UsageError for images that a model cannot begin or end with, or for want of those that it needs."""
    name = model.name
    if request.image is None and request.last_image is not None:
        raise UsageError("--last-image goes with --image; give both")
    if request.image is not None and not model.takes_image:
        raise UsageError(f"{name} makes videos of text alone; leave --image out, or give an image model, {EXAMPLE}")
    if request.image is None and model.needs_image:
        raise UsageError(f"{name} makes videos from an image; give --image FILE")
    if request.last_image is not None and not model.takes_last_image:
        raise UsageError(f"{name} takes no last image; leave --last-image out, or give another model, {EXAMPLE}")
    if request.last_image is None and model.needs_last_image:
        raise UsageError(f"{name} makes videos between two images; give --last-image FILE, too")
    if request.last_image is not None and request.frames < 9:
        raise UsageError(f"--last-image needs 9 frames or more, got {request.frames}")


def sized(request: Request, model: Model) -> Request:
    """The request at the size that its image gets: about the area asked for, the image's aspect, the model's grid.

    Raises UsageError for an image too narrow for that, VideoError for one that cannot be read.
    """
    if request.image is None:
        return request
    shape = read_image(contents_of(request.image), request.image.path).size
    size_of = floored_size if model.needs_image else nearest_size
    width, height = size_of(shape, request.width * request.height, model.grid)
    if not width or not height:
        raise UsageError(
            f"the image {request.image.path} of {shape[0]}x{shape[1]} is too narrow for an area of "
            f"{request.width}x{request.height}; crop it, or give a larger --size"
        )
    return request.changed(width=width, height=height)


def copies(request: Request, folder: Path) -> dict[str, Path]:
    """Where copies of a request's images lie beside its clip, by the names of its fields: one for all clips there.

    Named by content; the ending is the file's own where it is one of Latin letters and digits, as runs know theirs.
    """
    found = {}
    for name, still in request.stills.items():
        ending = Path(still.path).suffix.lower()
        found[name] = folder / f"image-{still.sha256[:12]}{ending if re.fullmatch(ENDING, ending) else ''}"
    return found


def replayed(record: JsonObject, sidecar: Path, given: Mapping[str, object]) -> Request:
    """The request of a sidecar, with its images as they lie beside it, but for those that are `given` anew.

    Raises UsageError where one is missing, or is another one.
    """
    request = Request.from_dict(record["request"])
    named = record.get("images") or {}
    found: dict[str, Still] = {}
    for name, still in request.stills.items():
        if name in given:
            continue
        file = named.get(name) if isinstance(named, dict) else None
        if not isinstance(file, str):
            raise UsageError(f"{sidecar} does not name the copy of its image; give --{_flag(name)} FILE")
        copy = sidecar.absolute().with_name(Path(file).name)
        if not copy.is_file():
            raise UsageError(f"the image {copy} of {sidecar} is missing; put it back, or give --{_flag(name)} FILE")
        there = hashlib.sha256(copy.read_bytes()).hexdigest()
        if there != still.sha256:
            raise UsageError(f"{copy} is not the image that {sidecar} was made from; give --{_flag(name)} FILE")
        found[name] = Still(still.sha256, str(copy))
    return request.changed(**found)


def _flag(name: str) -> str:
    return name.replace("_", "-")
