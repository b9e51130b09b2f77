"""The page of a run as text: data enter it unharmed, nothing leaves it, and it is written whole or not at all."""

import base64
import json
import re
import tomllib

import pytest

from shelllcc.guidance.errors import OutputError
from shelllcc.guidance.workbench import pages
from shelllcc.guidance.workbench.report import SCRIPTS, write_report
from shelllcc.guidance.workbench.search import Probe

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<!-- <script>",
    "]]> --> &lt;/script&gt; {{script}} {{run}}",
    "quotes \" ' ` \\ \\u003c",
    "lines\nand\r\ntabs\t\u2028\u2029\x00\x1f",
    "\u202eright to left\u202c مرحبا 🐈‍⬛ \ud800",
    "long " * 2000,
]


def run_of(prompts, **more):
    items = [
        {"idx": i, "prompt": prompt, "seed": 0, "clips": [{"label": "a", "video": f"{i:02d}_a.mp4", **more}]}
        for i, prompt in enumerate(prompts)
    ]
    return {"title": "compare", "created": "2026-11-23T18:00:00Z", "version": "0", "reference": "a", "items": items}


def data_of(page):
    found = re.findall(r'<script type="application/json" id="run">(.*?)</script>', page, re.S)
    assert len(found) == 1
    return json.loads(found[0]), found[0]


def test_hostile_words_come_back_and_never_break_out(tmp_path):
    run = run_of(HOSTILE, title=HOSTILE[0], settings={HOSTILE[1]: HOSTILE[2]})
    write_report(tmp_path / "page.html", {**run, "title": HOSTILE[0], "settings": {HOSTILE[0]: HOSTILE[4]}})
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    data, text = data_of(page)
    assert [item["prompt"] for item in data["items"]] == HOSTILE
    assert data["title"] == HOSTILE[0]
    assert data["settings"] == {HOSTILE[0]: HOSTILE[4]}
    assert text.isascii()
    assert not set("<>&") & set(text)
    assert page.count("<script") == 2
    assert page.count("</script>") == 2


def test_the_page_names_nothing_outside_itself(tmp_path):
    write_report(tmp_path / "page.html", run_of(["a cat"]))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"(?:https?:)?//[\w-]+\.\w", page)
    assert not re.search(r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", page)
    assert "default-src 'none'" in page
    assert "connect-src 'none'" in page
    assert "unsafe" not in page


def test_file_names_are_percent_encoded_and_stay_beside_the_page(tmp_path):
    names = [
        "50% of #1?.mp4",
        "a:b&'\".mp4",
        "//host.example/x.mp4",
        "javascript:alert(1)",
        "katze ü 🐈.mp4",
        "in/it.mp4",
    ]
    run = run_of(["cat"] * len(names))
    for item, name in zip(run["items"], names, strict=True):
        item["clips"][0]["video"] = name
    write_report(tmp_path / "page.html", run)
    data, _ = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    files = [item["clips"][0]["video"] for item in data["items"]]
    assert [file["name"] for file in files] == names
    urls = [file["url"] for file in files]
    assert urls[0] == "./50%25%20of%20%231%3F.mp4"
    assert urls[-1] == "./in/it.mp4"
    assert all(re.fullmatch(r"\./[\w%./~-]+", url) for url in urls)


def test_embedded_videos_need_no_file(tmp_path):
    (tmp_path / "00_a.mp4").write_bytes(b"moving")
    (tmp_path / "montage.png").write_bytes(b"still")
    run = run_of(["cat", "dog"])
    run["items"][0] |= {"montage": "montage.png", "side_by_side": "both.mp4", "trace_plot": "trace.svg"}
    write_report(tmp_path / "page.html", run, embed=True)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    first, second = data_of(page)[0]["items"]
    video = first["clips"][0]["video"]["url"]
    assert base64.b64decode(video.removeprefix("data:video/mp4;base64,")) == b"moving"
    assert first["montage"]["url"].startswith("data:image/png;base64,")
    for name in ("00_a.mp4", "montage.png", "both.mp4", "trace.svg"):
        assert name not in page
    assert second["clips"][0]["video"] == {"name": "01_a.mp4", "url": None}  # missing: the page says which


def test_numbers_that_json_cannot_say_are_null(tmp_path):
    figures = {"lap": float("nan"), "change": float("-inf"), "spectrum": 0.5}
    write_report(tmp_path / "page.html", run_of(["cat"], figures=figures))
    data, _ = data_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert data["items"][0]["clips"][0]["figures"] == {"lap": None, "change": None, "spectrum": 0.5}


def test_the_run_is_left_as_it_was(tmp_path):
    run = run_of(["cat"])
    before = json.dumps(run)
    write_report(tmp_path / "page.html", run)
    assert json.dumps(run) == before


def test_a_page_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    page = tmp_path / "page.html"
    write_report(page, run_of(["first"]))
    before = page.read_bytes()

    def full(path, text, **options):
        path.write_bytes(text[:100].encode())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(page), "write_text", full)
    with pytest.raises(OutputError, match="disk full"):
        write_report(page, run_of(["second"]))
    assert page.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_parts_of_the_page_are_in_the_wheel(root):
    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "page/*" in data["shelllcc.guidance.workbench"]
    found = {path.name for path in (root / "guidance/workbench/page").iterdir()}
    assert found == {
        *("page.html", "small.html", "fit.html", "tune.html", "page.css"),
        *(f"{name}.js" for name in (*SCRIPTS, *pages.FIT, *pages.SEARCH)),
    }


def test_the_strength_of_a_search_is_told_among_those_that_could_be_chosen():
    probes = [Probe(1.0, 0.3, alarm=True), Probe(0.0, -0.2), Probe(0.4, 0.01)]
    assert "of the 2 strengths that were tried without an alarm" in pages._chosen(probes)
    assert pages._chosen(probes[1:]).endswith("of the 2 strengths that were tried")
    assert "every strength" in pages._chosen(probes[:1])
