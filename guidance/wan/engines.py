"""Jobs worked off by many workers: here, in processes of this machine, or on a Ray cluster (cluster.py).

A worker is started once and keeps what it has loaded from job to job; one that dies is replaced, and its job is done
again. Knows nothing of what the jobs are.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import signal
import sys
import threading
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from shelllcc.guidance.errors import LostGpuError, ModelError, ShellLCCError, UsageError, plain
from shelllcc.guidance.terminal import shown_lines

ENGINES = ("local", "ray")
FEWEST = 20  # jobs that must fail one after the other before the rest is given up
GRACE = 5.0  # seconds that a worker has to end
GPUS = "CUDA_VISIBLE_DEVICES"

Work = Callable[[Any], Any]
Start = Callable[[], Work]


class SpentError(Exception):
    """Raised by work that has a result, in a worker that should not go on, e.g. after an error of CUDA."""

    def __init__(self, result: Any) -> None:
        super().__init__(result)
        self.result = result


@dataclass(frozen=True)
class Outcome:
    """What became of a job: its result, or how its worker died. `again` says that it is to be done once more."""

    job: Any
    result: Any = None
    died: str = ""
    again: bool = False


class Engine(Protocol):
    """`workers` is the number of jobs in work at one time, at most.

    `device` is what the workers compute on where they may not run on this machine, else None.
    """

    workers: int
    device: str | None

    def run(self, waiting: deque[Any], start: Start) -> Generator[Outcome]:
        """Take jobs from the left of `waiting`, to which the caller may append, until none is waiting or in work.

        `start` is called in each worker, for what does the work there; both may travel by pickle. A ShellLCCError of
        either is raised here; a LostGpuError and any other exception are the worker's death.
        """
        ...


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
        from shelllcc.guidance.wan.cluster import RayCluster

        return RayCluster(workers, device=device)
    if workers in (None, 1) and not _on_gpu(device):
        return Here()
    return Processes(workers or 1, gpus=_gpus(device))


def work_off(
    jobs: Sequence[Any],
    start: Start,
    engine: Engine,
    *,
    retries: int = 2,
    failure: Callable[[Any], str] = lambda result: "",
) -> Generator[Outcome]:
    """The outcomes of all jobs, in any order. A job whose worker died, or whose result is a `failure`, is done again.

    Raises ModelError where job after job fails, so that a full disk or a sick machine does not use up a long queue.
    """
    waiting, tried, row = deque(jobs), Counter[Any](), set[Any]()
    most = max(FEWEST, 3 * engine.workers)
    with contextlib.closing(engine.run(waiting, start)) as outcomes:
        for outcome in outcomes:
            reason = outcome.died or failure(outcome.result)
            if not reason:
                row.clear()
                yield outcome
                continue
            tried[outcome.job] += 1
            row.add(outcome.job)
            again = tried[outcome.job] <= retries
            if again:
                waiting.append(outcome.job)
            yield replace(outcome, again=again)
            if len(row) >= most:
                raise ModelError(f"given up after {len(row)} failures in a row, the last: {reason}")


@dataclass(frozen=True)
class Reply:
    """What a worker says of a job: a result, how it died or an error; `sound` says whether it may go on."""

    result: Any = None
    died: str = ""
    error: ShellLCCError | None = None
    sound: bool = True


def sendable(reply: Reply) -> Reply:
    """The reply, or where it would not survive the way by pickle, one that says as much."""
    try:
        pickle.loads(pickle.dumps(reply))
    except Exception as error:  # whatever the __reduce__ or __init__ of somebody's class raises
        if reply.error is not None:
            return replace(reply, error=plain(reply.error))
        return Reply(died=f"its result cannot be sent: {type(error).__name__}: {error}", sound=reply.sound)
    return reply


class Worker:
    """A worker's own side: it starts with its first job."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.work: Work | None = None

    def do(self, job: Any) -> Reply:
        try:
            self.work = self.work or self.start()
            return Reply(self.work(job))
        except SpentError as spent:
            reply = Reply(spent.result, sound=False)
        except LostGpuError as error:
            reply = Reply(died=str(error), sound=False)
        except ShellLCCError as error:
            return Reply(error=error)
        except Exception as error:
            if os.environ.get("SHELLLCC_DEBUG") == "1":
                print(shown_lines(traceback.format_exc()), file=sys.stderr)
            reply = Reply(died=f"unexpected {type(error).__name__}: {error}", sound=False)
        self.work = None
        return reply


class Here:
    """One worker, in this process."""

    workers = 1
    device: str | None = None

    def run(self, waiting: deque[Any], start: Start) -> Generator[Outcome]:
        worker = Worker(start)
        while waiting:
            job = waiting.popleft()
            reply = worker.do(job)
            if reply.error is not None:
                raise reply.error
            yield Outcome(job, reply.result, reply.died)


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


def _on_gpu(device: str | None) -> bool:
    if device is not None and not device.startswith("cuda"):
        return False
    import torch

    return torch.cuda.is_available()


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return f"exit {code}"
    return f"signal {-code}" + (", perhaps for want of memory: try fewer --workers" if code == -9 else "")


def _gpus(device: str | None) -> list[str]:
    """What CUDA_VISIBLE_DEVICES must be for each GPU that workers may share out; none for a device that is named."""
    if device not in (None, "cuda"):
        return []
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get(GPUS, "").split(",") if name.strip()]
    return named[:count] or [str(number) for number in range(count)]
