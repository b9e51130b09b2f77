"""Work done ahead, in order, by threads of one core each. Knows nothing of what is made."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock, Thread
from typing import TypeVar

import torch

S = TypeVar("S")
T = TypeVar("T")
_SWITCH = Lock()


def worked_ahead(work: Callable[[S], T], items: Sequence[S], most: int) -> Iterator[T]:
    """What `work` makes of each, in their order, by `most` threads at most, while earlier ones are in use."""
    count = min(most, os.cpu_count() or 1)
    pool, waiting = ThreadPoolExecutor(count, initializer=_keep_to_one_thread), deque[Future[T]]()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _keep_to_one_thread() -> None:
    """From now on torch computes on one thread in this thread of Python; those of others stay as they are.

    The process's default, which threads to come get, is changed for a moment: another thread puts it back.
    """
    with _SWITCH:
        usual = torch.get_num_threads()
        torch.set_num_threads(1)
        other = Thread(target=torch.set_num_threads, args=(usual,))
        other.start()
        other.join()
