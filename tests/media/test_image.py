"""Images of every kind that people have: seen as they are meant to be, or refused in one line."""

import io

import numpy as np
import pytest
from PIL import Image

from shelllcc.guidance.errors import VideoError
from shelllcc.guidance.media.image import cut, floored_size, nearest_size, read_image, stretched

CORNERS = np.zeros((8, 16, 3), np.uint8)
CORNERS[:, :8] = (200, 40, 10)
CORNERS[:, 8:] = (10, 60, 220)


def saved(image, kind="PNG", **how):
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def ends(contents):
    """The colours at both ends of the middle line."""
    image = read_image(contents, "x")
    assert image.mode == "RGB"
    middle = np.asarray(image)[image.height // 2].astype(int)
    return middle[1], middle[-2]


PLAIN = Image.fromarray(CORNERS)
TURNED = Image.Exif()
TURNED[0x0112] = 6  # to be turned by 90 degrees clockwise
PALETTE = PLAIN.quantize(4)


@pytest.mark.parametrize(
    "contents",
    [
        saved(PLAIN),
        saved(PLAIN, "JPEG", quality=98, subsampling=0),
        saved(PLAIN, "WEBP", lossless=True),
        saved(PLAIN.transpose(Image.Transpose.ROTATE_90), "JPEG", exif=TURNED, quality=98, subsampling=0),
        saved(PLAIN.convert("RGBA")),
        saved(PALETTE),
        saved(PALETTE, "GIF"),
        saved(PLAIN.convert("CMYK"), "JPEG", quality=98),
        saved(PLAIN.convert("CMYK"), "TIFF"),
    ],
    ids=["png", "jpeg", "webp", "exif", "alpha", "palette", "gif", "cmyk-jpeg", "cmyk-tiff"],
)
def test_every_kind_of_image_is_seen_alike(contents):
    left, right = ends(contents)
    np.testing.assert_allclose(left, CORNERS[0, 0], atol=6)
    np.testing.assert_allclose(right, CORNERS[0, -1], atol=6)


def test_sixteen_bits_are_made_eight_and_what_is_transparent_is_white():
    grey = Image.fromarray(np.tile(np.array([[0, 32768, 65535]], np.uint16), (3, 2)))
    assert np.asarray(read_image(saved(grey), "x"))[0, :3, 0].tolist() == [0, 128, 255]
    clear = PLAIN.convert("RGBA")
    clear.putalpha(Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 8, 1).repeat(8, 0)))
    left, right = ends(saved(clear))
    assert left.tolist() == [255, 255, 255]
    assert right.tolist() == CORNERS[0, -1].tolist()
    black = PALETTE.copy()
    black.info["transparency"] = black.getpixel((0, 0))
    assert ends(saved(black, transparency=black.info["transparency"]))[0].tolist() == [255, 255, 255]


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))


@pytest.mark.parametrize(
    "contents",
    [
        *(saved(NOISE, kind)[: len(saved(NOISE, kind)) // 2] for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")),
        b"",
        b"no image",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
    ],
    ids=["png", "jpeg", "webp", "gif", "bmp", "tiff", "empty", "text", "eps", "floats"],
)
def test_what_is_torn_or_no_image_is_refused_in_one_line(contents):
    with pytest.raises(VideoError, match=r"cat\.any") as error:
        read_image(contents, "cat.any")
    assert len(str(error.value).splitlines()) == 1


def image2video(shape, area):
    """Wan2.1's and Wan2.2's wan/image2video.py, and first_last_frame2video.py: max_area to width and height.

    vae_stride (4, 8, 8), patch_size (1, 2, 2), and its own floats.
    """
    aspect = shape[1] / shape[0]
    high, wide = (round(np.sqrt(to) // 8 // 2 * 2) for to in (area * aspect, area / aspect))
    return wide * 8, high * 8


def best_output_size(shape, area):
    """The function of that name in Wan2.2's wan/utils/utils.py, at 5B's steps of 32 pixels."""
    ratio = shape[0] / shape[1]
    wide = (area * ratio) ** 0.5
    by_width = int(wide // 32 * 32)
    by_width = by_width, int(area / by_width // 32 * 32)
    by_height = int(area / wide // 32 * 32)
    by_height = int(area / by_height // 32 * 32), by_height
    off = [max(ratio / (w / h), w / h / ratio) for w, h in (by_width, by_height)]
    return by_width if off[0] < off[1] else by_height


@pytest.mark.parametrize(
    ("ours", "theirs", "grid", "areas"),
    [
        (floored_size, image2video, (16, 16), (480 * 832, 720 * 1280)),
        (nearest_size, best_output_size, (32, 32), (480 * 832, 704 * 1280)),
    ],
)
def test_sizes_are_those_of_wans_own_formulas(ours, theirs, grid, areas):
    """But where an image has the very area and aspect: there the roots of theirs may be a whole step short."""
    dice = np.random.default_rng(0)
    shapes = [tuple(map(int, shape)) for shape in dice.integers(200, 4000, (2000, 2))]
    for area in areas:
        assert [ours(shape, area, grid) for shape in shapes] == [theirs(shape, area) for shape in shapes]
        for exact in ((832, 480), (480, 832), (1280, 720), (720, 1280), (1280, 704), (704, 1280)):
            if exact[0] * exact[1] == area:
                assert ours(exact, area, grid) == exact


def test_the_formula_in_whole_numbers_mends_a_step_that_wans_floats_lose():
    assert image2video((832, 480), 832 * 480) == (832, 464)
    assert floored_size((832, 480), 832 * 480, (16, 16)) == (832, 480)


def test_sizes_by_hand():
    assert floored_size((1920, 1080), 832 * 480, (16, 16)) == (832, 464)
    assert floored_size((1080, 1920), 832 * 480, (16, 16)) == (464, 832)
    assert floored_size((1000, 1000), 1280 * 720, (16, 16)) == (960, 960)
    assert nearest_size((1280, 704), 1280 * 704, (32, 32)) == (1280, 704)
    assert nearest_size((1000, 1000), 1280 * 704, (32, 32)) == (
        960,
        928,
    )
    assert 0 in floored_size((1, 5000), 64 * 64, (16, 16))
    assert 0 in nearest_size((1, 5000), 64 * 64, (32, 32))
    for size in ((100, 37), (37, 100), (640, 480)):
        assert stretched(Image.new("RGB", size), 64, 48).size == (64, 48)
        assert cut(Image.new("RGB", size), 64, 48).size == (64, 48)
    assert np.asarray(cut(PLAIN, 8, 8))[4, 1].tolist() == pytest.approx(CORNERS[0, 0].tolist(), abs=6)
    corners = np.asarray(stretched(PLAIN.resize((400, 100), 0), 8, 8))
    assert corners[0, 0].tolist() == pytest.approx(CORNERS[0, 0].tolist(), abs=6), "all of it"
