"""The command `batch`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import fit, options, streams, tables
from shelllcc.commands.sources import EngineName, parse_shard
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from shelllcc.guidance.jobs.work import Engine
    from shelllcc.guidance.wan.clips.batch import Batch, Done

EVERY = 30  # seconds between lines of progress where stderr is no terminal


@options.expanded
def batch(
    ctx: typer.Context,
    prompts_file: Annotated[
        Path,
        typer.Argument(**options.FROM, help="Prompts, one a line, flags of its own at its end; # starts a comment."),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", **options.INTO, help="A folder; storage that all workers share.")
    ],
    *,
    engine: EngineName = "local",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Clips in work at one time. (default: 1; with ray what the cluster holds)")
    ] = None,
    shard: Annotated[str | None, typer.Option(help="i/n: that share of the jobs, i from 0. (default: all)")] = None,
    strengths: Annotated[
        str | None, typer.Option(help="Each prompt with every one, e.g. 0,1,2. (default: that of --strength)")
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="Of a clip that fails, or whose worker dies.")] = 2,
    seed: Annotated[
        int | None, typer.Option(help="Of the first prompt; further ones take the next ones. (default: 0)")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Each prompt with every one, e.g. 0,1,2. (default: one a prompt, see --seed)")
    ] = None,
    strength: options.Strength = None,
    overwrite: options.Overwrite = False,
    common: options.Common,
    dry_run: options.DryRun = False,
    sampling: options.Sampling,
    images: options.Images,
    loading: options.Loading,
    fitting: options.Fitting,
) -> None:
    """Sample a file of prompts with many workers; finished clips are skipped, so that the same command goes on."""
    from shelllcc.commands.progress import planned as told
    from shelllcc.guidance.jobs.engines import engine_of
    from shelllcc.guidance.wan.clips import parse
    from shelllcc.guidance.wan.clips.batch import plan_batch
    from shelllcc.guidance.wan.clips.parallel import alone
    from shelllcc.guidance.wan.model.placing import check_device

    alone("batch")
    check_device(common.device, here=not dry_run and engine == "local")  # a cluster has devices of its own
    strength, strengths = options.one_of(ctx, "strength", "strengths")
    seed, seeds = options.one_of(ctx, "seed", "seeds")
    asked = replace(
        images.given(common.asked(sampling, loading, seed=seed, strength=strength)),
        prompts_file=prompts_file,
        output=output,
        seeds=None if seeds is None else tuple(parse.seeds(seeds)),
        overwrite=overwrite,
        fit=fitting.fit,
    )
    if engine == "local" and not dry_run:
        asked = fit.prepare(asked, fitting, common.device)
    variants = () if strengths is None else parse.strengths(strengths)
    with told() as planning:
        planned = plan_batch(asked, variants=variants, shard=parse_shard(shard), planning=planning)
    for note in planned.notes:
        streams.say(f"note: {note}")
    if dry_run:
        _dry_run(planned, as_json=common.as_json)
        return
    done = _run(planned, engine_of(engine, workers, device=common.device), common.device, retries)
    made = [row for part in done for row in part.made]
    failed = {video: reason for part in done for video, reason in part.failed.items()}
    skipped = sum(part.skipped for part in done)
    for line in dict.fromkeys(line for row in made for line in row["loaded"]):
        logging.getLogger("shelllcc").warning(
            line
        )  # what workers elsewhere said; heard here already, it is not repeated
    for video, reason in failed.items():
        streams.say(f"failed: {video}: {' '.join(reason.split())}", wrong=True)
    if common.as_json:
        streams.print_json(
            {"clips": made, "skipped": skipped, "failed": [{"video": v, "reason": r} for v, r in failed.items()]}
        )
    else:
        alarms = sum(row["alarm"] is not None for row in made)
        warned = f", {alarms} with an alarm: see `alarm` in their sidecars" if alarms else ""
        streams.print_line(f"made      {len(made)}{warned}")
        for label, value in (("skipped", skipped), ("failed", len(failed)), ("folder", planned.like.output)):
            streams.print_line(f"{label:<9} {value}")
    if failed:
        raise typer.Exit(1)


def _run(planned: Batch, engine: Engine, device: str | None, retries: int) -> list[Done]:
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.batch import Progress, make_clips

    found: list[Done] = []
    progress, said = Progress(planned.clips), time.monotonic()
    with (
        contextlib.redirect_stdout(sys.stderr),  # Ray says there that a worker has died
        TerminalReporter() as reporter,
        contextlib.closing(make_clips(planned, engine, device=device, retries=retries)) as parts,
    ):
        reporter.stage(f"{plural(planned.clips, 'clip')}, {engine.workers} at a time")
        for part in parts:
            found.append(part)
            progress.add(part)
            reporter.count(progress.done, progress.clips, str(progress))
            if not reporter.live and (time.monotonic() - said > EVERY or progress.done == progress.clips):
                reporter.line(f"shelllcc: {progress}")
                said = time.monotonic()
    return found


def _dry_run(planned: Batch, *, as_json: bool) -> None:
    from shelllcc.guidance.wan.model.pipeline import foresee

    loaded = foresee(planned.like.model, planned.like.loading)
    if as_json:
        clips = [
            {"video": str(plan.output), "prompt": plan.request.prompt, "seed": plan.request.seed}
            | {"strength": plan.request.guide.strength, "finished": plan.finished()}
            for plan in planned.all_plans()
        ]
        streams.print_json({"dry_run": True, "clips": clips, "loaded": loaded})
        return
    first = itertools.islice(planned.all_plans(), tables.MOST)
    rows = [tables.planned(plan.request.as_dict(), plan.output.name) for plan in first]
    about = {"model": planned.like.model.name, "folder": str(planned.like.output), "loaded": loaded}
    there = sum(plan.sidecar.exists() for plan in planned.all_plans()) if planned.like.output.exists() else 0
    counts = {"jobs": f"{len(planned.jobs):,}", "clips": f"{planned.clips:,}", "there": f"{there:,}"}
    tables.plan(rows, tables.PLANNED, planned.clips, **counts, **about)
