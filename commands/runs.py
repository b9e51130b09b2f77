"""What `compare` and `tune` share: what to sample, the studio, the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shelllcc.commands import options
from shelllcc.commands.tables import short, table

if TYPE_CHECKING:
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.parse import Variant
    from shelllcc.guidance.wan.clips.plan import Resolved
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.studio import Studio
from shelllcc.commands import streams


def resolve(
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
    from shelllcc.guidance.wan.clips import parse
    from shelllcc.guidance.wan.clips.plan import check_comparable, resolve

    numbers = parse.seeds("0" if seeds is None else seeds)
    resolved = resolve(
        prompts=list(prompt or []), prompts_file=prompts_file, model=model, bank=bank, preset=preset, wanted=True,
        loading=loading.values(), values=sampling.values() | {"seed": numbers[0]},
    )  # fmt: skip
    check_comparable(resolved.loading)
    for note in resolved.notes:
        streams.say(f"note: {note}")
    name = parse.slug(prompts_file.stem if prompts_file else resolved.requests[0].prompt)
    return resolved, output or Path("outputs") / f"{command}-{name}", numbers


@contextlib.contextmanager
def studio_of(
    resolved: Resolved, device: str | None, replay_folder: Path | None
) -> Iterator[tuple[Studio, TerminalReporter]]:
    """The studio, and its progress on stderr."""
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.studio import Studio

    with TerminalReporter() as reporter:
        yield Studio(resolved.model, resolved.loading, reporter, device=device, folder=replay_folder), reporter


def dry_run_of(
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
    streams.print_json(report, indent=None if as_json else 2)


def report(items: Sequence[Mapping[str, Any]], page: Path, *, as_json: bool) -> None:
    """The facts of the page, for a terminal or a program."""
    from shelllcc.guidance.workbench.traceplot import sparkline

    if as_json:
        streams.print_json({"items": list(items), "report": str(page)})
        return
    columns = ("lap_ratio", "hf_ratio", "flat_ratio", "kurtosis_ratio", "spectrum", "change", "balance")
    rows = []
    for item in items:
        for clip in item["clips"]:
            figures = [clip["figures"].get(name) for name in columns]
            rows.append(
                (
                    f"{item['idx']:02d} {short(item['prompt'], 28)}",
                    "" if item["seed"] is None else str(item["seed"]),
                    clip["title"],
                    *("" if value is None else f"{value:.3f}" for value in figures),
                    sparkline([step["distance"][0] for step in clip["trace"]]),
                    clip["verdict"]["word"],
                )
            )
    heads = ("prompt", "seed", "clip", "lap", "hf", "flat", "kurtosis", "spectrum", "change", "balance", "distance")
    table((*heads, "verdict"), rows)
    for item in items:
        for clip in item["clips"][1:]:
            verdict = clip["verdict"]
            streams.print_line(f"{item['idx']:02d} {clip['title']}: {verdict['word']}, {verdict['why']}")
    streams.print_line(f"report    {page}")
