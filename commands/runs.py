"""What `compare` and `tune` share: the run, the studio, the report."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from shelllcc.commands import fit, streams
from shelllcc.commands.tables import short, table

if TYPE_CHECKING:
    from shelllcc.commands.options import Fitting
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.files import JsonObject
    from shelllcc.guidance.wan.clips.asked import Asked
    from shelllcc.guidance.wan.clips.studio import Studio
    from shelllcc.guidance.workbench.planned import Planned


def plan(
    command: str,
    asked: Asked,
    *,
    prompt: Sequence[str] | None,
    prompts_file: Path | None,
    seeds: str | None,
    output: Path | None,
    fitting: Fitting,
    device: str | None,
    dry_run: bool = False,
) -> Planned:
    """The run of a command; says what the user should hear of it. Fits that it lacks are made first."""
    from shelllcc.guidance.wan.clips import parse
    from shelllcc.guidance.workbench.planned import plan_run

    numbers = None if seeds is None else tuple(parse.seeds(seeds))
    asked = replace(asked, prompts=tuple(prompt or ()), prompts_file=prompts_file, seeds=numbers, output=output)
    asked = replace(asked, fit=fitting.fit) if dry_run else fit.prepare(asked, fitting, device, needed=True)
    planned = plan_run(command, asked)
    for note in planned.resolved.notes:
        streams.say(f"note: {note}")
    return planned


@contextlib.contextmanager
def studio_of(
    planned: Planned, device: str | None, replay_folder: Path | None
) -> Iterator[tuple[Studio, TerminalReporter]]:
    """The studio, and its progress on stderr."""
    from shelllcc.commands.progress import TerminalReporter
    from shelllcc.guidance.wan.clips.studio import Studio

    resolved = planned.resolved
    with TerminalReporter() as reporter:
        yield Studio(resolved.model, resolved.loading, reporter, device=device, folder=replay_folder), reporter


def report(items: Sequence[JsonObject], page: Path, *, as_json: bool) -> None:
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
            sign = {"spectrum": "+", "balance": "+"}  # about nought; the others are ratios, or sizes
            rows.append(
                (
                    f"{item['idx']:02d} {short(item['prompt'], 28)}",
                    "" if item["seed"] is None else str(item["seed"]),
                    clip["title"],
                    *(
                        "" if value is None else f"{value:{sign.get(name, '')}.3f}"
                        for name, value in zip(columns, figures, strict=True)
                    ),
                    sparkline([step["distance"][0] for step in clip["trace"]]),
                    clip["verdict"]["word"],
                )
            )
    heads = ("prompt", "seed", "clip", "sharpness", "hf", "flat", "kurtosis", "spectrum", "change", "balance")
    spare = ("flat", "kurtosis", "hf", "spectrum", "distance", "change", "seed", "prompt")
    table((*heads, "distance", "verdict"), rows, spare=spare)
    for item in items:
        for clip in item["clips"][1:]:
            verdict = clip["verdict"]
            streams.print_line(f"{item['idx']:02d} {clip['title']}: {verdict['word']}, {verdict['why']}")
    streams.print_line(f"report    {page}")
