"""Files of latents, read one clip at a time. Knows nothing of video, shells or banks.

Latents are *normalised* VAE latents, (z - latents_mean) / latents_std. Two forms are read: safetensors with a key
`latents`, (b c t h w) or (c t h w), and the `.pt` of Shell-LCC's authors, one tensor (t c h w). Twice the channels mean
mean and log-variance; the first half is taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.anchors.torchfile import check_plain, load_tensors
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.files import sha256_of, write_bytes

LARGEST = 1e6  # normalised latents keep to about 10
MAX_BYTES = 8 << 30  # of a .pt file, which is read whole


@dataclass(frozen=True)
class LatentFile:
    """A file of `clips` clips; `source` is the sha256 of the video that they are of, or of the file itself.

    vae      fingerprint of the VAE, where the file says it
    framing  how the video was cut, as JSON, where the file says it
    caption  of the video, where there is one
    """

    path: Path
    source: str
    name: str
    clips: int
    vae: str | None = None
    caption: str = ""
    framing: str = ""

    def load(self, index: int, channels: int) -> Tensor:
        """Clip `index` as float32 (c t h w). Raises BankError where it is not finite or has other channels."""
        tensor = _read(self.path, index)
        if tensor.shape[0] == 2 * channels:
            tensor = tensor[:channels]
        if tensor.shape[0] != channels:
            raise BankError(f"{self.path} holds {tensor.shape[0]}-channel latents, expected {channels}")
        if not tensor.is_floating_point():
            raise BankError(f"{self.path} holds {tensor.dtype} numbers, expected floating point")
        clip = tensor.float()
        if not clip.abs().max() < LARGEST:  # NaN is not, either
            raise BankError(f"{self.path} holds NaN, infinity or numbers beyond {LARGEST:g}")
        return clip


class Clips(Sequence[Tensor]):
    """The clips of latent files, loaded onto a device when they are asked for: memory holds one at a time.

    Height and width are cropped to multiples of `grid`.
    """

    def __init__(
        self,
        files: Iterable[LatentFile],
        channels: int,
        device: torch.device | str = "cpu",
        *,
        grid: tuple[int, int] = (1, 1),
    ) -> None:
        self.channels, self.device, self.grid = channels, device, grid
        self.entries = [(file, index) for file in files for index in range(file.clips)]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            part = Clips((), self.channels, self.device, grid=self.grid)
            part.entries = self.entries[index]
            return part
        file, number = self.entries[index]
        clip = file.load(number, self.channels)
        height, width = (side - side % step for side, step in zip(clip.shape[-2:], self.grid, strict=True))
        return clip[..., :height, :width].to(self.device)

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))


def open_latents(path: Path) -> LatentFile:
    """What a file of latents holds, by its header. Raises BankError."""
    shape, metadata = _header(path)
    if not (len(shape) == 4 or (len(shape) == 5 and path.suffix == ".safetensors")) or 0 in shape:
        raise BankError(f"{path} holds a tensor {tuple(shape)}; expected (b c t h w), or (t c h w) in a .pt")
    source = metadata.get("source") or sha256_of(path)
    name, clips = metadata.get("name") or path.name, shape[0] if len(shape) == 5 else 1
    return LatentFile(
        path, source, name, clips, metadata.get("vae"), metadata.get("caption") or "", metadata.get("framing") or ""
    )


def save_latents(path: Path, latents: Tensor, metadata: Mapping[str, str]) -> None:
    """Write (b c t h w) latents as float16, so that `path` holds all of them or is untouched."""
    from safetensors.torch import save

    write_bytes(path, save({"latents": latents.detach().cpu().half().contiguous()}, dict(metadata)))


def _header(path: Path) -> tuple[Sequence[int], dict[str, str]]:
    if path.suffix == ".pt":
        return _torch_tensor(path).shape, {}
    with _opened(path) as file:
        return file.get_slice("latents").get_shape(), file.metadata() or {}


def _read(path: Path, index: int) -> Tensor:
    """One clip (c t h w), in the file's own dtype."""
    if path.suffix == ".pt":
        return _torch_tensor(path).transpose(0, 1)
    with _opened(path) as file:
        part = file.get_slice("latents")
        clip: Tensor = part[index] if len(part.get_shape()) == 5 else file.get_tensor("latents")
        return clip


def _opened(path: Path) -> Any:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        names = list(file.keys())  # type: ignore[no-untyped-call]
        if "latents" not in names:
            raise BankError(f"{path} has no tensor `latents`; it holds {', '.join(sorted(names)[:5])}")
    except SafetensorError as error:
        raise BankError(f"{path} is not a whole safetensors file: {error}") from error
    except OSError as error:
        raise BankError(f"cannot read {path}: {error.strerror or error}") from error
    return file


def _torch_tensor(path: Path) -> Tensor:
    return check_plain(load_tensors(path, most=MAX_BYTES), f"{path}, one tensor (t c h w),")
