"""The command `generate`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import fit, options, streams, tables

if TYPE_CHECKING:
    from shelllcc.guidance.files import JsonObject
    from shelllcc.guidance.wan.clips.parallel import Ranks
    from shelllcc.guidance.wan.clips.plan import Plan
    from shelllcc.guidance.wan.clips.preview import Preview


@options.expanded
def generate(
    ctx: typer.Context,
    *,
    prompt: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    seed: Annotated[
        int | None, typer.Option(help="Of the noise; further prompts take the next ones. (default: 0)")
    ] = None,
    strength: options.Strength = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            **options.TO,
            help="The .mp4; a folder for several prompts. (default: in outputs, named by prompt and seed)",
        ),
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Also the unguided clip and both side by side.")] = False,
    sidecar: Annotated[
        Path | None,
        typer.Option("--from", **options.FROM, help="Replay a clip's .json, or its .mp4; flags override it."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Fetch what --from names on the hub, unasked.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip clips that are finished.")] = False,
    overwrite: options.Overwrite = False,
    preview: Annotated[Path | None, typer.Option(**options.TO, help="A .png that shows x0 after each step.")] = None,
    show: options.Open = False,
    common: options.Common,
    dry_run: options.DryRun = False,
    sampling: options.Sampling,
    images: options.Images,
    loading: options.Loading,
    fitting: options.Fitting,
) -> None:
    """Sample videos pulled onto the shell of real latents. Under torchrun, all processes make each clip together."""
    from shelllcc.commands.progress import planned
    from shelllcc.guidance.wan.clips import parallel
    from shelllcc.guidance.wan.clips.plan import plan_clips
    from shelllcc.guidance.wan.clips.preview import Preview
    from shelllcc.guidance.wan.model.placing import check_device

    shown = None if preview is None else Preview(preview)
    with parallel.joined(common.device) as ranks:
        check_device(common.device, here=not dry_run)
        asked = replace(
            images.given(common.asked(sampling, loading, seed=seed, strength=strength)),
            prompts=tuple(prompt or ()),
            prompts_file=prompts_file,
            output=output,
            compare=compare,
            sidecar=sidecar,
            overwrite=overwrite,
        )
        vouched = asked.sources
        if sidecar is not None:
            asked = options.flags_alone(ctx, asked)
        asked = replace(asked, fit=fitting.fit)
        if ranks.count == 1 and not dry_run:
            asked = fit.prepare(asked, fitting, common.device)
        agreed = _agreed(
            sidecar, trust=trust and options.is_flag(ctx, "trust"), ask=not common.as_json and ranks.count == 1
        )
        with planned() as planning:
            plans = plan_clips(asked, vouched=vouched, may_fetch=agreed, planning=planning)
        parallel.check(ranks, plans[0].model.transformer["num_attention_heads"], plans[0].loading)
        _say_notes(note for plan in plans for note in plan.notes)
        if dry_run:
            if ranks.is_main:
                _dry_run(plans, common)
            return
        finished = parallel.from_main(ranks, [resume and plan.finished() for plan in plans])
        if any(finished):
            streams.say(f"{sum(finished)} of {len(plans)} clips are finished already")
            _say_notes(plan.doubt() for plan, done in zip(plans, finished, strict=True) if done)
        records = _sample([plan for plan, done in zip(plans, finished, strict=True) if not done], ranks, shown)
        if ranks.is_main:
            _report(records, sum(finished), as_json=common.as_json)
            if show:
                options.show(plans[0].output)


def _agreed(sidecar: Path | None, *, trust: bool, ask: bool) -> Callable[[str], bool]:
    """Whether what the sidecar names on the hub may be fetched, as the user says."""
    return lambda name: trust or (ask and streams.agreed(f"{sidecar} names {name} on the hub"))


def _say_notes(notes: Iterable[str | None]) -> None:
    """Each note once."""
    for note in dict.fromkeys(filter(None, notes)):
        streams.say(f"note: {note}")


def _dry_run(plans: Sequence[Plan], common: options.Common) -> None:
    from shelllcc.guidance.wan.model.memory import forecasts
    from shelllcc.guidance.wan.model.pipeline import foresee

    first, requests = plans[0], [plan.request for plan in plans]
    memory = forecasts(first.model, requests, first.loading, common.device)
    loaded = foresee(first.model, first.loading)
    if common.as_json:
        clips = [plan.describe() for plan in plans]
        streams.print_json({"dry_run": True, "clips": clips, "loaded": loaded, "memory": memory})
        return
    bank = first.bank.name if first.bank else "none: nothing is guided"
    rows = [tables.planned(plan.request.as_dict(), plan.output) for plan in plans[: tables.MOST]]
    about = {"model": first.model.name, "bank": bank, "loaded": loaded, "memory": tables.memory(memory)}
    tables.plan(rows, tables.PLANNED, len(plans), **about)


def _sample(plans: Sequence[Plan], ranks: Ranks, preview: Preview | None) -> list[JsonObject]:
    """The records of the clips, as they are made; none but on the main rank."""
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.generate import generate, remarks

    records: list[JsonObject] = []
    if not plans:
        return records
    with TerminalReporter() as reporter:
        reporter.stage("loading")
        from shelllcc.guidance.wan.clips.studio import Studio

        studio = Studio(plans[0].model, plans[0].loading, reporter, ranks=ranks, preview=preview)
        studio.expect(plan.request for plan in plans)
        reporter.expect(sum(2 if plan.compare else 1 for plan in plans))
        for plan in plans:
            record = generate(plan, studio)
            if ranks.is_main:
                records.append(record)
                for remark in remarks(record):
                    reporter.note(remark)
    return records


def _report(records: Sequence[JsonObject], skipped: int, *, as_json: bool) -> None:
    if as_json:
        streams.print_json({"clips": records, "skipped": skipped})
        return
    for record in records:
        for label, path in [*record["videos"].items(), ("sidecar", record["sidecar"])]:
            streams.print_line(f"{label:<9} {path}")
