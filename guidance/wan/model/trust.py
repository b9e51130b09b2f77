"""What models and sidecars of others may have done here: data read, no code run, nothing fetched unasked.

Knows nothing of loading. It reads names and JSON alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from shelllcc.guidance.errors import ModelError, UsageError, first_line
from shelllcc.guidance.wan.model.loading import Loading, check_name

LIBRARIES = ("diffusers", "transformers")
HOMES = {"scheduler": "diffusers"} | dict.fromkeys(
    ("tokenizer", "text_encoder", "image_encoder", "image_processor"), "transformers"
)
WEIGHTED = ("vae", "text_encoder", "image_encoder", "transformer", "transformer_2")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
SHARDS = ".safetensors.index.json"


def hub_says(error: BaseException) -> str:
    """How to end a sentence on what the hub did not give: in its client's words, or that it may not be asked."""
    return offline(error) or f"the hub says: {first_line(error)}"


def offline(error: BaseException) -> str | None:
    """That HF_HUB_OFFLINE kept from asking the hub, where an error comes of that."""
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    cause: BaseException | None = error if constants.HF_HUB_OFFLINE else None
    while cause is not None:
        if isinstance(cause, (LocalEntryNotFoundError, OfflineModeIsEnabled)):
            return "HF_HUB_OFFLINE is set, so that the hub is not asked; unset it to fetch what is not here yet"
        cause = cause.__cause__ or cause.__context__
    return None


def check_parts(index: Mapping[str, Any], source: str, folder: Path) -> None:
    """Raise ModelError for a model_index.json that names code other than a plain class of diffusers or transformers.

    diffusers would take a class of any library that is imported already, and a .py file beside a part's config.
    """
    for part, value in index.items():
        if part.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        library, name = value if len(value) == 2 else (None, None)
        if library not in LIBRARIES or not isinstance(name, str):
            raise ModelError(
                f"{source} wants its {part} from {library!r}, whose code is not run; "
                f"only classes of {' and '.join(LIBRARIES)} are loaded; give a model of these alone"
            )
        strange = name.startswith("Auto") or (
            part == "scheduler" and not name.endswith("Scheduler")
        )  # they may load code
        if part in HOMES and (strange or library != HOMES[part]):
            raise ModelError(f"{source} wants {library}'s {name} as its {part}; expected a plain one of {HOMES[part]}")
        if (folder / part / f"{library}.py").exists():
            raise ModelError(f"{source} brings code of its own, {part}/{library}.py, which is not run; remove it")
    for part in ("text_encoder", "image_encoder"):
        kernel = _json(folder / part / "config.json").get("attn_implementation")
        if not isinstance(kernel, (str, type(None))) or "/" in (kernel or ""):
            raise ModelError(
                f"{source}/{part} wants attention code of its own, {kernel!r}, which is not run; remove "
                "attn_implementation from its config.json"
            )


def check_weights(folder: Path, parts: Iterable[str]) -> None:
    """Raise ModelError where a part of a model's folder has its weights in pickles alone, or names one as a shard."""
    for part in parts:
        names = sorted(path.name for path in (folder / part).glob("*"))
        pickles = [name for name in names if name.endswith(PICKLES)]
        if pickles and not any(name.endswith((".safetensors", SHARDS)) for name in names):
            raise ModelError(
                f"{folder / part / pickles[0]} is a pickle, which may run code, and there is no .safetensors; "
                f"convert it where you trust it: load the {part} and `save_pretrained` it"
            )
        for name in names:
            if name.endswith(SHARDS):
                check_shards(folder / part / name)


def check_shards(index: Path) -> None:
    """Raise ModelError for an index of shards that names anything but .safetensors files beside it."""
    shards = _json(index).get("weight_map")
    for shard in set(shards.values()) if isinstance(shards, dict) else ():
        if not isinstance(shard, str) or Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise ModelError(
                f"{index} names the shard {shard!r}; only .safetensors files beside it are read: fetch the model anew"
            )


def check_hub_shards(repo: str, revision: str | None, part: str) -> None:
    """`check_shards` of a part on the hub, if it has an index."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    with contextlib.suppress(HfHubHTTPError, LocalEntryNotFoundError, OSError):
        check_shards(Path(hf_hub_download(repo, f"{part}/diffusion_pytorch_model{SHARDS}", revision=revision)))


def check_names(
    path: Path, model: str | None, loading: Loading, vouched: Collection[str], may_fetch: Callable[[str], bool]
) -> None:
    """Raise UsageError where the sidecar at `path` would have something fetched that nobody vouches for.

    `model` and `loading` are what the clip will be made with, `vouched` the names that the user gave. `may_fetch` is
    asked for every other name on the hub whose files are not all in the hub's cache.
    """
    wanted = [(model, _has_model)] if model else []
    wanted += [(lora.source, _has_lora) for lora in loading.loras]
    for name, is_here in wanted:
        check_name(name)
        if name not in vouched and _is_on_hub(name) and not is_here(name, loading) and not may_fetch(name):
            raise UsageError(f"{path} names {name} on the hub, which is not here; fetch it with --trust")


def _is_on_hub(name: str) -> bool:
    return "/" in name and not name.startswith((".", "/", "~")) and not Path(name).exists()


def _has_model(name: str, loading: Loading) -> bool:
    """Whether the hub's cache holds every part of a model that will be read."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    repo, _, revision = name.partition("@")
    with contextlib.suppress(HFValidationError):
        index = try_to_load_from_cache(
            repo, "model_index.json", cache_dir=constants.HF_HUB_CACHE, revision=revision or None
        )
        if not isinstance(index, str):
            return False
        replaced = {p for p in ("transformer", "transformer_2") if getattr(loading, p) is not None}
        parts = [p for p, value in _json(Path(index)).items() if isinstance(value, list) and value != [None, None]]
        return all(_has_part(Path(index).parent / part) for part in parts if part not in replaced)
    return False


def _has_part(folder: Path) -> bool:
    files = [path.name for path in folder.glob("*") if path.exists()]  # a cache may hold links to nothing
    if folder.name not in WEIGHTED:
        return bool(files)
    maps = [_json(folder / name).get("weight_map") for name in files if name.endswith(SHARDS)]
    shards = {shard for names in maps if isinstance(names, dict) for shard in names.values()}
    return shards <= set(files) and "config.json" in files and any(name.endswith(".safetensors") for name in files)


def _has_lora(name: str, loading: Loading) -> bool:
    from huggingface_hub import constants

    owner, repo, *rest = name.split("/")
    snapshots = (Path(constants.HF_HUB_CACHE) / f"models--{owner}--{repo}" / "snapshots").glob("*")
    if rest:
        return ".." not in rest and any(snapshot.joinpath(*rest).is_file() for snapshot in snapshots)
    return any(file.is_file() for snapshot in snapshots for file in snapshot.glob("*.safetensors"))


def _json(path: Path) -> dict[str, Any]:
    """The object of a JSON file; an empty one where there is none."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}
