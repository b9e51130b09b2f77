"""Text embeddings on disk, by prompt and encoder: a sweep encodes each prompt once, and the next run not at all.

Knows nothing of sampling. What is read is bit for bit what the encoder gave; a broken file is made anew, and a folder
that cannot be written is no error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shelllcc.guidance.errors import OutputError
from shelllcc.guidance.files import whole_file

if TYPE_CHECKING:
    from diffusers import WanPipeline

LENGTH = 512  # tokens, as WanPipeline pads by default
SAMPLED = 64  # numbers of each weight in an encoder's fingerprint


class Texts:
    """The embeddings of a pipeline's text encoder, kept in `folder` (see `cache_folder`)."""

    def __init__(self, pipe: WanPipeline, folder: Path | None = None) -> None:
        self.pipe = pipe
        self.folder = folder or cache_folder()
        self.encoder = encoder_fingerprint(pipe.text_encoder, pipe.tokenizer)

    @torch.no_grad()
    def embed(self, prompt: str) -> Tensor:
        """(1, 512, d) embedding of a prompt, on the pipeline's device, as `WanPipeline.encode_prompt` gives it."""
        device = self.pipe._execution_device
        path = self.folder / f"{_digest(self.encoder, device.type, prompt)}.safetensors"
        if (known := _read(path)) is not None:
            return known.to(device)
        embedding: Tensor = self.pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=LENGTH
        )[0]
        with contextlib.suppress(OutputError):
            _write(path, embedding)
        return embedding


def cache_folder() -> Path:
    """Where embeddings are kept: SHELLLCC_CACHE, or the platform's cache folder."""
    if chosen := os.environ.get("SHELLLCC_CACHE"):
        return Path(chosen).expanduser() / "texts"
    import platformdirs

    return Path(platformdirs.user_cache_dir("shelllcc")) / "texts"


def encoder_fingerprint(encoder: Any, tokenizer: Any) -> str:
    """16 hex digits of an encoder's config, dtype, tokenizer and some numbers of every weight."""
    digest = hashlib.sha256(encoder.config.to_json_string().encode())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    digest.update(backend.to_str().encode() if backend is not None else repr(tokenizer).encode())
    for name, weight in encoder.state_dict().items():
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // SAMPLED)].float().cpu().contiguous()
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _digest(*facts: str) -> str:
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()


def _read(path: Path) -> Tensor | None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        rows = load_file(path)["embedding"]
    except (OSError, SafetensorError, KeyError):
        return None
    return torch.cat([rows, rows.new_zeros(LENGTH - len(rows), rows.shape[1])])[None]


def _write(path: Path, embedding: Tensor) -> None:
    """The rows of the prompt's tokens alone: those of the padding are zeros."""
    from safetensors.torch import save_file

    used = embedding[0].ne(0).any(-1).nonzero()
    rows = embedding[0, : int(used[-1]) + 1 if len(used) else 1]
    with whole_file(path) as part:
        save_file({"embedding": rows.cpu().contiguous()}, part)
