"""Jobs worked off by many workers: here (this file), in processes of this machine, or on a Ray cluster.

A worker is started once and keeps what it has loaded from job to job; one that dies is replaced, and its job is done
again. Knows nothing of what the jobs are.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from shelllcc.guidance.errors import LostGpuError, ModelError, ShellLCCError, plain
from shelllcc.guidance.terminal import shown_lines
from shelllcc.guidance.words import plural

FEWEST = 20  # jobs that must fail one after the other before the rest is given up
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
                raise ModelError(f"given up after {plural(len(row), 'failure')} in a row, the last: {reason}")


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
