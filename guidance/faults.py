"""What torch's errors mean: memory that did not suffice, or a GPU that is lost. Read by their type, with one exception.

Knows nothing of models or stages. torch is not imported before something has failed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from shelllcc.guidance.errors import LostGpuError, OutOfMemoryError, ShellLCCError

CPU_ALLOCATOR = "DefaultCPUAllocator: can't allocate memory"  # torch gives its failures on the CPU no type of their own
NO_MEMORY = 2  # cudaErrorMemoryAllocation, of host memory for one; the GPU goes on


def out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed, on a GPU or on the CPU."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, (MemoryError, OutOfMemoryError))
    import torch

    if isinstance(error, getattr(torch, "AcceleratorError", ())):  # older versions of torch have none
        return getattr(error, "error_code", None) == NO_MEMORY
    return isinstance(error, torch.OutOfMemoryError) or CPU_ALLOCATOR in str(error)


def gpu_lost(error: BaseException) -> bool:
    """Whether a GPU failed, e.g. by an illegal memory access: nothing works there again in this process."""
    if not isinstance(error, RuntimeError):
        return isinstance(error, LostGpuError)
    import torch

    return isinstance(error, getattr(torch, "AcceleratorError", ())) and not out_of_memory(error)


def answers(device: str) -> bool:
    """Whether a device still computes: what its kernels met shows itself here, at the latest."""
    import torch

    try:
        torch.zeros(1, device=device).add(1).item()
    except (RuntimeError, AssertionError) as error:
        return out_of_memory(error)  # full is not lost
    return True


@contextlib.contextmanager
def told(stage: str, advice: str) -> Iterator[None]:
    """Within the block, torch's errors become OutOfMemoryError of that stage and LostGpuError; others stay."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if (ours := ours_of(error, stage, advice)) is None:
            raise
        raise ours from error


def ours_of(error: BaseException, stage: str, advice: str) -> OutOfMemoryError | LostGpuError | None:
    """The error of ours that one of torch's means, raised in that stage; None for any other, and for ours."""
    if isinstance(error, ShellLCCError):
        return None
    if out_of_memory(error):
        return OutOfMemoryError(stage, advice)
    return LostGpuError(stage, str(error).partition("\n")[0]) if gpu_lost(error) else None
