"""A file of prompts to clips, by any number of workers: jobs, their names, and what a worker does with one.

Names, seeds and frames come from the prompts file alone: shards, engines, workers and their order change none of them.
On the CPU every worker computes on one thread, since the number of threads may change the last bits of a sum.
Knows nothing of terminals.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.guidance.errors import DiskFullError, LostGpuError, OutputError, ShellLCCError, UsageError
from shelllcc.guidance.faults import answers
from shelllcc.guidance.files import JsonObject, at_home, claimed
from shelllcc.guidance.geometry.threads import one_thread
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.jobs.work import Engine, SpentError, work_off
from shelllcc.guidance.media.video import check_output
from shelllcc.guidance.wan.clips.asked import Asked
from shelllcc.guidance.wan.clips.generate import make, write
from shelllcc.guidance.wan.clips.parse import Variant, slug
from shelllcc.guidance.wan.clips.plan import Plan
from shelllcc.guidance.wan.clips.planning import Planning
from shelllcc.guidance.wan.clips.prefix import Prefix
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.resolve import Resolved, check_comparable, resolve
from shelllcc.guidance.wan.clips.sample import first_move
from shelllcc.guidance.wan.clips.studio import Studio, prompts_of
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from shelllcc.guidance.wan.clips.sample import Moment

IN_FOLDER = 1000  # prompts whose clips share a folder
COMPANY = 256  # jobs whose prompts a worker encodes together
PATIENCE = 60.0  # seconds until shared storage must show what another machine wrote


@dataclass(frozen=True, slots=True)
class Job:
    """A prompt and a seed: the clips of all strengths, which share their first steps. `stem` begins their names.

    `company` holds the prompts of the jobs around it: the text encoder is loaded for all of them at once.
    """

    request: Request
    stem: Path
    company: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class Batch:
    """What is to be done. `like` holds what all clips share, `variants` the strengths, none for the request's own."""

    like: Plan
    variants: tuple[Variant, ...]
    jobs: tuple[Job, ...]
    notes: tuple[str, ...] = ()
    shard: tuple[int, int] = (0, 1)

    @property
    def clips(self) -> int:
        return len(self.jobs) * max(1, len(self.variants))

    def plans(self, job: Job) -> list[Plan]:
        """The clips of a job, in the order of the strengths."""
        if not self.variants:
            return [self._plan(job.request, job.stem.with_name(f"{job.stem.name}.mp4"))]
        return [
            self._plan(job.request.changed(**way.settings), job.stem.with_name(f"{job.stem.name}.{way.label}.mp4"))
            for way in self.variants
        ]

    def all_plans(self) -> Iterator[Plan]:
        """The clips of all jobs."""
        return itertools.chain.from_iterable(map(self.plans, self.jobs))

    def _plan(self, request: Request, output: Path) -> Plan:
        return replace(self.like, request=request, output=output)


@dataclass(frozen=True)
class Done:
    """What one attempt at a job came to: the clips made, how many were there already, and why others failed."""

    made: tuple[JsonObject, ...] = ()
    skipped: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)


def plan_batch(
    asked: Asked,
    *,
    variants: Sequence[Variant] = (),
    shard: tuple[int, int] = (0, 1),
    planning: Planning | None = None,
) -> Batch:
    """The jobs of a prompts file, whose clips lie in the output, a folder.

    Without seeds, prompts without a seed of their own take consecutive ones; with them, each is taken with every one.
    `shard` (i, n) takes every n-th job from the i-th. `planning` hears how far it is. Raises UsageError and
    OutputError.
    """
    planning = planning or Planning()
    folder = at_home(asked.output or Path("outputs")).absolute()  # workers may run elsewhere
    resolved = _resolved(asked, variants, planning)
    jobs = list(_jobs(asked, resolved, folder, planning))
    if folder.suffix.lower() == ".mp4" or (folder.exists() and not folder.is_dir()):
        raise UsageError(f"a batch needs a folder as --output, got {asked.output}")
    check_output(jobs[0].stem.with_name("x.mp4"))
    if len(variants) > 1:
        check_comparable(resolved.loading)
    like = Plan(resolved.model, resolved.requests[0], resolved.bank, folder, False, resolved.loading)
    like = replace(like, overwrite=asked.overwrite)
    batch = Batch(like, tuple(variants), tuple(_in_company(jobs[shard[0] :: shard[1]])), resolved.notes, shard)
    for job in planning.each(batch.jobs):
        for plan in batch.plans(job):
            plan.check_free(quick=True)  # once more, in earnest, when the clip is made
    doubts = (plan.doubt() for plan in batch.all_plans()) if resolved.model.is_local else ()
    return replace(batch, notes=(*batch.notes, *dict.fromkeys(filter(None, doubts))))


def _resolved(asked: Asked, variants: Sequence[Variant], planning: Planning) -> Resolved:
    """What is asked for; with variants, at their strengths. Raises UsageError for a line with one of its own."""
    if not variants:
        return resolve(asked, planning=planning)
    wanted = any(way.settings["strength"] for way in variants)
    usual = GuideConfig.strength if wanted else 0.0
    asked = asked.without("strength") if wanted else asked.with_values(strength=usual)
    resolved = resolve(asked, wanted=wanted, planning=planning)
    if len({request.guide.strength for request in resolved.requests}) > 1:
        place = resolved.place(lambda request: request.guide.strength != usual)
        raise UsageError(f"{place}the line has a --strength of its own: leave it out, or --strengths")
    return resolved


def _jobs(asked: Asked, resolved: Resolved, folder: Path, planning: Planning) -> Iterator[Job]:
    for index, (request, own) in enumerate(zip(planning.each(resolved.requests), resolved.seeds, strict=True)):
        stem = folder / f"{index // IN_FOLDER:04d}" / f"{index:06d}-{slug(request.prompt)}"
        if asked.seeds is None:
            yield Job(request if own is not None else replace(request, seed=request.seed + index), stem)
            continue
        for seed in asked.seeds if own is None else [own]:
            yield Job(replace(request, seed=seed), stem.with_name(f"{stem.name}-seed{seed}"))


def _in_company(jobs: Sequence[Job]) -> Iterator[Job]:
    for start in range(0, len(jobs), COMPANY):
        together = jobs[start : start + COMPANY]
        prompts = tuple(dict.fromkeys(prompt for job in together for prompt in prompts_of(job.request)))
        yield from (replace(job, company=prompts) for job in together)


def make_clips(batch: Batch, engine: Engine, *, device: str | None = None, retries: int = 2) -> Generator[Done]:
    """Make the clips that are not there yet; yields what became of every job, as they come.

    What fails is tried again, up to `retries` times, and does not stop the rest. Raises ModelError where the model
    cannot be loaded or job after job fails, OutputError where clips of another machine cannot be seen here, or where
    another process makes the same shard.
    """
    i, n = batch.shard
    with claimed(batch.like.output / f"shard-{i}-of-{n}"):
        yield from _make_clips(batch, engine, device, retries)


def _make_clips(batch: Batch, engine: Engine, device: str | None, retries: int) -> Generator[Done]:
    start = functools.partial(_Worker, replace(batch, jobs=(), notes=()), device or engine.device)
    before: dict[Job, tuple[JsonObject, ...]] = {}  # made by attempts that did not finish their job
    with contextlib.closing(work_off(batch.jobs, start, engine, retries=retries, failure=_failure)) as outcomes:
        for outcome in outcomes:
            done = outcome.result or _buried(batch.plans(outcome.job), outcome.died)
            for row in done.made:
                _see(Path(row["sidecar"]))
            if outcome.again:
                before[outcome.job] = (*before.get(outcome.job, ()), *done.made)
                continue
            known = before.pop(outcome.job, ())
            yield Done((*known, *done.made), done.skipped - len(known), done.failed)


class Progress:
    """How many clips are there, how fast they come and how long the rest may take, for people to read."""

    def __init__(self, clips: int) -> None:
        self.clips, self.made, self.skipped, self.failed = clips, 0, 0, 0
        self._began: tuple[float, int] | None = None  # when the first clips came, and how many: workers had started

    def add(self, done: Done) -> None:
        self.made += len(done.made)
        self.skipped += done.skipped
        self.failed += len(done.failed)
        if self._began is None and self.made:
            self._began = time.monotonic(), self.made

    @property
    def done(self) -> int:
        return self.made + self.skipped + self.failed

    def __str__(self) -> str:
        text = f"{self.done}/{plural(self.clips, 'clip')}"
        if self.failed:
            text += f", {self.failed} failed"
        if self._began and self.made > self._began[1] and self.done < self.clips:
            each = (time.monotonic() - self._began[0]) / (self.made - self._began[1])
            text += f", one in {duration(each)}, {duration(each * (self.clips - self.done))} left"
        return text


def duration(seconds: float) -> str:
    """As people say it, e.g. `2.5 s`, `12 min`, `3.1 h`, `4.0 days`."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.1f} s"


class _Worker:
    """What a worker keeps from job to job: its studio, whose pipeline is loaded once.

    It goes on after an unexpected error, but not after two in a row, nor where the GPU does not answer any more.
    """

    def __init__(self, batch: Batch, device: str | None) -> None:
        self.batch = batch
        self.studio = Studio(batch.like.model, batch.like.loading, Silent(), device=device)
        self.company: tuple[str, ...] | None = None
        self.sound = True

    def __call__(self, job: Job) -> Done:
        """One attempt at a job. Raises ModelError where the model cannot be loaded, SpentError to be replaced."""
        plans = self.batch.plans(job)
        waiting = [plan for plan in plans if not plan.finished()]
        if not waiting:
            return Done(skipped=len(plans))
        before, self.sound = self.sound, True
        made, failed, spent = list[JsonObject](), dict[str, str](), False
        with one_thread():
            self._prepare(job)
            for plan, sample in samples(waiting, self.studio):
                try:
                    made.append(_row(plan, sample()))
                except DiskFullError:  # every other clip would fail alike
                    raise
                except ShellLCCError as error:
                    failed[str(plan.output)] = str(error)
                    spent |= isinstance(error, LostGpuError)
                except Exception as error:
                    failed[str(plan.output)], self.sound = f"unexpected {type(error).__name__}: {error}", False
        done = Done(tuple(made), len(plans) - len(waiting), failed)
        spent |= not self.sound and (not before or not answers(self.studio.device))
        if spent:
            raise SpentError(done)
        return done

    def _prepare(self, job: Job) -> None:
        """Have the job's prompts encoded, with those of all its company, and the pipeline loaded."""
        if self.company != job.company:
            self.studio.texts.hold(job.company)
            self.company = job.company
        self.studio.pipe  # noqa: B018 - what cannot be loaded is no clip's failure


def samples(plans: Sequence[Plan], studio: Studio) -> Iterator[tuple[Plan, Callable[[], JsonObject]]]:
    """Plans that differ in the guide alone, with what makes the clip of each and returns its sidecar's record.

    Their first steps are computed once.
    """
    pipe = studio.pipe
    moves = [first_move(pipe, plan.request, plan.request.guide) for plan in plans]
    prefix = Prefix(1 + sorted(moves)[-2]) if len(plans) > 1 else None  # as far as two of them go together

    def sample(plan: Plan) -> JsonObject:
        with plan.claimed():
            clip, seconds = make(plan.request, plan.bank, studio, name=plan.label, prefix=prefix)
            return write(plan, pipe, {plan.label: clip}, seconds)

    return ((plan, functools.partial(sample, plan)) for plan in plans)


class Silent:
    """A reporter that says nothing."""

    def stage(self, name: str) -> None:
        pass

    def step(self, moment: Moment) -> None:
        pass

    def count(self, done: int, total: int) -> None:
        pass


def _row(plan: Plan, record: JsonObject) -> JsonObject:
    """What the driver hears of a clip; the sidecar has the rest."""
    return {
        "video": str(plan.output),
        "sidecar": str(plan.sidecar),
        "prompt": plan.request.prompt,
        "seed": plan.request.seed,
        "strength": plan.request.guide.strength,
        "frames_sha256": record["frames_sha256"][plan.label],
        "sha256": record["sha256"][plan.label],
        "alarm": record["alarm"],
        "loaded": record.get("loaded", []),
    }


def _buried(plans: Sequence[Plan], reason: str) -> Done:
    """What a worker that died with its job has left: clips that are there, and those that failed for that reason."""
    missing = [plan for plan in plans if not plan.finished()]
    return Done(skipped=len(plans) - len(missing), failed={str(plan.output): reason for plan in missing})


def _failure(done: Done) -> str:
    return next(iter(done.failed.values()), "")


def _see(sidecar: Path) -> None:
    """Wait until a sidecar that a worker wrote is seen here too. Raises OutputError where it is not."""
    deadline = time.monotonic() + PATIENCE
    while not sidecar.is_file():
        if time.monotonic() > deadline:
            raise OutputError(
                f"a worker has written {sidecar}, which is not to be seen here: --output must lie on storage that all "
                "machines share, under the same path"
            )
        time.sleep(0.5)
