"""The trace as a picture: it is XML, names every trace, draws each step in its place, and holds no bad number."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest

from shelllcc.guidance.workbench.traceplot import BLOCKS, HEIGHT, WIDTH, sparkline, trace_svg

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE = ("😀 cat", "</svg><script>", "\"quoted\" & 'so'", "two\nlines", "x" * 10_000, "]]>", "日本", "")


def steps(*distances, sigma=0.5, **more):
    return [
        {"index": 19 + i, "sigma": sigma - 0.1 * i, "distance": [d], "target": 1.2, "aimed": [1.4 * d], **more}
        for i, d in enumerate(distances)
    ]


def parsed(traces, title="a title"):
    return ET.fromstring(trace_svg(traces, title=title))


def dots(tree):
    """(x, y) of the dots of steps, which alone say what they are."""
    return [(float(c.get("cx")), float(c.get("cy"))) for c in tree.iter(f"{SVG}circle") if len(c)]


def text(tree):
    return " ".join(" ".join(tree.itertext()).split())


def test_sigma_falls_to_the_right_and_distance_rises_upwards():
    tree = parsed({"guided": steps(0.9, 1.0, 1.1)})
    x, y = zip(*dots(tree), strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y, reverse=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2)
    assert tree.get("role") == "img"
    assert [child.tag for child in tree][:2] == [f"{SVG}title", f"{SVG}desc"]
    assert "prefers-color-scheme: dark" in text(tree)
    assert "real video" in text(tree)  # whose radius the grey line is
    assert "target" not in "".join(node.text or "" for node in tree.iter(f"{SVG}text"))


def test_every_label_is_there_and_an_unguided_trace_is_not():
    tree = parsed({"unguided": [], **{label: steps(1.0, 1.1) for label in HOSTILE}})
    titles = [title.text or "" for title in tree.iter(f"{SVG}title")]
    for label in HOSTILE:
        assert " ".join(label.split()) in titles
    assert "unguided" not in text(tree)
    assert len(dots(tree)) == 2 * len(HOSTILE)


@pytest.mark.parametrize("traces", [{}, {"unguided": []}, {"a": [], "b": [{"sigma": 0.5, "distance": []}]}])
def test_a_guide_that_never_acted_is_said_to(traces):
    tree = parsed(traces)
    assert "the guide never acted" in text(tree)
    assert not dots(tree)


@pytest.mark.parametrize("title", [*HOSTILE, "\x00\x1b\x0bcontrol\ud800\ufffe\x7f"])
def test_any_title_gives_valid_xml(title):
    source = trace_svg({"guided": steps(1.0)}, title=title)
    source.encode("utf-8")
    found = ET.fromstring(source).find(f"{SVG}title").text or ""
    assert found == " ".join(re.sub("[\x00\x1b\x0b\ud800\ufffe]", "", title).split())


@pytest.mark.parametrize(
    "bad", [math.nan, math.inf, -math.inf, None, [], [None], "1", [math.nan], 1e300, 10**400, {"a": 1}]
)
@pytest.mark.parametrize("key", ["sigma", "distance", "aimed", "target", "gain"])
def test_what_is_no_number_is_left_out(key, bad):
    good = steps(0.9, 1.0, 1.1)
    source = trace_svg({"guided": [*good, {**good[0], key: bad}]}, title="t")
    assert not re.search(r"\b(nan|inf)\b", source.split("</style>")[1])
    assert len(dots(ET.fromstring(source))) == (3 if key in ("sigma", "distance") else 4)


@pytest.mark.parametrize(
    "distances",
    [(1.0,), (1.0, 1.0), (0.0, 0.0), (0.0, 5e-324), (1e9, -1e9), (1e9, math.nextafter(1e9, 0)), (1e-9, 2e-9)],
)
def test_any_range_lies_within_the_picture_and_has_few_ticks(distances):
    tree = parsed({"guided": [{"sigma": 0.5, "distance": d} for d in distances]})
    assert len(dots(tree)) == len(distances)
    for x, y in dots(tree):
        assert 0 <= x <= WIDTH
        assert 0 <= y <= HEIGHT
    grid = [path for path in tree.iter(f"{SVG}path") if path.get("class") == "grid"]
    assert 2 <= len(grid) <= 16


def test_ticks_are_round():
    ticks = [float(t.text) for t in parsed({"guided": steps(0.93, 2.51)}).iter(f"{SVG}text") if _is_number(t.text)]
    assert {1.0, 1.5, 2.0} <= set(ticks)


def test_an_alarm_is_marked_at_its_step():
    trace = [*steps(0.9), *steps(1.3, sigma=0.4, alarm="noise")]
    tree = parsed({"guided": trace})
    rings = [c for c in tree.iter(f"{SVG}circle") if c.get("class") == "alarm"]
    assert len(rings) == 2  # at the step, and in the key
    assert dots(tree)[1] in [(float(c.get("cx")), float(c.get("cy"))) for c in rings]
    assert "alarm: noise" in text(tree)
    assert "alarm" not in text(parsed({"guided": steps(0.9)})).split("}")[-1]


def test_thirty_traces_stay_within_the_picture():
    tree = parsed({f"variant {i}": steps(1 + i, 2 + i) for i in range(30)})
    assert all(0 <= float(t.get("y")) <= HEIGHT for t in tree.iter(f"{SVG}text"))


def test_a_sparkline_spans_the_blocks():
    assert sparkline(list(range(8))) == BLOCKS
    assert sparkline([3, 1, 2]) == "█▁▅"
    assert sparkline([]) == ""


@pytest.mark.parametrize("value", [0.0, 1.0, -3.5, 1e308, 5e-324])
def test_a_constant_sparkline_is_flat_in_the_middle(value):
    assert sparkline([value] * 3) == "▄▄▄"


def test_a_sparkline_leaves_a_space_where_there_is_no_number():
    assert sparkline([0, math.nan, 1, math.inf, -math.inf]) == "▁ █  "
    assert sparkline([math.nan]) == " "


@pytest.mark.parametrize("values", [(-1e308, 1e308), (0, 5e-324), (1.0, math.nextafter(1.0, 2))])
def test_a_sparkline_tells_any_two_values_apart(values):
    assert sparkline(values) == "▁█"


def _is_number(word):
    return bool(re.fullmatch(r"-?\d+(\.\d+)?", word or ""))
