"""What of a prompt the text encoder reads: its first tokens. Knows nothing of embeddings."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shelllcc.guidance.wan.model.loading import LENGTH
from shelllcc.guidance.wan.model.pipeline import Model, quieten
from shelllcc.guidance.wan.model.weights import reading

SHORT = 400  # bytes of a prompt that cannot have too many tokens, as one is a byte or more


@dataclass(frozen=True)
class Cut:
    """A prompt that is too long: its tokens, how many are `read`, and what is not."""

    tokens: int
    read: int
    rest: str

    def as_dict(self) -> dict[str, Any]:
        """For a sidecar."""
        return {"tokens": self.tokens, "read": self.read, "unread": self.rest}


class Asked(Protocol):
    """What of a request is text."""

    @property
    def prompt(self) -> str: ...

    @property
    def negative_prompt(self) -> str: ...

    @property
    def cfg(self) -> float: ...


def texts_of(request: Asked) -> dict[str, str]:
    """What the text encoder reads for a request, by the names of its fields."""
    negative = {"negative_prompt": request.negative_prompt} if request.cfg > 1 else {}
    return {"prompt": request.prompt} | negative


def cut_of(model: Model, prompt: str) -> Cut | None:
    """What the model's text encoder does not read of a prompt; None where it reads all. Raises ModelError."""
    return None if len(prompt.encode(errors="replace")) <= SHORT else _cut(model.source, model.revision, prompt)


def cuts_of(model: Model, request: Asked) -> dict[str, dict[str, Any]]:
    """The texts of a request that are cut, by the names of its fields, for a sidecar."""
    cuts = {name: cut_of(model, text) for name, text in texts_of(request).items()}
    return {name: cut.as_dict() for name, cut in cuts.items() if cut is not None}


def said_of_cuts(model: Model, requests: Iterable[Asked]) -> Iterator[str]:
    """A remark where any prompt of the requests is cut, another where any negative prompt is."""
    texts = [texts_of(request) for request in requests]
    for name, called in (("prompt", "prompt"), ("negative_prompt", "negative prompt")):
        each = dict.fromkeys(text[name] for text in texts if name in text)
        if cuts := [cut for text in each if (cut := cut_of(model, text))]:
            first, others = cuts[0], f", and {len(cuts) - 1} other" if len(cuts) > 1 else ""
            yield (
                f"a {called} of {first.tokens} tokens is cut{others}: the text encoder reads {first.read}, "
                f"and nothing from {_beginning(first.rest)!r} on; say what matters first, or less"
            )


@functools.lru_cache(maxsize=4096)
def _cut(source: str, revision: str, prompt: str) -> Cut | None:
    quieten()
    from diffusers.pipelines.wan.pipeline_wan import prompt_clean

    tokenizer = _tokenizer(source, revision)
    tokens = tokenizer(prompt_clean(prompt)).input_ids
    if len(tokens) <= LENGTH:
        return None
    rest = tokenizer.decode(tokens[LENGTH - 1 :], skip_special_tokens=True).strip()  # the last one read is the end's
    return Cut(len(tokens), LENGTH, rest)


@functools.lru_cache(maxsize=1)
def _tokenizer(source: str, revision: str) -> Any:
    from transformers import AutoTokenizer

    place = {} if Path(source).is_dir() else {"revision": revision}
    with reading(f"the tokenizer of {source}"):
        return AutoTokenizer.from_pretrained(
            source if not place else source.partition("@")[0], subfolder="tokenizer", trust_remote_code=False, **place
        )


def _beginning(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:58]}.."
