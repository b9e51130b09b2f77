"""GIF, WebP and folders of frames as clips: the frames that they hold, in their order, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from shelllcc.guidance.errors import VideoError
from shelllcc.guidance.media.footage import Framing, read_clips, read_video
from shelllcc.guidance.media.stills import as_video, content_sha256, frames_of, is_stills


@pytest.fixture(scope="module")
def frames():
    """Twelve frames (t, H, W, 3) of four colours, which a GIF keeps."""
    blocks = np.random.default_rng(0).integers(0, 4, (12, 6, 8))
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 128, 255], [255, 255, 255]], np.uint8)
    return colours[blocks].repeat(8, 1).repeat(8, 2)


def save(frames, path, *, first=0):
    pictures = [Image.fromarray(frame) for frame in frames]
    if path.suffix in (".gif", ".webp"):
        how = {"lossless": True} if path.suffix == ".webp" else {}
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=100, loop=0, **how)
        return
    path.mkdir()
    for number, picture in enumerate(pictures, first):
        picture.save(path / f"ComfyUI_{number}_.png")


@pytest.mark.parametrize(("name", "rate"), [("a.gif", 10), ("a.webp", 10), ("frames", 16)])
def test_frames_come_back_as_they_are(name, rate, frames, tmp_path):
    path = tmp_path / name
    save(frames, path)
    assert is_stills(path)
    with as_video(path) as file:
        footage = read_video(file)
        [clip] = read_clips(file, Framing(size="64x48", fps=None, frames=9))
    np.testing.assert_array_equal(footage.frames, frames)
    assert footage.rate == pytest.approx(rate, rel=1e-3)
    assert not footage.damaged
    np.testing.assert_array_equal(clip, frames[:9])
    assert not file.exists()


def test_a_folder_is_ordered_by_its_numbers_and_known_by_its_frames(frames, tmp_path):
    save(frames, tmp_path / "a", first=95)  # 95 to 106: by letters 100 comes before 95
    assert [int(path.stem.split("_")[1]) for path in frames_of(tmp_path / "a")] == list(range(95, 107))
    save(frames, tmp_path / "b", first=1)
    assert content_sha256(tmp_path / "a") == content_sha256(tmp_path / "b")
    save(frames[::-1], tmp_path / "c")
    assert content_sha256(tmp_path / "a") != content_sha256(tmp_path / "c")
    (tmp_path / "a/clip.mp4").write_bytes(b"")
    assert not is_stills(tmp_path / "a")


def test_what_is_no_clip_is_refused_by_name(frames, tmp_path):
    Image.fromarray(frames[0]).save(tmp_path / "one.gif")
    (tmp_path / "torn.webp").write_bytes(b"RIFF....WEBP")
    save(frames, tmp_path / "mixed")
    Image.fromarray(frames[0, :24]).save(tmp_path / "mixed/ComfyUI_99_.png")
    for name, told in (("one.gif", "one frame"), ("torn.webp", "cannot read"), ("mixed", "64x48 and 64x24")):
        with pytest.raises(VideoError, match=told), as_video(tmp_path / name):
            pass


def test_compare_and_score_take_them(frames, shelllcc, tmp_path):
    for name in ("a.gif", "b.webp", "c"):
        save(frames, tmp_path / name)
    code, out, err = shelllcc("compare", "a.gif", "b.webp", "c", "-o", "run", "--json")
    assert code == 0, err
    [item] = json.loads(out)["items"]
    assert [clip["figures"]["change"] for clip in item["clips"]] == [0.0] * 3
    assert shelllcc("compare", "a.gif", "c", "-o", "run2", "--dry-run")[0] == 0
    how = ["--bank", "tiny-wan", "--size", "64x64", "--frames", "9", "--json"]
    code, out, err = shelllcc("score", "a.gif", "b.webp", "c", *how)
    assert code == 0, err
    means = [row["mean"] for row in json.loads(out)["scores"]]
    assert len(means) == 3
    assert max(means[:2]) == pytest.approx(min(means[:2]), rel=1e-5)
