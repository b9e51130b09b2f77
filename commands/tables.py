"""Tables for people. Knows nothing of what they hold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shelllcc.commands import streams
from shelllcc.guidance.terminal import shown

STYLES = {"better": "green", "worse": "yellow", "noise alarm": "bold red", "mean-regression alarm": "bold red"}
STYLES |= {"damaged": "bold red", "not comparable": "yellow"}
DOTS = "…"
WIDTH = 160  # of tables that go to no terminal


def table(heads: Iterable[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console, OverflowMethod
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    grid = Table(box=None, pad_edge=False, header_style="bold")
    dots: OverflowMethod = "ellipsis" if streams.fitting(DOTS) == DOTS else "crop"
    for head in heads:
        grid.add_column(head, no_wrap=head != "prompt", overflow=dots)
    for row in rows:
        grid.add_row(*(Text(streams.fitting(shown(cell)), style=STYLES.get(cell, "")) for cell in row))
    console.print(grid)


def short(prompt: str, length: int = 60) -> str:
    text = shown(prompt)
    return text if len(text) <= length else text[: length - 1] + DOTS
