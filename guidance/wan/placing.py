"""Where a pipeline's parts lie: all on the device, one part at a time, or one block at a time.

Knows nothing of files, models' names or sampling.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.wan.weights import first_line

if TYPE_CHECKING:
    from diffusers import WanPipeline

DENOISERS = ("transformer", "transformer_2")


def place(pipe: WanPipeline, offload: str, device: str, *, stream: bool = True) -> None:
    """Put the parts that are there on the device, or arrange that they get there when they are needed.

    none   all of them, for good
    model  one after the other, as a whole
    group  the VAE for good, of the others what is computed just now and, with `stream`, what comes next

    Raises UsageError where there is nothing to offload from, ModelError where it does not fit.
    """
    import torch

    check_offload(offload, device)
    stream = stream and torch.device(device).type == "cuda"
    try:
        if offload == "none":
            pipe.to(device)
        elif offload == "model":
            pipe.enable_model_cpu_offload(device=device)
        else:
            _place_in_groups(pipe, torch.device(device), stream)
    except torch.OutOfMemoryError as error:
        hint = "use a larger GPU" if offload == "group" else "try --offload group"
        raise ModelError(f"the model does not fit on {device}; {hint} or --quantize fp8") from error
    except (RuntimeError, ValueError) as error:  # no such device, or a part cannot run there
        raise ModelError(f"cannot put the model on {device}: {first_line(error)}") from error


def check_offload(offload: str, device: str) -> None:
    """Raise UsageError where the device is the memory that parts would be offloaded to."""
    if offload != "none" and device.startswith("cpu"):
        raise UsageError(f"--offload {offload} is for a GPU: on the CPU there is nothing to offload from")


def reset(pipe: WanPipeline) -> None:
    """After a sampling that an exception ended: forget the feature caches, and offload again what was left behind."""
    from diffusers.hooks.group_offloading import _GROUP_OFFLOADING

    pipe.maybe_free_model_hooks()
    for part in (*DENOISERS, "text_encoder"):
        model = getattr(pipe, part, None)
        for module in model.modules() if model is not None else ():
            registry = getattr(module, "_diffusers_hook", None)
            if registry is not None and (hook := registry.get_hook(_GROUP_OFFLOADING)) is not None:
                hook.group.offload_()


def _place_in_groups(pipe: WanPipeline, device: Any, stream: bool) -> None:
    from diffusers.hooks import apply_group_offloading

    for part in DENOISERS:
        if (model := getattr(pipe, part, None)) is not None:
            model.enable_group_offload(device, offload_type="block_level", num_blocks_per_group=1, use_stream=stream)
    if pipe.text_encoder is not None:  # its blocks lie too deep to be found as such
        apply_group_offloading(pipe.text_encoder, device, offload_type="leaf_level", use_stream=stream)
    if pipe.vae is not None:
        pipe.vae.to(device)
