"""What a sampling will show, while it goes: x0 as colours, by a linear map from latents, one picture over all frames.

The map of Wan2.1's VAE is ComfyUI's published one (comfy/latent_formats.py, `Wan21.latent_rgb_factors`). For any other
VAE it is found by least squares from photographs that ship: colours of 8x8 pixels, or as many as a voxel has, beside
what the VAE makes of them as still clips. The first latent frame, which a causal VAE may code in its own way, has a map
of its own. Knows nothing of terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.media.photographs import PHOTOGRAPHS, Photograph, load
from shelllcc.guidance.media.pictures import write_png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Frames = NDArray[np.uint8]

WAN21_FACTORS = (
    *((-0.1299, -0.1692, 0.2932), (0.0671, 0.0406, 0.0442), (0.3568, 0.2548, 0.1747), (0.0372, 0.2344, 0.1420)),
    *((0.0313, 0.0189, -0.0328), (0.0296, -0.0956, -0.0665), (-0.3477, -0.4059, -0.2925), (0.0166, 0.1902, 0.1975)),
    *((-0.0412, 0.0267, -0.1364), (-0.1293, 0.0740, 0.1636), (0.0680, 0.3019, 0.1128), (0.0032, 0.0581, 0.0639)),
    *((-0.1251, 0.0927, 0.1699), (0.0060, -0.0633, 0.0005), (0.3477, 0.2275, 0.2950), (0.1984, 0.0913, 0.1861)),
)
WAN21_BIAS = (-0.1835, -0.0868, -0.3360)
SIDE = 128  # pixels of a photograph's square that the map is found from
SHOWN = 128  # pixels, at least, of a latent frame's short side in the picture


def colour_map(
    vae: Any, device: torch.device | str = "cpu", *, photographs: Sequence[Photograph] = PHOTOGRAPHS[::3]
) -> Tensor:
    """The maps (2, c + 1, 3) from normalised latents, and a 1 behind them, to colours from -1 to 1, on the CPU.

    Row 0 is the first latent frame's, row 1 that of later ones.
    """
    if fingerprint(vae.config) == fingerprint(WAN21_VAE):
        return torch.tensor([*WAN21_FACTORS, WAN21_BIAS]).expand(2, -1, -1)
    pairs = [_pair(vae, torch.device(device), load(photograph)) for photograph in photographs]
    latents, colours = torch.cat([pair[0] for pair in pairs], 1), torch.cat([pair[1] for pair in pairs])
    return torch.linalg.lstsq(_with_one(latents), colours.expand(2, -1, -1)).solution


def colours_of(x0: Tensor, found: Tensor) -> Frames:
    """uint8 frames (t, h, w, 3), a pixel a voxel, of normalised latents (c t h w), by the maps of `colour_map`."""
    frames = _with_one(x0.detach().float().cpu().permute(1, 2, 3, 0))
    colours = torch.cat([frames[:1] @ found[0], frames[1:] @ found[1]])
    return ((colours.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()


def x0_between(before: Tensor, after: Tensor, sigma: float, following: float) -> Tensor:
    """The x0 that a step of a rectified flow went toward, from the latents on both sides of it.

    after = r before + (1 - r) x0 with r = following / sigma; of schedulers of higher order, what they made of several.
    """
    ratio = following / sigma
    return after if ratio >= 1 else (after - ratio * before) / (1 - ratio)


class Preview:
    """Has a sampling drawn while it goes: after a step `draw` gets its latent frames (t, h, w, 3), a pixel a voxel."""

    def __init__(self, draw: Callable[[Frames], None]) -> None:
        self.draw = draw
        self._map: Tensor | None = None

    def begin(self, vae: Any, device: torch.device | str) -> None:
        """Have the map of the VAE ready; once is enough. `device` is where an offloaded VAE computes."""
        if self._map is None:
            with torch.no_grad():
                self._map = colour_map(vae, device)

    def show(self, x0: Tensor) -> None:
        """Have normalised latents (c t h w) drawn as they would look."""
        if self._map is None:
            raise RuntimeError("call begin first")
        self.draw(colours_of(x0, self._map))


def drawing(path: Path) -> Callable[[Frames], None]:
    """What keeps frames in a PNG, side by side, made anew each time; it raises OutputError.

    Raises UsageError for a file that is no .png.
    """
    if path.suffix.lower() != ".png":
        raise UsageError(
            f"--preview takes `terminal`, a way to draw there (kitty, iterm2, sixel) or a .png, got {path}"
        )

    def draw(frames: Frames) -> None:
        times = max(1, -(-SHOWN // min(frames.shape[1:3])))
        row = np.concatenate(list(frames), axis=1)
        write_png(path, row.repeat(times, 0).repeat(times, 1))

    return draw


def _pair(vae: Any, device: torch.device, photograph: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised latents (2, n, c) of a still clip of a photograph (3 H W) in [0, 1], its first latent frame's and a
    later one's, and mean colours (n, 3) under each, in [-1, 1]."""
    short = min(photograph.shape[1:])
    square = photograph[None, :, :short, :short] * 2 - 1
    image = functional.interpolate(square, (SIDE, SIDE), mode="bilinear", antialias=True)
    still = image[:, :, None].expand(-1, -1, 1 + int(vae.config.get("scale_factor_temporal") or 4), -1, -1)
    latents = vae.encode(still.to(device, vae.dtype)).latent_dist.mode()[0, :, :2].float().cpu()
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    colours = functional.adaptive_avg_pool2d(image, latents.shape[-2:])[0]
    return ((latents - mean) / std).flatten(2).permute(1, 2, 0), colours.flatten(1).T


def _with_one(latents: Tensor) -> Tensor:
    return torch.cat([latents, torch.ones_like(latents[..., :1])], dim=-1)
