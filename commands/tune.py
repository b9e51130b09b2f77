"""The command `tune`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import options, runs, streams
from shelllcc.commands.tables import short, table
from shelllcc.guidance.words import plural

if TYPE_CHECKING:
    from shelllcc.guidance.files import JsonObject
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.workbench.search import Probe


@options.expanded
def tune(
    *,
    prompt: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Most clips of a prompt, all seeds together. (default: 5 a seed)")
    ] = None,
    seeds: options.Seeds = None,
    output: options.Folder = None,
    again: Annotated[bool, typer.Option("--again", help="Also prompts that have a profile.")] = False,
    embed: options.Embed = False,
    overwrite: options.Overwrite = False,
    replay_folder: options.Replay = None,
    show: options.Open = False,
    common: options.Common,
    sampling: options.Sampling,
    images: options.Images,
    loading: options.Loading,
    fitting: options.Fitting,
) -> None:
    """Find the strength that a prompt needs, and keep it for `generate --strength auto`."""
    from shelllcc.guidance.wan.clips import profiles as store
    from shelllcc.guidance.wan.clips.parallel import alone
    from shelllcc.guidance.wan.model.placing import check_device
    from shelllcc.guidance.workbench import tune as tuning
    from shelllcc.guidance.workbench.claims import SEARCH

    alone("tune")
    check_device(common.device)
    planned = runs.plan(
        "tune",
        images.given(common.asked(sampling, loading)),
        prompt=prompt,
        prompts_file=prompts_file,
        seeds=seeds,
        output=output,
        fitting=fitting,
        device=common.device,
    )
    tuning.check_budget(budget, planned)
    store.check_writable()
    run, found = planned.run(), []
    with runs.studio_of(planned, common.device, replay_folder) as (studio, reporter), run.held(anew=overwrite):
        if run.record.doubt:
            reporter.note(run.record.doubt)

        def on_probe(request: Request, probe: Probe) -> None:
            prompt = "" if len(planned.groups) == 1 else f"{short(request.prompt, 40)}: "
            reporter.line(f"{prompt}strength {probe.strength:<5g} balance {probe.balance:+.3f}  {probe.word}")

        for profile in tuning.tune(run, planned, studio, budget=budget, embed=embed, again=again, on_probe=on_probe):
            found.append(profile)
            took = "as tuned before" if profile["known"] else f"{plural(profile['sampled'], 'clip')} sampled"
            reporter.line(f"{short(profile['settings']['prompt'])}: strength {profile['strength']:g} ({took})")
    clips, page = planned.folder / "report.html", planned.folder / SEARCH
    _report(found, clips, page, as_json=common.as_json)
    if show:
        options.show(page)


def _report(found: Sequence[JsonObject], clips: Path, page: Path, *, as_json: bool) -> None:
    if as_json:
        report = str(clips) if clips.exists() else None
        streams.print_json({"profiles": found, "report": report, "search": str(page)})
        return
    table(
        ("prompt", "strength", "balance", "clips", "profile"),
        [(short(p["settings"]["prompt"]), f"{p['strength']:g}", f"{p['balance']:+.3f}", str(p["sampled"]), p["name"])
         for p in found],
    )  # fmt: skip
    if clips.exists():
        streams.print_line(f"report    {clips}")
    streams.print_line(f"search    {page}")
