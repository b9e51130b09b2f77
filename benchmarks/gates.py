"""The quality bench's rows, what must hold of them with each figure, and their picture. Knows nothing of sampling.

A distance that lies inside the real-against-real floor cannot shrink further: it counts as held, and says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.bounds import Gate, within
from benchmarks.judge import Side
from shelllcc.guidance.wan.model.presets import PRESETS

FLOOR = "real, another draw"
BEFORE = {"cfg 1": (0.208, 0.118), "cfg 2": (0.064, 0.031), "cfg 3": (0.035, 0.040), "cfg 5": (0.103, 0.137)}
DEFAULT = f"cfg {PRESETS['tiny'].cfg:g}"
HARMS = ("acc", "jitter", "colour", "contrast")


@dataclass(frozen=True)
class Row:
    """An arm, judged: the columns, their intervals, and each column beside that of its base, an unguided arm."""

    group: str
    columns: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    sides: dict[str, Side]
    broken: list[str]
    forwards: float
    moved: float  # RMS of the guide's moves, summed over the steps
    change: float  # mean |difference| of a pixel to the base, in [0, 1]


Rows = Mapping[str, Row]


def check(rows: Rows) -> list[Gate]:
    """The gates whose rows are there."""
    kinds = (_truth, _nearer, _texture, _harms, _rivals, _strengths, _samplers)
    return [gate for kind in kinds for gate in kind(rows)]


def _truth(rows: Rows) -> Iterator[Gate]:
    """The model by itself: at most half as far from real clips as the first tiny model was at this cfg (BEFORE)."""
    row = rows.get(f"{DEFAULT}, unguided")
    if row is not None and DEFAULT in BEFORE:
        for column, then in zip(("spec", "swd"), BEFORE[DEFAULT], strict=True):
            name = f"{DEFAULT}, unguided, {column}, half of {then:g} is"
            yield within(name, row.columns[column], high=then / 2, digits=4)


def _nearer(rows: Rows) -> Iterator[Gate]:
    """Guided clips are no farther from real ones; how much nearer each fit must bring them, benchmarks.fit says."""
    for name, row in rows.items():
        if row.group == "cfg" and name.endswith(", guided"):
            base, floor = rows[_unguided(name)].columns, rows[FLOOR].columns
            for column in ("spec", "swd"):
                figure = f"{base[column]:.3f} -> {row.columns[column]:.3f}; floor {floor[column]:.3f}"
                yield Gate(f"{name}, {column} not worse", figure, row.sides[column] != "worse")


def _texture(rows: Rows) -> Iterator[Gate]:
    """An over-smoothed base gets real texture, not grain."""
    unguided, guided = (rows.get(f"cfg 1, {arm}") for arm in ("unguided", "guided"))
    if unguided and guided:
        lap, flat = guided.columns["lap"], guided.columns["flat"]
        yield Gate("cfg 1, lap", f"{unguided.columns['lap']:.2f} -> {lap:.2f}", 0.8 <= lap <= 1.15)
        yield Gate("cfg 1, flat below 1.2", f"{flat:.2f}", flat < 1.2)
        kurts = [row.columns["kurt"] for row in (unguided, guided)]
        yield Gate("cfg 1, kurtosis", f"{kurts[0]:.2f} -> {kurts[1]:.2f}", kurts[1] >= kurts[0])


def _harms(rows: Rows) -> Iterator[Gate]:
    """Nothing that was right gets worse, beyond the bootstrap interval."""
    for name, row in rows.items():
        if row.group == "cfg" and name.endswith(", guided"):
            worse = [column for column in HARMS if row.sides[column] == "worse"]
            yield Gate(f"{name}, no worse in {', '.join(HARMS)}", ", ".join(worse) or "none", not worse)


def _rivals(rows: Rows) -> Iterator[Gate]:
    """Some guided row is nearer in both distances than each rival and control that costs as much or more."""
    guided = {name: row for name, row in rows.items() if row.group == "cfg" and name.endswith(", guided")}
    for name, row in rows.items():
        ours = {n: g for n, g in guided.items() if g.forwards <= row.forwards}
        if row.group in ("controls", "rivals") and ours:
            ratios = {n: [g.columns[c] / row.columns[c] for c in ("spec", "swd")] for n, g in ours.items()}
            best = min(ratios, key=lambda n: max(ratios[n]))
            pairs = [f"{c} {ours[best].columns[c]:.3f} against {row.columns[c]:.3f}" for c in ("spec", "swd")]
            yield Gate(f"better than {name}", f"{best}: {', '.join(pairs)}", max(ratios[best]) < 1)


def _strengths(rows: Rows) -> Iterator[Gate]:
    """A strength moves more than the one below it, and the strongest destroys nothing."""
    moved = [rows[f"cfg 3, strength {s:g}"].moved for s in (0.5, 1, 2) if f"cfg 3, strength {s:g}" in rows]
    if len(moved) == 3:
        yield Gate(
            "applied move grows with strength 0.5, 1, 2",
            ", ".join(f"{m:.3f}" for m in moved),
            moved == sorted(set(moved)),
        )
    if strongest := rows.get("cfg 3, strength 4"):
        lap = strongest.columns["lap"]
        yield Gate("cfg 3, strength 4, lap in 0.6 to 1.5", f"{lap:.2f}", 0.6 <= lap <= 1.5)


def _samplers(rows: Rows) -> Iterator[Gate]:
    """The default helps with every scheduler, step count and shift."""
    for name, row in rows.items():
        if row.group == "samplers" and name.endswith(", guided"):
            base = rows[_unguided(name)]
            pairs = {c: (base.columns[c], row.columns[c]) for c in ("spec", "swd")}
            figure = ", ".join(f"{c} {before:.3f} -> {after:.3f}" for c, (before, after) in pairs.items())
            yield Gate(f"helps: {name[:-8]}", figure, all(after < before for before, after in pairs.values()))


def _unguided(name: str) -> str:
    return name.removesuffix("guided") + "unguided"


def draw(rows: Rows, path: Path) -> None:
    """Every row's patch distance over its spectrum distance, real clips' floor, and arrows from unguided to guided."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 7), layout="constrained")
    floor = rows[FLOOR].columns
    axes.axvspan(0, floor["spec"], color="0.92")
    axes.axhspan(0, floor["swd"], color="0.92", label="two draws of real clips")
    colours = {"controls": "tab:orange", "rivals": "tab:red"}
    for name, row in rows.items():
        if row.group in ("floor", "strength", "samplers"):
            continue
        at = row.columns["spec"], row.columns["swd"]
        axes.plot(*at, "o", color=colours.get(row.group, "tab:green" if name.endswith(", guided") else "tab:blue"))
        axes.annotate(name, at, xytext=(5, 3), textcoords="offset points", fontsize=8)
        if name.endswith(", guided"):
            before = rows[_unguided(name)].columns
            axes.annotate("", at, (before["spec"], before["swd"]), arrowprops={"arrowstyle": "->", "color": "0.6"})
    axes.set(xscale="log", yscale="log", xlabel="spectrum distance to real clips")
    axes.set_ylabel("patch distance to real clips")
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    pyplot.close(figure)
