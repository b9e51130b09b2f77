"""What sources name: suffixes, folders, globs, lists, links, one order, captions, refusals."""

import os
import random
from pathlib import Path

import pytest

from shelllcc.anchors.sources import LATENTS, VIDEO, Sources, caption_of, expand
from shelllcc.guidance.errors import UsageError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Folders of files, and the working folder; names say whether they count."""
    for name in (
        "a.mp4", "a.txt", "B.MOV", "notes.md", "x.safetensors", "deep/er/c.webm", "deep/d.pt", "deep/d.txt",
        ".hidden.mp4", ".git/e.mp4", "deep/.part-abc.mp4", "deep/f[1].mkv", "deep/f1.mkv",
    ):  # fmt: skip
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path / "tree")
    return tmp_path / "tree"


def names(sources):
    assert isinstance(sources, Sources)
    return [p.as_posix() for p in (*sources.videos, *sources.latents)]


VIDEOS = ["B.MOV", "a.mp4", "deep/er/c.webm", "deep/f1.mkv", "deep/f[1].mkv"]
TENSORS = ["deep/d.pt", "x.safetensors"]


def test_a_folder_is_searched_to_the_bottom_without_what_is_hidden(tree):
    assert names(expand(["."])) == VIDEOS + TENSORS
    assert names(expand([tree])) == [f"{tree}/{name}" for name in VIDEOS + TENSORS]


def test_a_hidden_folder_may_be_named(tree):
    assert names(expand([".git"])) == [".git/e.mp4"]


@pytest.mark.parametrize("suffix", [s for known in VIDEO + LATENTS for s in (known, known.upper())])
def test_a_file_counts_by_its_suffix(suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    path.touch()
    sources = expand([path])
    assert sources == Sources((path,), ()) if suffix.lower() in VIDEO else sources == Sources((), (path,))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", [*VIDEOS, *TENSORS]),
        ("*.mp4", ["a.mp4"]),
        ("?.M[AO]V", ["B.MOV"]),
        ("deep/*", VIDEOS[2:] + TENSORS[:1]),
        ("deep/f[1].mkv", ["deep/f[1].mkv"]),  # a file of that very name
        ("deep/f[12].mkv", ["deep/f1.mkv"]),
        ("**/*.mkv", ["deep/f1.mkv", "deep/f[1].mkv"]),
        ("**", [*VIDEOS, *TENSORS]),
        ("deep/**/*.webm", ["deep/er/c.webm"]),
        ("**/er/**/c.*", ["deep/er/c.webm"]),
        ("d*/e*", ["deep/er/c.webm"]),
    ],
)
def test_globs(pattern, expected, tree):
    assert names(expand([pattern])) == expected
    assert names(expand([tree / pattern])) == [f"{tree}/{name}" for name in expected]


def test_the_order_of_the_arguments_does_not_matter_and_a_file_counts_once(tree):
    (tree / "link.mp4").symlink_to("a.mp4")
    (tree / "list.txt").write_text("a.mp4\ndeep\n")
    words = ["a.mp4", "./a.mp4", str(tree / "a.mp4"), "link.mp4", "deep", "**/*.mkv", "list.txt", "x.safetensors"]
    first = expand(words)
    assert len(first.videos) == len({p.resolve() for p in first.videos}) == 4
    assert list(first.videos) == sorted(first.videos, key=str)
    for seed in range(6):
        random.Random(seed).shuffle(words)
        assert expand(words) == first


def test_a_list_names_sources_relative_to_itself(tree, tmp_path):
    (tmp_path / "lists").mkdir()
    text = f"﻿# a comment\r\n\r\n  ../tree/a.mp4  \r\n../tree/deep/*.mkv\n{tree}/x.safetensors\n\n../tree/deep/er\n"
    (tmp_path / "lists/all.lst").write_text(text)
    (tmp_path / "lists/outer.TXT").write_text("all.lst\n#all.txt")
    expected = {"a.mp4", "c.webm", "f1.mkv", "f[1].mkv", "x.safetensors"}
    for path in (tmp_path / "lists/all.lst", "../lists/all.lst", "../lists/outer.TXT", "../lists/*.TXT"):
        assert {Path(name).name for name in names(expand([path]))} == expected


def test_lists_nest_eight_deep_and_not_in_a_ring(tree):
    (tree / "l8.txt").write_text("a.mp4")
    for number in range(7, 0, -1):
        (tree / f"l{number}.txt").write_text(f"l{number + 1}.txt")
    assert names(expand(["l1.txt"])) == ["a.mp4"]
    (tree / "l8.txt").write_text("l9.txt")
    (tree / "l9.txt").write_text("a.mp4")
    for last in ("l9.txt", "l1.txt", "l8.txt"):
        (tree / "l8.txt").write_text(last)
        refused(["l1.txt"], "hold each other, or nest too deeply")


def test_links_are_followed_and_rings_of_them_end(tree, tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else/far.mp4").touch()
    (tree / "deep/far").symlink_to(tmp_path / "else")
    for number in range(6):  # 6 ways back at each of 40 levels would never end
        (tree / f"deep/er/up{number}").symlink_to(tree)
        (tree / f"deep/here{number}").symlink_to(".")
        (tmp_path / f"else/back{number}").symlink_to(tree / "deep")
    (tree / "dangling.mp4").symlink_to("nowhere.mp4")
    (tree / "self.mp4").symlink_to("self.mp4")
    expected = {p.resolve() for p in map(Path, [*VIDEOS, *TENSORS, tmp_path / "else/far.mp4"])}
    for source in (".", "**", "**/*", "*"):
        found = expand([source])
        assert {p.resolve() for p in (*found.videos, *found.latents)} == expected


def test_the_home_folder_is_known(tree, monkeypatch):
    monkeypatch.setenv("HOME", str(tree))
    for source in ("~/a.mp4", "~/*.mp4", Path("~/a.mp4")):
        assert names(expand([source])) == [f"{tree}/a.mp4"]
    (tree / "deep/list.txt").write_text("~/a.mp4")
    assert names(expand(["deep/list.txt"])) == [f"{tree}/a.mp4"]


def refused(sources, said):
    with pytest.raises(UsageError) as refusal:
        expand(sources)
    assert said in str(refusal.value)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([], "nothing found in no sources"),
        ([""], "there is no source ''"),
        (["a.mp4", " "], "there is no source ' '"),
        (["none.mp4"], "there is no source 'none.mp4'"),
        (["a.mp4", "none\n.mp4"], r"there is no source 'none\n.mp4'"),
        (["*.avi"], "nothing found in *.avi"),
        (["a.mp4", "**/*.avi"], "nothing found in **/*.avi"),
        (["bare"], "nothing found in bare"),
        (["notes.md"], "notes.md is no source"),
        (["pipe.mp4"], "pipe.mp4 is no source"),
        (["bare.txt"], "nothing found in bare.txt"),
    ],
)
def test_what_names_nothing_is_told_what_is_accepted(sources, said, tree):
    (tree / "bare").mkdir()
    (tree / "bare/caption.txt").write_text("a.mp4")
    (tree / "bare.txt").write_text("# nothing\n\n")
    os.mkfifo(tree / "pipe.mp4")
    message = refused(sources, said)
    for word in (".mp4", ".safetensors", ".lst", "folders", "globs"):
        assert word in message


def test_a_mistake_in_a_list_is_told_with_its_line(tree):
    (tree / "inner.txt").write_text("a.mp4\n\nnone.mp4\n")
    (tree / "outer.txt").write_text("# first\ninner.txt\n")
    assert refused(["outer.txt"], "there is no source 'none.mp4'").startswith("outer.txt, line 2: inner.txt, line 3: ")
    (tree / "inner.txt").write_bytes(b"\xff\xfe\x00")
    refused(["outer.txt"], "it is no UTF-8 text")


def test_what_may_not_be_read_is_refused(tree):
    (tree / "list.txt").write_text("a.mp4")
    (tree / "list.txt").chmod(0)
    (tree / "deep/er").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        refused(["list.txt"], "Permission denied")
        refused(["deep"], "Permission denied")
        refused(["deep/er/c.webm"], "Permission denied")
    finally:
        os.seteuid(user)
        (tree / "deep/er").chmod(0o755)
    refused(["~nobody-of-that-name/a.mp4"], "cannot read ~nobody-of-that-name")
    refused(["x" * 5000 + ".mp4"], "File name too long")


def test_the_caption_lies_beside_the_video(tree):
    (tree / "a.txt").write_text("  a cat,\nat night \n", encoding="utf-8")
    (tree / "deep/f[1].txt").write_text("猫")
    (tree / "clip.v2.txt").write_text("second")
    assert caption_of(Path("a.mp4")) == "a cat,\nat night"
    assert caption_of(tree / "deep/f[1].mkv") == "猫"
    assert caption_of(Path("clip.v2.mp4")) == "second"
    assert caption_of(Path("deep/f1.mkv")) == ""
    assert caption_of(Path("deep/d.mp4")) == ""
    (tree / "a.txt").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"a\.txt: it is no UTF-8 text"):
        caption_of(tree / "a.mp4")
