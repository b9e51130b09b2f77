"""`compare`, `tune` and `profiles` end to end: files, figures, resuming, refusals."""

import json
import os
import re
import signal
import time

import numpy as np
import pytest
from PIL import Image

from shelllcc.guidance.media.video import write_video

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "3", "--window", "0:0.9"]
CAT = ["--prompt", "a tabby cat, zoom in, daylight"]
NASTY = 'a "cat"/../dog\\ \U0001f408 </script><script>alert(1)</script>\nsecond line ' + "x" * 10_000


def test_a_comparison_writes_clips_pictures_results_and_a_page(shelllcc, tmp_path):
    code, out, err = shelllcc("compare", *CAT, *SMALL, "--strengths", "0,1,3", "-o", "run", "--json")
    assert code == 0, err
    [item] = json.loads(out)["items"]
    assert [clip["label"] for clip in item["clips"]] == ["unguided", "strength-1", "strength-3"]
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {
        "00_unguided.mp4", "00_unguided.json", "00_strength-1.mp4", "00_strength-1.json", "00_strength-3.mp4",
        "00_strength-3.json", "00_compare.mp4", "00_montage.png", "00_trace.svg", "manifest.json", "results.jsonl",
        "report.html", "run.json", ".lock",
    }  # fmt: skip
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest == {
        "labels": ["unguided", "strength-1", "strength-3"],
        "fps": 8,
        "items": [{"idx": 0, "prompt": CAT[1], "videos": {c["label"]: f"00_{c['label']}.mp4" for c in item["clips"]}}],
    }
    lines = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert [line["label"] for line in lines] == manifest["labels"]
    assert lines[1]["figures"] == item["clips"][1]["figures"]
    reference, one, three = (clip["figures"] for clip in item["clips"])
    assert reference["lap_ratio"] == 1
    assert reference["change"] == 0
    assert 0 < one["change"] < three["change"]
    assert reference["balance"] < one["balance"] < three["balance"]
    assert item["clips"][0]["verdict"]["word"] == "reference"
    assert "power" not in one


def test_a_clip_of_a_comparison_is_that_of_generate(shelllcc, tmp_path):
    assert shelllcc("compare", *CAT, *SMALL, "--strengths", "0,2", "--seeds", "3", "-o", "run")[0] == 0
    assert shelllcc("generate", *CAT, *SMALL, "--strength", "2", "--seed", "3", "-o", "clip.mp4")[0] == 0
    ours, theirs = (json.loads((tmp_path / p).read_text()) for p in ("run/00_strength-2.json", "clip.json"))
    assert ours["frames_sha256"] == theirs["frames_sha256"]
    assert ours["trace"] == theirs["trace"]


def test_a_finished_run_samples_nothing_and_torn_clips_alone_are_made_again(shelllcc, tmp_path, sampled):
    words = ["compare", *CAT, *SMALL, "--strengths", "0,1,2", "-o", "run", "--json"]
    first = json.loads(shelllcc(*words)[1])
    assert sampled == [0.0, 1.0, 2.0]
    results = (tmp_path / "run/results.jsonl").read_bytes()
    assert json.loads(shelllcc(*words)[1]) == first
    assert len(sampled) == 3
    torn = tmp_path / "run/00_strength-1.mp4"
    torn.write_bytes(torn.read_bytes()[:1000])
    assert json.loads(shelllcc(*words)[1]) == first
    assert sampled[3:] == [0.0, 1.0]  # the reference's frames before encoding, and the torn clip
    assert (tmp_path / "run/results.jsonl").read_bytes() == results


def test_another_run_does_not_go_into_the_folder_unless_told(shelllcc, tmp_path):
    assert shelllcc("compare", *CAT, *SMALL, "--strengths", "0,1", "-o", "run")[0] == 0
    code, _, err = shelllcc("compare", *CAT, *SMALL, "--strengths", "0,2", "-o", "run")
    assert (code, err.count("\n")) == (2, 1)
    assert "another run" in err
    assert shelllcc("compare", *CAT, *SMALL, "--strengths", "0,2", "-o", "run", "--overwrite")[0] == 0
    assert not (tmp_path / "run/00_strength-1.mp4").exists()


def test_two_runs_at_once_are_refused_in_one_line(shelllcc, tmp_path):
    import filelock

    (tmp_path / "run").mkdir()
    with filelock.FileLock(tmp_path / "run/.lock"):
        code, _, err = shelllcc("compare", *CAT, *SMALL, "-o", "run")
    assert code == 1
    assert err.splitlines()[-1].startswith("shelllcc: error: another run holds run")


def test_seeds_prompts_variants_and_flags_of_a_line(shelllcc, tmp_path, fit_at_cfg_2):
    (tmp_path / "prompts.txt").write_text(
        f"grass, pan left, sunset --seed 7 --cfg 2\n# no\n{CAT[1]}\n", encoding="utf-8"
    )
    code, out, err = shelllcc(
        "compare", "--prompts-file", "prompts.txt", *SMALL, "--seeds", "0,1", "--layout", "vbench", "-o", "run",
        "--variants", "strength=0; soft: radius=2, calm=5; window=0:0.7", "--fit", fit_at_cfg_2, "--json",
    )  # fmt: skip
    assert code == 0, err
    items = json.loads(out)["items"]
    assert [(item["prompt"].split(",")[0], item["seed"]) for item in items] == [
        ("grass", 7), ("a tabby cat", 0), ("a tabby cat", 1),
    ]  # fmt: skip
    sidecar = json.loads((tmp_path / "run/00_soft.json").read_text())
    assert {name: sidecar["request"][name] for name in ("radius", "calm", "cfg", "strength")} == {
        "radius": 2.0, "calm": 5.0, "cfg": 2.0, "strength": 1.0,
    }  # fmt: skip
    flat = sorted(path.name for path in (tmp_path / "run/vbench/soft").iterdir())
    assert flat == [f"{CAT[1]}-0.mp4", f"{CAT[1]}-1.mp4", "grass, pan left, sunset-0.mp4"]


def test_a_nasty_prompt_makes_safe_names_and_a_safe_page(shelllcc, tmp_path):
    code, _, err = shelllcc("compare", "--prompt", NASTY, *SMALL, "--strengths", "0,1", "--layout", "vbench")
    assert code == 0, err
    [folder] = (tmp_path / "outputs").iterdir()
    assert folder.parent == tmp_path / "outputs"
    assert all(len(path.name.encode()) <= 255 for path in folder.rglob("*"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "</script><script>alert" not in page
    assert json.loads((folder / "manifest.json").read_text())["items"][0]["prompt"] == NASTY.strip()


def test_shared_steps_on_disk_leave_nothing(shelllcc, tmp_path):
    assert shelllcc("compare", *CAT, *SMALL, "--replay-folder", "steps", "-o", "run")[0] == 0
    assert list((tmp_path / "steps").iterdir()) == []


def test_variants_of_different_windows_are_those_of_generate_and_judged_alone(shelllcc, tmp_path, fit_at_cfg_2):
    wide, cfg = "wide: window=0:0.8,strength=2", ["--cfg", "2", "--fit", fit_at_cfg_2]
    ways = {"both": f"strength=0; soft: radius=2; {wide}", "alone": f"strength=0; {wide}"}
    both, alone = (
        json.loads(shelllcc("compare", *CAT, *SMALL, "--variants", way, *cfg, "-o", name, "--json")[1])
        for name, way in ways.items()
    )
    assert both["items"][0]["clips"][2] == alone["items"][0]["clips"][1]
    words = ["--window", "0:0.8", "--strength", "2", *cfg, "-o", "clip.mp4"]
    assert shelllcc("generate", *CAT, *SMALL, *words)[0] == 0
    ours, theirs = (json.loads((tmp_path / p).read_text()) for p in ("both/00_wide.json", "clip.json"))
    assert ours["frames_sha256"] == theirs["frames_sha256"]


def test_two_folders_hold_the_same_clips(shelllcc, tmp_path):
    for folder in ("a", "b"):
        assert shelllcc("compare", *CAT, *SMALL, "--strengths", "0,1", "-o", folder)[0] == 0
    for name in ("00_strength-1.mp4", "00_compare.mp4", "00_montage.png", "results.jsonl", "manifest.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize("torn", [{"metrics": None}, {"metrics": {"guided": {}}}, {"trace": "abc"}])
def test_a_sidecar_with_parts_missing_is_made_again(shelllcc, tmp_path, torn):
    words = ["compare", *CAT, *SMALL, "--strengths", "0,1", "-o", "run", "--json"]
    first = json.loads(shelllcc(*words)[1])
    sidecar = tmp_path / "run/00_strength-1.json"
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | torn))
    assert json.loads(shelllcc(*words)[1]) == first


def test_overwriting_survives_a_torn_manifest_and_removes_what_was_there(shelllcc, tmp_path):
    assert shelllcc("compare", *CAT, *SMALL, "--strengths", "0,2", "--layout", "vbench", "-o", "run")[0] == 0
    (tmp_path / "run/manifest.json").write_text('{"items": [{"idx": 0, "videos": {"a": ""}}]}')
    (tmp_path / "run/00_notes.txt").write_text("mine")
    assert shelllcc("compare", *CAT, *SMALL, "--strengths", "0,1", "-o", "run", "--overwrite")[0] == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert "00_notes.txt" in names
    assert not names & {"00_strength-2.mp4", "00_strength-2.json", "vbench"}


def test_a_run_that_made_no_clip_does_not_block_its_folder(shelllcc, tmp_path):
    assert shelllcc("compare", *CAT, *SMALL, "-o", "run", "--quantize", "nf4")[0] == 2
    assert shelllcc("compare", *CAT, *SMALL, "-o", "run", "--seeds", "1")[0] == 0


def test_a_line_of_strength_0_can_be_compared(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tabby cat --strength 0\n")
    code, _, err = shelllcc("compare", "--prompts-file", "prompts.txt", *SMALL, "--strengths", "0,1", "-o", "run")
    assert code == 0, err


def test_a_dry_run_says_what_would_be_done(shelllcc, tmp_path):
    code, out, _ = shelllcc("compare", *CAT, "--strengths", "0,2", "--seeds", "4,5", "--dry-run", "--json")
    clips = json.loads(out)["clips"]
    assert code == 0
    assert [(clip["seed"], clip["settings"]) for clip in clips] == [
        (seed, {"strength": strength}) for seed in (4, 5) for strength in (0.0, 2.0)
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_looks_at_the_folder_as_the_run_does(shelllcc, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "00_a.mp4").touch()
    (tmp_path / "other" / "run.json").write_text('{"asked": {"title": "other"}, "wrote": ["00_a.mp4"]}')
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, np.zeros((5, 16, 16, 3), np.uint8), fps=16)
    before = sorted(tmp_path.rglob("*"))
    for ways in ([*CAT, *SMALL], ["a.mp4", "b.mp4"]):
        for place, code in (("file", 2), ("file/x", 1), ("mine", 2), ("other", 2)):
            dry, real = (shelllcc("compare", *ways, "-o", place, *more) for more in (["--dry-run"], []))
            assert (dry[0], real[0]) == (code, code), one(dry)
            assert one(dry) == one(real) or place == "file/x"  # whose words are the system's
        assert shelllcc("compare", *ways, "-o", "other", "--overwrite", "--dry-run")[0] == 0
    assert shelllcc("compare", "a.mp4", "c.mp4", "--dry-run")[0] == 1
    assert sorted(path for path in tmp_path.rglob("*") if path.name != ".lock") == before  # which runs leave


def one(ended):
    """The line of an error."""
    return next(line for line in ended[2].splitlines() if "error: " in line)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give --prompt"),
        ([*CAT, "--strengths", "1"], "nothing to compare"),
        ([*CAT, "--strengths", "0,1", "--variants", "radius=2"], "not both"),
        ([*CAT, "--strengths", "0,11"], "strength goes from 0"),
        ([*CAT, "--variants", "strength=0; compare: radius=2"], "cannot be named compare"),
        ([*CAT, "--seeds", "0,0"], "twice"),
        ([*CAT, "--seeds", "-1"], "seed"),
        ([*CAT, "--layout", "tree"], "no layout tree"),
        ([*CAT, "--size", "63x64"], "multiple of 16"),
        (["only.mp4"], "two videos"),
        (["a.mp4", "b.mp4", *CAT], "not both"),
        (["a.mp4", "b.mp4", "--seeds", "3"], "not both"),
        ([*CAT, "--seeds", ""], "seeds takes a whole number"),
        ([*CAT, "--strengths", "1,1"], "leave one out"),
        ([*CAT, "--replay-folder", "/dev/null"], "cannot keep steps"),
        (["a.mp4", "b.mp4"], "cannot read a.mp4"),
    ],
)
def test_bad_words_are_one_line(shelllcc, tmp_path, words, says):
    code, out, err = shelllcc("compare", *words)
    assert code in (1, 2)
    assert (out, err.count("\n")) == ("", 1), err
    assert says in err
    assert list(tmp_path.iterdir()) == []


def clip(path, shade, frames=6, side=64):
    grain = np.random.default_rng(0).integers(0, shade, (1, side, side, 1))
    write_video(path, np.broadcast_to(grain, (frames, side, side, 3)).astype(np.uint8), fps=8)


def test_videos_that_exist_are_compared(shelllcc, tmp_path):
    for name, shade in (("base", 40), ("other one", 200)):
        clip(tmp_path / f"{name}.mp4", shade)
    code, out, err = shelllcc("compare", "base.mp4", "base.mp4", "other one.mp4", "-o", "run", "--json", "--embed")
    assert code == 0, err
    reference, same, other = json.loads(out)["items"][0]["clips"]
    assert [c["video"] for c in (reference, same, other)] == ["00_base.mp4", "00_base-1.mp4", "00_other-one.mp4"]
    assert same["verdict"]["word"] == "same"
    assert {v for k, v in same["figures"].items() if k.endswith("_ratio")} == {1.0}
    assert same["figures"]["change"] == 0
    assert other["figures"]["lap_ratio"] > 2
    assert "00_base.mp4" not in (tmp_path / "run/report.html").read_text().split("application/json")[0]


@pytest.mark.parametrize("when", ["_read", "_check_copy"])
@pytest.mark.parametrize("kind", ["mp4", "gif"])
def test_a_video_that_changes_meanwhile_is_told_of_and_not_judged(shelllcc, tmp_path, monkeypatch, when, kind):
    """Somebody's encoder writes it anew, after its frames were read, or just before it is copied."""
    from shelllcc.guidance.workbench import compare

    dice = np.random.default_rng(0)
    frames = dice.integers(0, 255, (2, 4, 32, 32, 3)).astype(np.uint8)
    for name, clip in zip("ab", frames, strict=True):
        if kind == "gif":
            first, *others = map(Image.fromarray, clip)
            first.save(tmp_path / f"{name}.gif", save_all=True, append_images=others)
        else:
            write_video(tmp_path / f"{name}.mp4", clip, fps=8)
    changed, own = tmp_path / f"b.{kind}", getattr(compare, when)

    def then(path, *more):
        found = own(path, *more)
        if path.name == changed.name:
            changed.write_bytes((tmp_path / f"a.{kind}").read_bytes())
        return found

    monkeypatch.setattr(compare, when, then)
    code, _, err = shelllcc("compare", tmp_path / f"a.{kind}", changed, "-o", "run")
    if kind == "gif" and when == "_check_copy":  # its frames are in memory by then: what is shown is what was read
        assert code == 0, err
        return
    assert code == 1
    assert f"b.{kind} changed while it was compared" in err.splitlines()[-1]
    assert not (tmp_path / "run/report.html").exists()
    monkeypatch.setattr(compare, when, own)
    code, _, err = shelllcc("compare", tmp_path / f"a.{kind}", changed, "-o", "run", "--overwrite")
    assert code == 0, err


def test_videos_of_other_lengths_are_measured_over_what_they_share(shelllcc, tmp_path):
    clip(tmp_path / "long.mp4", 90, frames=9)
    clip(tmp_path / "short.mp4", 90, frames=6)
    code, out, err = shelllcc("compare", "long.mp4", "short.mp4", "-o", "run", "--json")
    assert code == 0, err
    assert "first 6 frames" in err
    assert json.loads(out)["items"][0]["clips"][1]["figures"]["change"] < 0.01


def test_videos_of_other_sizes_are_refused(shelllcc, tmp_path):
    clip(tmp_path / "a.mp4", 90)
    clip(tmp_path / "b.mp4", 90, side=96)
    code, _, err = shelllcc("compare", "a.mp4", "b.mp4", "-o", "run")
    assert code == 2
    assert "a.mp4 64x64, b.mp4 96x96" in err
    assert not (tmp_path / "run").exists()


def data_of(page):
    """What a page of the house shows."""
    return json.loads(re.search(r'id="run">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)[1])


def test_a_prompt_is_tuned_once_and_generate_takes_its_strength(shelllcc, tmp_path, sampled):
    words = ["tune", *CAT, *SMALL, "-o", "run", "--json"]
    code, out, err = shelllcc(*words)
    assert code == 0, err
    [profile] = json.loads(out)["profiles"]
    assert profile["sampled"] == len(sampled) <= 5
    tried = {probe["strength"]: abs(probe["balance"]) for probe in profile["probes"]}
    assert {0.0, 1.0} <= set(tried)
    assert abs(profile["balance"]) <= min(tried.values()) + 1  # an alarm may rule the nearest out
    assert (tmp_path / "run/report.html").exists()
    search = tmp_path / json.loads(out)["search"]
    (searched,) = data_of(search)["searches"]
    assert [probe["strength"] for probe in searched["probes"]] == [1.0, 0.0, *sampled[2:]]
    assert [probe["why"][:9] for probe in searched["probes"][:2]] == ["the first", "no guidan"]
    assert searched["strength"] == profile["strength"]
    clips = data_of(tmp_path / "run/report.html")["items"][0]["clips"]
    assert {probe["clip"].split("/")[2] for probe in searched["probes"]} == {clip["label"] for clip in clips}
    before = len(sampled)
    search.unlink()
    again = json.loads(shelllcc(*words)[1])["profiles"][0]
    assert [probe["strength"] for probe in data_of(search)["searches"][0]["probes"]] == [1.0, 0.0, *sampled[2:]]
    assert (len(sampled), again["sampled"], again["strength"]) == (before, 0, profile["strength"])
    code, out, err = shelllcc("generate", *CAT, *SMALL, "--strength", "auto", "--seed", "5", "-o", "a.mp4", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"][0]["request"]["strength"] == profile["strength"]
    assert "as tuned for this prompt" in err
    other = [*CAT, *SMALL, "--strength", "auto", "--tiling", "--dry-run", "--json"]
    assert "no profile for this prompt" in shelllcc("generate", *other)[2]


def test_tuning_goes_on_where_it_was(shelllcc, tmp_path, sampled):
    words = ["tune", *CAT, *SMALL, "--budget", "3", "-o", "run", "--json"]
    first = json.loads(shelllcc(*words)[1])["profiles"][0]
    made = len(sampled)
    second = json.loads(shelllcc(*words, "--again")[1])["profiles"][0]
    assert len(sampled) == made
    assert (second["sampled"], second["strength"], second["known"]) == (0, first["strength"], False)


def test_a_tuned_prompt_stays_on_the_page_of_a_run_that_goes_on(shelllcc, tmp_path):
    words = ["tune", *CAT, "--prompt", "grass", *SMALL, "--budget", "3", "-o", "run"]
    code, out, _ = shelllcc(*words)
    assert code == 0
    assert out.splitlines()[-2:] == ["report    run/report.html", "search    run/tune.html"]
    first, second = data_of(tmp_path / "run/tune.html")["searches"]
    assert first["probes"][0]["clip"].endswith("#1/strength-1/side")
    assert second["probes"][0]["clip"].endswith("#2/strength-1/side")
    manifest, results = ((tmp_path / "run" / name).read_bytes() for name in ("manifest.json", "results.jsonl"))
    assert shelllcc("profiles", "forget", "grass")[0] == 0
    assert shelllcc(*words)[0] == 0
    assert (tmp_path / "run/manifest.json").read_bytes() == manifest
    assert (tmp_path / "run/results.jsonl").read_bytes() == results


def test_pictures_follow_the_clips_of_a_smaller_search(shelllcc, tmp_path):
    large = ["--size", "64x64", "--radius", "0.5"]  # which the search has to go far with
    words = ["tune", *CAT, *SMALL, *large, "--again", "-o", "run"]
    assert shelllcc(*words)[0] == 0
    before = (tmp_path / "run/00_montage.png").read_bytes()
    assert shelllcc(*words, "--budget", "2")[0] == 0
    assert (tmp_path / "run/00_montage.png").read_bytes() != before


def test_several_seeds_share_the_budget(shelllcc, sampled):
    code, out, err = shelllcc("tune", *CAT, *SMALL, "--seeds", "1,2", "--budget", "5", "--again", "--json")
    assert code == 0, err
    [profile] = json.loads(out)["profiles"]
    assert profile["sampled"] == len(sampled) == 4
    assert profile["seeds"] == [1, 2]


def test_without_a_profile_auto_is_the_default_and_says_so(shelllcc):
    code, out, err = shelllcc(
        "generate", "--prompt", "gravel, roll, fog", *SMALL, "--strength", "auto", "--dry-run", "--json"
    )
    assert code == 0
    assert json.loads(out)["clips"][0]["request"]["strength"] == 1.0
    assert "no profile for this prompt" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tune"], "give --prompt"),
        (["tune", *CAT, "--budget", "1"], "too small"),
        (["tune", *CAT, "--seeds", "0,1", "--budget", "3"], "too small"),
        (["tune", *CAT, *SMALL, "--steps", "3", "--window", "0:0.5", "--again"], "the guide never acts"),
        (["profiles", "show", "nothing"], "no profile nothing"),
        (["profiles", "show", ""], "no profile"),
        (["profiles", "forget"], "--all"),
        (["profiles", "import", "nothing.json"], "cannot read profiles"),
    ],
)
def test_bad_words_about_tuning_are_one_error(shelllcc, words, says):
    code, out, err = shelllcc(*words)
    assert code == 2
    assert out == ""
    assert says in err.splitlines()[-1]


def test_profiles_are_listed_shown_exported_taken_over_and_forgotten(shelllcc, tmp_path, monkeypatch):
    monkeypatch.setenv("SHELLLCC_PROFILES", str(tmp_path / "mine"))
    assert shelllcc("tune", *CAT, *SMALL, "--budget", "2", "-o", "run")[0] == 0
    [profile] = json.loads(shelllcc("profiles", "list", "--json")[1])["profiles"]
    assert profile["settings"]["prompt"] in shelllcc("profiles", "list")[1]
    assert json.loads(shelllcc("profiles", "show", profile["name"][:5])[1]) == profile
    assert shelllcc("profiles", "export", "all.json")[0] == 0
    assert shelllcc("profiles", "export", "all.json")[0] == 0  # it holds these and no others
    (tmp_path / "workflow.json").write_text('{"nodes": []}')
    code, _, err = shelllcc("profiles", "export", "workflow.json")
    assert (code, (tmp_path / "workflow.json").read_text()) == (2, '{"nodes": []}')
    assert "holds no profiles; give another name, or --overwrite it" in err
    assert shelllcc("profiles", "forget", CAT[1])[1] == "1 profile forgotten\n"
    code, _, err = shelllcc("profiles", "export", "all.json")
    assert code == 2
    assert "holds other profiles" in err
    (tmp_path / "mine" / "notes.json").write_text('{"mine": true}')
    assert json.loads(shelllcc("profiles", "list", "--json")[1])["profiles"] == []
    assert shelllcc("profiles", "import", "all.json")[0] == 0
    assert json.loads(shelllcc("profiles", "list", "--json")[1])["profiles"] == [profile]
    (tmp_path / "mine" / f"{profile['name']}.json").write_text("{}")
    code, _, err = shelllcc("generate", *CAT, *SMALL, "--strength", "auto", "--dry-run")
    assert (code, err.count("\n")) == (2, 1)
    assert "no proper profile" in err
    assert "no proper profile" in shelllcc("profiles", "list")[2]
    assert shelllcc("profiles", "forget", "--all")[1] == "1 profile forgotten\n"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.json"]


@pytest.mark.faults
def test_an_interrupt_leaves_finished_clips_and_a_run_that_goes_on(tmp_path, shelllcc, forked):
    words = ["compare", *CAT, *SMALL, "--steps", "40", "--strengths", "0,1,2", "-o", "run"]
    shell, deadline = forked(tmp_path), time.monotonic() + 120
    pid, out = shell.start(words, before=lambda: os.nice(10))  # this process sees in time how far it is
    while not (tmp_path / "run/00_unguided.json").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(pid, signal.SIGINT)
    done = shell.end(pid, out)
    assert done.code == 130
    assert done.err.splitlines()[-1] == "shelllcc: interrupted"
    assert not [path for path in (tmp_path / "run").iterdir() if path.name.startswith(".part-")]
    kept = (tmp_path / "run/00_unguided.mp4").stat().st_mtime_ns
    code, _, err = shelllcc(*words)
    assert code == 0, err
    assert (tmp_path / "run/00_unguided.mp4").stat().st_mtime_ns == kept
    assert len((tmp_path / "run/results.jsonl").read_text().splitlines()) == 3


LOUD = ["--size", "64x64", "--frames", "5", "--steps", "12"]


@pytest.mark.parametrize("knobs", [[], ["--radius", "50"], ["--radius", "0.1"]], ids=["gentle", "loud", "soft"])
def test_a_clip_has_one_alarm_in_every_command(knobs, shelllcc, tmp_path):
    strength = "10" if knobs else "0.2"
    words = [*CAT, *LOUD, *knobs]
    code, out, err = shelllcc("compare", *words, "--strengths", f"0,{strength}", "-o", "run", "--json")
    assert code == 0, err
    said = json.loads(out)["items"][0]["clips"][1]["verdict"]
    own = json.loads((tmp_path / f"run/00_strength-{strength}.json").read_text())["alarm"]
    assert own == {"": None, "50": "noise", "0.1": "mean regression"}["".join(knobs[1:])]
    if own:
        assert said["word"].replace("-", " ") == f"{own} alarm"
    code, out, err = shelllcc("generate", *words, "--strength", strength, "--compare", "-o", "both.mp4")
    assert code == 0, err
    both = json.loads((tmp_path / "both.json").read_text())
    assert (both["verdict"], both["alarm"]) == (said, own)
    assert f"verdict   {said['word']}, {said['why']}" in out
    assert err.count(f"note: {said['word']}: {said['why']}") == said["word"].endswith("alarm")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ["--strengths", "0,1,2", "--window", "0.3:0.31"],
            ["strength 1: the guide never acted", "strength 2: the guide"],
        ),
        (["--variants", "strength=0; other: strength=0,radius=2"], ["no clip is guided: every variant has strength 0"]),
        (
            ["--variants", "strength=0; still: toward=0,coarse=1,radius=1,tone=0,calm=0"],
            ["still: the guide left this clip alone"],
        ),
        (["--strengths", "0,1"], []),
    ],
)
def test_a_comparison_says_once_where_the_guide_did_nothing(words, says, shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tabby cat\ngrass\n")
    small = ["--size", "32x32", "--frames", "5", "--steps", "3"]
    small += [] if "--window" in words else ["--window", "0:0.9"]
    code, _, err = shelllcc("compare", "--prompts-file", "prompts.txt", *small, *words, "-o", "run")
    assert code == 0, err
    notes = [line for line in err.splitlines() if "guide" in line.partition("note: ")[2] and "nearest fit" not in line]
    assert len(notes) == len(says), notes
    assert all(sum(say in note for note in notes) == 1 for say in says)
