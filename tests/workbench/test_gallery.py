"""Several runs on one page: what is joined, what is refused, and what lies there already."""

import base64
import itertools
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.measures.figures import change, figures
from shelllcc.guidance.media.video import write_video
from shelllcc.guidance.workbench.gallery import write_gallery
from shelllcc.guidance.workbench.report import read_report
from shelllcc.guidance.workbench.runs import Run, Shown

HOSTILE = "</script><script>alert(1)</script><!-- \u2028"
CAT, DOG = "a tabby cat", "a dog"


def make_run(folder, prompts, *, strengths=(0.0, 1.0), seeds=(0,), steps=4, title="compare"):
    """A run of the workbench whose clips are grain instead of samples."""
    requests = [{"prompt": prompt, "seed": seed, "steps": steps} for prompt in prompts for seed in seeds]
    asked = {"title": title, "bank": {"identity": "b" * 64}}
    settings = {"model": "tiny", "bank": "tiny-wan", "steps": steps}
    run = Run(folder, title=title, asked=asked | {"requests": requests}, settings=settings, fps=8)
    with run.held():
        for idx, request in enumerate(requests):
            grain = np.random.default_rng([idx, steps])
            base = grain.integers(60, 160, (5, 64, 64, 3)).astype(np.uint8)
            clips = []
            for strength in strengths:
                label = f"strength-{strength:g}" if strength else "unguided"
                frames = base if not strength else (base * (1 - strength / 9)).astype(np.uint8)
                video = run.path(idx, f"{label}.mp4")
                run.record.add(video.name)
                write_video(video, frames, fps=8)
                trace = [{"index": 0, "sigma": 0.5, "distance": [1.0], "gain": [0.0], "excess": [0.0]}]
                facts = (label, label.replace("-", " "), video.name, (64, 64), 5, {"strength": strength})
                apart = change(frames, base)
                clips.append(Shown(*facts, figures(frames), apart, trace=trace if strength else ()))
            run.show(idx, prompt=request["prompt"], seed=request["seed"], clips=clips)
        run.publish()
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two runs in a folder, that share a prompt."""
    home = tmp_path_factory.mktemp("made")
    make_run(home / "first", [CAT, HOSTILE], seeds=(0, 1))
    make_run(home / "second", [DOG, CAT], steps=8, title="tune")
    return home


@pytest.fixture
def home(made, tmp_path):
    shutil.copytree(made, tmp_path / "home")
    return tmp_path / "home"


def gallery(home, *names, page="gallery.html", **how):
    notes = []
    told = write_gallery([home / name for name in names], home / page, on_note=notes.append, **how)
    return read_report(home / page), told, notes


def clips_of(page):
    return [clip for item in page["items"] for clip in item["clips"]]


def test_prompts_are_grouped_seeds_beneath_and_runs_beneath_these(home):
    page, told, notes = gallery(home, "first", "second")
    names = [run["name"] for run in page["runs"]]
    shown = [(item["prompt"], item["seed"], names[item["run"]]) for item in page["items"]]
    grouped = [prompt for prompt, _ in itertools.groupby(shown, key=lambda one: one[0])]
    assert sorted(grouped) == sorted({CAT, DOG, HOSTILE})
    cats = [(seed, names.index(name)) for prompt, seed, name in shown if prompt == CAT]
    assert cats == sorted([(0, names.index("first")), (0, names.index("second")), (1, names.index("first"))])
    assert [one for one in shown if one[0] == HOSTILE] == [(HOSTILE, 0, "first"), (HOSTILE, 1, "first")]
    for one, run in zip(told["runs"], page["runs"], strict=True):
        assert (run["model"], run["bank"], run["title"]) == (
            "tiny",
            "tiny-wan",
            {"first": "compare", "second": "tune"}[run["name"]],
        )
        assert one["created"] == run["created"] == read_report(home / run["name"] / "report.html")["created"]
        assert run["id"] == read_report(home / run["name"] / "report.html")["id"]  # by which votes are kept
        assert (run["prompts"], run["clips"], run["missing"]) == (2, {"first": 8, "second": 4}[run["name"]], 0)
    assert page["reference"] == "unguided"
    assert not notes


def test_an_item_is_on_the_page_as_on_the_page_of_its_run(home):
    page, _, _ = gallery(home, "first", "second")
    for item in page["items"]:
        name = page["runs"][item["run"]]["name"]
        [own] = [one for one in read_report(home / name / "report.html")["items"] if one["idx"] == item["idx"]]
        moved = json.loads(json.dumps(own).replace('"name": "', f'"name": "{name}/').replace('"./', f'"./{name}/'))
        assert item == moved | {"run": item["run"]}


def test_the_order_of_the_runs_changes_no_byte(home):
    make_run(home / "third", ["a fox"])
    shutil.copytree(home / "first", home / "copy")
    names, pages = ["first", "second", "third", "copy"], set[bytes]()
    orders = list(itertools.permutations(names))
    for order in random.Random(0).sample(orders, 8):
        gallery(home, *order, *order[:1])
        pages.add((home / "gallery.html").read_bytes())
    assert len(pages) == 1


def test_hostile_words_never_break_out(home):
    (home / "first").rename(home / "<img src=x>&'\"")
    gallery(home, "<img src=x>&'\"", "second")
    text = (home / "gallery.html").read_text(encoding="utf-8")
    assert (text.count("<script"), text.count("</script>")) == (2, 2)
    assert "<img src=x>" not in text
    assert HOSTILE in {item["prompt"] for item in read_report(home / "gallery.html")["items"]}


@pytest.mark.parametrize("page", ["gallery.html", "first/gallery.html", "far/off/gallery.html", "first/in/g.html"])
def test_files_are_found_from_wherever_the_page_lies(home, page):
    shown, _, _ = gallery(home, "first", "second", page=page)
    urls = [clip["video"]["url"] for clip in clips_of(shown)]
    urls += [item["montage"]["url"] for item in shown["items"]] + [run["page"]["url"] for run in shown["runs"]]
    assert all((home / page).parent.joinpath(url).is_file() for url in urls)
    assert all(url.startswith("./") for url in urls)
    assert len(clips_of(shown)) == 12


def test_names_of_folders_are_percent_encoded(home):
    (home / "first").rename(home / "50% of #1?")
    shown, _, _ = gallery(home, "50% of #1?")
    assert shown["runs"][0]["page"]["url"] == "./50%25%20of%20%231%3F/report.html"
    assert shown["items"][0]["clips"][0]["video"]["url"].startswith("./50%25%20of%20%231%3F/0")


def test_links_on_the_way_are_gone_as_a_browser_goes_them(home, tmp_path):
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (home / "link").symlink_to(tmp_path / "elsewhere/deep")
    shown, _, _ = gallery(home, "first", page="link/gallery.html", embed=False)
    assert shown["items"][0]["clips"][0]["video"]["url"].startswith("./../first/")
    shown, _, _ = gallery(home, "first", page="link/gallery.html", embed=True)
    assert all(clip["video"]["url"].startswith("data:video/mp4;base64,AAAA") for clip in clips_of(shown))


def test_an_embedded_gallery_holds_its_clips(home):
    shown, _, _ = gallery(home, "first", embed=True)
    first = shown["items"][0]["clips"][0]["video"]
    clip = base64.b64decode(first["url"].removeprefix("data:video/mp4;base64,"))
    assert clip in {path.read_bytes() for path in (home / "first").glob("*_unguided.mp4")}


def test_runs_that_were_moved_are_found(home, tmp_path):
    gallery(home, "first", "second")
    ids = [run["id"] for run in read_report(home / "gallery.html")["runs"]]
    (home / "first").rename(tmp_path / "moved")
    shown, _, _ = gallery(home, "../moved", "second")
    assert [run["id"] for run in shown["runs"]] == ids
    assert all((home / clip["video"]["url"]).is_file() for clip in clips_of(shown))


def test_runs_of_one_name_are_told_apart(home):
    make_run(home / "other/first", ["a fox"])
    shown, _, _ = gallery(home, "first", "other/first")
    assert {run["name"] for run in shown["runs"]} == {"home/first", "other/first"}


def test_a_run_and_its_copy_are_shown_once(home):
    shutil.copytree(home / "first", home / "copy")
    shown, _, notes = gallery(home, "first", "copy", "second", "first")
    assert len(shown["runs"]) == 2
    assert len(notes) == 2
    assert any("was named twice" in note for note in notes)
    assert any("holds the same run as" in note for note in notes)
    make_run(home / "copy", [CAT, HOSTILE], seeds=(0, 1), strengths=(0.0, 2.0))  # the same asked for, other clips
    shown, _, notes = gallery(home, "first", "copy", overwrite=True)
    assert (len(shown["runs"]), notes) == (2, [])


def test_clips_that_are_missing_or_links_are_told_and_not_read(home, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"not yours")
    (home / "first/00_unguided.mp4").unlink()
    (home / "first/01_strength-1.mp4").unlink()
    (home / "first/01_strength-1.mp4").symlink_to(secret)
    shown, told, notes = gallery(home, "first", embed=True)
    assert told["runs"][0]["missing"] == shown["runs"][0]["missing"] == 2
    assert notes == [f"{home / 'first'} lacks 2 of its 8 clips: 00_unguided.mp4 and others"]
    lost = [clip for clip in clips_of(shown) if clip["video"]["url"] is None]
    assert {(clip["video"]["name"], clip["id"]) for clip in lost} == {
        ("00_unguided.mp4", None),
        ("01_strength-1.mp4", None),
    }
    assert base64.b64encode(b"not yours").decode() not in (home / "gallery.html").read_text()


def test_results_that_name_files_of_others_have_them_missing(home, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(b"not yours")
    results = home / "second/results.jsonl"
    results.write_text(results.read_text().replace("00_unguided.mp4", "../../secret.mp4"))
    shown, _, _ = gallery(home, "second", embed=True)
    assert [clip["video"]["url"] for clip in clips_of(shown) if clip["id"] is None] == [None]


def test_runs_of_before_and_runs_without_a_page_are_joined(home):
    record = home / "first/run.json"
    record.write_text(json.dumps(json.loads(record.read_text())["asked"]))  # no list of files yet
    (home / "second/report.html").unlink()
    record = home / "second/run.json"
    known = json.loads(record.read_text())
    record.write_text(json.dumps(known | {"asked": known["asked"] | {"model": {"source": "tiny", "revision": "r"}}}))
    shown, _, _ = gallery(home, "first", "second")
    runs = {run["name"]: run for run in shown["runs"]}
    assert runs["first"]["bank"] == "tiny-wan"
    assert (runs["second"]["model"], runs["second"]["bank"], runs["second"]["page"]) == ("tiny", "b" * 8, None)
    assert runs["second"]["created"].endswith("Z")


def broken(folder, how):
    """A folder of a run, broken in a way."""
    if how == "no folder":
        shutil.rmtree(folder)
    elif how == "a file":
        shutil.rmtree(folder)
        folder.write_text("mine")
    elif how == "no run":
        (folder / "run.json").unlink()
    elif how == "unfinished":
        (folder / "results.jsonl").unlink()
    elif how == "torn":
        results = folder / "results.jsonl"
        results.write_text(results.read_text()[:-40])
    elif how == "odd":
        (folder / "results.jsonl").write_text('{"idx": 0, "label": "x", "video": "00_x.mp4", "verdict": {}}\n')
    elif how == "empty":
        (folder / "results.jsonl").write_text("")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no folder", "cannot read"),
        ("a file", "is no run's folder"),
        ("no run", "is no run's folder"),
        ("unfinished", "without results.jsonl"),
        ("torn", "is torn"),
        ("odd", "is torn"),
        ("empty", "is torn"),
    ],
)
def test_what_is_no_run_is_refused_in_one_line(home, shelllcc, how, says):
    broken(home / "second", how)
    code, out, err = shelllcc("report", home / "first", home / "second", "-o", home / "gallery.html")
    assert (code, out) == (2, "")
    [line] = err.splitlines()
    assert line.startswith("shelllcc: error: ")
    assert says in line
    assert not (home / "gallery.html").exists()


def test_files_of_others_are_never_replaced_unasked(home):
    for name in ("gallery.html", "link.html"):
        (home / "thesis.html").write_text("<html>mine</html>")
        if name == "link.html":
            (home / name).symlink_to(home / "thesis.html")
        else:
            (home / name).write_text("<html>mine</html>")
        with pytest.raises(UsageError, match="is no gallery; give another --output, or --overwrite it"):
            gallery(home, "first", page=name)
        assert (home / name).read_text() == "<html>mine</html>"
        gallery(home, "first", page=name, overwrite=True)
        assert read_report(home / name)["runs"]
        assert (home / "thesis.html").read_text() == "<html>mine</html>"  # the link gave way, not what it leads to


def test_a_gallery_gives_way_to_one_that_has_its_runs(home):
    gallery(home, "first")
    assert len(gallery(home, "first", "second")[0]["runs"]) == 2
    before = (home / "gallery.html").read_bytes()
    with pytest.raises(UsageError, match="is a gallery of other runs"):
        gallery(home, "second")
    assert (home / "gallery.html").read_bytes() == before
    assert len(gallery(home, "second", overwrite=True)[0]["runs"]) == 1


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("second/report.html", "is the page of the run there alone"),
        ("second/results.jsonl", "is no name of a page"),
        ("second", "is no name of a page"),
        ("folder.html", "is a folder"),
    ],
)
def test_pages_are_written_to_no_place_of_another_use(home, page, says):
    (home / "folder.html").mkdir()
    before = {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=says):
        gallery(home, "first", page=page, overwrite=True)
    assert before == {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def test_a_gallery_in_the_folder_of_a_run_is_in_no_ones_way(home):
    gallery(home, "second", page="second/gallery.html")
    make_run(home / "second", [DOG, CAT], steps=8, title="tune")  # the run goes on there
    assert (home / "second/gallery.html").exists()


def test_report_needs_no_torch(home, root):
    """In a process of its own, as users call it."""
    code = "import sys; from shelllcc import cli\ntry: cli.main()\nfinally: print(*sys.modules, file=sys.stderr)"
    words = ["report", "first", "second", "-o", "gallery.html", "--json"]
    ended = subprocess.run([sys.executable, "-c", code, *words], cwd=home, capture_output=True, text=True, check=True)
    told = json.loads(ended.stdout)
    assert told["report"] == "gallery.html"
    assert {run["folder"] for run in told["runs"]} == {"first", "second"}
    loaded = set(ended.stderr.split())
    assert "shelllcc.guidance.workbench.gallery" in loaded
    assert not loaded & {"torch", "diffusers", "transformers", "imageio", "faiss"}


def test_report_says_what_is_on_the_page(home, shelllcc):
    (home / "first/00_unguided.mp4").unlink()
    code, out, err = shelllcc("report", home / "first", home / "second", "-o", home / "gallery.html")
    assert code == 0, err
    heads, *rows, last = out.splitlines()
    assert heads.split() == ["run", "model", "bank", "date", "prompts", "clips"]
    assert {row.split()[0]: row.split()[-1] for row in rows} == {"first": "7", "second": "4"}
    assert last == f"report    {home / 'gallery.html'}"
    assert "lacks 1 of its 8 clips: 00_unguided.mp4" in err
