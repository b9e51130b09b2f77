"""Photographs that ship, and camera clips of them: sharp, in daylight. Knows nothing of models or latents.

They stand in for real video where there is none at hand. Each is in the public domain or under CC0, so that it may go
wherever the package goes. Clips are framed so wide that a frame's pixel covers 2 to 3 of the photograph where there
are so many: what was reduced so far is sharp at the finest scale.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import VideoError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from shelllcc.guidance.media.camera import Clip

STILLS = Path(__file__).parent / "stills"
MOVES: Mapping[str, str] = {
    "static": "static shot",
    "pan left": "pan left",
    "pan right": "pan right",
    "tilt up": "tilt up",
    "tilt down": "tilt down",
    "zoom in": "zoom in",
    "zoom out": "zoom out",
    "roll": "roll",
}
"""Words for each move of the camera, as captions have them."""
STRIDE = 3  # from one photograph to the next, in MOVES: coprime to their number, so that all come equally often
SHARP = (2.0, 3.0)  # photograph pixels to a frame's pixel
MOST_SIDE = 256  # pixels of a starter bank's clips: photographs have no more that are sharp
WHOLE = 0.85  # share of a small photograph that a frame shows at least


@dataclass(frozen=True)
class Photograph:
    """One photograph, `stills/NAME.webp`, of `size` (width, height) in pixels; `sha256` is that file's.

    `caption` says what a clip of it shows, with {move} for the camera's; `source` is the package and file that it was
    cropped and reduced from. `focus` is the (x, y), in 0..1, about which frames lie, and `wander` how far they may
    stray from it, over the photograph's size.
    """

    name: str
    caption: str
    source: str
    author: str
    licence: str
    size: tuple[int, int]
    sha256: str
    focus: tuple[float, float]
    wander: float

    @property
    def view(self) -> tuple[float, float]:
        """Least and greatest width of a frame over the photograph's short side."""
        return 0.4, 1.0


@dataclass(frozen=True)
class Take:
    """A camera clip of a photograph, and its caption; `number` counts those of the same photograph."""

    photograph: Photograph
    number: int
    caption: str
    path: Clip


PUBLIC, AUTHORS = "public domain", "Budgie Desktop Developers, 2022-2026"
SCIPY, SKIMAGE, MATPLOTLIB = "scipy 1.9.3, ", "scikit-image 0.25, ", "matplotlib 3.10, "
LOMIRI, BUDGIE = "Debian's lomiri-wallpapers-16.04, ", "Debian's budgie-backgrounds 4.2, "
LIBJXL, OCRMYPDF = "Debian's libjxl-testdata, external/wesaturate/500px/", "ocrmypdf 16.10.0, tests/resources/"
# fmt: off
PHOTOGRAPHS: tuple[Photograph, ...] = (
    Photograph("raccoon", "a raccoon, {move}, daylight", SCIPY + "face.dat",
               "public-domain-image.com", PUBLIC, (1024, 768),
               "65ff761b2c27888699efe03b976b4ce16d0aff0790879b200b1e454931c84d61", (0.6, 0.45), 0.12),
    Photograph("astronaut", "an astronaut, {move}, daylight", SKIMAGE + "astronaut.png",
               "NASA", PUBLIC, (512, 512),
               "28718d41543f2e0003d7ee921ece7c99c54ba0a82d733c7c8e5223db5267b013", (0.44, 0.3), 0.12),
    Photograph("cat", "a tabby cat, {move}, daylight", SKIMAGE + "chelsea.png",
               "Stefan van der Walt", "CC0", (451, 300),
               "b4e06c6790d6f4e8c458af98996ab011f5889b970b625daecfd6f57748cc48ad", (0.5, 0.45), 0.12),
    Photograph("coffee", "a cup of coffee, {move}, daylight", SKIMAGE + "coffee.png",
               "Rachel Michetti", "CC0", (600, 400),
               "f20efac3b0c6fe3c6ec1f134a6fae5d630116a9d13541c45296cc86a5c67235c", (0.5, 0.48), 0.12),
    Photograph("camera", "a man with a camera, {move}, daylight", SKIMAGE + "camera.png",
               "Lav Varshney", "CC0", (512, 512),
               "f26f99c21f0d270646c93e2b4954cfe0dc18e047ff1945e483108b96481b39d9", (0.47, 0.35), 0.12),
    Photograph("grass", "grass, {move}, daylight", SKIMAGE + "grass.png",
               "linolafett, DeviantArt", "CC0", (512, 512),
               "e5ce6f6b436a08cb6ae35d0fcffae33683fd64e42a7dbaed0b7182f0cc2f5e29", (0.5, 0.5), 0.5),
    Photograph("gravel", "gravel, {move}, daylight", SKIMAGE + "gravel.png",
               "CC0Textures", "CC0", (512, 512),
               "5ae2c7d7e690ac08a0ce382e3eb64014c8c4b4076b49189885e371e3242e3eed", (0.5, 0.5), 0.5),
    Photograph("brick", "a brick wall, {move}, daylight", SKIMAGE + "brick.png",
               "CC0Textures", "CC0", (512, 512),
               "b2849be63dcd462c47c083a55b8b7bdd24f45ab37c6f7996c60ffe27cb90152f", (0.5, 0.5), 0.5),
    Photograph("retina", "a human retina, {move}, daylight", SKIMAGE + "retina.jpg",
               "Mikael Häggström", "CC0", (1024, 1024),
               "ff440c3fbd75ce047d60f7d5953f62d38b7f83e8114dc3e8a738d9a537e0019b", (0.5, 0.5), 0.1),
    Photograph("rocket", "a rocket launch, {move}, daylight", SKIMAGE + "rocket.jpg",
               "SpaceX", PUBLIC, (640, 427),
               "f769bde298a52a24a86a12b0dfc3c4d12428d435e7cd79529aead6760da7dadc", (0.5, 0.5), 0.12),
    Photograph("hubble", "distant galaxies, {move}, daylight", SKIMAGE + "hubble_deep_field.jpg",
               "NASA", PUBLIC, (1000, 872),
               "ef9c7b9126e371f97534467b5e028b0a0f60840d1cc898bc8d1ba3d99e96fcfa", (0.5, 0.5), 0.5),
    Photograph("dandelion", "a dandelion, {move}, daylight", LOMIRI + "seeding_by_Clements_Engelhardt.jpg",
               "Clemens Engelhardt, 2018", "CC0", (1024, 842),
               "ac3793f70791c630c8bc79e3b2cefa43c335998834f94909f1a9099f8b617888", (0.4, 0.42), 0.12),
    Photograph("admiral", "an admiral, {move}, daylight", MATPLOTLIB + "grace_hopper.jpg",
               "US Navy, official portrait", PUBLIC, (461, 450),
               "7d3879d586a63528523fec72a0dee550e3833494926b9562132156ebd2801f70", (0.48, 0.45), 0.12),
    Photograph("otter", "an otter on a bank of sand beside dark green water, {move}", BUDGIE + "oakland-zoo-otters.jxl",
               AUTHORS, "CC0", (1024, 626),
               "15483a384b4c3e80457bb6c45b819c90b92662e2449a08e038dd4e88a86c0a3a", (0.4, 0.45), 0.1),
    Photograph("rock", "a small bird behind a weathered rock, {move}", BUDGIE + "canyon-wren.jxl",
               AUTHORS, "CC0", (1024, 823),
               "e516fe615cdf768384309068cdc7be55ba992264cfe218752ee48fd89b197476", (0.5, 0.25), 0.1),
    Photograph("osprey", "an osprey on a dead branch among pines, {move}", BUDGIE + "perched-osprey.jxl",
               AUTHORS, "CC0", (1024, 762),
               "3a66e1f7a726f73833577f34345bc2b70f1eaa90936ab98513d00319dcf57c41", (0.3, 0.5), 0.1),
    Photograph("anhinga", "a dark water bird drying its feathers among green leaves, {move}",
               BUDGIE + "sunning-anhinga.jxl", AUTHORS, "CC0", (1024, 741),
               "bc2b492b5cbcac9a37bdeb27c5356d1a0b37693242f8b41328f1cc93e23cd1a5", (0.42, 0.5), 0.1),
    Photograph("heron", "a green heron on a bush in front of calm water, {move}", BUDGIE + "pondering-heron.jxl",
               AUTHORS, "CC0", (1024, 755),
               "e3b6fdfc94ac37a29dba351d519ec5f94d1d0f0b6fe77693d2bc60bc52c7b0b1", (0.36, 0.36), 0.05),
    Photograph("tea", "rows of tea bushes on a hillside, {move}", BUDGIE + "tea-gardens.jxl",
               AUTHORS, "CC0", (1024, 396),
               "cab3b2a6f224854bee7e6eacd7cb80232ad988efd4a40b5b334bde7f794dbf23", (0.5, 0.55), 0.5),
    Photograph("spices", "heaps of spices and dried flowers in bowls, {move}", BUDGIE + "the-spices-of-life.jxl",
               AUTHORS, "CC0", (1024, 683),
               "ba3d539c808d642cef46406ee10d7843e5b6c1a17b209733f391fac66ad31966", (0.5, 0.5), 0.5),
    Photograph("colosseum", "the stone arches of the Colosseum under a cloudy sky, {move}",
               BUDGIE + "roman-colosseum.jxl", AUTHORS, "CC0", (1024, 576),
               "4f2c0131a0e131c11ee2d7f10f8677713eb6bf8ba2cdc7153dd446b740fd8c96", (0.42, 0.5), 0.25),
    Photograph("street", "brick houses and roofs of a city at sunset, {move}", BUDGIE + "beacon-street-sunset.jxl",
               AUTHORS, "CC0", (1024, 448),
               "fb33222038ba50c897b9e1a23b2373b3f99d51e7b7ec7fbd56210db990eea645", (0.5, 0.6), 0.4),
    Photograph("lake", "a snowy mountain above a lake, {move}", BUDGIE + "lake-sherburne.jxl",
               AUTHORS, "CC0", (1024, 576),
               "33644ae3ef49afbf079f68a457226b6989aa299b89c5d87c2dc458f8fea65e1d", (0.5, 0.5), 0.4),
    Photograph("skyline", "a skyline at night, its lights mirrored in water, {move}",
               BUDGIE + "singaporean-cityscape.jxl", AUTHORS, "CC0", (1024, 576),
               "5b6d06344e02e63fa40b856f7ab4a725d067b96c28b07cf4bce989d81b5a7446", (0.5, 0.5), 0.4),
    Photograph("periwinkle", "small blue flowers in the shade, {move}", BUDGIE + "blue-periwinkle.jxl",
               AUTHORS, "CC0", (1024, 819),
               "82c314920a495120f5a23d9f4566cd4736d8edb4ae543be371ee827370caa17c", (0.36, 0.45), 0.08),
    Photograph("tulips", "pink tulips in a field, {move}", LIBJXL + "tmshre_riaphotographs_srgb8.png",
               "riaphotographs, wesaturate.com", "CC0", (500, 500),
               "211aa67f68cb33385b917e8c9d88d7604ab5eafa25a6f5df72ac8b2a107973d8", (0.5, 0.5), 0.25),
    Photograph("cliff", "a mossy cliff beside a lake, {move}", LIBJXL + "cvo9xd_keong_macan_srgb8.png",
               "keong macan, wesaturate.com", "CC0", (500, 500),
               "70c69cf3172b238923434abd230dda97c4a0db360ca497da58c456d6ab8e8a5d", (0.4, 0.5), 0.25),
    Photograph("page", "a printed page of an old book, {move}", OCRMYPDF + "c02-22.pdf",
               "Project Gutenberg, scan of a book of 1885", PUBLIC, (776, 392),
               "4ddd26e536d19fc067d52e897500a4c58d8031666224a8a2084f2bee15b9ed30", (0.5, 0.5), 0.4),
)
# fmt: on


def takes(size: int, *, moves: int = 1) -> list[Take]:
    """`moves` clips of each photograph, for frames of `size` pixels.

    Each follows from its photograph's name and its own number: more moves leave the earlier ones as they are.
    """
    from shelllcc.guidance.media.camera import Clip, route

    found = []
    for index, photograph in enumerate(PHOTOGRAPHS):
        width, height = photograph.size
        for number in range(moves):
            dice = random.Random(f"{photograph.name} {number}")
            u = [dice.random() for _ in range(9)]
            move = list(MOVES)[(index * STRIDE + number) % len(MOVES)]
            start = _half(min(width, height) / size, u[0])
            centre, half, angle = route(photograph, (height, width), move, start, u[1:7])
            caption = photograph.caption.format(move=MOVES[move])
            path = Clip(0, move, "daylight", caption, centre, half, angle, 0.92 + 0.16 * u[7], ease=u[8])
            found.append(Take(photograph, number, caption, path))
    return found


def some(size: int, count: int, *, known: bool) -> list[Take]:
    """`count` clips for frames of `size` pixels: of all sorts, or of what small models are trained to show (`known`),
    which comes first."""
    found = takes(size, moves=1 + (count - 1) // len(PHOTOGRAPHS))
    found.sort(key=lambda take: take.number)
    return found[:: 1 if known else max(1, len(found) // count)][:count]


def starter_side(scale: int) -> int:
    """Pixels of a side of a starter bank's clips, for a VAE that compresses by `scale`: 24 voxels, where sharp."""
    return min(24 * scale, MOST_SIDE) // scale * scale


def film(take: Take, size: int, *, frames: int = 17) -> NDArray[np.uint8]:
    """The clip as uint8 frames (t, H, W, 3). Raises VideoError as `load`."""
    from shelllcc.guidance.media.camera import Camera

    video = Camera([load(take.photograph)]).film([take.path], frames=frames, size=size)[0]
    pixels: NDArray[np.uint8] = ((video + 1) * 127.5).round().byte().permute(1, 2, 3, 0).numpy()
    return pixels


def load(photograph: Photograph) -> Tensor:
    """A photograph as float (3, h, w) in [0, 1]. Raises VideoError where its file is missing or another one."""
    import numpy as np
    import torch
    from PIL import Image

    path = STILLS / f"{photograph.name}.webp"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise VideoError(f"cannot read {path}: {error.strerror or error}; install shelllcc anew") from error
    if hashlib.sha256(content).hexdigest() != photograph.sha256:
        raise VideoError(f"{path} is not the photograph that shipped; install shelllcc anew")
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.array(image.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def _half(most: float, u: float) -> float:
    """Half the width of a frame, over the photograph's short side, that makes it sharp; the side has `most` pixels for
    each of the frame's."""
    low, high = min(SHARP[0], WHOLE * most), min(SHARP[1], most)
    return (low + (high - low) * u) / most / 2
