"""Tables for people. Knows nothing of what they hold."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shelllcc.commands import streams
from shelllcc.guidance.terminal import shown
from shelllcc.guidance.words import plural

STYLES = {"better": "green", "worse": "yellow", "noise alarm": "bold red", "mean-regression alarm": "bold red"}
STYLES |= {"damaged": "bold red", "not comparable": "yellow"}
DOTS = "…"
WIDTH = 160  # of tables that go to no terminal
FEWEST = 8  # letters that a prompt keeps
GAP = 2  # spaces between columns, at the least
MOST = 20  # rows of a plan that are shown


def table(heads: Iterable[str], rows: Sequence[Sequence[str]], *, spare: Sequence[str] = ()) -> None:
    """Print rows; where they are too wide, columns of `spare` are left out, the first of them first."""
    from rich.console import Console, OverflowMethod
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    heads = list(heads)
    wide = _widths(heads, rows)
    kept = _kept(heads, wide, console.width, spare)
    room = console.width - sum(wide[index] + GAP for index in kept if heads[index] != "prompt")
    grid = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), collapse_padding=False, header_style="bold")
    dots: OverflowMethod = "ellipsis" if streams.fitting(DOTS) == DOTS else "crop"
    for index in kept:
        cells = [row[index] for row in rows if row[index]]
        numbers = bool(cells) and all(_is_number(cell) for cell in cells)
        grid.add_column(heads[index], no_wrap=True, overflow=dots, justify="right" if numbers else "left")
    for row in rows:
        cells = [short(row[i], max(FEWEST, room)) if heads[i] == "prompt" else shown(row[i]) for i in kept]
        grid.add_row(*(Text(streams.fitting(cell), style=STYLES.get(cell, "")) for cell in cells))
    console.print(grid)


def facts(rows: Mapping[str, Any]) -> None:
    """Print names and what each is, one a line; what there is nothing of is left out."""
    width = max((len(name) for name in rows), default=0) + GAP
    for name, value in rows.items():
        if value not in (None, "", [], {}):
            streams.print_line(f"{name:<{width}}{words_of(value)}")


def words_of(value: Any) -> str:
    """A value of a record as people read it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {words_of(inside)}" for key, inside in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(words_of, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(prompt: str, length: int = 60) -> str:
    text = shown(prompt)
    return text if len(text) <= length else text[: length - 1] + DOTS


PLANNED = ("file", "prompt", "seed", "size", "steps", "strength")


def planned(request: Mapping[str, Any], file: object) -> tuple[str, ...]:
    """The row of a clip, of its request as records have it."""
    size = f"{request['width']}x{request['height']}, {plural(request['frames'], 'frame')}"
    numbers = str(request["seed"]), size, str(request["steps"]), f"{request['strength']:g}"
    return str(file), short(request["prompt"], 40), *numbers


def plan(rows: Sequence[Sequence[str]], heads: Sequence[str], total: int | None = None, **facts_of: Any) -> None:
    """Print what a dry run found: its first clips, how many more there are, then facts."""
    table(heads, rows[:MOST], spare=("settings", "strength", "size", "seed"))
    more = (len(rows) if total is None else total) - len(rows[:MOST])
    if more > 0:
        streams.print_line(f"and {more:,} more")
    facts(facts_of)
    streams.print_line("nothing was made: this was a dry run; --json has every value")


def memory(rows: Sequence[Mapping[str, Any]]) -> str:
    """What clips will take, of `forecasts`: of each size the most, whatever else they differ in."""
    most: dict[str, float] = {}
    for row in rows:
        clip = f"{row['width']}x{row['height']}, {plural(row['frames'], 'frame')}"
        most[clip] = max(row["peak_GB"], most.get(clip, 0.0))
    return "; ".join(f"{peak:g} GB at most for {clip}" for clip, peak in most.items())


def _widths(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    """Cells that each column takes."""
    from rich.cells import cell_len

    return [max(map(cell_len, (head, *(shown(row[index]) for row in rows)))) for index, head in enumerate(heads)]


def _kept(heads: Sequence[str], wide: Sequence[int], width: int, spare: Sequence[str]) -> list[int]:
    """The columns that fit beside each other; a prompt may be cut."""
    least = [min(w, FEWEST) if head == "prompt" else w for w, head in zip(wide, heads, strict=True)]
    kept = list(range(len(heads)))
    for name in spare:
        if sum(least[index] + GAP for index in kept) <= width:
            break
        kept = [index for index in kept if heads[index] != name]
    return kept


def _is_number(cell: str) -> bool:
    try:
        return isinstance(json.loads(cell.lstrip("+")), (int, float))
    except ValueError:
        return False
