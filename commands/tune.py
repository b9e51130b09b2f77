"""The command `tune`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.runs import resolve, studio_of
from shelllcc.commands.tables import short, table

if TYPE_CHECKING:
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.workbench.search import Probe


@options.expanded
def tune(
    prompt: options.Prompts = None,
    prompts_file: options.PromptsFile = None,
    budget: Annotated[
        int | None, typer.Option(min=1, help="Most clips of a prompt, all seeds together. (default: 5 a seed)")
    ] = None,
    seeds: options.Seeds = None,
    model: options.Model = None,
    preset: options.Preset = None,
    bank: options.Bank = None,
    output: options.Folder = None,
    again: Annotated[bool, typer.Option("--again", help="Also prompts that have a profile.")] = False,
    embed: options.Embed = False,
    overwrite: options.Overwrite = False,
    replay_folder: options.Replay = None,
    device: options.Device = None,
    as_json: options.Json = False,
    *,
    sampling: options.Sampling,
    loading: options.Loading,
) -> None:
    """Find the strength that a prompt needs, and keep it for `generate --strength auto`."""
    from shelllcc.guidance.wan.clips import profiles as store
    from shelllcc.guidance.wan.clips.parallel import alone
    from shelllcc.guidance.wan.model.placing import check_device
    from shelllcc.guidance.workbench import tune as tuning
    from shelllcc.guidance.workbench.compare import run_of
    from shelllcc.guidance.workbench.search import TOLERANCE
    from shelllcc.guidance.workbench.sweep import with_seeds

    alone("tune")
    check_device(device)
    resolved, folder, numbers = resolve(
        "tune", sampling, loading, prompt, prompts_file, seeds, output, model, bank, preset
    )
    groups = with_seeds(resolved, numbers)
    tuning.check_budget(budget, groups)
    store.check_writable()
    run = run_of(folder, "tune", resolved, [request for group in groups for request in group], {})
    found = []
    with studio_of(resolved, device, replay_folder) as (studio, reporter), run.held(anew=overwrite):
        if run.record.doubt:
            reporter.note(run.record.doubt)

        def on_probe(request: Request, probe: Probe) -> None:
            state = "right" if probe.cost < TOLERANCE else "too much" if probe.balance > 0 else "too little"
            line = f"strength {probe.strength:<5g} balance {probe.balance:+.3f}  {'alarm' if probe.alarm else state}"
            reporter.line(line if len(groups) == 1 else f"{short(request.prompt, 40)}: {line}")

        for profile in tuning.tune(
            run, resolved, groups, studio, budget=budget, embed=embed, again=again, on_probe=on_probe
        ):
            found.append(profile)
            took = "as tuned before" if profile["known"] else f"{profile['sampled']} clips sampled"
            reporter.line(f"{short(profile['settings']['prompt'])}: strength {profile['strength']:g} ({took})")
    page = folder / "report.html"
    if as_json:
        streams.print_json({"profiles": found, "report": str(page) if page.exists() else None})
        return
    table(
        ("prompt", "strength", "balance", "clips", "profile"),
        [(short(p["settings"]["prompt"]), f"{p['strength']:g}", f"{p['balance']:+.3f}", str(p["sampled"]), p["name"])
         for p in found],
    )  # fmt: skip
    if page.exists():
        streams.print_line(f"report    {page}")
