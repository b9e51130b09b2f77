"""Videos and latents scored against a bank, one at a time. Knows nothing of terminals."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.latents import open_latents
from shelllcc.anchors.score import Score, score_latents
from shelllcc.anchors.sources import Sources
from shelllcc.guidance.errors import BankError, VideoError
from shelllcc.guidance.media.footage import Framing, read_clips
from shelllcc.guidance.media.stills import as_video
from shelllcc.guidance.wan.banks.encode import Encoding, encode_frames
from shelllcc.guidance.wan.model.pipeline import load_vae

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Scored:
    """A clip of a file and its score."""

    path: Path
    clip: int
    score: Score


def score_files(
    sources: Sources, bank: Bank, encoding: Encoding, *, on_problem: Callable[[str], None] = lambda line: None
) -> Iterator[Scored]:
    """The score of every clip of every file; videos pass through the VAE, latents are taken as they are.

    A file that cannot be read or does not fit the bank is passed over, and `on_problem` hears why; of HDR, too.
    """
    for path in sources.latents:
        yield from _scored(path, bank, _latents(path, bank, on_problem), on_problem)
    if sources.videos:
        vae = load_vae(encoding.model.source, encoding.model.revision, device=encoding.device)
        for path in sources.videos:
            told = functools.partial(_tell_hdr, path, on_problem)
            clips = (encode_frames(vae, frames) for frames in _clips(path, encoding.framing, told))
            yield from _scored(path, bank, clips, on_problem)


def _clips(path: Path, framing: Framing, on_hdr: Callable[[str], None]) -> Iterator[NDArray[np.uint8]]:
    with as_video(path) as file:
        yield from read_clips(file, framing, on_hdr=on_hdr)


def _tell_hdr(path: Path, on_problem: Callable[[str], None], kind: str) -> None:
    on_problem(f"{path} is HDR ({kind}); its frames were tone-mapped, as `anchors build` does")


def _scored(path: Path, bank: Bank, clips: Iterator[Tensor], on_problem: Callable[[str], None]) -> Iterator[Scored]:
    try:
        for number, clip in enumerate(clips):
            yield Scored(path, number, score_latents(bank, clip.cpu()))
    except (BankError, VideoError) as error:
        on_problem(str(error))


def _latents(path: Path, bank: Bank, on_problem: Callable[[str], None]) -> Iterator[Tensor]:
    file = open_latents(path)
    if file.vae is None:
        on_problem(f"{path} does not say its VAE; its latents are taken for normalised ones of {bank.model}")
    if file.vae not in (None, bank.vae):
        raise BankError(f"{path} holds latents of another VAE ({file.vae}, the bank's is {bank.vae})")
    for index in range(file.clips):
        yield file.load(index, bank.shell.channels)
