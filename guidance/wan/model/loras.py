"""LoRA files: found, read, given to the transformers that they are for, and told of.

Knows nothing of how a tensor acts on a layer: see adapters.py.
"""

from __future__ import annotations

import functools
import json
import logging
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.wan.model.loading import SHIPPED, Lora
from shelllcc.guidance.wan.model.trust import PICKLES, hub_says
from shelllcc.guidance.wan.model.weights import bare_transformer, reading, require

if TYPE_CHECKING:
    import torch
    from diffusers import WanPipeline

    from shelllcc.guidance.wan.model.adapters import Account, Weights

STAGES = {"transformer": "high", "transformer_2": "low"}
USUAL = "pytorch_lora_weights.safetensors"
WORDS = {"high": {"high", "highnoise", "hinoise", "hn"}, "low": {"low", "lownoise", "lonoise", "ln"}}
LAST = {"h": "high", "l": "low"}  # a letter alone, at the end of a name
NAMELESS = ("pytorch_lora_weights", "adapter_model", "lora", "model", "diffusion_pytorch_model")  # the folder tells
LOOKS = {  # what follows `high` or `low` where that is of a picture and not of noise
    "angle", "budget", "contrast", "cut", "def", "definition", "detail", "details", "detailed", "fantasy", "fashion",
    "fi", "frequency", "heel", "heels", "key", "light", "poly", "quality", "res", "resolution", "rise", "saturation",
    "school", "shot", "speed", "tech", "waist",
}  # fmt: skip


@dataclass(frozen=True)
class _File:
    """A LoRA as it was read: its tensors, and what its trainer noted of ranks and alphas."""

    lora: Lora
    name: str
    weights: Weights


def add_loras(pipe: WanPipeline, loras: Sequence[Lora], dtype: torch.dtype) -> None:
    """Put the adapters on the transformers, each with its weight; call it before anything is offloaded.

    Where each went, how many layers it touched and what of it was not applied is logged. Of two transformers
    (Wan2.2-A14B) a LoRA goes to those that `Lora.high` and `Lora.low` name, to `transformer_2` with the tensors that it
    holds under that name, or else to the one whose noise its file's name says, or to both. Raises ModelError.
    """
    if not loras:
        return
    from shelllcc.guidance.wan.model.adapters import Layers

    require("peft", "--lora")
    parts = [part for part in STAGES if getattr(pipe, part, None) is not None]
    layers = {part: Layers(getattr(pipe, part), dtype) for part in parts}
    for index, lora in enumerate(loras):
        name = f"lora_{index}"
        file = _read(lora, _on_disk(lora.source))
        _tell(file, parts, lambda part, weights, weight: layers[part].add(weights, name, weight, lora.source))  # noqa: B023
    for one in layers.values():
        one.settle()


def foresee_loras(config: Mapping[str, Any], loras: Sequence[Lora], *, two_stage: bool) -> None:
    """Log of LoRAs what `add_loras` would, from their headers alone and the config of the model's transformers.

    What is on the hub alone is not fetched. Raises ModelError where `add_loras` would, UsageError as `check_lora`.
    """
    if not loras:
        return
    import torch

    from shelllcc.guidance.wan.model.adapters import Layers

    parts = list(STAGES)[: 1 + two_stage]
    layers = {part: Layers(bare_transformer(config), torch.float32) for part in parts}
    for lora in loras:
        check_lora(lora, two_stage=two_stage)
        if (path := _on_disk(lora.source, fetch=False)) is None:
            logging.getLogger("shelllcc").warning(
                f"LoRA {lora.source}: it is not on this machine yet; where it goes is said when it is fetched"
            )
            continue
        file = _read(lora, path, shapes_alone=True)
        _tell(file, parts, lambda part, weights, weight: layers[part].account(weights, weight, lora.source))  # noqa: B023


def check_lora(lora: Lora, *, two_stage: bool) -> None:
    """Raise ModelError where a LoRA cannot be there, UsageError where it is for a stage that the model lacks."""
    find_lora(lora.source)
    if lora.staged and not two_stage:
        raise UsageError(
            f"--lora {lora}: @high and @low are for models with two transformers (Wan2.2-A14B); "
            f"give --lora {lora.source}:{lora.high if lora.low is None else lora.low:g}"
        )


def find_lora(source: str) -> tuple[str, str | None]:
    """A folder or hub id, and the name of the file in it where it is known. Raises ModelError."""
    path = SHIPPED.get(source, Path(source))
    if source in SHIPPED and not path.is_file():
        raise ModelError(
            f"the LoRA {source} is not part of this installation: there is no {path.name} beside the model"
        )
    if source.endswith(PICKLES) and not path.is_dir():
        raise ModelError(f"a LoRA is a .safetensors file, never a pickle, got {source}")
    if path.is_file():
        return str(path.parent), path.name
    if path.is_dir():
        return str(path), _only(source, [file.name for file in path.glob("*.safetensors")])
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    if source.startswith((".", "/", "~")) or not owner or not name or name.endswith(".safetensors"):
        raise ModelError(f"no LoRA at {source}; give a file, a folder, or a hub id (owner/name/file.safetensors)")
    return f"{owner}/{name}", file or None


def stage_of(name: str) -> str | None:
    """`high` or `low` where the whole words of a file's name say one of them, as a noise level and not as a look.

    `name` is a path; where the file's own name says nothing at all, as pytorch_lora_weights, its folder's counts.
    """
    path = Path(name)
    own = path.parent.name if path.stem in NAMELESS else path.stem
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", own)  # HighNoise
    words = [word.lower() for word in re.split(r"[^A-Za-z0-9]+", apart) if word]
    said = {
        stage
        for index, word in enumerate(words)
        for stage, known in WORDS.items()
        if word in known and not (word == stage and LOOKS & set(words[index + 1 : index + 2]))
    }
    if not said and words:
        said = {LAST[word] for word in words[-1:] if word in LAST}
    return said.pop() if len(said) == 1 else None


def shares(lora: Lora, name: str, weights: Weights, parts: Sequence[str]) -> dict[str, tuple[float, Weights]]:
    """The weight and the tensors that each transformer gets."""
    own = {part: weights.of(second=part == "transformer_2") for part in parts}
    if len(parts) == 1:
        return {parts[0]: (lora.weight, weights.of(second=False) if weights.has_second else weights)}
    if lora.staged:
        given = {"transformer": lora.high, "transformer_2": lora.low}
        chosen = {part: weight for part, weight in given.items() if weight is not None}
        return {part: (weight, own[part] if weights.has_second else weights) for part, weight in chosen.items()}
    if weights.has_second:
        return {part: (lora.weight, mine) for part, mine in own.items() if mine.tensors}
    stage = stage_of(name)
    return {part: (lora.weight, weights) for part in parts if stage in (None, STAGES[part])}


def _tell(file: _File, parts: Sequence[str], put: Callable[[str, Weights, float], Account]) -> None:
    """Have the shares of a LoRA put on their transformers, and log what was done. Raises ModelError."""
    accounts = {}
    for part, (weight, weights) in shares(file.lora, file.name, file.weights, parts).items():
        with reading(f"the LoRA {file.lora.source}"):
            accounts[part] = put(part, weights, weight)
    _check_applied(file.lora, accounts)
    for line in _told(file.lora, file.name, accounts, len(parts)):
        logging.getLogger("shelllcc").warning(line)


def _check_applied(lora: Lora, accounts: Mapping[str, Account]) -> None:
    """Raise ModelError where nothing of the LoRA was applied."""
    if not any(account.layers for account in accounts.values()):
        unused = next(iter(accounts.values())).said() if accounts else ""
        raise ModelError(
            f"the LoRA {lora.source} fits no layer of this model{f': {unused}' if unused else ''}; "
            "give one that was made for this model"
        )


def _told(lora: Lora, name: str, accounts: Mapping[str, Account], models: int) -> Iterator[str]:
    """What was done with a LoRA: where it went, and what was left out."""
    went = []
    for part, account in accounts.items():
        where = f" for {STAGES[part]} noise" if models == 2 else ""
        went.append(account.counted(where))
    why = ""
    if models == 2 and not lora.staged and len(accounts) == 1:
        says = "name says" if stage_of(name) else "tensors say"
        why = f", as its {says}; --lora FILE:{lora.weight:g}@both puts it on both"
    elif models == 2 and not lora.staged:
        why = f"; its name says neither high nor low; --lora FILE:{lora.weight:g}@high or @low puts it on one"
    yield f"LoRA {name}: {', '.join(went)}{why}"
    for part, account in accounts.items():
        if unused := account.said():
            where = f" on the transformer for {STAGES[part]} noise" if models == 2 else ""
            yield f"LoRA {name}{where}: {unused}; a LoRA made for this very model would act whole"
            return


def _read(lora: Lora, path: Path, *, shapes_alone: bool = False) -> _File:
    """With `shapes_alone` what is more than one number comes on the meta device. Raises ModelError."""
    from safetensors import safe_open

    from shelllcc.guidance.wan.model.adapters import Weights

    with reading(f"the LoRA {lora.source}"), safe_open(path, "pt") as file:
        read = functools.partial(_shape, file) if shapes_alone else file.get_tensor
        tensors = {key: read(key) for key in file.keys()}  # noqa: SIM118
        about = _about(path, file.metadata() or {})
    own = path.name if Path(lora.source).is_file() else lora.source
    name = own if own.endswith(".safetensors") else f"{own}/{path.name}"
    return _File(lora, name, Weights(tensors, about))


def _shape(file: Any, key: str) -> torch.Tensor:
    """A tensor of a file without its numbers, unless it is one number."""
    import torch

    shape = file.get_slice(key).get_shape()
    return file.get_tensor(key) if math.prod(shape) == 1 else torch.empty(shape, device="meta")


def _about(path: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """What the trainer noted: diffusers in the file's header, PEFT in a file beside it."""
    beside = path.with_name("adapter_config.json")
    text = header.get("lora_adapter_metadata")
    if text is None and path.stem == "adapter_model" and beside.is_file():
        text = beside.read_text(encoding="utf-8")
    about = json.loads(text) if text else {}
    return about if isinstance(about, dict) else {}


@overload
def _on_disk(source: str) -> Path: ...


@overload
def _on_disk(source: str, *, fetch: bool) -> Path | None: ...


def _on_disk(source: str, *, fetch: bool = True) -> Path | None:
    """The file of a LoRA, fetched from the hub where it is there, or None unless `fetch`. Raises ModelError."""
    place, file = find_lora(source)
    if Path(place).is_dir():
        return Path(place, file or "")
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OfflineModeIsEnabled

    def kept() -> Path:
        return Path(snapshot_download(place, local_files_only=True))

    try:
        if not fetch:
            found = kept() / (file or _only(place, [path.name for path in kept().glob("*.safetensors")]))
            return found if found.is_file() else None
        if file is None:
            try:
                names = list_repo_files(place)
            except (HfHubHTTPError, OfflineModeIsEnabled, OSError):  # what is here already may do
                names = [path.name for path in kept().glob("*.safetensors")]
            file = _only(place, [name for name in names if name.endswith(".safetensors") and "/" not in name])
            if file == "adapter_model.safetensors" and "adapter_config.json" in names:
                hf_hub_download(place, "adapter_config.json")
        return Path(hf_hub_download(place, file))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        if not fetch:
            return None
        raise ModelError(f"no LoRA {source}: not a file here, and {hub_says(error)}") from error


def _only(source: str, files: Sequence[str]) -> str:
    """The one file of a folder that is the LoRA. Raises ModelError."""
    files = [USUAL] if USUAL in files else sorted(files)
    if len(files) != 1:
        found = f": {', '.join(files[:3])}{', ..' if len(files) > 3 else ''}" if files else ""
        raise ModelError(f"{source} holds {len(files)} .safetensors files{found}; give --lora the one to use")
    return files[0]
