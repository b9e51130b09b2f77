"""Where this package leans on what libraries keep private: each place once, behind a name that says what it is for.

Read in diffusers 0.42.1, accelerate 1.15.0 and torch 2.13.0; `tests/wan/model/test_seams.py` holds a contract for each
function, so that an update of a library says which of them broke. That of schedulers is the guide's own (guide/seams).
Knows nothing of clips or files. Importing it loads no library.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from diffusers import WanTransformer3DModel
    from torch import nn

Forward = Callable[..., Any]
GLOO = "gloo/transport"  # the file that gloo's errors name: torch raises them as plain RuntimeErrors


def device_of(pipe: Any) -> torch.device:
    """Where a pipeline computes, offloaded or not: `pipe.device` is where its parts rest meanwhile."""
    device: torch.device = pipe._execution_device
    return device


def source_of(pipe: Any) -> str:
    """The folder or hub id that a pipeline, modular or not, was loaded from; empty where it is put together."""
    if name := pipe.config.get("_name_or_path"):
        return str(name)
    return str(getattr(pipe, "_pretrained_model_name_or_path", None) or "")


def group_offload_again(model: nn.Module) -> None:
    """Offload what a call that failed left on the device: diffusers does so after a layer's call alone."""
    from diffusers.hooks.group_offloading import _GROUP_OFFLOADING

    for hooks in _registries(model):
        if (hook := hooks.get_hook(_GROUP_OFFLOADING)) is not None:
            hook.group.offload_()


def keep_calls_apart(model: nn.Module) -> None:
    """Give pyramid attention broadcast a state for each of the two calls that cfg makes in a step.

    That of diffusers has one for both: the call without the prompt would get the attention of the one with it.
    """
    from diffusers.hooks.hooks import StateManager
    from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastHook

    for hooks in _registries(model):
        for hook in hooks.hooks.values():
            if isinstance(hook, PyramidAttentionBroadcastHook):
                hook.states = StateManager(_computing_first, (type(hook.state), hook.block_skip_range))
                hook.__class__ = _with_states(type(hook))


@contextlib.contextmanager
def decoded_in_part(vae: Any, frames: int | None) -> Iterator[None]:
    """Within the block the VAE decodes so many latent frames at most, from the first; None is all of them.

    Wan's decoder is causal: what it shows is what it would show of the whole.
    """
    if frames is None:
        yield
        return
    before, decode = vars(vae).get("decode"), vae.decode
    vae.decode = lambda latents, *args, **kwargs: decode(latents[:, :, :frames], *args, **kwargs)
    try:
        yield
    finally:
        if before is None:
            del vae.decode
        else:
            vae.decode = before


@contextlib.contextmanager
def image_taken(pipe: Any) -> Iterator[None]:
    """Within the block a WanPipeline is diffusers' WanImageToVideoPipeline of the same parts; one stays what it is.

    TI2V-5B is one model for both, and their parts and settings are the same: only the class differs.
    """
    from diffusers import WanImageToVideoPipeline

    own, config = type(pipe), pipe._internal_dict
    if issubclass(own, WanImageToVideoPipeline):
        yield
        return
    pipe.__class__ = WanImageToVideoPipeline
    pipe.register_modules(image_encoder=None, image_processor=None)
    try:
        yield
    finally:
        pipe.__class__, pipe._internal_dict = own, config
        del pipe.image_encoder, pipe.image_processor


@contextlib.contextmanager
def decoded(pipe: Any, on_frame: Callable[[int, int], None]) -> Iterator[None]:
    """Within the block `on_frame` hears how many latent frames the VAE has decoded, of how many; of tiles, each one's.

    Wan's VAE calls its decoder once for a latent frame, of each tile.
    """
    vae, total, done = pipe.vae, 0, 0
    before, decode = vars(vae).get("decode"), vae.decode

    def begin(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal total, done
        total, done = latents.shape[2] * _tiles(vae, *latents.shape[-2:]), 0
        return decode(latents, *args, **kwargs)

    def end(*_: Any) -> None:
        nonlocal done
        done += 1
        on_frame(done, total)

    vae.decode, hook = begin, vae.decoder.register_forward_hook(end)
    try:
        yield
    finally:
        hook.remove()
        if before is None:
            del vae.decode
        else:
            vae.decode = before


def _tiles(vae: Any, height: int, width: int) -> int:
    """In how many tiles latents are decoded."""
    scale = vae.spatial_compression_ratio
    if not vae.use_tiling or (
        height <= vae.tile_sample_min_height // scale and width <= vae.tile_sample_min_width // scale
    ):
        return 1
    strides = vae.tile_sample_stride_height // scale, vae.tile_sample_stride_width // scale
    return len(range(0, height, strides[0])) * len(range(0, width, strides[1]))


@contextlib.contextmanager
def forward_exchanged(models: Sequence[nn.Module], exchange: Callable[[Forward], Forward]) -> Iterator[None]:
    """Within the block each model's forward is what `exchange` makes of it; afterwards it is as before.

    accelerate's hooks, of offloading part by part, lie in an attribute `forward` of the instance and not of its class;
    forward hooks of torch hear what the exchanged one gives.
    """
    own = [model.__dict__.get("forward") for model in models]
    for model in models:
        model.forward = exchange(model.forward)
    try:
        yield
    finally:
        for model, forward in zip(models, own, strict=True):
            if forward is None:
                del model.forward
            else:
                model.forward = forward


def share_tokens(model: WanTransformer3DModel, *, rank: int, count: int, device_type: str) -> None:
    """Let every process compute a share of the model's tokens, uneven ones too (Ulysses). For good.

    Of diffusers' own plan two parts are left out: it splits timesteps in a hook that offloading drops, and gathers
    equal shares alone; the caller does both. Raises ValueError for an attention backend that cannot exchange.
    """
    from diffusers import ContextParallelConfig
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh(device_type, (1, count), mesh_dim_names=("ring", "ulysses"))
    config = ContextParallelConfig(ulysses_degree=count, ulysses_anything=True, mesh=mesh)
    plan = {name: part for name, part in model._cp_plan.items() if name not in ("", "proj_out")}
    with _resolved_on_cpu(model, rank, count) if device_type == "cpu" else contextlib.nullcontext():
        model.enable_parallelism(config=config, cp_plan=plan)


def peer_lost(error: BaseException) -> bool:
    """Whether an exchange failed as another process is gone: by type, but for gloo's errors, which have none."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and GLOO in str(error))


def shortened(transformer: WanTransformer3DModel, blocks: int) -> WanTransformer3DModel:
    """The same transformer, weights shared, with its first blocks alone."""
    short = copy.copy(transformer)
    short._modules = transformer._modules | {"blocks": transformer.blocks[:blocks]}
    return short


def _registries(model: nn.Module) -> Iterator[Any]:
    """The registries of diffusers' hooks that a model's layers carry."""
    for module in model.modules():
        if (registry := getattr(module, "_diffusers_hook", None)) is not None:
            yield registry


def _computing_first(kind: type, iteration: int) -> Any:
    """A state whose first call computes: FasterCache else reads its empty cache where sampling starts at low noise."""
    state = kind()
    state.iteration = iteration
    return state


def _with_states(kind: type) -> type:
    def reset_state(self: Any, module: Any) -> Any:
        self.states.reset()
        return module

    state = property(lambda self: self.states.get_state())
    return type(kind.__name__, (kind,), {"state": state, "reset_state": reset_state, "__module__": kind.__module__})


@contextlib.contextmanager
def _resolved_on_cpu(model: Any, rank: int, count: int) -> Iterator[None]:
    """On the CPU, spare `enable_parallelism` the search for an accelerator: it divides by how many there are."""
    import torch
    from diffusers import ParallelConfig

    def resolve(config: Any) -> Any:
        model._parallel_config = ParallelConfig(context_parallel_config=config)
        model._parallel_config.setup(rank, count, torch.device("cpu"), mesh=config.mesh)
        return model._parallel_config

    model._resolve_parallel_config = resolve
    try:
        yield
    finally:
        del model._resolve_parallel_config
