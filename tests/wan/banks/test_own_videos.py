"""Videos of our own that are no clips: side by side, and unguided ones made to be compared with."""

import json
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from shelllcc.anchors.sources import expand
from shelllcc.guidance.media.video import write_video
from shelllcc.guidance.wan.banks.own_videos import kind_of, leave_out_ours

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "4"]
PAIR = {"frames_sha256": {"guided": "1", "unguided": "2"}, "note": "x" * 5000}
FRAMES = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3)).astype(np.uint8)


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Clips and pictures of clips, some with a tag, some with a sidecar alone."""
    monkeypatch.chdir(tmp_path)
    tags = {
        "a.mp4": {"shows": "guided"} | PAIR,
        "a.unguided.mp4": {"shows": "unguided"} | PAIR,
        "a.compare.mp4": {"shows": "compare"} | PAIR,
        "renamed.mp4": {"shows": "compare"} | PAIR,
        "plain.mp4": {"shows": "unguided", "frames_sha256": {"unguided": "2"}},
        "foreign.compare.mp4": None,
        "bare.mp4": None,
        "bare.unguided.mp4": None,
        "bare.compare.mp4": None,
        "run/00_base.mp4": None,
        "run/00_compare.mp4": None,
        "else/00_compare.mp4": None,
    }
    for name, tag in tags.items():
        write_video(tmp_path / name, FRAMES, fps=8, record=tag)
    (tmp_path / "run/run.json").write_text("{}")
    videos = {"guided": "x/bare.mp4", "unguided": "x/bare.unguided.mp4", "compare": "x/bare.compare.mp4"}
    (tmp_path / "bare.json").write_text(json.dumps({"request": {}, "videos": videos}))
    (tmp_path / "foreign.json").write_text(json.dumps({"videos": "of another program"}))
    return tmp_path


CLIPS = ["a.mp4", "bare.mp4", "else/00_compare.mp4", "foreign.compare.mp4", "plain.mp4", "run/00_base.mp4"]


@pytest.mark.parametrize("sources", [["."], ["**/*.mp4"], ["*.mp4", "run", "e*"]])
def test_folders_and_patterns_give_clips_alone(sources, tree):
    found, notes = leave_out_ours(expand(sources))
    assert [path.as_posix() for path in found.videos] == CLIPS
    said = "left out videos of our own: 4 side by side, 2 unguided for comparison; name a file itself to take it"
    assert notes == [said]


def test_named_files_are_taken_a_side_by_side_one_with_a_remark(tree):
    (tree / "list.txt").write_text("bare.unguided.mp4\nrun\n")
    found, notes = leave_out_ours(expand(["*.mp4", "./a.unguided.mp4", "renamed.mp4", "list.txt"]))
    names = {path.as_posix() for path in found.videos}
    assert {"a.unguided.mp4", "bare.unguided.mp4", "renamed.mp4", "run/00_base.mp4"} <= names
    assert not {"a.compare.mp4", "run/00_compare.mp4"} & names
    assert notes == [
        "left out videos of our own: 3 side by side; name a file itself to take it",
        "taken because they are named, though they show several clips side by side: renamed.mp4",
    ]


def test_a_tag_is_found_wherever_the_index_lies_and_a_torn_file_is_a_clip(tree):
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", "-i", "a.compare.mp4", "-c", "copy"]
    subprocess.run([*ffmpeg, "-movflags", "use_metadata_tags", "late.mp4"], check=True)
    content = Path("late.mp4").read_bytes()
    assert content.index(b"mdat") < content.index(b"moov")
    assert kind_of(Path("late.mp4")) == "side by side"
    for size in (0, 5, 40, 1000):
        Path("torn.mp4").write_bytes(Path("renamed.mp4").read_bytes()[:size])
        assert kind_of(Path("torn.mp4")) == "clip"
    assert kind_of(Path("missing.mp4")) == "clip"


def test_score_and_a_bank_leave_out_what_generate_and_compare_made_to_be_looked_at(shelllcc, tmp_path):
    grass = ["--prompt", "grass", *SMALL]
    assert shelllcc("generate", *grass, "--compare", "-o", "out/clip.mp4")[0] == 0
    assert shelllcc("compare", *grass, "--strengths", "0,2", "-o", "out/run")[0] == 0
    code, out, err = shelllcc("score", "out", "--json")
    assert code == 0, err
    clips = ["out/clip.mp4", "out/run/00_strength-2.mp4", "out/run/00_unguided.mp4"]
    assert [row["file"] for row in json.loads(out)["scores"]] == clips
    note = "left out videos of our own: 2 side by side, 1 unguided for comparison; name a file itself to take it"
    assert err.count(note) == 1
    (tmp_path / "out/clip.json").unlink()  # the tag alone tells
    shutil.move(tmp_path / "out/clip.compare.mp4", tmp_path / "out/moved.mp4")
    words = ["--components", "12", "--anchors", "2", "--workers", "1", "--size", "32x32", "--frames", "5"]
    code, _, err = shelllcc("anchors", "build", "out/*.mp4", "out/run", "-o", "b.safetensors", *words)
    assert code == 0, err
    assert err.count(note) == 1
    assert len(list((tmp_path / "b.latents").glob("[!.]*"))) == 3
