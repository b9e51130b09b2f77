"""Workers on a Ray cluster: a running one (RAY_ADDRESS), or this machine as one. Knows nothing of what the jobs are."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import Any

from shelllcc.guidance.errors import ModelError, UsageError, first_line
from shelllcc.guidance.jobs.work import Outcome, Reply, Start, Worker, sendable


class RayCluster:
    """Ray actors, each with a GPU of its own where the cluster has GPUs, else with a core.

    `workers` is by default what the cluster can hold now. Those that cannot be placed yet wait; the others work.
    Raises UsageError where ray is not installed, ModelError where the cluster cannot be reached.
    """

    def __init__(self, workers: int | None = None, *, device: str | None = None) -> None:
        try:
            ray = import_module("ray")
        except ImportError as error:
            raise UsageError("--engine ray needs Ray: pip install 'shelllcc[ray]'") from error
        self.ray = ray
        self.mine = not ray.is_initialized()
        if self.mine:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(logging_level="ERROR", log_to_driver=False, include_dashboard=False)
            except Exception as error:  # Ray's own, of many kinds
                raise ModelError(f"cannot reach or start a Ray cluster: {first_line(error)}") from error
        found = ray.cluster_resources()
        on_gpu = found.get("GPU", 0) >= 1 and not (device or "").startswith("cpu")
        self.device: str | None = device or ("cuda" if on_gpu else "cpu")
        self.needs = {"num_gpus": 1, "num_cpus": 1} if on_gpu else {"num_cpus": 1}
        self.workers = workers or max(1, int(found.get("GPU" if on_gpu else "CPU", 1)))

    def run(self, waiting: deque[Any], start: Start) -> Generator[Outcome]:
        ray, doing, idle, unstarted = self.ray, dict[Any, tuple[Any, Any]](), list[Any](), 0
        blueprint = ray.put(start)
        hire = ray.remote(**self.needs)(_Actor)
        try:
            while True:
                while idle and waiting:
                    actor, job = idle.pop(), waiting.popleft()
                    doing[actor.do.remote(job)] = (actor, job)
                busy = sum(job is not None for _, job in doing.values())
                if not waiting and not busy:
                    return
                while len(doing) < min(self.workers, busy + len(waiting)):
                    actor = hire.remote(blueprint, str(Path.cwd()))
                    doing[actor.ready.remote()] = (actor, None)
                [done], _ = ray.wait(list(doing), num_returns=1)
                actor, job = doing.pop(done)
                try:
                    reply: Reply = ray.get(done)
                except ray.exceptions.RayError as error:
                    reply = Reply(died=f"its worker died ({first_line(error)})", sound=False)
                if reply.sound:
                    idle.append(actor)
                else:
                    ray.kill(actor)
                unstarted = unstarted + 1 if job is None and not reply.sound else 0
                if unstarted > 2:
                    raise ModelError(f"workers do not start on the Ray cluster: {reply.died}")
                if reply.error is not None:
                    raise reply.error
                if job is not None:
                    yield Outcome(job, reply.result, reply.died)
        finally:
            with contextlib.suppress(Exception):  # the cluster itself may be gone
                for actor in (*idle, *(actor for actor, _ in doing.values())):
                    ray.kill(actor)
                if self.mine:
                    ray.shutdown()


class _Actor(Worker):
    """A worker on a machine of the cluster, in the driver's folder where that is there too."""

    def __init__(self, start: Start, folder: str) -> None:
        super().__init__(start)
        with contextlib.suppress(OSError):
            os.chdir(folder)

    def do(self, job: Any) -> Reply:
        return sendable(super().do(job))

    def ready(self) -> Reply:
        return Reply()
