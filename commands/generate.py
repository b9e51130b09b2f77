"""The command `generate`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import fit, options, screen, streams, tables
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from shelllcc.guidance.files import JsonObject
    from shelllcc.guidance.wan.clips.parallel import Ranks
    from shelllcc.guidance.wan.clips.plan import Plan


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
    preview: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Show x0 after each step: in the `terminal` (by kitty, iterm2 or sixel, if named), or in a FILE.png.",
        ),
    ] = None,
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
    from shelllcc.guidance.wan.clips.preview import drawing
    from shelllcc.guidance.wan.model.placing import check_device

    to_screen = preview in screen.WORDS
    to_file = None if preview is None or to_screen else drawing(options.place(preview))
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
            streams.say(f"{sum(finished)} of {plural(len(plans), 'clip')} finished already")
            _say_notes(plan.doubt() for plan, done in zip(plans, finished, strict=True) if done)
        left = [plan for plan, done in zip(plans, finished, strict=True) if not done]
        terminal = _terminal(preview) if preview and to_screen and left and ranks.is_main else None
        records = _sample(left, ranks, terminal, to_file)
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


def _terminal(wanted: str) -> screen.Terminal | None:
    """The terminal that is to show x0, or a note on why there is none."""
    found = screen.find(wanted)
    if isinstance(found, screen.Terminal):
        return found
    streams.say(f"note: no preview: {found}; --preview FILE.png keeps one in a file")
    return None


def _sample(
    plans: Sequence[Plan],
    ranks: Ranks,
    terminal: screen.Terminal | None,
    to_file: Callable[[NDArray[np.uint8]], None] | None,
) -> list[JsonObject]:
    """The records of the clips, as they are made; none but on the main rank. x0 is shown where there is a place."""
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.generate import generate, remarks
    from shelllcc.guidance.wan.clips.preview import Preview

    records: list[JsonObject] = []
    if not plans:
        return records
    with TerminalReporter(terminal) as reporter:
        from shelllcc.guidance.wan.clips.studio import Studio

        draw = reporter.picture if terminal else to_file
        preview = None if draw is None else Preview(draw)
        studio = Studio(plans[0].model, plans[0].loading, reporter, ranks=ranks, preview=preview)
        studio.expect(plan.request for plan in plans)
        each = 2 if plans[0].compare else 1
        reporter.expect(each * len(plans), each)
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
        if told := record.get("verdict"):
            streams.print_line(f"verdict   {told['word']}, {told['why']}")
