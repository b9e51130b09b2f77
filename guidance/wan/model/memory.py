"""How much memory each stage of sampling takes, before any weights are loaded. Knows nothing of files or terminals.

The models run once on the meta device, where tensors have shapes and no numbers, while bytes alive are counted: what a
stage takes beside its weights is read off the code that will run, at the sizes asked for.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from shelllcc.guidance.wan.model.loading import CHOICES, LENGTH, Loading
from shelllcc.guidance.wan.model.pipeline import Model, quieten
from shelllcc.guidance.wan.model.seams import shortened

AT_REST: Mapping[str, float] = {"none": 0.0, "fp8": 1.0, "int8": 1.0, "nf4": 0.5}  # bytes of a weight; 0 as computed
WORKSPACE = 1.16  # of whole frames: what cuDNN takes beside that which convolutions read and write (benchmarks/gpu.py)
RATES: Mapping[str, float] = {"NVIDIA H200": 5.0e14}  # FLOPs a second in bfloat16, measured (benchmarks/gpu.py)


class Size(Protocol):
    """What of a request decides on memory."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def frames(self) -> int: ...

    @property
    def cfg(self) -> float: ...


@dataclass(frozen=True)
class Stage:
    """Bytes on the device at the worst moment: of weights, and of everything else."""

    weights: int
    work: int

    @property
    def peak(self) -> int:
        return self.weights + self.work


@dataclass(frozen=True)
class Costs:
    """Bytes that sampling a request takes, part by part; `loaded` says at which moments which of them meet.

    parameters of each part of the model, latents (b c t h w), FLOPs of a step; bytes of each transformer's weights at
    rest and of the largest layer of it, of the VAE, and of the text encoder and its largest layer; and bytes beside all
    weights while encoding a prompt, in a call of the transformer, and decoding the latents whole and in tiles.
    """

    parameters: Mapping[str, int]
    latents: tuple[int, ...]
    flops: float
    transformers: tuple[int, ...]
    layer: int
    vae: int
    encoder: tuple[int, int]
    encoding: int
    sampling: int
    decoding: tuple[int, int]

    def loaded(self, offload: str, *, tiling: bool) -> dict[str, Stage]:
        """The stages of a sampling, in their order."""
        decoding, denoisers = self.decoding[tiling], sum(self.transformers)
        stages = {}
        if self.encoder[0]:  # a group is a layer there
            stages["encoding"] = Stage(self.encoder[offload == "group"], self.encoding)
        if offload == "none":
            stages["sampling"] = Stage(denoisers + self.vae, self.sampling)
            stages["decoding"] = Stage(denoisers + self.vae, decoding)
        elif offload == "model":
            stages["sampling"] = Stage(max(self.transformers), self.sampling)
            stages["decoding"] = Stage(self.vae, decoding)
        else:  # the layer at work, and the next on its way
            stages["sampling"] = Stage(2 * self.layer + self.vae, self.sampling)
            stages["decoding"] = Stage(self.vae, decoding)
        return stages


def costs(model: Model, request: Size, loading: Loading, *, dtype: torch.dtype) -> Costs:
    """What sampling a request takes, its transformer in `dtype` and quantized as `loading` says."""
    quieten()
    from diffusers import AutoencoderKLWan, WanTransformer3DModel

    transformer = _on_meta(WanTransformer3DModel.from_config, model.transformer).to(dtype)
    vae = _on_meta(AutoencoderKLWan.from_config, model.vae).eval()
    parts = ("transformer", "transformer_2") if model.two_stage else ("transformer",)
    parameters = {name: _count(transformer) for name in parts} | {"vae": _count(vae)}
    a_weight = AT_REST[loading.quantize] or dtype.itemsize
    files = {name: getattr(loading, name) for name in parts}
    at_rest = tuple(
        Path(file).stat().st_size if file and file.endswith(".gguf") else int(a_weight * parameters[name])
        for name, file in files.items()
    )
    latents = latents_shape(model, request)
    encoder, encoding = (0, 0), 0
    if model.text_encoder:
        texts = _text_encoder(model.text_encoder).to(dtype)
        parameters["text_encoder"] = _count(texts)
        encoder = _bytes(texts), _largest(texts)
        encoding = _work(lambda: texts(torch.zeros(1, LENGTH, dtype=torch.long, device="meta")))
    return Costs(
        parameters=parameters,
        latents=latents,
        flops=_flops(transformer, latents) * (2 if request.cfg > 1 else 1),
        transformers=at_rest,
        layer=int(_largest(transformer) * max(at_rest) / _bytes(transformer)),
        vae=_bytes(vae),
        encoder=encoder,
        encoding=encoding,
        sampling=_sampling(transformer, latents),
        decoding=(_decoding(vae, latents, tiling=False), _decoding(vae, latents, tiling=True)),
    )


def forecast(model: Model, request: Size, loading: Loading, *, dtype: torch.dtype) -> dict[str, Any]:
    """What `--dry-run` says of a request, as JSON, in GB (1e9 bytes): its stages, and the peak of every way to load."""
    found = costs(model, request, loading, dtype=dtype)
    stages = found.loaded(loading.offload, tiling=loading.tiling)
    peaks = {
        f"--offload {way}{' --tiling' if tiling else ''}": max(
            s.peak for s in found.loaded(way, tiling=tiling).values()
        )
        for way in CHOICES["offload"]
        for tiling in (False, True)
    }
    return {
        "parameters": dict(found.parameters),
        "latents": list(found.latents),
        "dtype": str(dtype).removeprefix("torch."),
        "step_TFLOP": round(found.flops / 1e12, 1),
        "step_seconds": {gpu: round(found.flops / rate, 2) for gpu, rate in RATES.items()},
        "GB": {name: {"weights": _giga(s.weights), "work": _giga(s.work), "peak": _giga(s.peak)}
               for name, s in stages.items()},
        "peak_GB": _giga(_peak(stages)),
        "peak_GB_with": {way: _giga(peak) for way, peak in peaks.items()},
    }  # fmt: skip


def latents_shape(model: Model, request: Size) -> tuple[int, ...]:
    """Shape (b c t h w) of a request's latents."""
    scale = int(model.vae.get("scale_factor_spatial") or 8)
    frames = (request.frames - 1) // int(model.vae.get("scale_factor_temporal") or 4) + 1
    return (1, int(model.vae["z_dim"]), frames, request.height // scale, request.width // scale)


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages that are born within the block; `peak` is the most at one time."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_iter((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._seen.add(tensor.untyped_storage()._cdata)  # it was there before, as weights are
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._born(tensor.untyped_storage())
        return result

    def _born(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._seen:
            return
        self._seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._died, key, size)

    def _died(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


class _FusedAttention(TorchFunctionMode):
    """Attention as a GPU's kernels do it: the scores never lie in memory. On the meta device they would."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else (kwargs or {})["query"])
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _work(run: Callable[[], object]) -> int:
    """The most bytes alive at one time while something runs, beside what was there before."""
    with _FusedAttention(), _Alive() as alive:
        run()
    return alive.peak


def _sampling(transformer: Any, latents: tuple[int, ...]) -> int:
    """Bytes beside the weights while a step is made."""
    config, dtype = transformer.config, next(transformer.parameters()).dtype
    shallow = shortened(transformer, 2)  # what is alive in one block is gone in the next
    shape = (latents[0], config.in_channels, *latents[2:])
    x = torch.empty(shape, dtype=dtype, device="meta")
    text = torch.empty(1, LENGTH, config.text_dim, dtype=dtype, device="meta")
    time = torch.empty(1, dtype=torch.long, device="meta")
    kept = 5 * _size(latents) * 4  # the sample, the scheduler's history and what both calls said, in float32
    return _work(lambda: shallow(x, time, text, return_dict=False)) + kept


def _flops(transformer: Any, latents: tuple[int, ...]) -> float:
    """Of one call: two for each weight and token, and four for each pair of tokens and channel of attention."""
    config = transformer.config
    t, h, w = config.patch_size
    tokens = latents[2] // t * (latents[3] // h) * (latents[4] // w)
    width = config.num_attention_heads * config.attention_head_dim
    inside = sum(_count(block) for block in transformer.blocks)
    return 2.0 * inside * tokens + 4.0 * len(transformer.blocks) * width * tokens * (tokens + LENGTH)


def _decoding(vae: Any, latents: tuple[int, ...], *, tiling: bool) -> int:
    height, width = latents[3:]
    if tiling:  # one tile at work beside those that are done; in the end these, their rows, the whole and its copy
        scale = vae.spatial_compression_ratio
        height = min(height, vae.tile_sample_min_height // scale)
        width = min(width, vae.tile_sample_min_width // scale)
    z = torch.empty(*latents[:3], height, width, device="meta")
    work = _work(lambda: vae.decode(z, return_dict=False))
    if not tiling:
        work = int(WORKSPACE * work)
    else:
        whole = 3 * 4 * ((latents[2] - 1) * 4 + 1) * latents[3] * latents[4] * scale**2
        work = max(work + 2 * whole, 5 * whole)
    return work + _size(latents) * 4


def _text_encoder(config: Mapping[str, Any]) -> Any:
    from transformers import UMT5Config, UMT5EncoderModel

    return _on_meta(lambda settings: UMT5EncoderModel(UMT5Config(**settings)), config)


def _on_meta(make: Callable[[Any], Any], config: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return make(dict(config))


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


def _largest(module: nn.Module) -> int:
    """Bytes of the layer that weighs most."""
    return max(sum(p.numel() * p.element_size() for p in m.parameters(recurse=False)) for m in module.modules())


def _peak(stages: Mapping[str, Stage]) -> int:
    return max(stage.peak for stage in stages.values())


def _giga(size: float) -> float:
    return round(size / 1e9, 2)
