"""The commands `compare`, `tune` and `profiles ...`: parse, one call, print. Heavy libraries are imported inside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shelllcc import cli_options as options
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.terminal import shown

if TYPE_CHECKING:
    from shelllcc.guidance.evaluation.search import Probe
    from shelllcc.guidance.wan.parse import Variant
    from shelllcc.guidance.wan.plan import Resolved
    from shelllcc.guidance.wan.progress import TerminalReporter
    from shelllcc.guidance.wan.request import Request
    from shelllcc.guidance.wan.studio import Studio

profiles = typer.Typer(no_args_is_help=True, help="The strengths that `tune` found.")
STYLES = {"better": "green", "worse": "yellow", "noise alarm": "bold red", "mean-regression alarm": "bold red"}
STYLES |= {"damaged": "bold red", "not comparable": "yellow"}
WIDTH = 160  # of tables that go to no terminal
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
    from shelllcc.guidance.evaluation import compare as workbench
    from shelllcc.guidance.evaluation.runs import check_layout
    from shelllcc.guidance.wan import parse
    from shelllcc.guidance.wan.parallel import alone
    from shelllcc.guidance.wan.placing import check_device

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
            options.print_json({"dry_run": True, "output": str(folder), "videos": [str(path) for path in videos]})
            return
        item, page = workbench.compare_videos(
            videos,
            folder,
            layout=checked,
            embed=embed,
            anew=overwrite,
            on_note=lambda line: options.say(f"note: {line}"),
        )
        _report([item], page, as_json=as_json)
        return
    strengths, variant = options.one_of(ctx, "strengths", "variant")
    ways = parse.variants(variant) if variant else parse.strengths(STRENGTHS if strengths is None else strengths)
    resolved, folder, numbers = _resolve(
        "compare", sampling, loading, prompt, prompts_file, seeds, output, model, bank, preset
    )
    from shelllcc.guidance.evaluation.sweep import with_seeds

    requests = [request for group in with_seeds(resolved, numbers) for request in group]
    workbench.check_variants(ways, requests, resolved)
    if dry_run:
        _dry_run(folder, resolved, requests, ways, as_json=as_json)
        return
    asked = {"variants": [{"label": way.label, "settings": dict(way.settings)} for way in ways]}
    run = workbench.run_of(folder, "compare", resolved, requests, asked)
    items = []
    with _studio(resolved, device, replay_folder) as (studio, reporter), run.held(anew=overwrite):
        if run.record.doubt:
            reporter.note(run.record.doubt)
        for item in workbench.compare_prompts(run, resolved, requests, ways, studio, layout=checked, embed=embed):
            items.append(item)
            if not as_json and len(requests) > 1:
                words = ", ".join(f"{clip['title']} {clip['verdict']['word']}" for clip in item["clips"][1:])
                reporter.line(f"{item['idx']:02d} {_short(item['prompt'])}: {words}")
    _report(items, folder / "report.html", as_json=as_json)


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
    from shelllcc.guidance.evaluation import tune as tuning
    from shelllcc.guidance.evaluation.compare import run_of
    from shelllcc.guidance.evaluation.search import TOLERANCE
    from shelllcc.guidance.evaluation.sweep import with_seeds
    from shelllcc.guidance.wan import profiles as store
    from shelllcc.guidance.wan.parallel import alone
    from shelllcc.guidance.wan.placing import check_device

    alone("tune")
    check_device(device)
    resolved, folder, numbers = _resolve(
        "tune", sampling, loading, prompt, prompts_file, seeds, output, model, bank, preset
    )
    groups = with_seeds(resolved, numbers)
    tuning.check_budget(budget, groups)
    store.check_writable()
    run = run_of(folder, "tune", resolved, [request for group in groups for request in group], {})
    found = []
    with _studio(resolved, device, replay_folder) as (studio, reporter), run.held(anew=overwrite):
        if run.record.doubt:
            reporter.note(run.record.doubt)

        def on_probe(request: Request, probe: Probe) -> None:
            state = "right" if probe.cost < TOLERANCE else "too much" if probe.balance > 0 else "too little"
            line = f"strength {probe.strength:<5g} balance {probe.balance:+.3f}  {'alarm' if probe.alarm else state}"
            reporter.line(line if len(groups) == 1 else f"{_short(request.prompt, 40)}: {line}")

        for profile in tuning.tune(
            run, resolved, groups, studio, budget=budget, embed=embed, again=again, on_probe=on_probe
        ):
            found.append(profile)
            took = "as tuned before" if profile["known"] else f"{profile['sampled']} clips sampled"
            reporter.line(f"{_short(profile['settings']['prompt'])}: strength {profile['strength']:g} ({took})")
    page = folder / "report.html"
    if as_json:
        options.print_json({"profiles": found, "report": str(page) if page.exists() else None})
        return
    _table(
        ("prompt", "strength", "balance", "clips", "profile"),
        [(_short(p["settings"]["prompt"]), f"{p['strength']:g}", f"{p['balance']:+.3f}", str(p["sampled"]), p["name"])
         for p in found],
    )  # fmt: skip
    if page.exists():
        options.print_line(f"report    {page}")


@profiles.command("list")
def list_profiles(as_json: options.Json = False) -> None:
    """All profiles, by prompt."""
    from shelllcc.guidance.wan import profiles as store

    found = list(store.every(on_broken=lambda line: options.say(f"note: {line}")))
    if as_json:
        options.print_json({"folder": str(store.folder()), "profiles": found})
        return
    _table(
        ("profile", "prompt", "strength", "balance", "model", "bank"),
        [(p["name"], _short(p["settings"]["prompt"]), f"{p['strength']:g}", f"{p['balance']:+.3f}",
          p["model"]["source"], p["bank"]["name"]) for p in found],
    )  # fmt: skip


Name = Annotated[str, typer.Argument(metavar="PROFILE", help="A profile's name, the beginning of it, or its prompt.")]


@profiles.command()
def show(name: Name) -> None:
    """Everything that a profile holds, as JSON."""
    from shelllcc.guidance.wan import profiles as store

    for profile in store.named(name):
        options.print_json(profile, indent=2)


@profiles.command()
def export(
    output: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    name: Annotated[list[str] | None, typer.Argument(metavar="PROFILE", help="Which. (default: all)")] = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Write profiles to one file, to keep or to give away."""
    from shelllcc.guidance.wan import profiles as store

    chosen = [profile for one in name for profile in store.named(one)] if name else store.every()
    options.print_line(f"{store.export(output, chosen, overwrite=overwrite)} profiles written to {output}")


@profiles.command("import")
def import_profiles(path: Annotated[Path, typer.Argument(help="A file that `profiles export` wrote.")]) -> None:
    """Take over the profiles of a file."""
    from shelllcc.guidance.wan import profiles as store

    options.print_line(f"{store.take_over(path)} profiles taken over")


@profiles.command()
def forget(
    name: Annotated[list[str] | None, typer.Argument(metavar="PROFILE", help="Names, or prompts.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
) -> None:
    """Remove profiles."""
    from shelllcc.guidance.wan import profiles as store

    if bool(name) == every:
        raise UsageError("give the profiles to forget, or --all")
    if every:
        options.print_line(f"{store.forget_all()} profiles forgotten")
        return
    found = {profile["name"] for one in name or [] for profile in store.named(one)}
    for one in found:
        store.forget(one)
    options.print_line(f"{len(found)} profiles forgotten")


def _resolve(
    command: str,
    sampling: options.Sampling,
    loading: options.Loading,
    prompt: Sequence[str] | None,
    prompts_file: Path | None,
    seeds: str | None,
    output: Path | None,
    model: str | None,
    bank: str | None,
    preset: str | None,
) -> tuple[Resolved, Path, list[int]]:
    """What to sample, the run's folder, and the seeds."""
    from shelllcc.guidance.wan import parse
    from shelllcc.guidance.wan.plan import check_comparable, resolve

    numbers = parse.seeds("0" if seeds is None else seeds)
    resolved = resolve(
        prompts=list(prompt or []), prompts_file=prompts_file, model=model, bank=bank, preset=preset, wanted=True,
        loading=loading.values(), values=sampling.values() | {"seed": numbers[0]},
    )  # fmt: skip
    check_comparable(resolved.loading)
    for note in resolved.notes:
        options.say(f"note: {note}")
    name = parse.slug(prompts_file.stem if prompts_file else resolved.requests[0].prompt)
    return resolved, output or Path("outputs") / f"{command}-{name}", numbers


@contextlib.contextmanager
def _studio(
    resolved: Resolved, device: str | None, replay_folder: Path | None
) -> Iterator[tuple[Studio, TerminalReporter]]:
    """The studio, and its progress on stderr."""
    from shelllcc.guidance.wan.progress import TerminalReporter
    from shelllcc.guidance.wan.studio import Studio

    with TerminalReporter() as reporter:
        yield Studio(resolved.model, resolved.loading, reporter, device=device, folder=replay_folder), reporter


def _dry_run(
    folder: Path, resolved: Resolved, requests: Sequence[Request], ways: Sequence[Variant], *, as_json: bool
) -> None:
    clips = [
        {"file": str(folder / f"{index:02d}_{way.label}.mp4"), "prompt": request.prompt, "seed": request.seed}
        | {"settings": dict(way.settings)}
        for index, request in enumerate(requests)
        for way in ways
    ]
    bank = resolved.bank and resolved.bank.name
    report = {"dry_run": True, "output": str(folder), "model": resolved.model.name, "bank": bank, "clips": clips}
    options.print_json(report, indent=None if as_json else 2)


def _report(items: Sequence[Mapping[str, Any]], page: Path, *, as_json: bool) -> None:
    """The facts of the page, for a terminal or a program."""
    from shelllcc.guidance.evaluation.traceplot import sparkline

    if as_json:
        options.print_json({"items": list(items), "report": str(page)})
        return
    columns = ("lap_ratio", "hf_ratio", "flat_ratio", "kurtosis_ratio", "spectrum", "change", "balance")
    rows = []
    for item in items:
        for clip in item["clips"]:
            figures = [clip["figures"].get(name) for name in columns]
            rows.append(
                (
                    f"{item['idx']:02d} {_short(item['prompt'], 28)}",
                    "" if item["seed"] is None else str(item["seed"]),
                    clip["title"],
                    *("" if value is None else f"{value:.3f}" for value in figures),
                    sparkline([step["distance"][0] for step in clip["trace"]]),
                    clip["verdict"]["word"],
                )
            )
    heads = ("prompt", "seed", "clip", "lap", "hf", "flat", "kurtosis", "spectrum", "change", "balance", "distance")
    _table((*heads, "verdict"), rows)
    for item in items:
        for clip in item["clips"][1:]:
            verdict = clip["verdict"]
            options.print_line(f"{item['idx']:02d} {clip['title']}: {verdict['word']}, {verdict['why']}")
    options.print_line(f"report    {page}")


def _table(heads: Iterable[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, no_wrap=head != "prompt")
    for row in rows:
        table.add_row(*(Text(options.fitting(shown(cell)), style=STYLES.get(cell, "")) for cell in row))
    console.print(table)


def _short(prompt: str, length: int = 60) -> str:
    text = shown(prompt)
    return text if len(text) <= length else text[: length - 1] + "…"
