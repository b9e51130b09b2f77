"""The photographs that ship: free, whole, known by their words; and sharp clips of them."""

import dataclasses

import numpy as np
import pytest

from shelllcc.guidance.errors import VideoError
from shelllcc.guidance.media import photographs
from shelllcc.guidance.media.photographs import MOVES, PHOTOGRAPHS, STILLS, film, load, takes
from shelllcc.guidance.wan.tiny.vocabulary import SUBJECTS, caption, understand


def test_they_are_free_varied_small_and_all_in_the_table():
    assert len(PHOTOGRAPHS) >= 16
    assert {p.licence for p in PHOTOGRAPHS} == {"public domain", "CC0"}
    assert all(p.author and p.source and p.caption for p in PHOTOGRAPHS)
    assert sorted(path.name for path in STILLS.iterdir()) == sorted(f"{p.name}.webp" for p in PHOTOGRAPHS)
    assert sum(path.stat().st_size for path in STILLS.iterdir()) < 3_000_000


@pytest.mark.parametrize("photograph", PHOTOGRAPHS, ids=lambda p: p.name)
def test_each_is_the_file_that_the_table_names(photograph):
    pixels = load(photograph)
    assert pixels.shape == (3, *photograph.size[::-1])
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert pixels.std() > 0.05


def test_a_missing_or_another_file_is_refused_in_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "STILLS", tmp_path)
    with pytest.raises(VideoError, match="No such file or directory; install shelllcc anew"):
        load(PHOTOGRAPHS[0])
    (tmp_path / f"{PHOTOGRAPHS[0].name}.webp").write_bytes(b"another picture")
    with pytest.raises(VideoError, match="is not the photograph that shipped"):
        load(PHOTOGRAPHS[0])


def test_the_tiny_model_knows_five_of_them_by_its_own_words():
    known = [take for take in takes(192, moves=8) if take.photograph.name in SUBJECTS]
    assert len({take.photograph.name for take in known}) >= 5
    for take in known:
        assert take.caption == caption(take.photograph.name, take.path.move, "daylight")
        assert understand(take.caption).subject == take.photograph.name
    assert {take.path.move for take in takes(192)} == set(MOVES)


def test_clips_follow_from_their_photographs_names_and_are_sharp():
    some, more = takes(192), takes(192, moves=3)
    assert [take for take in more if take.number == 0] == some
    covered = [2 * take.path.half[0] * min(take.photograph.size) / 192 for take in some]
    assert np.median(covered) >= 2
    assert max(covered) <= 3 * 1.55  # of those that end zoomed in by that
    assert min(covered) > 1


def test_frames_hold_the_detail_that_a_reduced_photograph_holds_and_move():
    take = next(take for take in takes(64) if take.photograph.name == "gravel")
    frames = film(take, 64, frames=5)
    assert (frames.shape, frames.dtype) == ((5, 64, 64, 3), np.uint8)
    assert np.array_equal(frames, film(take, 64, frames=5))
    assert np.abs(frames[0].astype(int) - frames[4]).mean() > 5
    sharp, soft = (np.diff(f[0].astype(float), axis=1).std() for f in (frames, film(_near(take), 64, frames=1)))
    assert sharp > 1.5 * soft


def _near(take):
    """The take from so near that a photograph's pixel covers several of the frame's."""
    path = take.path
    return dataclasses.replace(take, path=dataclasses.replace(path, half=(0.02, 0.02)))
