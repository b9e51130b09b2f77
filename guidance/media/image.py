"""Images as people have them, read as they are meant to be seen, and cut to a size. Knows nothing of models.

Turned as their EXIF says, colours as their profile says, what is transparent on white, 16 bits made 8. Formats that run
a program to be read are refused.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import VideoError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000", "TGA", "MPO")
BROKEN = (OSError, ValueError, SyntaxError, EOFError, struct.error, IndexError, KeyError, OverflowError)
LARGE = 65535  # what white is in 16 bits


def read_image(contents: bytes, name: str) -> Image:
    """The first picture of an image file as upright RGB of 8 bits, in sRGB. Raises VideoError, about `name`."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.init()
            image = Image.open(io.BytesIO(contents), formats=[kind for kind in FORMATS if kind in Image.OPEN])
            image.load()
            return _seen(image)
    except Image.DecompressionBombError as error:
        raise VideoError(f"the image {name} is too large: {first_line(error)}; make it smaller") from error
    except Image.UnidentifiedImageError as error:
        raise VideoError(f"{name} is no image that can be read here; give a PNG or JPEG") from error
    except BROKEN as error:
        raise VideoError(f"cannot read the image {name}: {first_line(error)}; save it anew as PNG or JPEG") from error


def cut(image: Image, width: int, height: int) -> Image:
    """The middle of an image, as large as can be, at that size in pixels."""
    from PIL import Image

    scale = max(width / image.width, height / image.height)
    wide, high = max(width, round(image.width * scale)), max(height, round(image.height * scale))
    sized = image.resize((wide, high), Image.Resampling.LANCZOS)
    left, top = (wide - width) // 2, (high - height) // 2
    return sized.crop((left, top, left + width, top + height))


def stretched(image: Image, width: int, height: int) -> Image:
    """All of an image at that size in pixels."""
    from PIL import Image

    return image.resize((width, height), Image.Resampling.LANCZOS)


def floored_size(shape: tuple[int, int], area: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Width and height of about `area`, both rounded down: so Wan's image2video.py sizes its 36-channel models.

    In whole numbers: its own root of floats makes 832x464 of an image of 832x480. `shape` is an image's width and
    height, `grid` what height and width are multiples of; 0 where it is too narrow.
    """
    (wide, high), (down, across) = shape, grid
    return math.isqrt(area * wide // high) // across * across, math.isqrt(area * high // wide) // down * down


def nearest_size(shape: tuple[int, int], area: int, grid: tuple[int, int]) -> tuple[int, int]:
    """Width and height within `area` of the nearest aspect: so Wan2.2's best_output_size does for its 5B model.

    As `floored_size`.
    """
    ratio, (down, across) = shape[0] / shape[1], grid
    width, height = floored_size(shape, area, grid)
    if not width or not height:
        return 0, 0
    found = [(area // height // across * across, height), (width, area // width // down * down)]  # the former of equals
    return min(found, key=lambda size: max(ratio * size[1] / size[0], size[0] / size[1] / ratio))


def _seen(image: Image) -> Image:
    """As it is meant to be seen. Raises ValueError for numbers that nobody knows the white of."""
    from PIL import Image, ImageOps

    profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        image = _of_numbers(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        colours = _in_srgb(image.convert("RGB"), profile)
        return Image.composite(colours, Image.new("RGB", image.size, "white"), image.getchannel("A"))
    return _in_srgb(image, profile).convert("RGB")


def _of_numbers(image: Image) -> Image:
    """Grey of 8 bits of an image whose pixels are whole numbers of 16."""
    import numpy as np
    from PIL import Image

    grey = np.asarray(image)
    if image.mode == "F" or grey.min() < 0 or grey.max() > LARGE:
        raise ValueError("its pixels are no colours of 8 or 16 bits")
    return Image.fromarray(((grey.astype(np.uint32) * 255 + LARGE // 2) // LARGE).astype(np.uint8))


def _in_srgb(image: Image, profile: Any) -> Image:
    """Colours of a profile as sRGB; as they are where there is none, or a broken one."""
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    from PIL import ImageCms

    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        found = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image
    return found or image
