"""Side by side and stills: the panels hold the clips' own pixels, at the same places, whatever the clips and labels."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from PIL import Image

from shelllcc.guidance.errors import OutputError, UsageError
from shelllcc.guidance.media.pictures import GAP, OUTLINE, OVERVIEW, labelled, montage, write_png

HOSTILE = (
    "😀👩‍👧",
    "</svg>",
    "\"quoted\" & 'so'",
    "two\nlines",
    "x" * 10_000,
    "\x00\x1b\ud800",
    "日本é",
    "",
    " ",
    "\u0301" * 99,
)


def noise(t, height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (t, height, width, 3), dtype=np.uint8)


def coordinates(height, width, blue):
    """A still whose pixels say where they are: red is x, green is y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, np.full_like(x, blue)], axis=-1).astype(np.uint8)


def textured(height=192, width=192):
    """Flat grey but for noise at the right, and black at the left, where no noise could show."""
    frame = np.full((height, width, 3), 128, np.uint8)
    frame[:, width // 2 :] += noise(1, height, width - width // 2)[0] // 8
    frame[:, 3 * width // 4 :] = noise(1, height, width - 3 * width // 4)[0]
    frame[:, : width // 4] = 0
    return frame[None]


def holds(picture, panel):
    """Where a panel lies in a picture, pixel by pixel; None where it does not."""
    height, width = panel.shape[:2]
    for y, x in np.argwhere((picture == panel[0, 0]).all(-1)):
        if np.array_equal(picture[y : y + height, x : x + width], panel):
            return int(y), int(x)
    return None


def panels(row):
    """The parts of a still's row that show a clip of coordinates: the whole frame, then the enlarged places."""
    shown = np.isin(row[..., 2], range(70, 80))
    edges = np.flatnonzero(np.diff(shown.any(0), prepend=False, append=False))
    for left, right in edges.reshape(-1, 2):
        rows = np.flatnonzero(shown[:, left:right].any(1))
        yield row[rows[0] : rows[-1] + 1, left:right]


def places(picture, rows=2, zoom=4):
    """(x, y, side) of the places in the last row of a still, which must be coordinates, enlarged exactly."""
    _, *enlarged = panels(np.split(picture, rows)[-1])
    found = []
    for panel in enlarged:
        x, y, blue = map(int, panel[0, 0])
        side = len(panel) // zoom
        wanted = coordinates(256, 256, blue)[y : y + side, x : x + side]
        assert np.array_equal(panel, wanted.repeat(zoom, 0).repeat(zoom, 1))
        found.append((x, y, side))
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("size", [(48, 64), (64, 48), (45, 63), (1, 1), (16, 300)])
def test_every_frame_shows_every_clips_pixels(count, size):
    clips = {f"clip {i}": noise(2, *size, seed=i) for i in range(count)}
    frames = list(labelled(clips))
    assert len(frames) == 2
    for t, frame in enumerate(frames):
        assert frame.dtype == np.uint8
        assert frame.shape[0] % 2 == frame.shape[1] % 2 == 0
        places = [holds(frame, clip[t]) for clip in clips.values()]
        assert None not in places
        assert size == (1, 1) or places == sorted(set(places))  # in reading order
        assert all(y % 2 == x % 2 == 0 for y, x in places)


def test_columns_are_obeyed_and_chosen_near_sixteen_to_nine():
    clips = {str(i): noise(1, 40, 40, seed=i) for i in range(4)}
    heights = {n: next(labelled(clips, columns=n)).shape for n in (1, 2, 4, 99)}
    assert heights[1][1] == 40
    assert heights[2][1] == 80 + GAP
    assert heights[4] == heights[99]
    for count in range(1, 13):
        height, width, _ = next(labelled({str(i): noise(1, 90, 160, seed=i) for i in range(count)})).shape
        assert 0.7 < width / height < 4


def test_two_clips_stand_side_by_side():
    for size in [(192, 192), (480, 854), (720, 1280), (854, 480)]:
        clip = np.zeros((1, *size, 3), np.uint8)
        assert next(labelled({"a": clip, "b": clip})).shape[1] == 2 * size[1] + GAP


def test_a_short_clip_holds_its_last_frame():
    long, short, still = noise(5, 16, 16), noise(2, 16, 16, seed=1), noise(1, 16, 16, seed=2)
    frames = list(labelled({"long": long, "short": short, "still": still}))
    assert len(frames) == 5
    for t, frame in enumerate(frames):
        for clip in (long, short, still):
            assert holds(frame, clip[min(t, len(clip) - 1)])


def test_a_smaller_clip_is_enlarged_by_whole_pixels_and_centred():
    large, small = noise(1, 100, 160), noise(1, 30, 40, seed=1)
    frame = next(labelled({"large": large, "small": small}, columns=2))
    (y, x), at = holds(frame, small[0].repeat(3, 0).repeat(3, 1)), holds(frame, large[0])
    assert y - at[0] == 4  # (100 - 90) / 2, on an even pixel
    assert x - (at[1] + 160 + GAP) == 20


def test_frames_are_made_one_by_one_and_are_their_readers():
    class Endless(list):
        def __getitem__(self, t):
            assert t <= seen
            return np.full((8, 8, 3), t, np.uint8)

        def __len__(self):
            return 10**9

    seen = 0
    frames = labelled({"endless": Endless()})
    assert inspect.isgenerator(frames)
    first = next(frames)
    first[:] = 7
    seen = 1
    assert not (next(frames) == 7).all()


@pytest.mark.parametrize("make", [lambda clips: next(labelled(clips)), montage])
@pytest.mark.parametrize("size", [(1, 1), (24, 24), (192, 192)])
def test_any_label_can_be_drawn(make, size):
    shape = make({"plain": noise(1, *size)}).shape
    for label in HOSTILE:
        assert make({label: noise(1, *size)}).shape == shape
    make({label: noise(1, *size) for label in HOSTILE})


def test_a_label_is_seen_and_a_long_one_ends_in_an_ellipsis():
    clip = np.zeros((1, 192, 192, 3), np.uint8)
    strips = {label: next(labelled({label: clip}))[:-192] for label in ("", "a", "b", "W" * 15, "W" * 99, "W" * 10_000)}
    pictures = {strip.tobytes() for strip in strips.values()}
    assert len(pictures) == 5  # the two that are cut look alike
    assert np.array_equal(strips["W" * 99], strips["W" * 10_000])
    for label in ("a", "W" * 15):
        assert strips[label].max() > 200
        assert len(np.unique(strips[label])) > 8  # antialiased


def test_labels_grow_with_the_clip():
    small, large = (next(labelled({"a": np.zeros((1, s, s, 3), np.uint8)})).shape[0] - s for s in (192, 1280))
    assert 16 <= small <= 24
    assert 40 <= large <= 60


WHERE = coordinates(192, 192, 77)[None]


def test_the_places_are_the_same_in_every_row():
    clips = {"reference": textured(), "b": WHERE, "c": WHERE + np.uint8([0, 0, 1])}
    picture = montage(clips)
    found = places(picture, rows=3)
    assert [side for _, _, side in found] == [48] * 3  # as high as the frame when enlarged
    assert found == places(picture[: 2 * len(picture) // 3])
    for x, y, side in found:
        assert holds(picture, textured()[0, y : y + side, x : x + side].repeat(4, 0).repeat(4, 1))


def test_the_places_go_from_the_most_detail_to_the_least_but_not_to_black():
    picture = montage({"reference": textured(), "where": WHERE})
    (most, *_), (middle, *_), (least, *_) = places(picture)
    assert most == 144
    assert 48 < middle < 144
    assert 36 <= least <= 48
    assert np.array_equal(picture, montage({"reference": textured(), "where": WHERE}))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("reference", [noise(1, 192, 192), np.zeros((1, 192, 192, 3), np.uint8), textured()])
def test_places_do_not_overlap(count, reference):
    found = places(montage({"a": reference, "b": WHERE}, places=count))
    assert len(found) == count
    for i, (x, y, side) in enumerate(found):
        assert min(x, y) >= 0
        assert max(x, y) + side <= 192
        assert all(abs(x - u) >= side or abs(y - v) >= side for u, v, _ in found[:i])


def test_a_still_is_of_the_middle_or_of_the_frame_asked_for():
    clip, short = (np.stack([coordinates(64, 64, 70 + t) for t in range(n)]) for n in (5, 2))
    for knobs, t in [({}, 2), ({"frame": 0}, 0), ({"frame": 4}, 4)]:
        rows = np.split(montage({"clip": clip, "short": short}, **knobs), 2)
        for row, shown in zip(rows, (t, min(t, 1)), strict=True):
            assert all((panel[-1, -1, 2] == 70 + shown).all() for panel in list(panels(row))[1:])


def test_the_whole_frame_is_shown_with_its_places_outlined():
    picture = montage({"a": textured(), "b": WHERE})
    whole = next(panels(np.split(picture, 2)[1]))
    assert whole.shape == (192, 192, 3)
    drawn = (whole != WHERE[0]).any(-1)
    for x, y, side in places(picture):
        square = whole[y : y + side, x : x + side]
        for edge in (square[0], square[-1], square[:, 0], square[:, -1]):
            assert (edge == OUTLINE).all(-1).mean() > 0.8
        drawn[max(0, y - 1) : y + side + 1, max(0, x - 1) : x + side + 1] = False
    assert not drawn.any()  # all else is the frame's


@pytest.mark.parametrize(
    "size", [(480, 854), (720, 1280), (832, 480), (1000, 40), (40, 1000), (192, 192), (3, 2), (1, 1)]
)
@pytest.mark.parametrize("zoom", [1, 4, 8])
def test_the_size_of_a_still_is_bounded(size, zoom):
    clips = {"a": np.zeros((1, *size, 3), np.uint8), "b": np.zeros((2, *size, 3), np.uint8)}
    height, width, _ = montage(clips, zoom=zoom).shape
    assert width <= OVERVIEW[0] + 3 * (GAP + OVERVIEW[1])
    assert height <= 2 * (OVERVIEW[1] + GAP + 40)


def test_clips_of_other_sizes_show_the_same_places_as_large():
    whole = montage({"large": textured(), "b": WHERE})
    picture = montage({"large": textured(), "half": coordinates(96, 96, 77)[None]})
    assert picture.shape == whole.shape
    assert places(picture, zoom=8) == [(x // 2, y // 2, side // 2) for x, y, side in places(whole)]
    others = {"wide": noise(1, 50, 200), "tall": noise(1, 200, 50), "dot": noise(1, 1, 1)}
    assert montage({"large": textured(), **others}).shape == (len(whole) * 2, *whole.shape[1:])


def test_sequences_of_frames_do_as_well():
    clip = noise(3, 32, 32)
    assert np.array_equal(montage({"a": clip}), montage({"a": list(clip)}))
    for frame, same in zip(labelled({"a": clip}), labelled({"a": list(clip)}), strict=True):
        assert np.array_equal(frame, same)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: labelled({}), "no clip"),
        (lambda: labelled({"a": noise(0, 4, 4)}), "no frame"),
        (lambda: labelled({"a": noise(1, 4, 4)}, columns=0), "column"),
        (lambda: montage({}), "no clip"),
        (lambda: montage({"a": noise(2, 4, 4)}, frame=2), "0 to 1"),
        (lambda: montage({"a": noise(2, 4, 4)}, frame=-1), "frame -1"),
        (lambda: montage({"a": noise(1, 4, 4)}, zoom=0), "zoom"),
        (lambda: montage({"a": noise(1, 4, 4)}, zoom=10**6), "zoom"),
        (lambda: montage({"a": noise(1, 4, 4)}, places=0), "place"),
    ],
)
def test_what_cannot_be_shown_is_refused_at_once(make, says):
    with pytest.raises(UsageError, match=says):
        make()


def test_a_png_holds_the_pixels_and_is_written_whole(tmp_path):
    image = noise(1, 20, 30)[0]
    write_png(tmp_path / "new" / "a.png", image)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "a.png")), image)
    (tmp_path / "b.png").mkdir()
    with pytest.raises(OutputError):
        write_png(tmp_path / "b.png", image)
    assert [p.name for p in tmp_path.rglob("*.part*")] == []
    assert not list(tmp_path.glob(".part-*"))
