"""A model's transformers: from its folder or hub id, or from a single file, quantized or not.

Knows nothing of pipelines, devices or adapters.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import ModelError, OutOfMemoryError, ShellLCCError, first_line
from shelllcc.guidance.faults import out_of_memory
from shelllcc.guidance.wan.model.loading import Loading
from shelllcc.guidance.wan.model.trust import check_hub_shards, offline

if TYPE_CHECKING:
    import torch
    from diffusers import WanTransformer3DModel

UNTOUCHED = ["condition_embedder", "proj_out"]  # small, and what goes through them reaches every block or the output
BROKEN = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)  # what foreign files make of readers
EXTRAS = {"peft": "lora", "gguf": "gguf", "torchao": "int8", "bitsandbytes": "nf4"}


def load_transformer(
    repo: str, revision: str | None, part: str, loading: Loading, dtype: torch.dtype
) -> WanTransformer3DModel:
    """`transformer` or `transformer_2` of a model, on the CPU but for nf4. Raises ModelError.

    `repo` is a folder or a hub id. A single file takes the config of the model's own transformer.
    """
    from diffusers import WanTransformer3DModel

    from shelllcc.guidance.wan.model.checkpoints import read_checkpoint

    file = loading.transformer if part == "transformer" else loading.transformer_2
    quantized = _quantization(loading.quantize, file, dtype)
    if file is None:
        if revision is not None:
            check_hub_shards(repo, revision, part)
        with reading(f"the {part} of {repo}"):
            return WanTransformer3DModel.from_pretrained(
                repo,
                subfolder=part,
                revision=revision,
                dtype=dtype,
                quantization_config=quantized,
                use_safetensors=True,
            )
    check_file(file)
    with reading(f"{file} as the {part} of {repo}"):
        config = WanTransformer3DModel.load_config(repo, subfolder=part, revision=revision)
        shapes = {n: tuple(w.shape) for n, w in bare_transformer(config).state_dict().items()}
        return WanTransformer3DModel.from_single_file(
            read_checkpoint(Path(file), shapes, dtype),
            config=repo,
            config_revision=revision,
            subfolder=part,
            dtype=dtype,
            quantization_config=quantized,
        )


def bare_transformer(config: Mapping[str, Any]) -> WanTransformer3DModel:
    """The transformer of a config on the meta device: its weights have shapes and no numbers."""
    import torch
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        return WanTransformer3DModel.from_config(config)


def cast_at_rest(transformer: WanTransformer3DModel, dtype: torch.dtype) -> None:
    """Keep the weights of linear and convolution layers in fp8, and compute in `dtype`; norms and adapters stay."""
    import torch

    transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=dtype)


def check_file(file: str) -> None:
    """Raise ModelError unless a single file is there and of a kind that diffusers reads."""
    path = Path(file)
    if path.suffix not in (".safetensors", ".gguf"):
        raise ModelError(f"a transformer in a single file is a .safetensors or a .gguf, got {file}")
    if not path.is_file():
        raise ModelError(f"no file {file}; --transformer takes a .safetensors or .gguf file on this machine")
    if path.suffix == ".gguf":
        require("gguf", f"{file}")
        return
    from shelllcc.guidance.wan.model.checkpoints import check_safetensors

    with reading(file):
        check_safetensors(path)


def require(library: str, what: str) -> None:
    """Raise ModelError where an optional library is missing."""
    if importlib.util.find_spec(library) is None:
        raise ModelError(f"{what} needs the library {library}: pip install 'shelllcc[{EXTRAS[library]}]'")


@contextlib.contextmanager
def reading(what: str) -> Iterator[None]:
    """Within the block, whatever diffusers or its libraries raise becomes one line: OutOfMemoryError, or ModelError."""
    from safetensors import SafetensorError

    try:
        yield
    except ShellLCCError:
        raise
    except (*BROKEN, RuntimeError, MemoryError, SafetensorError) as e:
        if out_of_memory(e):
            raise OutOfMemoryError(f"loading {what}", "use --dtype bfloat16 or a machine with more memory") from e
        raise ModelError(f"cannot load {what}: {offline(e) or first_line(e)}") from e


def _quantization(name: str, file: str | None, dtype: torch.dtype) -> Any:
    """What diffusers wants to be told; None for plain weights, and for fp8, to which they are cast afterwards."""
    if file is not None and file.endswith(".gguf"):
        from diffusers import GGUFQuantizationConfig

        require("gguf", file)
        return GGUFQuantizationConfig(compute_dtype=dtype)
    if name == "int8":
        require("torchao", "--quantize int8")
        from diffusers import TorchAoConfig
        from torchao.quantization import Int8WeightOnlyConfig

        return TorchAoConfig(Int8WeightOnlyConfig(version=2), modules_to_not_convert=UNTOUCHED)
    if name == "nf4":
        require("bitsandbytes", "--quantize nf4")
        from diffusers import BitsAndBytesConfig

        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=UNTOUCHED,
        )
    return None
