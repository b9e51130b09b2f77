"""One thread for torch, so that sums come out in the same order everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Within the block torch computes on one thread in this thread of Python; afterwards on as many as before.

    It is a switch of the process, too: a thread of Python that first computes with torch within the block gets one
    thread, and keeps it; those that computed before keep theirs. Libraries that share torch's OpenMP may follow.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
