"""The command `compare`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

import functools
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import options, runs, streams, tables
from shelllcc.commands.tables import short
from shelllcc.guidance.errors import UsageError

if TYPE_CHECKING:
    from shelllcc.guidance.files import JsonObject
    from shelllcc.guidance.wan.clips.parse import Variant
    from shelllcc.guidance.workbench.planned import Planned
    from shelllcc.guidance.workbench.runs import Layout

STRENGTHS = "0,1"
PROMPTS = ("prompt", "prompts_file", "strengths", "variant", "seeds", "preset", "replay_folder")  # of what is sampled


@options.expanded
def compare(
    ctx: typer.Context,
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Videos that exist, the reference first; nothing is sampled then.")
    ] = None,
    *,
    prompt: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    strengths: Annotated[
        str | None, typer.Option(help="To compare, the reference first. (default: 0,1)", show_default=False)
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option("--variants", help="Ways to guide, e.g. 'soft: radius=2.5; strength=2,window=0:0.8'."),
    ] = None,
    seeds: options.Seeds = None,
    output: options.Folder = None,
    layout: Annotated[str, typer.Option(help="authors, or vbench for VBench's folders besides.")] = "authors",
    embed: options.Embed = False,
    overwrite: options.Overwrite = False,
    replay_folder: options.Replay = None,
    show: options.Open = False,
    common: options.Common,
    dry_run: options.DryRun = False,
    sampling: options.Sampling,
    images: options.Images,
    loading: options.Loading,
    fitting: options.Fitting,
) -> None:
    """Sample prompts with and without guidance, or in any variants of it, and judge them side by side."""
    from shelllcc.guidance.wan.clips import parse
    from shelllcc.guidance.wan.clips.parallel import alone
    from shelllcc.guidance.wan.model.pipeline import foresee
    from shelllcc.guidance.wan.model.placing import check_device
    from shelllcc.guidance.workbench.runs import check_layout

    alone("compare")
    check_device(common.device, here=not (dry_run or videos))
    checked, as_json = check_layout(layout), common.as_json
    if videos:
        _check_no_prompts(ctx)
        page = _of_videos(videos, output, checked, embed=embed, overwrite=overwrite, dry_run=dry_run, as_json=as_json)
        if show and page is not None:
            options.show(page)
        return
    strengths, variant = options.one_of(ctx, "strengths", "variant")
    ways = parse.variants(variant) if variant else parse.strengths(STRENGTHS if strengths is None else strengths)
    asked = images.given(common.asked(sampling, loading))
    planned = runs.plan(
        "compare",
        asked,
        prompt=prompt,
        prompts_file=prompts_file,
        seeds=seeds,
        output=output,
        fitting=fitting,
        device=common.device,
        dry_run=dry_run,
    )
    planned.check_variants(ways)
    if dry_run:
        planned.run(ways).check(anew=overwrite)
        loaded = foresee(planned.resolved.model, planned.resolved.loading)
        _dry_run({"dry_run": True} | planned.describe(ways) | {"loaded": loaded}, as_json=as_json)
        return
    _of_prompts(planned, ways, checked, common, replay_folder, embed=embed, overwrite=overwrite)
    if show:
        options.show(planned.folder / "report.html")


def _dry_run(report: JsonObject, *, as_json: bool) -> None:
    if as_json:
        streams.print_json(report)
        return
    rows = [
        (Path(clip["file"]).name, short(clip["prompt"], 40), str(clip["seed"]), tables.words_of(clip["settings"]))
        for clip in report["clips"]
    ]
    kept = {name: report[name] for name in ("model", "bank", "output", "loaded")}
    tables.plan(rows, ("file", "prompt", "seed", "settings"), **kept)


def _check_no_prompts(ctx: typer.Context) -> None:
    """Raise UsageError where videos are compared and a flag says how to sample some."""
    groups = (options.Sampling, options.Images, options.Loading)
    parts = [part.name for group in groups for part in fields(group) if part.name != "offload"]
    if any(options.is_flag(ctx, name) for name in (*PROMPTS, *parts)):
        raise UsageError("give videos that exist, or prompts and how to sample them, not both")


def _of_videos(
    videos: list[Path],
    output: Path | None,
    layout: Layout,
    *,
    embed: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> Path | None:
    """The page, where this was no dry run."""
    from shelllcc.guidance.workbench.compare import check_videos, compare_videos, folder_of

    folder = output or folder_of(videos)
    if dry_run:
        check_videos(videos, folder, anew=overwrite)
        if as_json:
            streams.print_json({"dry_run": True, "output": str(folder), "videos": [str(path) for path in videos]})
        else:
            tables.plan([(str(path),) for path in videos], ("video",), output=str(folder))
        return None

    def note(line: str) -> None:
        streams.say(f"note: {line}")

    item, page = compare_videos(videos, folder, layout=layout, embed=embed, anew=overwrite, on_note=note)
    runs.report([item], page, as_json=as_json)
    return page


def _of_prompts(
    planned: Planned,
    ways: list[Variant],
    layout: Layout,
    common: options.Common,
    replay_folder: Path | None,
    *,
    embed: bool,
    overwrite: bool,
) -> None:
    from shelllcc.guidance.workbench.compare import compare_prompts

    run, items = planned.run(ways), []
    with runs.studio_of(planned, common.device, replay_folder) as (studio, reporter), run.held(anew=overwrite):
        if run.record.doubt:
            reporter.note(run.record.doubt)
        reporter.expect(len(planned.requests) * len(ways), len(ways))
        note = functools.cache(reporter.note)  # each once, of all prompts
        for item in compare_prompts(run, planned, ways, studio, layout=layout, embed=embed, on_note=note):
            items.append(item)
            reporter.passed(len(items) * len(ways))
            if not common.as_json and len(planned.requests) > 1:
                words = ", ".join(f"{clip['title']} {clip['verdict']['word']}" for clip in item["clips"][1:])
                reporter.line(f"{item['idx']:02d} {short(item['prompt'])}: {words}")
    runs.report(items, planned.folder / "report.html", as_json=common.as_json)
