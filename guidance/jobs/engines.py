"""Which engine works jobs off: this process, processes of this machine, or a Ray cluster."""

from __future__ import annotations

import os

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.jobs.processes import GPUS, Processes
from shelllcc.guidance.jobs.work import Engine, Here

ENGINES = ("local", "ray")


def engine_of(name: str, workers: int | None = None, *, device: str | None = None) -> Engine:
    """The engine of that name; without a number, `local` has one worker and `ray` as many as the cluster serves.

    On a GPU that one worker, too, has a process of its own: whoever loses the GPU's context can only be replaced.
    Raises UsageError for an unknown name, for no workers, and for `ray` where that is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"no engine {name}; there are {', '.join(ENGINES)}")
    if workers is not None and workers < 1:
        raise UsageError(f"the number of workers must be 1 or more, got {workers}")
    if name == "ray":
        from shelllcc.guidance.jobs.ray import RayCluster

        return RayCluster(workers, device=device)
    if workers in (None, 1) and not _on_gpu(device):
        return Here()
    return Processes(workers or 1, gpus=_gpus(device))


def _on_gpu(device: str | None) -> bool:
    if device is not None and not device.startswith("cuda"):
        return False
    import torch

    return torch.cuda.is_available()


def _gpus(device: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be for each GPU that workers may share out; none for a device that is named."""
    if device not in (None, "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]
