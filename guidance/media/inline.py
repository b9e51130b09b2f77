"""Pictures as what a terminal draws in its text: kitty's graphics, iTerm2's inline images, sixel.

Each starts at the cursor and leaves it anywhere. Knows nothing of which terminal there is.

kitty: https://sw.kovidgoyal.net/kitty/graphics-protocol, iTerm2: https://iterm2.com/documentation-images.html, sixel:
https://vt100.net/docs/vt3xx-gp/chapter14.html.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Picture = NDArray[np.uint8]

Way = Literal["kitty", "iterm2", "sixel"]
WAYS: tuple[Way, ...] = get_args(Way)
CHUNK = 4096  # bytes of base64 that kitty takes in one escape
COLOURS = 128  # of a sixel picture
BAND = 6  # rows of pixels that one row of sixels has


def drawn(way: Way, image: Picture, *, columns: int, rows: int, number: int) -> str:
    """An image (H, W, 3) of uint8 for so many cells. By kitty it replaces the one of the same `number`.

    A sixel picture takes as many cells as its pixels need: whoever made it knows that they are no more.
    """
    if way == "kitty":
        return kitty(image, columns=columns, rows=rows, number=number)
    return iterm2(image, columns=columns, rows=rows) if way == "iterm2" else sixel(image)


def kitty(image: Picture, *, columns: int, rows: int, number: int) -> str:
    """A PNG, sent in chunks and shown (a=T) over so many cells; the cursor stays (C=1), and no answer comes (q=2)."""
    text = b64encode(png(image)).decode()
    parts = [text[start : start + CHUNK] for start in range(0, len(text), CHUNK)]
    keys = f"a=T,f=100,q=2,C=1,i={number},p=1,c={columns},r={rows},"
    last = len(parts) - 1
    return "".join(
        f"\x1b_G{keys if index == 0 else ''}m={int(index < last)};{part}\x1b\\" for index, part in enumerate(parts)
    )


def iterm2(image: Picture, *, columns: int, rows: int) -> str:
    """A PNG in one piece, as large as so many cells let it be."""
    data = png(image)
    keys = f"inline=1;size={len(data)};width={columns};height={rows};preserveAspectRatio=1;doNotMoveCursor=1"
    return f"\x1b]1337;File={keys}:{b64encode(data).decode()}\x07"


def sixel(image: Picture, *, colours: int = COLOURS) -> str:
    """Pixel by pixel, in at most 256 colours of its own."""
    import numpy as np
    from PIL import Image

    height, width = image.shape[:2]
    few = Image.fromarray(image).quantize(colours, dither=Image.Dither.NONE)
    palette = np.array(few.getpalette(), np.int64).reshape(-1, 3)
    indices = np.asarray(few)
    defined = (
        f"#{index};2;{';'.join(str(round(100 * int(part) / 255)) for part in palette[index])}"
        for index in np.unique(indices)
    )
    bands = "-".join("$".join(_band(indices[top : top + BAND])) for top in range(0, height, BAND))
    return f'\x1bP0;1;0q"1;1;{width};{height}{"".join(defined)}{bands}\x1b\\'


def png(image: Picture) -> bytes:
    """The image as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", compress_level=4)
    return file.getvalue()


def _band(rows: NDArray[np.uint8]) -> Iterator[str]:
    """One row of sixels, up to six (h, w) rows of colours: each colour's own dots, over the others'."""
    import numpy as np

    bits = (1 << np.arange(len(rows)))[:, None]
    for colour in np.unique(rows):
        dots = ((rows == colour) * bits).sum(0)
        starts = np.flatnonzero(np.diff(dots, prepend=-1))
        lengths = np.diff(starts, append=len(dots))
        if dots[starts[-1]] == 0:  # nothing follows
            starts, lengths = starts[:-1], lengths[:-1]
        pairs = zip(dots[starts].tolist(), lengths.tolist(), strict=True)
        yield f"#{colour}" + "".join(_run(chr(63 + value), length) for value, length in pairs)


def _run(sign: str, length: int) -> str:
    return f"!{length}{sign}" if length > 3 else sign * length
