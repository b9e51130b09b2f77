"""The command `compare`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.runs import dry_run_of, report, resolve, studio_of
from shelllcc.commands.tables import short
from shelllcc.guidance.errors import UsageError

STRENGTHS = "0,1"


@options.expanded
def compare(
    ctx: typer.Context,
    videos: Annotated[
        list[Path] | None, typer.Argument(help="Videos that exist, the reference first; nothing is sampled then.")
    ] = None,
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
    model: options.Model = None,
    preset: options.Preset = None,
    bank: options.Bank = None,
    output: options.Folder = None,
    layout: Annotated[str, typer.Option(help="authors, or vbench for VBench's folders besides.")] = "authors",
    embed: options.Embed = False,
    overwrite: options.Overwrite = False,
    replay_folder: options.Replay = None,
    device: options.Device = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
    *,
    sampling: options.Sampling,
    loading: options.Loading,
) -> None:
    """Sample prompts with and without guidance, or in any variants of it, and judge them side by side."""
    from shelllcc.guidance.wan.clips import parse
    from shelllcc.guidance.wan.clips.parallel import alone
    from shelllcc.guidance.wan.model.placing import check_device
    from shelllcc.guidance.workbench import compare as workbench
    from shelllcc.guidance.workbench.runs import check_layout

    alone("compare")
    check_device(device, here=not (dry_run or videos))
    checked = check_layout(layout)
    if videos:
        told = ("prompt", "prompts_file", "strengths", "variant", "seeds", "preset", "replay_folder")
        parts = [part.name for group in (sampling, loading) for part in fields(group) if part.name != "offload"]
        if any(options.is_flag(ctx, name) for name in (*told, *parts)):
            raise UsageError("give videos that exist, or prompts and how to sample them, not both")
        folder = output or Path("outputs") / f"compare-{parse.slug(videos[0].stem)}"
        if dry_run:
            streams.print_json({"dry_run": True, "output": str(folder), "videos": [str(path) for path in videos]})
            return
        item, page = workbench.compare_videos(
            videos,
            folder,
            layout=checked,
            embed=embed,
            anew=overwrite,
            on_note=lambda line: streams.say(f"note: {line}"),
        )
        report([item], page, as_json=as_json)
        return
    strengths, variant = options.one_of(ctx, "strengths", "variant")
    ways = parse.variants(variant) if variant else parse.strengths(STRENGTHS if strengths is None else strengths)
    resolved, folder, numbers = resolve(
        "compare", sampling, loading, prompt, prompts_file, seeds, output, model, bank, preset
    )
    from shelllcc.guidance.workbench.sweep import with_seeds

    requests = [request for group in with_seeds(resolved, numbers) for request in group]
    workbench.check_variants(ways, requests, resolved)
    if dry_run:
        dry_run_of(folder, resolved, requests, ways, as_json=as_json)
        return
    asked = {"variants": [{"label": way.label, "settings": dict(way.settings)} for way in ways]}
    run = workbench.run_of(folder, "compare", resolved, requests, asked)
    items = []
    with studio_of(resolved, device, replay_folder) as (studio, reporter), run.held(anew=overwrite):
        if run.record.doubt:
            reporter.note(run.record.doubt)
        for item in workbench.compare_prompts(run, resolved, requests, ways, studio, layout=checked, embed=embed):
            items.append(item)
            if not as_json and len(requests) > 1:
                words = ", ".join(f"{clip['title']} {clip['verdict']['word']}" for clip in item["clips"][1:])
                reporter.line(f"{item['idx']:02d} {short(item['prompt'])}: {words}")
    report(items, folder / "report.html", as_json=as_json)
