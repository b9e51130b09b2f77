"""What the parts of a model take, counted as they run on the meta device: tensors there have shapes and no numbers.

What a part takes beside its weights is read off the code that will run, at the sizes asked for. Importing the models'
libraries and running them takes seconds: see counted.py. Knows nothing of stages, offloading or files.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from shelllcc.guidance.wan.model.counted import Count
from shelllcc.guidance.wan.model.loading import LENGTH
from shelllcc.guidance.wan.model.pipeline import quieten
from shelllcc.guidance.wan.model.seams import shortened

WORKSPACE = 1.16  # of whole frames: what cuDNN takes beside that which convolutions read and write (benchmarks/gpu.py)


def count_transformer(config: Mapping[str, Any], latents: tuple[int, ...], dtype: str) -> Count:
    """parameters; bytes of weights and of the largest layer; FLOPs of a call and bytes beside the weights (`work`).

    `latents` is a shape (b c t h w).
    """
    quieten()
    from diffusers import WanTransformer3DModel

    model = _on_meta(WanTransformer3DModel.from_config, config).to(getattr(torch, dtype))
    return _weights(model) | {"flops": _flops(model, latents), "work": _sampling(model, latents)}


def count_vae(config: Mapping[str, Any], latents: tuple[int, ...]) -> Count:
    """parameters; bytes of weights and of the largest layer; and while latents are decoded, `whole` and in `tiles`."""
    quieten()
    from diffusers import AutoencoderKLWan

    vae = _on_meta(AutoencoderKLWan.from_config, config).eval()
    decoding = {"whole": _decoding(vae, latents, tiling=False), "tiles": _decoding(vae, latents, tiling=True)}
    return _weights(vae) | decoding


def count_image(config: Mapping[str, Any], latents: tuple[int, ...]) -> Count:
    """Bytes beside the weights while a VAE encodes an image before grey frames, as long as the clip (`work`)."""
    quieten()
    from diffusers import AutoencoderKLWan

    vae = _on_meta(AutoencoderKLWan.from_config, config).eval()
    scale = int(config.get("scale_factor_spatial") or 8)
    shape = (1, 3, 4 * (latents[2] - 1) + 1, scale * latents[3], scale * latents[4])
    frames = torch.empty(shape, device="meta")
    return {"work": int(WORKSPACE * work(lambda: vae.encode(frames))) + 2 * _size(shape) * 4}


def count_image_encoder(config: Mapping[str, Any]) -> Count:
    """parameters; bytes of weights, in float32, and of the largest layer."""
    quieten()
    from transformers import CLIPVisionConfig, CLIPVisionModel

    return _weights(_on_meta(lambda settings: CLIPVisionModel(CLIPVisionConfig(**settings)), config))


def count_text_encoder(config: Mapping[str, Any], dtype: str) -> Count:
    """parameters; bytes of weights, of the largest layer, and beside the weights while a prompt is encoded (`work`)."""
    quieten()
    from transformers import UMT5Config, UMT5EncoderModel

    encoder = _on_meta(lambda settings: UMT5EncoderModel(UMT5Config(**settings)), config).to(getattr(torch, dtype))
    return _weights(encoder) | {"work": work(lambda: encoder(torch.zeros(1, LENGTH, dtype=torch.long, device="meta")))}


@torch.no_grad()
def work(run: Callable[[], object]) -> int:
    """The most bytes alive at one time while something runs, beside what was there before."""
    with _FusedAttention(), _Alive() as alive:
        run()
    return alive.peak


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


def _sampling(transformer: Any, latents: tuple[int, ...]) -> int:
    """Bytes beside the weights while a step is made."""
    config, dtype = transformer.config, next(transformer.parameters()).dtype
    shallow = shortened(transformer, 2)  # what is alive in one block is gone in the next
    shape = (latents[0], config.in_channels, *latents[2:])
    x = torch.empty(shape, dtype=dtype, device="meta")
    image = {}
    if config.image_dim:
        two = config.pos_embed_seq_len
        rows = (2, two // 2) if two else (1, 257)
        image["encoder_hidden_states_image"] = torch.empty(*rows, config.image_dim, dtype=dtype, device="meta")
    text = torch.empty(1, LENGTH, config.text_dim, dtype=dtype, device="meta")
    time = torch.empty(1, dtype=torch.long, device="meta")
    kept = 5 * _size(latents) * 4  # the sample, the scheduler's history and what both calls said, in float32
    return work(lambda: shallow(x, time, text, return_dict=False, **image)) + kept


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
    beside = work(lambda: vae.decode(z, return_dict=False))
    if not tiling:
        beside = int(WORKSPACE * beside)
    else:
        whole = 3 * 4 * ((latents[2] - 1) * 4 + 1) * latents[3] * latents[4] * scale**2
        beside = max(beside + 2 * whole, 5 * whole)
    return beside + _size(latents) * 4


def _on_meta(make: Callable[[Any], Any], config: Mapping[str, Any]) -> Any:
    with torch.device("meta"):
        return make(dict(config))


def _size(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _bytes(module: nn.Module, *, recurse: bool = True) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters(recurse=recurse))


def _weights(module: nn.Module) -> dict[str, float]:
    layer = max(_bytes(one, recurse=False) for one in module.modules())
    return {"parameters": _count(module), "weights": _bytes(module), "layer": layer}
