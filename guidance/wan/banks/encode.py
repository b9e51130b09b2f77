"""Videos to files of normalised latents, resumable and with any engine's workers. Knows nothing of shells or banks.

A file of latents is named by the hash of the video's bytes, the VAE and the framing. It is written whole or not at
all, so that whatever is there is finished. On the CPU every process computes on one thread: the latents do not depend
on the number of cores or processes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shelllcc.anchors.fingerprints import fingerprint
from shelllcc.anchors.latents import save_latents
from shelllcc.anchors.sources import caption_of
from shelllcc.guidance.errors import UsageError, VideoError
from shelllcc.guidance.faults import told
from shelllcc.guidance.files import FULL, refusal, sha256_of
from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.jobs.work import Engine, Here, work_off
from shelllcc.guidance.media.footage import Framing, read_clips
from shelllcc.guidance.wan.model.pipeline import Model, load_vae

if TYPE_CHECKING:
    from diffusers import AutoencoderKLWan
    from numpy.typing import NDArray

FORM = 1  # changes when the same video would give other latents


@dataclass(frozen=True)
class Encoding:
    """How videos become latents: the model's VAE, the framing, where it runs and where the files go.

    `weights` tells one VAE's weights from another's.
    """

    model: Model
    framing: Framing
    folder: Path
    device: str
    weights: str = ""

    @property
    def framing_text(self) -> str:
        return json.dumps(asdict(self.framing))

    def path(self, source: str, caption: str) -> Path:
        """The file of latents of a video with that sha256 and caption."""
        vae = fingerprint(self.model.vae), self.weights, self.device.partition(":")[0]
        facts = json.dumps([FORM, source, caption, *vae, self.framing_text])
        return self.folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.safetensors"


@dataclass(frozen=True)
class Encoded:
    """What became of a video: its file of latents, or the reason why there is none."""

    video: Path
    latents: Path | None
    reason: str = ""


def encode_videos(videos: Sequence[Path], encoding: Encoding, *, engine: Engine | None = None) -> Iterator[Encoded]:
    """Encode those videos that have no file of latents yet; yields each as it is done, in any order.

    A video whose worker dies is tried again, and passed over in the end. Raises ModelError where the VAE cannot be
    loaded or where worker after worker dies, OutOfMemoryError, and OutputError as soon as latents cannot be written.
    """
    start = partial(_encoder, encoding)
    with closing(work_off(videos, start, engine or Here())) as outcomes:
        for outcome in outcomes:
            if not outcome.again:
                yield outcome.result or Encoded(outcome.job, None, f"cannot encode {outcome.job}: {outcome.died}")


def _encoder(encoding: Encoding) -> Callable[[Path], Encoded]:
    """What a worker does with a video."""
    return partial(_encode, encoding=encoding)


@torch.no_grad()
def encode_frames(vae: AutoencoderKLWan, frames: NDArray[Any], *, device: torch.device | None = None) -> Tensor:
    """Normalised latents (c t h w), float32, of uint8 frames (T, H, W, 3); `device` is where an offloaded VAE computes.

    Raises OutOfMemoryError, and LostGpuError where the GPU failed.
    """
    target = device or vae.device
    exactly: AbstractContextManager[None] = nullcontext()
    if target.type == "cuda":  # a switch of the whole process: threads that encode on the CPU leave it alone
        exactly = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    with told("encoding videos", "use a smaller --size, fewer --frames or fewer --workers"), exactly:
        video = torch.from_numpy(frames).to(target).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        latents = vae.encode(video).latent_dist.mode()[0]
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    return (latents - mean.to(latents)) / std.to(latents)


def _encode(video: Path, encoding: Encoding) -> Encoded:
    try:
        source, caption = sha256_of(video), caption_of(video)
        path = encoding.path(source, caption)
        if path.exists():
            return Encoded(video, path)
        vae = vae_of(encoding)
        with one_thread():
            clips = [encode_frames(vae, frames) for frames in read_clips(video, encoding.framing)]
    except OSError as error:
        if error.errno in FULL:  # no fault of the video: the next one would meet it, too
            raise refusal(encoding.folder, error) from error
        return Encoded(video, None, f"cannot read {video}: {error.strerror or error}")
    except (VideoError, UsageError) as error:
        return Encoded(video, None, str(error))
    metadata = {
        "source": source,
        "name": video.name,
        "vae": fingerprint(encoding.model.vae),
        "model": encoding.model.name,
        "framing": encoding.framing_text,
        "caption": caption,
    }
    save_latents(path, torch.stack(clips), metadata)
    return Encoded(video, path)


def vae_of(encoding: Encoding) -> AutoencoderKLWan:
    """The VAE that encodes, loaded once in each process. Raises ModelError."""
    return _vae(encoding.model.source, encoding.model.revision, encoding.device)


@cache
def _vae(source: str, revision: str, device: str) -> AutoencoderKLWan:
    return load_vae(source, revision, device=device)
