"""Clips side by side, as a video and as a still with enlarged places. Knows pixels and labels; no models, no metrics.

What is to be judged is never resampled: panels of the video and enlarged places show the clips' own pixels, each as a
square of whole pixels. Only the overview in a still is scaled down.
"""

from __future__ import annotations

import bisect
import functools
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import whole_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.ImageFont import FreeTypeFont

    Frame = NDArray[np.uint8]  # (H, W, 3)
    Frames = NDArray[np.uint8] | Sequence[Frame]  # (t, H, W, 3)

BACKGROUND, INK, OUTLINE = (18, 18, 20), (238, 238, 238), (255, 214, 10)
GAP = 8  # pixels between panels; even, as every panel begins at an even pixel, where chroma is sampled
ASPECT = 16 / 9
OVERVIEW = (640, 480)  # pixels, the most that the whole frame takes in a still
MOST_ZOOM = 64
PLAIN = str.maketrans({"×": "x", "−": "-", "–": "-", "—": "-", "→": "->", "σ": "sigma"})  # absent from Pillow's font


class Place(NamedTuple):
    """A square of a frame, in pixels."""

    x: int
    y: int
    side: int

    def within(self, width: int, height: int, reference: Frame) -> Place:
        """The same square of a frame of another size."""
        down, across = height / reference.shape[0], width / reference.shape[1]
        side = max(1, round(self.side * min(across, down)))
        x, y = round((self.x + self.side / 2) * across - side / 2), round((self.y + self.side / 2) * down - side / 2)
        return Place(min(max(x, 0), width - side), min(max(y, 0), height - side), side)


def labelled(clips: Mapping[str, Frames], *, columns: int | None = None) -> Iterator[Frame]:
    """Frames of one video of all clips in a grid, each under its label; the grid is near 16:9 unless `columns`.

    A clip that ends holds its last frame. A clip smaller than the largest is enlarged by a whole number where that
    fits, and centred. Sides are even. Raises UsageError at once, not at the first frame.
    """
    _check(clips)
    if columns is not None and columns < 1:
        raise UsageError(f"a grid needs at least 1 column, got {columns}")
    height, width = (_even(max(clip[0].shape[axis] for clip in clips.values())) for axis in (0, 1))
    strip = _strip(width)
    across = min(columns or _columns(len(clips), width, height + strip), len(clips))
    corners = [
        ((i // across) * (strip + height + GAP), (i % across) * (width + GAP)) for i in range(len(clips))
    ]  # y, x of the strips
    canvas = _canvas(corners[-1][0] + strip + height, across * (width + GAP) - GAP)
    for label, (y, x) in zip(clips, corners, strict=True):
        canvas[y : y + strip, x : x + width] = _caption(label, width, strip)
    return _played(list(clips.values()), canvas, [(y + strip, x) for y, x in corners], (height, width))


def montage(clips: Mapping[str, Frames], *, frame: int | None = None, zoom: int = 4, places: int = 3) -> Frame:
    """A still of one row a clip: the whole frame, the middle one unless `frame`, and the same places enlarged.

    The places are those of the first clip with the most detail, with the least, where noise shows, and between;
    fewer than `places` if so many squares do not fit. A clip that ends before `frame` shows its last.
    """
    import numpy as np

    _check(clips)
    if not (1 <= zoom <= MOST_ZOOM and places >= 1):
        raise UsageError(f"a montage has 1 place or more at a zoom of 1 to {MOST_ZOOM}, got {places} at {zoom}")
    first, longest = next(iter(clips.values())), max(len(clip) for clip in clips.values())
    if frame is not None and not 0 <= frame < longest:
        raise UsageError(f"frame {frame} is not in the clips; the longest has frames 0 to {longest - 1}")
    index = len(first) // 2 if frame is None else frame
    stills = {label: np.asarray(clip[min(index, len(clip) - 1)]) for label, clip in clips.items()}
    reference = stills[next(iter(stills))]
    size, side = _overview(reference, zoom, places)
    chosen = _places(reference, side, places)
    return np.concatenate([_row(label, still, reference, chosen, size, zoom) for label, still in stills.items()])


def write_png(path: Path, image: Frame) -> None:
    """Write uint8 (H, W, 3) as PNG."""
    from PIL import Image

    with whole_file(path) as part:
        Image.fromarray(image).save(part, format="PNG")


def _check(clips: Mapping[str, Frames]) -> None:
    if not clips:
        raise UsageError("there is no clip to show")
    for label, clip in clips.items():
        if not len(clip):
            raise UsageError(f"the clip {label!r} has no frame")


def _played(
    clips: Sequence[Frames], canvas: Frame, corners: Sequence[tuple[int, int]], cell: tuple[int, int]
) -> Iterator[Frame]:
    for t in range(max(map(len, clips))):
        image = canvas.copy()
        for clip, (y, x) in zip(clips, corners, strict=True):
            _paste(image[y : y + cell[0], x : x + cell[1]], clip[min(t, len(clip) - 1)])
        yield image


def _paste(cell: Frame, frame: Frame) -> None:
    """The frame in the middle of the cell, each of its pixels as a square of as many as fit."""
    times = min(cell.shape[0] // frame.shape[0], cell.shape[1] // frame.shape[1])
    height, width = frame.shape[0] * times, frame.shape[1] * times
    y, x = ((room - size) // 4 * 2 for room, size in zip(cell.shape, (height, width), strict=False))
    cell[y : y + height, x : x + width] = _enlarged(frame, times)


def _columns(count: int, width: int, height: int) -> int:
    """Of the full grids of so many cells, the columns of the one whose aspect is nearest to 16:9."""
    grids = [(math.ceil(count / rows), rows) for rows in range(1, count + 1)]
    return min(grids, key=lambda grid: abs(math.log(grid[0] * width / (grid[1] * height) / ASPECT)))[0]


def _overview(reference: Frame, zoom: int, places: int) -> tuple[tuple[int, int], int]:
    """Height and width at which the whole frame is shown, and the side of places that are as high when enlarged.

    A small frame is enlarged by a whole number, as long as its places stay within a third of it.
    """
    height, width = reference.shape[:2]
    scale = min(OVERVIEW[0] / width, OVERVIEW[1] / height)
    if scale >= 1:
        scale = min(int(scale), max(1, zoom * min(height, width) // (3 * height)))
    shown = max(1, round(height * scale)), max(1, round(width * scale))
    side = max(1, min(shown[0] // zoom, height, width))
    while side > 1 and (height // side) * (width // side) <= 4 * (places - 1):  # a square covers 4 of a tiling at most
        side -= 1
    return shown, side


def _places(reference: Frame, side: int, count: int) -> list[Place]:
    """Squares that do not overlap, from the most detail to the least, at even steps of its logarithm.

    Squares with more than a fifth of nearly black or white are a last resort: where pixels are clipped, no noise shows.
    """
    import numpy as np

    grey = reference.astype(np.float64).mean(-1)
    detail = _means(_roughness(grey), side)
    visible = _means(((grey > 16) & (grey < 240)).astype(np.float64), side) > 0.8
    steps = [
        sorted({*range(0, limit + 1, max(1, side // 4)), *range(0, limit + 1, side)})
        for limit in (grey.shape[0] - side, grey.shape[1] - side)
    ]
    y, x = (axis.ravel() for axis in np.meshgrid(*steps, indexing="ij"))
    level, lit = np.log1p(detail[y, x]), visible[y, x]
    ends = level[lit] if lit.any() else level
    wanted = np.linspace(ends.max(), ends.min(), count)
    free = np.ones(len(y), bool)
    chosen: dict[int, Place] = {}
    for rank in sorted(range(count), key=lambda i: -abs(2 * i - count + 1)):  # the extremes choose first
        if not free.any():
            break
        among = free & lit if (free & lit).any() else free
        best = int(np.where(among, np.abs(level - wanted[rank]), np.inf).argmin())
        chosen[rank] = Place(int(x[best]), int(y[best]), side)
        free &= (np.abs(y - y[best]) >= side) | (np.abs(x - x[best]) >= side)
    return [chosen[rank] for rank in sorted(chosen)]


def _roughness(grey: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute Laplacian of each pixel."""
    import numpy as np

    p = np.pad(grey, 1, mode="edge")
    return np.abs(p[:-2, 1:-1] + p[2:, 1:-1] + p[1:-1, :-2] + p[1:-1, 2:] - 4 * grey)


def _means(values: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    """Mean over the square that begins at each pixel, where one does."""
    import numpy as np

    sums = np.pad(values, ((1, 0), (1, 0))).cumsum(0).cumsum(1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    return np.maximum(inside, 0) / side**2


def _row(
    label: str, still: Frame, reference: Frame, places: Sequence[Place], size: tuple[int, int], zoom: int
) -> Frame:
    height, width = size
    strip, crop = _strip(width), places[0].side * zoom
    row = _canvas(strip + max(height, crop) + GAP, width + len(places) * (GAP + crop))
    row[:strip, :width] = _caption(label, width, strip)
    placed = [place.within(still.shape[1], still.shape[0], reference) for place in places]
    overview = _outlined(still, placed, size)
    y, x = (height - overview.shape[0]) // 2, (width - overview.shape[1]) // 2
    row[strip + y : strip + y + overview.shape[0], x : x + overview.shape[1]] = overview
    for i, place in enumerate(placed):
        x = width + GAP + i * (crop + GAP)
        row[:strip, x : x + crop] = _caption(_name(i, len(places)), crop, strip, ink=OUTLINE)
        pixels = still[place.y : place.y + place.side, place.x : place.x + place.side]
        row[strip : strip + crop, x : x + crop] = _scaled(pixels, (crop, crop), smooth=False)
    return row


def _name(i: int, count: int) -> str:
    ends = {0: " most detail", count - 1: " least detail"} if count > 1 else {}
    return f"{i + 1}{ends.get(i, '')}"


def _outlined(still: Frame, places: Sequence[Place], size: tuple[int, int]) -> Frame:
    """The whole frame, as large as fits in `size`, with the places' numbered outlines."""
    import numpy as np
    from PIL import Image, ImageDraw

    scale = min(size[0] / still.shape[0], size[1] / still.shape[1])
    shape = max(1, round(still.shape[0] * scale)), max(1, round(still.shape[1] * scale))
    picture = Image.fromarray(_scaled(still, shape, smooth=scale < 1 or not scale.is_integer()))
    draw, font = ImageDraw.Draw(picture), _font(_strip(size[1]))
    boxes = []
    for place in places:
        left, top = round(place.x * scale), round(place.y * scale)
        right, bottom = (round((start + place.side) * scale) - 1 for start in (place.x, place.y))
        boxes.append((left, top, max(left, right), max(top, bottom)))
    for left, top, right, bottom in boxes:
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline="black")
    for number, box in enumerate(boxes, 1):
        draw.rectangle(box, outline=OUTLINE)
        corner = box[0] + 4, box[1] + 2
        draw.text(corner, str(number), fill=OUTLINE, font=font, stroke_width=2, stroke_fill="black")
    return np.asarray(picture)


def _scaled(pixels: Frame, shape: tuple[int, int], *, smooth: bool) -> Frame:
    import numpy as np
    from PIL import Image

    filter_ = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize(shape[::-1], filter_))


def _enlarged(pixels: Frame, times: int) -> Frame:
    return pixels.repeat(times, 0).repeat(times, 1) if times > 1 else pixels


def _canvas(height: int, width: int) -> Frame:
    import numpy as np

    return np.full((height, width, 3), BACKGROUND, np.uint8)


def _caption(text: str, width: int, height: int, *, ink: tuple[int, int, int] = INK) -> Frame:
    """A strip with one line of text, cut short with an ellipsis if it is wider."""
    import numpy as np
    from PIL import Image, ImageDraw

    strip, font = Image.new("RGB", (width, height), BACKGROUND), _font(height)
    margin = height // 4
    line = _cut(_line(text, width), lambda part: font.getlength(part) <= width - 2 * margin)
    ImageDraw.Draw(strip).text((margin, height / 2), line, fill=ink, font=font, anchor="lm")
    return np.asarray(strip)


def _line(text: str, most: int) -> str:
    """Text in one line of letters that can be printed, of no more of them than pixels, accents left out."""
    plain = unicodedata.normalize("NFKD", " ".join(text[: 8 * most].split())).translate(PLAIN)
    kept = [c for c in plain if c.isprintable() and not unicodedata.category(c).startswith("M")]
    return "".join(kept[:most])


def _cut(line: str, fits: Callable[[str], bool]) -> str:
    """The line, or as much of it with an ellipsis as fits."""
    if fits(line):
        return line
    most = bisect.bisect_left(range(len(line)), True, key=lambda n: not fits(line[:n].rstrip() + "…"))
    return line[: max(0, most - 1)].rstrip() + "…" if most else ""


def _strip(width: int) -> int:
    """Height of the caption of a panel of that width: 20 pixels for 192, 32 for 640, 50 for 1280."""
    return _even(round(max(12, 8 + width / 56) * 1.6))


@functools.cache
def _font(strip: int) -> FreeTypeFont:
    """For a strip of that height, Pillow's own, so that every machine draws the same."""
    from PIL import ImageFont

    return ImageFont.load_default(strip / 1.6)


def _even(size: int) -> int:
    return size + size % 2
