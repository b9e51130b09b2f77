"""Prefix replay: what the transformer said before the guide first acted, said once for every further strength.

Until its first move the guide hands the scheduler what it was given, so that samplings of one prompt and seed that
differ in the guide alone see the same latents and ask the transformer the same things, up to the call of the step in
which the first move is made. Knows nothing of guides, prompts or files of clips.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shelllcc.guidance.errors import OutputError, SamplingError
from shelllcc.guidance.files import write_bytes
from shelllcc.guidance.wan.model.seams import forward_exchanged

MEMORY = 4 * 2**30  # bytes of outputs that a prefix holds at most


@dataclass
class Calls:
    """How many of the transformer's calls ran, and how many were replayed."""

    computed: int = 0
    replayed: int = 0


class Prefix:
    """The transformer's outputs, in the order of its calls, of the steps that samplings share.

    A sampling shares its steps up to its guide's first move, whatever the others do; at most `steps` are kept. Outputs
    lie in main memory, or as files in `folder`, which is the prefix's alone, and are bit for bit what the transformer
    gave. `limit` bounds their bytes: what would pass it is not kept, and every sampling then computes it.
    """

    def __init__(self, steps: int, *, folder: Path | None = None, limit: int = MEMORY) -> None:
        self.steps = steps
        self.folder = folder
        self.limit = limit
        self.bytes = 0
        self.calls: list[Calls] = []
        self._outputs: list[Tensor | Path] = []
        self._shapes: list[tuple[torch.Size, torch.dtype]] = []
        self._full = False

    @contextlib.contextmanager
    def replayed(self, pipe: Any, shared: int) -> Iterator[Calls]:
        """Within the block, for one sampling of `pipe`, known outputs are replayed and new ones of the prefix kept.

        `shared` is the number of this sampling's steps whose calls are those of the unguided one. Forward hooks of the
        transformers hear replayed outputs as they hear computed ones. Afterwards the transformers are as they were,
        also on an exception. Raises SamplingError for another shape or dtype of latents than the prefix was made with.
        """
        with replayed_together([self], pipe, shared) as calls:
            yield calls

    @property
    def known(self) -> int:
        """How many calls it can answer."""
        return len(self._outputs)

    def discard(self) -> None:
        """Forget all outputs, and remove their files."""
        self._outputs, self._shapes, self.bytes = [], [], 0
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def recall(self, number: int, latents: Tensor) -> Tensor:
        """What the transformer said in the call of that number, which is shown `latents`. Raises SamplingError."""
        if (latents.shape, latents.dtype) != self._shapes[number]:
            raise SamplingError("a prefix serves one size and number of frames; make another for another request")
        kept = self._outputs[number]
        if isinstance(kept, Path):
            from safetensors.torch import load_file

            kept = load_file(kept)["output"]
        return kept.to(latents.device, copy=True)

    def keep(self, output: Tensor, latents: Tensor) -> None:
        """Keep what the transformer said to `latents`, if there is room."""
        size = output.numel() * output.element_size()
        if self._full or self.bytes + size > self.limit:
            self._full = True
            return
        self.bytes += size
        kept = output.detach().to("cpu", copy=True).contiguous()
        if self.folder is None:
            self._outputs.append(kept)
        else:
            from safetensors.torch import save

            path = self.folder / f"{len(self._outputs):04d}.safetensors"
            try:
                write_bytes(path, save({"output": kept}))
            except OutputError as error:
                self._full = True
                logging.getLogger("shelllcc").warning(
                    "further steps are computed for every clip anew, which is slower: %s", error
                )
                return
            self._outputs.append(path)
        self._shapes.append((latents.shape, latents.dtype))


@contextlib.contextmanager
def replayed_together(prefixes: Sequence[Prefix], pipe: Any, shared: int) -> Iterator[Calls]:
    """As `Prefix.replayed`, for one sampling of as many clips as there are prefixes, of which each holds one clip's.

    A call is replayed where all of them know it: clips that were sampled in other company share what they have.
    """
    calls, steps = Calls(), min(shared, *(prefix.steps for prefix in prefixes))
    for prefix in prefixes:
        prefix.calls.append(calls)
    transformers = [getattr(pipe, name, None) for name in ("transformer", "transformer_2")]
    found = [model for model in transformers if model is not None]
    with forward_exchanged(found, lambda forward: _replaying(forward, prefixes, pipe, calls, steps)):
        yield calls


def _replaying(
    forward: Callable[..., Any], prefixes: Sequence[Prefix], pipe: Any, calls: Calls, steps: int
) -> Callable[..., Any]:
    def replaying(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        within = (pipe.scheduler.step_index or 0) < steps
        number, clips = calls.computed + calls.replayed, hidden_states.chunk(len(prefixes))
        if within and all(number < prefix.known for prefix in prefixes):
            known = [prefix.recall(number, clip) for prefix, clip in zip(prefixes, clips, strict=True)]
            calls.replayed += 1
            return (torch.cat(known) if len(known) > 1 else known[0],)
        output = forward(hidden_states, *args, **kwargs)
        if within:
            for prefix, said, clip in zip(prefixes, output[0].chunk(len(prefixes)), clips, strict=True):
                if number == prefix.known:
                    prefix.keep(said, clip)
        calls.computed += 1
        return output

    return replaying
