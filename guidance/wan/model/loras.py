"""Low-rank adapters, put on a pipeline's transformers. They stay beside the weights and are never fused into them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import ModelError
from shelllcc.guidance.wan.model.loading import Lora
from shelllcc.guidance.wan.model.seams import put_adapter
from shelllcc.guidance.wan.model.trust import PICKLES
from shelllcc.guidance.wan.model.weights import reading, require

if TYPE_CHECKING:
    from diffusers import WanPipeline

SECOND = "transformer_2."


def add_loras(pipe: WanPipeline, loras: Sequence[Lora]) -> None:
    """Load the adapters and set their weights; call it before anything is offloaded. Raises ModelError.

    Of two transformers (Wan2.2-A14B), one trained for the high noise alone takes a file named `..high_noise..`, the
    other one `..low_noise..`; weights that a file holds for `transformer_2` go there; any other file goes to both.
    """
    if not loras:
        return
    require("peft", "--lora")
    weights: dict[str, dict[str, float]] = {}
    for index, lora in enumerate(loras):
        name = f"lora_{index}"
        for part in _load(pipe, lora, name):
            weights.setdefault(part, {})[name] = lora.weight
    for part, known in weights.items():
        getattr(pipe, part).set_adapters(list(known), list(known.values()))


def find_lora(source: str) -> tuple[str, str | None]:
    """A folder or hub id, and the name of the file in it where it is known. Raises ModelError."""
    path = Path(source)
    if source.endswith(PICKLES) and not path.is_dir():
        raise ModelError(f"a LoRA is a .safetensors file, never a pickle, got {source}")
    if path.is_file():
        return str(path.parent), path.name
    if path.is_dir():
        files = sorted(file.name for file in path.glob("*.safetensors"))
        if "pytorch_lora_weights.safetensors" in files:
            files = ["pytorch_lora_weights.safetensors"]
        if len(files) != 1:
            raise ModelError(f"{source} holds {len(files)} .safetensors files; give --lora the one to use")
        return str(path), files[0]
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if source.startswith((".", "/", "~")) or not owner or not name or name.endswith(".safetensors"):
        raise ModelError(f"no LoRA at {source}; give a file, a folder, or a hub id (owner/name/file.safetensors)")
    return f"{owner}/{name}", file or None


def _load(pipe: WanPipeline, lora: Lora, name: str) -> list[str]:
    """The transformers that took the adapter."""
    place, file = find_lora(lora.source)
    with reading(f"the LoRA {lora.source}"):
        tensors, metadata = pipe.lora_state_dict(
            place, weight_name=file, use_safetensors=True, return_lora_metadata=True
        )
    taken = []
    for part, (mine, about) in _shares(pipe, lora.source, tensors, metadata or {}).items():
        transformer = getattr(pipe, part)
        with reading(f"the LoRA {lora.source}"):
            if put_adapter(pipe, transformer, mine, about, name):
                taken.append(part)
    if not taken:
        raise ModelError(f"the LoRA {lora.source} fits no layer of this model; it was made for another one")
    return taken


def _shares(
    pipe: WanPipeline, source: str, tensors: dict[str, Any], metadata: dict[str, Any]
) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Which tensors and metadata each transformer gets, all under the name of the first one."""
    if getattr(pipe, "transformer_2", None) is None:
        return {"transformer": (tensors, metadata)}
    if any(key.startswith(SECOND) for key in tensors):
        first = ({k: v for k, v in d.items() if not k.startswith(SECOND)} for d in (tensors, metadata))
        second = (
            {"transformer." + k.removeprefix(SECOND): v for k, v in d.items() if k.startswith(SECOND)}
            for d in (tensors, metadata)
        )
        a, b = tuple(first), tuple(second)
        return {"transformer": (a[0], a[1]), "transformer_2": (b[0], b[1])}
    stage = re.search(r"(high|low)[-_ ]?noise", source.lower())
    both = (tensors, metadata)
    if stage is None:
        return {"transformer": both, "transformer_2": both}
    return {"transformer" if stage[1] == "high" else "transformer_2": both}
