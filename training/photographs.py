"""The photographs behind the tiny Wan: where each lies, its licence, and how a camera may frame it.

All of them ship inside the scikit-image and scikit-learn wheels. Knows nothing of camera paths or models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

FRAME = 192  # pixels; the side of a clip


@dataclass(frozen=True)
class Photograph:
    """One subject. `view` is the width of the frame over the photograph's short side; `focus` is (x, y) in 0..1."""

    subject: str
    package: str
    file: str
    licence: str
    view: tuple[float, float]
    focus: tuple[float, float] = (0.5, 0.5)
    wander: float = 0.12  # how far the frame's centre may stray from the focus, over the photograph's size


PHOTOGRAPHS: tuple[Photograph, ...] = (
    Photograph("astronaut", "skimage", "astronaut.png", "public domain (NASA)", (0.45, 0.72), (0.44, 0.30)),
    Photograph("brick", "skimage", "brick.png", "CC0 (CC0Textures)", (0.42, 0.70), wander=0.5),
    Photograph("camera", "skimage", "camera.png", "CC0 (Lav Varshney)", (0.45, 0.75), (0.47, 0.35)),
    Photograph("cat", "skimage", "chelsea.png", "CC0 (Stefan van der Walt)", (0.62, 0.86), (0.50, 0.45)),
    Photograph("coffee", "skimage", "coffee.png", "CC0 (Rachel Michetti)", (0.52, 0.85), (0.50, 0.48)),
    Photograph("coins", "skimage", "coins.png", "no known restrictions (Brooklyn Museum)", (0.62, 0.88), wander=0.5),
    Photograph("grass", "skimage", "grass.png", "CC0 (linolafett)", (0.40, 0.60), wander=0.5),
    Photograph("gravel", "skimage", "gravel.png", "CC0 (CC0Textures)", (0.40, 0.60), wander=0.5),
    Photograph("hubble", "skimage", "hubble_deep_field.jpg", "public domain (NASA)", (0.36, 0.60), wander=0.5),
    Photograph("ihc", "skimage", "ihc.png", "no known restrictions (CMMI)", (0.40, 0.62), wander=0.5),
    Photograph(
        "moon", "skimage", "moon.png", "none stated; ships with scikit-image (BSD-3-Clause)", (0.42, 0.70), wander=0.3
    ),
    Photograph(
        "motorcycle",
        "skimage",
        "motorcycle_left.png",
        "none stated; ships with scikit-image (BSD-3-Clause)",
        (0.55, 0.90),
        (0.50, 0.52),
    ),
    Photograph("retina", "skimage", "retina.jpg", "CC0 (Häggström)", (0.45, 0.75), wander=0.10),
    Photograph("rocket", "skimage", "rocket.jpg", "public domain (SpaceX)", (0.55, 0.88), (0.50, 0.50)),
    Photograph("china", "sklearn", "china.jpg", "CC BY 2.0 (danielbuechele)", (0.55, 0.88), (0.50, 0.48)),
    Photograph("flower", "sklearn", "flower.jpg", "CC BY 2.0 (vultilion)", (0.52, 0.85), (0.50, 0.48)),
)


def load(cache: Path | None = None) -> list[torch.Tensor]:
    """The photographs as float (3, h, w) in [0, 1], in the order of PHOTOGRAPHS.

    Each is reduced so that its tightest frame still has about one source pixel per frame pixel. With `cache`, the
    tensors are read from that safetensors file, or written there: a machine without the two wheels can then train.
    """
    from safetensors.torch import load_file, save_file

    if cache is not None and cache.exists():
        stored = load_file(cache)
        return [stored[p.subject].float() / 255 for p in PHOTOGRAPHS]
    photographs = [_read(p) for p in PHOTOGRAPHS]
    if cache is not None:
        save_file({p.subject: x for p, x in zip(PHOTOGRAPHS, photographs, strict=True)}, cache)
    return [x.float() / 255 for x in photographs]


def _read(photograph: Photograph) -> torch.Tensor:
    """One photograph as uint8 (3, h, w)."""
    with Image.open(_folder(photograph.package) / photograph.file) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()
    short = min(pixels.shape[1:])
    scale = min(1.0, FRAME / (photograph.view[0] * short))
    if scale == 1.0:
        return pixels
    reduced = F.interpolate(pixels[None].float(), scale_factor=scale, mode="bicubic", antialias=True)
    return reduced[0].round().clamp(0, 255).to(torch.uint8)


def _folder(package: str) -> Path:
    if package == "skimage":
        import skimage.data

        return Path(skimage.data.__file__).parent
    import sklearn.datasets

    return Path(sklearn.datasets.__file__).parent / "images"
