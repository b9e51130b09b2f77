"""The guide's trace as a picture: an SVG that stands alone, and a line of blocks for terminals.

Knows the numbers of a trace, not how they came about. Text it is given may hold anything; numbers that are missing or
not finite are left out.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 720, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 520, 64, 272  # of the plot; the legend is beside it
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "currentColor")  # Okabe and Ito, 2008
BLOCKS = "▁▂▃▄▅▆▇█"
MOST = 1e9  # no distance is larger
STYLE = """
.shell-trace { color-scheme: light dark; color: #1b1b1f; font: 12px system-ui, sans-serif; }
.shell-trace .paper { fill: #ffffff; }
.shell-trace text { fill: currentColor; }
.shell-trace .heading { font-size: 15px; font-weight: 600; }
.shell-trace .faint { fill: #5c5c66; }
.shell-trace .grid { stroke: #e4e4ea; }
.shell-trace .target { stroke: #8a8a94; stroke-width: 1.2; fill: none; }
.shell-trace .distance { stroke-width: 2; fill: none; }
.shell-trace .aimed { stroke-width: 1.6; stroke-dasharray: 6 4; fill: none; }
.shell-trace .alarm { stroke: currentColor; stroke-width: 1.4; fill: none; }
@media (prefers-color-scheme: dark) {
  .shell-trace { color: #ececf1; }
  .shell-trace .paper { fill: #16161a; }
  .shell-trace .faint { fill: #a0a0ab; }
  .shell-trace .grid { stroke: #2e2e36; }
}
"""

Step = Mapping[str, Any]
Point = tuple[float, float]


class Axis(NamedTuple):
    """A range of values laid over a range of pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """The values' range and a margin of a twentieth; more around what is one value but for rounding."""
        low, high = min(values), max(values)
        flat = high - low < 1e-6 * max(1.0, abs(low), abs(high))
        margin = max(abs(low) / 20, 0.05) if flat else (high - low) / 20
        return cls(low - margin, high + margin, start, end)


def trace_svg(traces: Mapping[str, Sequence[Step]], *, title: str) -> str:
    """Distance, aimed radius and that of real video over sigma, which falls to the right, of each trace that has a
    step."""
    drawn = {label: steps for label, steps in traces.items() if any(True for _ in _points(steps, "distance"))}
    body = "".join(_plot(drawn)) if drawn else _text(WIDTH / 2, HEIGHT / 2, "the guide never acted", anchor="middle")
    described = (
        "Shell distance, aimed radius and that of real video over sigma: " if drawn else "The guide never acted."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="shell-trace" role="img" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}"><title>{_safe(title)}</title>'
        f"<desc>{described}{_safe('; '.join(drawn))}</desc><style>{STYLE}</style>"
        f'<rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>'
        f"{_text(16, 26, _short(title, 80), style='heading')}{body}</svg>\n"
    )


def sparkline(values: Sequence[float]) -> str:
    """A block a value, from the least to the largest; a space where a value is not finite."""
    peak = max((abs(value) for value in values if math.isfinite(value)), default=0.0)
    parts = [math.ldexp(value, -math.frexp(peak)[1]) for value in values]  # exact, and no difference overflows
    finite = [part for part in parts if math.isfinite(part)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)

    def block(part: float) -> str:
        if not math.isfinite(part):
            return " "
        return BLOCKS[min(7, int((part - low) / (high - low) * 8)) if high > low else 3]

    return "".join(map(block, parts))


def _plot(traces: Mapping[str, Sequence[Step]]) -> Iterator[str]:
    points = [
        point for steps in traces.values() for key in ("distance", "aimed", "target") for point in _points(steps, key)
    ]
    sigmas, values = zip(*points, strict=True)
    x, y = Axis.around(sigmas, RIGHT, LEFT), Axis.around(values, BOTTOM, TOP)
    yield from _axes(x, y)
    alarmed = any(_alarms(steps) for steps in traces.values())
    yield from _keys(alarmed)

    def place(point: Point) -> Point:
        return x(point[0]), y(point[1])

    yield from sorted({_line(list(map(place, _points(steps, "target"))), "target") for steps in traces.values()})
    pitch = min(20.0, (BOTTOM - TOP) / len(traces))
    for i, (label, steps) in enumerate(traces.items()):
        yield from _variant(label, steps, place, i, TOP + pitch * (i + 0.5), pitch)


def _variant(
    label: str, steps: Sequence[Step], place: Callable[[Point], Point], i: int, row: float, pitch: float
) -> Iterator[str]:
    """One trace and its entry in the legend, under its full label; from the eighth on, dots are hollow."""
    colour, hollow = COLOURS[i % len(COLOURS)], i // len(COLOURS) % 2 == 1
    dot = f'stroke="{colour}" stroke-width="1.6" class="paper"' if hollow else f'fill="{colour}"'
    yield f"<g><title>{_safe(label)}</title>"
    yield f'<g stroke="{colour}">{_line([place(p) for p in _points(steps, "aimed")], "aimed")}'
    yield f"{_line([place(p) for p in _points(steps, 'distance')], 'distance')}</g>"
    for step in steps:
        for sigma, distance in _points([step], "distance"):
            cx, cy = place((sigma, distance))
            told = f"<title>{_safe(_told(label, step))}</title>"
            yield f'<circle cx="{cx:.1f}" cy="{cy:.1f}" r="3.4" {dot}>{told}</circle>'
    for cx, cy in map(place, _alarms(steps)):
        yield f'<circle class="alarm" cx="{cx:.1f}" cy="{cy:.1f}" r="7"/>'
    yield f'<path d="M{RIGHT + 20} {row:.1f}h22" stroke="{colour}" class="distance"/>'
    yield f'<circle cx="{RIGHT + 31}" cy="{row:.1f}" r="3.4" {dot}/>'
    size = min(12.0, 0.8 * pitch)
    yield f"{_text(RIGHT + 50, row + size / 3, _short(label, 22), size=size)}</g>"


def _axes(x: Axis, y: Axis) -> Iterator[str]:
    for value, name in _ticks(y):
        yield f'<path class="grid" d="M{LEFT} {y(value):.1f}H{RIGHT}"/>'
        yield _text(LEFT - 8, y(value) + 4, name, style="faint", anchor="end")
    for value, name in _ticks(x):
        yield f'<path class="grid" d="M{x(value):.1f} {TOP}V{BOTTOM}"/>'
        yield _text(x(value), BOTTOM + 18, name, style="faint", anchor="middle")
    yield _text((LEFT + RIGHT) / 2, BOTTOM + 38, "sigma, sampling runs to the right", style="faint", anchor="middle")


def _keys(alarmed: bool) -> Iterator[str]:
    """What the kinds of line mean, below the title."""
    yield f'<g stroke="currentColor"><path class="distance" d="M{LEFT} 48h26"/>'
    yield f'<path class="aimed" d="M{LEFT + 186} 48h26"/></g><path class="target" d="M{LEFT + 324} 48h26"/>'
    yield f'<circle cx="{LEFT + 13}" cy="48" r="3.4" fill="currentColor"/>'
    yield _text(LEFT + 34, 52, "median shell distance") + _text(LEFT + 220, 52, "aimed radius")
    yield _text(LEFT + 358, 52, "real video")
    if alarmed:
        yield f'<circle class="alarm" cx="{LEFT + 446}" cy="48" r="7"/>' + _text(LEFT + 460, 52, "alarm")


def _points(steps: Sequence[Step], key: str) -> Iterator[Point]:
    """(sigma, value) of the first clip, where both are numbers."""
    for step in steps:
        sigma, value = _number(step.get("sigma")), _number(step.get(key))
        if sigma is not None and value is not None:
            yield sigma, value


def _alarms(steps: Sequence[Step]) -> list[Point]:
    return list(_points([step for step in steps if step.get("alarm")], "distance"))


def _number(value: Any) -> float | None:
    first = value[0] if isinstance(value, Sequence) and not isinstance(value, str) and value else value
    return float(first) if isinstance(first, int | float) and abs(first) <= MOST else None


def _told(label: str, step: Step) -> str:
    known = [(key, _number(step.get(key))) for key in ("sigma", "distance", "aimed", "target", "gain")]
    figures = [f"{key} {value:.3g}" for key, value in known if value is not None]
    alarm = [f"alarm: {step['alarm']}"] if step.get("alarm") else []
    return ", ".join([f"{_short(label, 60)}, step {step.get('index', '?')}", *figures, *alarm])


def _line(points: Sequence[Point], style: str) -> str:
    """A path through the points; a single one becomes a short level line."""
    if not points:
        return ""
    if len(points) == 1:
        (x, y), reach = points[0], 12
        points = [(x - reach, y), (x + reach, y)]
    return f'<path class="{style}" d="M{" ".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def _ticks(axis: Axis) -> Iterator[tuple[float, str]]:
    """At most seven round values within the range, and how to write them."""
    exact = (axis.high - axis.low) / 6
    power = 10.0 ** math.floor(math.log10(exact))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= exact * (1 - 1e-9))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    for i in range(math.ceil(axis.low / step), math.floor(axis.high / step) + 1):
        yield i * step, f"{i * step:.{digits}f}"


def _text(x: float, y: float, text: str, *, style: str = "", anchor: str = "start", size: float = 0) -> str:
    sized = f' style="font-size:{size:.1f}px"' if size and size < 12 else ""
    named = f' class="{style}"' if style else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{named} text-anchor="{anchor}"{sized}>{_safe(text)}</text>'


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"


def _safe(text: str) -> str:
    """Escaped for XML, in one line, without the characters that it cannot hold."""
    held = re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text)
    return html.escape(" ".join(held.split()))
