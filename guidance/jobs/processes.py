"""Workers in processes of this machine. Knows nothing of what the jobs are."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import sys
import threading
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from shelllcc.guidance.jobs.work import Outcome, Reply, Start, Worker, sendable

GRACE = 5.0  # seconds that a worker has to end
GPUS = "CUDA_VISIBLE_DEVICES"


class Processes:
    """Workers in processes of their own, each with one of `gpus` in turn: values of CUDA_VISIBLE_DEVICES.

    Each sees its GPU as the only one, so that what it records does not depend on which one that is.
    """

    def __init__(self, workers: int, *, gpus: Sequence[str] = ()) -> None:
        self.workers, self.gpus = workers, gpus
        self.device: str | None = None

    def run(self, waiting: deque[Any], start: Start) -> Generator[Outcome]:
        blueprint = pickle.dumps(start)  # plainly: multiprocessing would send tensors by shared memory
        places: list[_Place | None] = [None] * self.workers
        try:
            while True:
                for number in range(self.workers):
                    if not waiting:
                        break
                    place = places[number]
                    if place is None:
                        place = places[number] = _Place(blueprint, self._environment(number))
                    if place.job is None:
                        place.give(waiting.popleft())
                busy = {place.pipe: number for number, place in enumerate(places) if place and place.job is not None}
                if not busy:
                    return
                for pipe in wait(list(busy)):
                    number = busy[pipe]  # type: ignore[index]
                    place = places[number]
                    assert place is not None
                    job, reply = place.take()
                    if not reply.sound:
                        place.end()
                        places[number] = None
                    if reply.error is not None:
                        raise reply.error
                    yield Outcome(job, reply.result, reply.died)
        finally:
            for place in filter(None, places):
                place.end()

    def _environment(self, number: int) -> dict[str, str]:
        return {GPUS: self.gpus[number % len(self.gpus)]} if self.gpus else {}


class _Place:
    """A worker's process as this one sees it, and the job it has."""

    def __init__(self, blueprint: bytes, environment: Mapping[str, str]) -> None:
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.job: Any = None
        self.process = context.Process(target=_serve, args=(theirs, blueprint, dict(environment)), daemon=True)
        with _no_interrupts():  # the child inherits it, from before its first line
            self.process.start()
        theirs.close()

    def give(self, job: Any) -> None:
        self.job = job
        with contextlib.suppress(OSError):  # it has died: the next take says so
            self.pipe.send(job)

    def take(self) -> tuple[Any, Reply]:
        job, self.job = self.job, None
        try:
            reply: Reply = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            return job, Reply(died=f"its worker died ({_ending(self.process.exitcode)})", sound=False)
        return job, reply

    def end(self) -> None:
        """Of an idle worker by the end of its jobs, of a busy one by force: files are written whole."""
        self.pipe.close()
        if self.job is None:
            self.process.join(GRACE)
        self.process.terminate()
        self.process.join(GRACE)
        self.process.kill()
        self.process.join()


def _serve(pipe: Connection, blueprint: bytes, environment: Mapping[str, str]) -> None:
    """A worker's process: jobs in, replies out."""
    os.environ.update(environment)  # before CUDA is asked for anything
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_after, args=(parent,), daemon=True).start()
    worker = Worker(pickle.loads(blueprint))
    ended = threading.Event()
    with contextlib.suppress(EOFError, OSError):  # nobody is left to hear of it
        while not ended.is_set():
            job = pipe.recv()
            signal.signal(signal.SIGTERM, functools.partial(_leave, ended))
            pipe.send(sendable(worker.do(job)))
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # between jobs there is nothing to remove


def _leave(ended: threading.Event, *_: object) -> None:
    """End with what removes temporary files; after the job where Python swallows that, and without a word of it."""
    sys.unraisablehook = lambda _: None
    ended.set()
    sys.exit(1)


def _exit_after(parent: BaseProcess) -> None:
    """No life after the parent's."""
    parent.join()
    os._exit(1)


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """Within the block Ctrl-C is ignored, and by processes that start there for good."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit {code}"
    return f"signal {-code}" + (", perhaps for want of memory: try fewer --workers" if code == -9 else "")
