"""Options that the commands of training and benchmarks share, each said once, and their errors in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from shelllcc.guidance.errors import ShellLCCError, UsageError

Folder = Annotated[Path, typer.Option(help="Where the photographs lie that no wheel holds.")]
Cache = Annotated[Path | None, typer.Option(help="All photographs in one file, written if absent.")]
Smoke = Annotated[bool, typer.Option(help="A toy size, for a test.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Batch = Annotated[int, typer.Option(help="Clips sampled at once.")]
Model = Annotated[Path, typer.Option(help="A pipeline folder of a tiny Wan.")]
BankName = Annotated[str, typer.Option(help="The model's bank: a file, or auto for one of those that are known.")]


def run(main: Callable[..., Any]) -> None:
    """The command `main`, or several as a Typer: exit 0 done, 1 failed, 2 usage."""
    try:
        main() if isinstance(main, typer.Typer) else typer.run(main)
    except ShellLCCError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
