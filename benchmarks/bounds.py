"""What must hold, each with the figure that was measured, and the records of it in runs/."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shelllcc.guidance.files import write_json

RUNS = Path("runs")


@dataclass(frozen=True)
class Gate:
    """One thing that must hold; `figure` tells what was measured."""

    name: str
    figure: str
    held: bool

    def __str__(self) -> str:
        return f"{'holds' if self.held else 'MISS '}  {self.name}: {self.figure}"


def within(name: str, value: float, *, low: float | None = None, high: float | None = None, digits: int = 2) -> Gate:
    """That a value lies between bounds, either of which may be left out."""
    bounds = [f"at least {low:g}"] if low is not None else []
    bounds += [f"at most {high:g}"] if high is not None else []
    held = (low is None or value >= low) and (high is None or value <= high)
    return Gate(f"{name} {' and '.join(bounds)}", f"{value:.{digits}f}", held)


def keep(name: str, record: Mapping[str, Any], gates: Iterable[Gate]) -> None:
    """Write runs/NAME.json: the record and its gates."""
    write_json(RUNS / f"{name}.json", {**record, "gates": [asdict(gate) for gate in gates]})
