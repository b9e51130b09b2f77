"""The folder of a run: what it may write, replace and remove there, and what it never touches."""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from shelllcc.guidance.errors import OutputError
from shelllcc.guidance.media.video import write_video
from shelllcc.guidance.workbench.claims import Record
from shelllcc.guidance.workbench.runs import Run

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "4"]
CAT = ["compare", "--prompt", "a tabby cat, zoom in, daylight", *SMALL, "--window", "0:0.9"]


def film(path, shade=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    grain = np.random.default_rng(shade).integers(0, shade, (1, 64, 64, 1))
    write_video(path, np.broadcast_to(grain, (5, 64, 64, 3)).astype(np.uint8), fps=8)
    return path


def contents(folder):
    """Every file below a folder, by its name, and what it holds."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def one_line(err, says):
    [line] = [line for line in err.splitlines() if not line.startswith("shelllcc: note")]
    assert line.startswith("shelllcc: error: ")
    assert says in line


@pytest.fixture
def films(tmp_path):
    """Two videos beside no run."""
    film(tmp_path / "base.mp4", 40)
    film(tmp_path / "other.mp4", 200)
    return ["compare", "base.mp4", "other.mp4", "--output"]


def test_every_video_has_a_label_of_its_own(tmp_path, films, shelllcc):
    (tmp_path / "a").mkdir()
    film(tmp_path / "base-2.mp4", 90)
    film(tmp_path / "a/base.mp4", 120)
    code, out, err = shelllcc("compare", "base.mp4", "base-2.mp4", "a/base.mp4", "-o", "run", "--json")
    assert code == 0, err
    clips = json.loads(out)["items"][0]["clips"]
    assert [clip["label"] for clip in clips] == ["base", "base-2", "base-3"]
    assert len({(tmp_path / "run" / clip["video"]).read_bytes() for clip in clips}) == 3


def as_before(folder):
    """The run's folder as the version without a record left it."""
    file = folder / "run.json"
    file.write_text(json.dumps(json.loads(file.read_text())["asked"], indent=2))


FOREIGN = ["manifest.json", "results.jsonl", "report.html", "run.json", "00_base.mp4", "07_workflow.json",
           "00_compare.mp4", "00_montage.png", "00_trace.svg", "vbench/results.json", ".lock"]  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("more", [[], ["--overwrite"]])
def test_a_folder_that_is_no_runs_is_refused_and_left_as_it_is(shelllcc, tmp_path, films, name, more):
    file = tmp_path / "mine" / name
    file.parent.mkdir(parents=True)
    file.write_text('{"items": [{"idx": 0, "videos": {"a": "thesis.mp4"}}]}')
    (tmp_path / "mine/thesis.mp4").write_bytes(b"mine")
    before = contents(tmp_path)
    code, out, err = shelllcc(*films, "mine", *more)
    assert (code, out) == (2, "")
    one_line(err, name.partition("/")[0])
    assert "give another --output" in err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("command", ["compare", "tune"])
def test_nothing_is_sampled_for_a_folder_that_is_no_runs(shelllcc, tmp_path, sampled, command):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/manifest.json").write_text("{}")
    code, _, err = shelllcc(command, *CAT[1:], "-o", "mine", "--overwrite")
    assert code == 2
    one_line(err, "manifest.json")
    assert sampled == []
    assert contents(tmp_path / "mine") == {"manifest.json": b"{}"}


def test_videos_are_not_compared_into_their_own_folder(shelllcc, tmp_path):
    film(tmp_path / "out/00_base.mp4"), film(tmp_path / "out/00_tuned.mp4", 90)
    videos = {"base": "00_base.mp4", "tuned": "00_tuned.mp4"}
    (tmp_path / "out/manifest.json").write_text(json.dumps({"items": [{"idx": 0, "prompt": "", "videos": videos}]}))
    before = contents(tmp_path)
    code, _, err = shelllcc("compare", "out/00_base.mp4", "out/00_tuned.mp4", "--output", "out")
    assert code == 2
    one_line(err, "00_base.mp4")
    assert contents(tmp_path) == before


def test_a_folder_with_files_of_other_names_takes_a_run(shelllcc, tmp_path, films):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("mine")
    assert shelllcc(*films, "mine")[0] == 0
    assert shelllcc(*films, ".")[0] == 0
    shutil.copy(tmp_path / "other.mp4", tmp_path / "mine/05_holiday.mp4")
    (tmp_path / "mine/00_notes.txt").write_text("mine, too")
    before = contents(tmp_path / "mine")
    assert shelllcc("compare", "other.mp4", "base.mp4", "-o", "mine", "--overwrite")[0] == 0
    after = contents(tmp_path / "mine")
    for name in ("thesis.txt", "05_holiday.mp4", "00_notes.txt"):
        assert after[name] == before[name]
    assert json.loads((tmp_path / "mine/manifest.json").read_text())["labels"] == ["other", "base"]


def test_overwriting_removes_what_the_record_names_and_only_in_the_folder(shelllcc, tmp_path, films):
    assert shelllcc(*films, "run", "--layout", "vbench")[0] == 0
    record = json.loads((tmp_path / "run/run.json").read_text())
    assert set(record["wrote"]) == set(contents(tmp_path / "run")) - {"run.json", ".lock"}
    film(tmp_path / "elsewhere/prompt.mp4")
    (tmp_path / "00_outside.mp4").write_bytes(b"mine")
    (tmp_path / "run/thesis.txt").write_text("mine")
    (tmp_path / "run/vbench/results.json").write_text("VBench's")
    (tmp_path / "run/vbench/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run/01_link.mp4").symlink_to(tmp_path / "00_outside.mp4")
    forged = ["../00_outside.mp4", str(tmp_path / "00_outside.mp4"), "01_link.mp4", "vbench/linked/prompt.mp4",
              "vbench/../../00_outside.mp4", "thesis.txt", "vbench/results.json", "vbench/../thesis.mp4"]  # fmt: skip
    record["wrote"] += forged
    (tmp_path / "run/run.json").write_text(json.dumps(record))
    code, _, err = shelllcc("compare", "other.mp4", "base.mp4", "base.mp4", "-o", "run", "--overwrite")
    assert code == 0, err
    after = contents(tmp_path)
    assert after["00_outside.mp4"] == after["run/01_link.mp4"] == b"mine"
    assert after["run/thesis.txt"] == b"mine"
    assert {name for name in after if "vbench" in name} == {"run/vbench/results.json"}
    assert (tmp_path / "elsewhere/prompt.mp4").is_file()
    assert (tmp_path / "run/vbench/linked").is_symlink()
    assert not set(json.loads(after["run/run.json"])["wrote"]) & set(forged)


def test_a_file_is_recorded_before_it_is_written(tmp_path, films, monkeypatch, shelllcc):
    from shelllcc.guidance import files

    real, unrecorded = files.whole_file, []

    @contextlib.contextmanager
    def watched(path):
        if path.parent.name == "run" and path.name != "run.json":
            known = json.loads((tmp_path / "run/run.json").read_text())["wrote"]
            unrecorded.extend([path.name] if path.name not in known else [])
        with real(path) as part:
            yield part

    writers = "files", "media.video", "media.pictures", "wan.clips.generate"
    for module in (*writers, "workbench.runs", "workbench.compare", "workbench.report"):
        monkeypatch.setattr(f"shelllcc.guidance.{module}.whole_file", watched)
    assert shelllcc(*CAT, "--strengths", "0,1", "-o", "run")[0] == 0
    shutil.rmtree(tmp_path / "run")
    assert shelllcc(*films, "run")[0] == 0
    assert unrecorded == []


def test_inputs_in_the_folder_are_neither_removed_nor_replaced(shelllcc, tmp_path, films):
    assert shelllcc(*films, "run", "--layout", "vbench")[0] == 0
    before = contents(tmp_path)
    (tmp_path / "link.mp4").symlink_to(tmp_path / "run/00_other.mp4")
    [linked] = (tmp_path / "run/vbench/base").iterdir()
    for videos in (["run/00_base.mp4", "run/00_other.mp4"], ["base.mp4", "link.mp4"], ["base.mp4", linked]):
        code, _, err = shelllcc("compare", *videos, "-o", "run", "--overwrite")
        assert code == 2
        one_line(err, "give another --output")
    (tmp_path / "link.mp4").unlink()
    (tmp_path / "away").mkdir()
    (tmp_path / "away/base.mp4").symlink_to(tmp_path / "run/00_base.mp4")  # what it would be copied to
    code, _, err = shelllcc("compare", "away/base.mp4", "other.mp4", "-o", "run")
    assert code == 2
    one_line(err, "00_base.mp4 is in the way")
    shutil.rmtree(tmp_path / "away")
    assert contents(tmp_path) == before


def test_a_file_that_came_into_the_run_is_kept(shelllcc, tmp_path, films):
    (tmp_path / "run").mkdir()
    asked = {"title": "compare", "videos": []}
    record = Record(tmp_path / "run", asked)
    record.claim(anew=False)
    (tmp_path / "run/00_base.mp4").write_bytes(b"mine")
    with pytest.raises(Exception, match=r"00_base\.mp4 is in the way"):
        record.add("00_base.mp4")
    for more in ([], ["--overwrite"]):
        code, _, err = shelllcc(*films, "run", *more)
        assert code == 2
        one_line(err, "00_base.mp4 is in the way")
    assert (tmp_path / "run/00_base.mp4").read_bytes() == b"mine"


@pytest.mark.parametrize("text", ["", '{"asked": {"title": "comp', "[" * 100_000, "[]", "\xff", '{"wrote": 1}'])
def test_a_torn_record_is_one_line(shelllcc, tmp_path, films, text):
    assert shelllcc(*films, "run")[0] == 0
    (tmp_path / "run/run.json").write_bytes(text.encode("latin-1"))
    before = contents(tmp_path)
    for more in ([], ["--overwrite"]):
        code, _, err = shelllcc(*films, "run", *more)
        assert code == 2
        one_line(err, "run.json is torn, or no run's")
    assert contents(tmp_path) == before


def test_a_sampled_run_of_the_version_before_goes_on_and_is_overwritten(shelllcc, tmp_path, sampled):
    words = [*CAT, "--strengths", "0,1,2", "--layout", "vbench", "-o", "run", "--json"]
    code, first, err = shelllcc(*words)
    assert code == 0, err
    before = contents(tmp_path / "run")
    as_before(tmp_path / "run")
    subprocess.run(["cp", "-a", "run", "old"], cwd=tmp_path, check=True)  # links stay links
    sampled.clear()
    assert shelllcc(*words)[1] == first
    assert sampled == []
    after = contents(tmp_path / "run")
    assert {name: after[name] for name in after if name != "report.html"} == {
        name: before[name] for name in before if name != "report.html"
    }
    torn = tmp_path / "old/00_strength-1.mp4"
    torn.write_bytes(torn.read_bytes()[:1000])
    (tmp_path / "old/vbench/mine.json").write_text("VBench's")
    subprocess.run(["cp", "-a", "old", "torn"], cwd=tmp_path, check=True)
    code, out, err = shelllcc(*[word if word != "run" else "torn" for word in words])
    assert code == 0, err
    assert sampled == [0.0, 1.0]
    assert json.loads(out)["items"] == json.loads(first)["items"]
    small = [*CAT, "--strengths", "0,2", "-o", "old", "--overwrite"]
    before = contents(tmp_path / "old")
    code, _, err = shelllcc(*CAT, "--strengths", "0,1", "-o", "old", "--overwrite")
    assert code == 2  # nothing proves that the clip is the run's
    one_line(err, "00_strength-1.json is in the way")
    assert contents(tmp_path / "old") == before
    assert shelllcc(*small)[0] == 0
    names = set(contents(tmp_path / "old"))
    assert {"00_strength-1.mp4", "00_strength-1.json", "vbench/mine.json"} <= names
    assert {name for name in names if name.startswith("vbench/")} <= {"vbench/mine.json", *(
        f"vbench/strength-1/{path.name}" for path in (tmp_path / "old/vbench/strength-1").glob("*")
    )}  # fmt: skip
    assert json.loads((tmp_path / "old/manifest.json").read_text())["labels"] == ["unguided", "strength-2"]


def test_videos_compared_by_the_version_before_go_on_and_are_overwritten(shelllcc, tmp_path, films):
    assert shelllcc(*films, "run", "--layout", "vbench")[0] == 0
    as_before(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "old")
    assert shelllcc(*films, "run", "--layout", "vbench")[0] == 0
    names = set(contents(tmp_path / "run")) - {"run.json", ".lock"}
    assert set(json.loads((tmp_path / "run/run.json").read_text())["wrote"]) == names
    (tmp_path / "old/00_mine.json").write_text('{"request": {}}')
    code, _, err = shelllcc("compare", "other.mp4", "base.mp4", "-o", "old")
    assert code == 2
    one_line(err, "holds another run")
    (tmp_path / "third.mp4").write_bytes((tmp_path / "other.mp4").read_bytes())
    code, _, err = shelllcc("compare", "third.mp4", "base.mp4", "-o", "old", "--overwrite")
    assert code == 0, err
    names = set(contents(tmp_path / "old"))
    assert "00_mine.json" in names
    assert not {name for name in names if name == "00_other.mp4" or name.startswith("vbench")}


def test_a_link_to_a_clip_that_is_made_again_follows_it(shelllcc, tmp_path, films):
    assert shelllcc(*films, "run", "--layout", "vbench")[0] == 0
    (tmp_path / "run/vbench/base/results.json").write_text("VBench's")
    assert shelllcc(*films, "run", "--layout", "vbench")[0] == 0  # copies the videos anew
    [link] = (tmp_path / "run/vbench/base").glob("*.mp4")
    assert link.samefile(tmp_path / "run/00_base.mp4")
    assert (tmp_path / "run/vbench/base/results.json").exists()


def test_a_folder_that_cannot_be_written_is_one_line():
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    folder.chmod(0o555)
    run = Run(folder, title="compare", asked={"title": "compare", "videos": []}, settings={}, fps=8)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)
        with pytest.raises(OutputError, match=r"cannot write to .*: Permission denied"), run.held():
            pass
    finally:
        if root:
            os.seteuid(0)
        found = list(folder.iterdir())
        shutil.rmtree(folder)
    assert found == []


def test_tuning_asks_first_whether_a_profile_can_be_kept(shelllcc, tmp_path, sampled, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path / "file"))
    code, out, err = shelllcc("tune", *CAT[1:], "-o", "run")
    assert (code, out) == (1, "")
    one_line(err, "cannot keep profiles in")
    assert sampled == []
    assert set(contents(tmp_path)) == {"file"}


def test_a_page_made_anew_is_of_the_same_identity(shelllcc, tmp_path, films):
    def identity(folder):
        text = (tmp_path / folder / "report.html").read_text().split('id="run">')[1].split("</script>")[0]
        run = json.loads(text)
        return run["id"], [clip["id"] for item in run["items"] for clip in item["clips"]]

    assert shelllcc(*films, "run")[0] == 0
    first = identity("run")
    assert shelllcc(*films, "run", "--embed")[0] == 0
    assert identity("run") == first
    assert shelllcc(*films, "run", "--overwrite")[0] == 0
    assert identity("run") == first
    assert len(set(first[1])) == 2
    assert shelllcc("compare", "other.mp4", "base.mp4", "--output", "turned")[0] == 0
    assert identity("turned")[0] != first[0]
    assert identity("turned")[1] == first[1][::-1]


VOTES = """
const store = {}, clip = (label, id = label) => ({ label, id, video: { url: label } });
const memory = { read: key => store[key] ?? null, write: (key, text) => { store[key] = text; } };
const within = (low, value, high) => Math.min(Math.max(value, low), high);
const page = (created, ...items) => {
  const run = { id: "a1", created, items: items.map((clips, idx) => ({ idx, prompt: "", seed: 0, clips })) };
  return new Vote(run, item => item.clips[0], ["b"]);
};
const first = page(1, [clip("a"), clip("b")], [clip("a"), clip("b")]);
while (first.cast("A"));
const counts = [first, page(2, [clip("a"), clip("b")], [clip("a"), clip("b")])].map(vote => vote.votes.length);
const smaller = page(3, [clip("a"), clip("b", "made otherwise")]);
counts.push(smaller.votes.length, smaller.tally().length);
smaller.cast("B");
counts.push(page(4, [clip("a"), clip("b")], [clip("a"), clip("b")]).votes.length);
console.log(JSON.stringify(counts));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_votes_are_found_again_by_the_run_and_the_clips(root):
    parts = [root / f"guidance/workbench/page/{name}.js" for name in ("gallery", "blind")]
    script = "\n".join([*(part.read_text() for part in parts), VOTES])
    said = subprocess.run(["node", "-"], input=script, capture_output=True, text=True, check=True).stdout
    assert json.loads(said) == [2, 2, 0, 0, 2]


def test_a_checkout_that_is_not_installed_ends_a_comparison_well(shelllcc, tmp_path, films, monkeypatch):
    from importlib import metadata

    real = metadata.Distribution.from_name

    def from_name(name):
        if name == "shelllcc":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", staticmethod(from_name))
    code, _, err = shelllcc(*films, "run")
    assert code == 0, err
    assert '"version":null' in (tmp_path / "run/report.html").read_text()
    code, out, _ = shelllcc("--version")
    assert (code, out) == (0, "shelllcc of a checkout that is not installed\n")


@pytest.mark.parametrize("live", [True, False])
def test_brackets_in_titles_and_prompts_are_printed_as_they_are(shelllcc, monkeypatch, tmp_path, live):
    if live:
        monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes stderr for a terminal
        monkeypatch.setenv("COLUMNS", "200")
    prompt = "a [/b] cat :cat: [red]"
    words = ["--variants", "strength=0; [/x] [red]: radius=2", "--seeds", "0,1", "-o", "run"]
    code, out, err = shelllcc("compare", "--prompt", prompt, *SMALL, "--window", "0:0.9", *words)
    assert code == 0, err
    assert "01 [/x] [red]: " in out
    assert "[/x] [red]" in err
    assert prompt in err
    assert not live or "00 [/x] [red] sampling" in err
    code, out, err = shelllcc("tune", "--prompt", prompt, *SMALL, "--window", "0:0.9", "--budget", "2")
    assert code == 0, err
    assert prompt in out
    assert prompt in err
    (tmp_path / "[").mkdir()
    (tmp_path / "[/x].txt").write_text(prompt)
    code, _, err = shelllcc("batch", "[/x].txt", "-o", "[/clips]", *SMALL)
    assert code == 0, err


def test_hashes_of_old_clips_are_of_the_whole_file(tmp_path):
    """A sidecar with another clip's hash proves nothing."""
    from shelllcc.guidance.workbench.claims import proven

    (tmp_path / "00_a.mp4").write_bytes(b"mine")
    sidecar = {"request": {}, "sha256": {"a": hashlib.sha256(b"other").hexdigest()}}
    (tmp_path / "00_a.json").write_text(json.dumps(sidecar))
    assert proven(tmp_path, {}) == set()
    sidecar["sha256"]["a"] = hashlib.sha256(b"mine").hexdigest()
    (tmp_path / "00_a.json").write_text(json.dumps(sidecar))
    assert proven(tmp_path, {}) == {"00_a.mp4", "00_a.json"}
