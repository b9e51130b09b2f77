"""What samples: a model whose parts are loaded when they are needed. Knows nothing of clips' files or terminals.

The text encoder of a large Wan weighs more than all the rest: it is there while prompts are encoded, and gone before
the transformer comes. Prompts whose embeddings are on disk do not bring it at all. For prompts that come later it is
loaded again, beside the transformer if there is room; if not, the transformer goes to the host's memory meanwhile.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor, nn

from shelllcc.guidance.errors import OutOfMemoryError, OutputError
from shelllcc.guidance.faults import told
from shelllcc.guidance.wan.clips.embeddings import Texts, encoder_fingerprint
from shelllcc.guidance.wan.clips.parallel import Ranks, spread
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model import pipeline
from shelllcc.guidance.wan.model.loading import LENGTH, Loading
from shelllcc.guidance.wan.model.pipeline import Model
from shelllcc.guidance.wan.model.placing import DENOISERS
from shelllcc.guidance.wan.model.tokens import texts_of

if TYPE_CHECKING:
    from diffusers import WanPipeline

    from shelllcc.guidance.wan.clips.preview import Preview
    from shelllcc.guidance.wan.clips.sample import Moment

ENCODING = "encoding prompts"


class Reporter(Protocol):
    """Where progress goes."""

    def stage(self, name: str) -> None: ...

    def step(self, moment: Moment) -> None: ...

    def count(self, done: int, total: int) -> None: ...


class Studio:
    """A model and how it is loaded, on one device, or on those of all `ranks`; `reporter` hears how far it is.

    Steps that samplings share lie in `folder`, or in memory. `preview` shows each sampling while it goes. Raises
    OutputError for a folder that cannot be written.
    """

    def __init__(
        self,
        model: Model,
        loading: Loading,
        reporter: Reporter,
        *,
        device: str | None = None,
        folder: Path | None = None,
        ranks: Ranks | None = None,
        preview: Preview | None = None,
    ) -> None:
        self.model, self.loading, self.reporter, self.folder = model, loading, reporter, folder
        self.ranks, self.preview = ranks or Ranks(device=device), preview
        self._expected = list[str]()
        if folder is not None:
            _check_folder(folder)

    @functools.cached_property
    def device(self) -> str:
        """Where it runs. Raises ModelError where that is not there."""
        return pipeline.pick_device(self.ranks.device)

    def expect(self, requests: Iterable[Request]) -> None:
        """Say what will be sampled: prompts that are known before the pipeline is asked for are encoded before it."""
        self._expected += [prompt for request in requests for prompt in prompts_of(request)]

    @functools.cached_property
    def pipe(self) -> WanPipeline:
        """The pipeline, without its text encoder."""
        pipeline.check_loading(self.model, self.loading, self.device)
        self.texts.prepare(self._expected)
        self.reporter.stage("loading")
        pipe = pipeline.load_pipeline(self.model, self.loading, device=self.device, text_encoder=False)
        spread(pipe, self.ranks)
        return pipe

    @functools.cached_property
    def texts(self) -> Texts:
        dtype = pipeline.pick_dtype(self.loading.dtype, self.device)
        encoder = encoder_fingerprint(self.model, str(dtype))
        return Texts(encoder, self._encode, device=self.device)

    def _encode(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        """Embeddings of prompts. Raises OutOfMemoryError with what to try next, and LostGpuError."""
        self.reporter.stage(ENCODING)
        done = 0
        try:
            for embedding in self._encoded(prompts):
                yield embedding
                done += 1
        except OutOfMemoryError:
            if not self._in_the_way:
                raise
        if done < len(prompts):
            with told(ENCODING, self._advice), self._put_aside():
                yield from self._encoded(prompts[done:])

    def _encoded(self, prompts: Sequence[str]) -> Iterator[Tensor]:
        """As `_encode`, with an encoder of its own that is freed in the end."""
        with torch.no_grad(), told(ENCODING, self._advice):
            try:
                pipe = pipeline.load_text_encoder(self.model, self.loading, device=self.device)
                for prompt in prompts:
                    yield pipe.encode_prompt(prompt, do_classifier_free_guidance=False, max_sequence_length=LENGTH)[0]
            except OutOfMemoryError as error:
                raise OutOfMemoryError(ENCODING, self._advice) from error
            finally:
                pipe = None
                _free()

    @property
    def _advice(self) -> str:
        return self.loading.relief(ENCODING, self.device)

    @property
    def _in_the_way(self) -> list[nn.Module]:
        """What of a loaded pipeline lies on a GPU for good and can make room for a while."""
        if "pipe" not in self.__dict__ or self.loading.offload != "none" or self.device.startswith("cpu"):
            return []
        return [part for name in DENOISERS if (part := getattr(self.pipe, name, None)) is not None]

    @contextlib.contextmanager
    def _put_aside(self) -> Iterator[None]:
        """Within the block, the transformers lie in the host's memory."""
        parts = self._in_the_way
        try:
            for part in parts:
                part.to("cpu")
            _free()
            yield
        finally:
            for part in parts:
                part.to(self.device)


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prompts_of(request: Request) -> tuple[str, ...]:
    """What the text encoder reads for a request."""
    return tuple(texts_of(request).values())


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(tempfile.TemporaryFile(dir=folder)):
            pass
    except OSError as error:
        raise OutputError(
            f"cannot keep steps in {folder}: {error.strerror or error}; give another --replay-folder"
        ) from error
