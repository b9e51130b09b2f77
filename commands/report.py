"""The command `report`: parse, one call, print. Heavy libraries are never imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shelllcc.commands import options, streams
from shelllcc.commands.tables import table

GALLERY = "outputs/gallery.html"


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", parser=options.source, help="Folders that `compare` or `tune` made.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", **options.TO, help="The page; it finds the clips where they lie.")
    ] = Path(GALLERY),
    embed: options.Embed = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what lies in the page's place.")] = False,
    show: options.Open = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Join several runs into one page, with one blind vote over all of them. Nothing is sampled."""
    from shelllcc.guidance.workbench.gallery import write_gallery

    told = write_gallery(
        runs, output, embed=embed, overwrite=overwrite, on_note=lambda line: streams.say(f"note: {line}")
    )
    if as_json:
        streams.print_json(told)
    else:
        rows = [
            (run["name"], run["model"] or "", run["bank"] or "", run["created"][:16].replace("T", " "),
             str(run["prompts"]), str(run["clips"] - run["missing"]))
            for run in told["runs"]
        ]  # fmt: skip
        table(("run", "model", "bank", "date", "prompts", "clips"), rows, spare=("prompts", "date", "bank", "model"))
        streams.print_line(f"report    {output}")
    if show:
        options.show(output)
