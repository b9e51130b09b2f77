"""Text embeddings on disk, by prompt and encoder: a sweep encodes each prompt once, and the next run not at all.

Knows nothing of sampling. What is read is bit for bit what the encoder would give here and now, by these libraries and
on this device; a broken file is made anew, and where the folder cannot be written nothing is kept, with one remark.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shelllcc.guidance.errors import OutputError
from shelllcc.guidance.files import fingerprint_of, write_bytes
from shelllcc.guidance.paths import cache_folder
from shelllcc.guidance.versions import version
from shelllcc.guidance.wan.model.loading import LENGTH
from shelllcc.guidance.wan.model.pipeline import Model

LIBRARIES = ("torch", "transformers", "tokenizers", "diffusers", "ftfy")  # on whose code an embedding's bits depend
Encode = Callable[[Sequence[str]], Iterable[Tensor]]
"""Embeddings (1, 512, d) of prompts, in their order."""


class Texts:
    """The embeddings of the text encoder named `encoder`, kept in `folder` (see paths.cache_folder) and in memory.

    `encode` is asked for those that are not known, on `device`.
    """

    def __init__(self, encoder: str, encode: Encode, *, device: str, folder: Path | None = None) -> None:
        self.encoder, self.encode, self.device = encoder, encode, device
        self.folder = folder or cache_folder("texts")
        self._known: dict[str, Tensor] = {}
        self._kept = True

    def prepare(self, prompts: Iterable[str]) -> None:
        """Have the embeddings of all these prompts at hand."""
        missing = [prompt for prompt in dict.fromkeys(prompts) if self._find(prompt) is None]
        if not missing:
            return
        for prompt, embedding in zip(missing, self.encode(missing), strict=True):
            self._known[prompt] = embedding.cpu()
            self._keep(prompt, embedding)

    def hold(self, prompts: Iterable[str]) -> None:
        """Have these at hand and no others: memory holds what is needed next."""
        wanted = list(dict.fromkeys(prompts))
        self._known = {prompt: self._known[prompt] for prompt in wanted if prompt in self._known}
        self.prepare(wanted)

    def embed(self, prompt: str) -> Tensor:
        """(1, 512, d) embedding of a prompt, on the CPU, as `WanPipeline.encode_prompt` gives it."""
        self.prepare([prompt])
        return self._known[prompt]

    def _keep(self, prompt: str, embedding: Tensor) -> None:
        if self._kept:
            try:
                _write(self._path(prompt), embedding)
            except OutputError as error:
                self._kept = False
                logging.getLogger("shelllcc").warning(
                    "text embeddings are not kept for the next run: %s; SHELLLCC_CACHE names another folder", error
                )

    def _find(self, prompt: str) -> Tensor | None:
        if prompt not in self._known:
            known = _read(self._path(prompt))
            if known is None:
                return None
            self._known[prompt] = known
        return self._known[prompt]

    def _path(self, prompt: str) -> Path:
        return self.folder / f"{_digest(self.encoder, *_how(self.device), prompt)}.safetensors"


def encoder_fingerprint(model: Model, dtype: str) -> str:
    """16 hex digits of a model's text encoder and tokenizer in a dtype, without loading them.

    Of the hub's revision; or, for a folder, of the fingerprints of its files.
    """
    digest = hashlib.sha256(dtype.encode())
    folder = Path(model.source)
    if not folder.is_dir():
        digest.update(f"{model.source} {model.revision}".encode())
    for part in ("text_encoder", "tokenizer"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file():
                digest.update(f"{part}/{path.name} {fingerprint_of(path)}".encode())
    return digest.hexdigest()[:16]


def _how(device: str) -> tuple[str, ...]:
    """What else decides on the bits of an embedding: versions, and the GPU or the CPU's number of threads."""
    kind = torch.device(device).type
    on = torch.cuda.get_device_name(device) if kind == "cuda" else f"{kind} {torch.get_num_threads()}"
    return on, *(f"{library} {version(library)}" for library in LIBRARIES)


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
    from safetensors.torch import save

    used = embedding[0].ne(0).any(-1).nonzero()
    rows = embedding[0, : int(used[-1]) + 1 if len(used) else 1]
    write_bytes(path, save({"embedding": rows.cpu().contiguous()}))
