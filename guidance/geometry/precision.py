"""float32 products without TF32 on a GPU, whatever the process has chosen: distances cancel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision() -> Iterator[None]:
    """Within the block CUDA's float32 products are exact; afterwards the choice is as it was.

    The switch is the whole process's: other threads compute without TF32 meanwhile, and one that sets it within the
    block loses its choice at the end.
    """
    matmul = torch.backends.cuda.matmul
    name, exact = ("fp32_precision", "ieee") if hasattr(matmul, "fp32_precision") else ("allow_tf32", False)
    chosen = getattr(matmul, name)
    setattr(matmul, name, exact)
    try:
        yield
    finally:
        setattr(matmul, name, chosen)
