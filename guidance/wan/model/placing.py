"""Where a pipeline's parts lie: all on the device, one part at a time, or one layer at a time.

Knows nothing of files, models' names or sampling.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import ModelError, OutOfMemoryError, UsageError, first_line
from shelllcc.guidance.faults import out_of_memory
from shelllcc.guidance.wan.model.loading import LENGTH
from shelllcc.guidance.wan.model.seams import group_offload_again

if TYPE_CHECKING:
    from diffusers import WanPipeline, WanTransformer3DModel

DENOISERS = ("transformer", "transformer_2")


def place(pipe: WanPipeline, offload: str, device: str, *, hooked: bool = False) -> None:
    """Put the parts that are there on the device, or arrange that they get there when they are needed.

    none   all of them, for good
    model  one after the other, as a whole
    group  the VAE for good, of the others the layer that computes and, on CUDA, the one that comes next

    `hooked` says that hooks will be put on the transformers, as by feature caches. Raises UsageError where there is
    nothing to offload from, OutOfMemoryError where it does not fit, ModelError for other failures.
    """
    import torch

    check_offload(offload, device)
    try:
        if offload == "none":
            pipe.to(device)
        elif offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        else:
            _place_in_groups(pipe, torch.device(device), hooked)
    except (MemoryError, RuntimeError, ValueError) as error:  # no room, no such device, or a part cannot run there
        if out_of_memory(error):
            hint = "use a larger GPU" if offload == "group" else "try --offload group"
            raise OutOfMemoryError(f"putting the model on {device}", f"{hint} or --quantize fp8") from error
        raise ModelError(f"cannot put the model on {device}: {first_line(error)}") from error


def check_device(device: str | None, *, here: bool = True) -> None:
    """Raise UsageError for what names no device, ModelError for one that this machine does not have.

    Without `here` `cuda` may be another machine's; where there are GPUs their number holds. No GPU is woken.
    """
    if device is None:
        return
    kind, colon, number = device.partition(":")
    if kind not in ("cpu", "mps", "cuda") or (colon and (kind != "cuda" or not re.fullmatch("0|[1-9][0-9]*", number))):
        raise UsageError(f"--device is cpu, cuda or cuda:N with N from 0, got {device or 'nothing'}")
    if kind == "cpu" or (kind == "mps" and not here):
        return
    import torch

    count = torch.cuda.device_count() if kind == "cuda" else int(torch.backends.mps.is_available())
    if int(number or 0) >= max(count, 0 if here else 1):  # a plan for another machine's GPU does not number it
        there = f"GPUs that torch finds: {count}" + (", counted from 0" if count else "")
        raise ModelError(f"device {device} is not available here; {there}; give another --device, or none")


def check_offload(offload: str, device: str) -> None:
    """Raise UsageError where the device is the memory that parts would be offloaded to."""
    if offload != "none" and device.startswith("cpu"):
        raise UsageError(f"--offload {offload} is for a GPU: on the CPU there is nothing to offload from; leave it out")


def reset(pipe: WanPipeline) -> None:
    """After a sampling that an exception ended: forget the feature caches, and offload again what was left behind."""
    pipe.maybe_free_model_hooks()
    for part in (*DENOISERS, "text_encoder", "image_encoder"):
        if (model := getattr(pipe, part, None)) is not None:
            group_offload_again(model)


def _place_in_groups(pipe: WanPipeline, device: Any, hooked: bool) -> None:
    """Leaf by leaf: with streams that holds less than block by block, and waits less."""
    from diffusers.hooks import apply_group_offloading

    stream = device.type == "cuda"
    parts = {part: getattr(pipe, part, None) for part in (*DENOISERS, "text_encoder", "image_encoder")}
    for part, model in parts.items():
        if model is None:
            continue
        apply_group_offloading(model, device, offload_type="leaf_level", use_stream=stream)
        if stream and hooked and part in DENOISERS:
            _call_once(model, device)
    if pipe.vae is not None:
        pipe.vae.to(device)


def _call_once(transformer: WanTransformer3DModel, device: Any) -> None:
    """Let diffusers learn the order of the layers now: where it did so later, it would cut off hooks put on since."""
    import torch

    config, dtype = transformer.config, transformer.dtype
    image = dict[str, Any]()
    if config.image_dim:  # of two images, where it reads two; behind them it expects all of the text's tokens
        image["encoder_hidden_states_image"] = torch.zeros(
            2 if config.pos_embed_seq_len else 1, (config.pos_embed_seq_len or 2) // 2, config.image_dim,
            device=device, dtype=dtype,
        )  # fmt: skip
    with torch.no_grad():
        transformer(
            hidden_states=torch.zeros(1, config.in_channels, *config.patch_size, device=device, dtype=dtype),
            timestep=torch.zeros(1, device=device),
            encoder_hidden_states=torch.zeros(1, LENGTH if image else 1, config.text_dim, device=device, dtype=dtype),
            **image,
            return_dict=False,
        )
