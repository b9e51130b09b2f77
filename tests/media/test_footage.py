"""Video files as clips: geometry, frame rate, spread, HDR, refusals, and no ffmpeg left behind."""

import itertools
import os
import signal
import subprocess
import sys
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from shelllcc.guidance.errors import UsageError, VideoError
from shelllcc.guidance.media.footage import SIZES, Framing, read_clips, target_size

FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-threads", "1"]
X264 = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "4", "-threads", "1"]
YUV = ["-pix_fmt", "yuv420p"]
SMALL = "64x48"


def film(path, source, *words):
    """A video of an ffmpeg source; returns its path."""
    subprocess.run([*FFMPEG, "-f", "lavfi", "-i", source, *X264, *YUV, *words, f"file:{path}"], check=True)
    return path


def film_of(path, frames, fps=16, *words):
    """A video of uint8 frames (t, H, W, 3)."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{frames.shape[2]}x{frames.shape[1]}", "-r", str(fps)]
    subprocess.run([*FFMPEG, *raw, "-i", "-", *X264, *YUV, *words, path], input=frames.tobytes(), check=True)
    return path


def counted(count, height=48, width=64):
    """Frames that show their own number as brightness, 0 .. 255."""
    levels = np.linspace(0, 255, count).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (count, height, width, 3)).copy()


def only(path, **framing):
    [clip] = read_clips(path, Framing(**{"size": SMALL, "frames": 5} | framing))
    return clip


def square_of(frame):
    """The bounding box (top, bottom, left, right) of the bright pixels of a frame."""
    rows, columns = np.nonzero(frame.min(-1) > 128)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


def with_square(height, width, side, count=6):
    frames = np.zeros((count, height, width, 3), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    frames[:, top : top + side, left : left + side] = 255
    return frames


def children():
    """The processes that this one has started and that still run or wait to be reaped."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            found.append(entry.parent.name)
    return sorted(found)


@pytest.mark.parametrize(
    ("width", "height", "name", "expected"),
    [
        (1920, 1080, "480p", (832, 480)),
        (1080, 1920, "480p", (480, 832)),
        (640, 480, "480p", (720, 480)),
        (1000, 1010, "480p", (512, 512)),
        (4000, 1000, "272p", (480, 272)),
        (1000, 1000, "1080p", (1440, 1440)),
        (1000, 1000, "128x64", (128, 64)),
    ],
)
def test_the_nearest_aspect_is_taken(width, height, name, expected):
    assert target_size(width, height, name) == expected


def test_every_size_is_its_own_nearest_and_fits_the_vae():
    for name, entries in SIZES.items():
        for width, height in entries:
            assert target_size(width * 3, height * 3, name) == (width, height)
            assert width % 8 == height % 8 == 0


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": "big"}, "272p, 480p, 720p, 1080p and WIDTHxHEIGHT"),
        ({"size": "100x64"}, "the nearest is 96x64"),
        ({"size": "0x64"}, "the nearest is 16x64"),
        ({"frames": 80}, "the nearest is 81"),
        ({"frames": 1}, "the nearest is 5"),
        ({"fps": 0}, "fps must lie above 0"),
        ({"fps": float("nan")}, "fps must lie above 0"),
        ({"fps": float("inf")}, "fps must lie above 0"),
        ({"clips": 0}, "at least 1"),
    ],
)
def test_a_framing_that_cannot_be_is_refused(values, said):
    with pytest.raises(UsageError, match=said) as refusal:
        Framing(**values)
    assert "\n" not in str(refusal.value)


def test_a_named_size_follows_the_shape_of_the_video(tmp_path):
    for shape, expected in (("320x180", (272, 480)), ("180x320", (480, 272)), ("200x200", (336, 336))):
        clip = only(film(tmp_path / "v.mp4", f"testsrc2=s={shape}:r=16:d=1"), size="272p")
        assert clip.shape == (5, *expected, 3)
        assert clip.dtype == np.uint8
        assert clip.flags.writeable


@pytest.mark.parametrize(("height", "width"), [(96, 256), (256, 96), (96, 128)])
def test_a_centred_square_stays_centred_and_square(height, width, tmp_path):
    frame = only(film_of(tmp_path / "v.mp4", with_square(height, width, 32)))[2]
    cover = max(48 / height, 64 / width)
    top, bottom, left, right = square_of(frame)
    assert abs((top + bottom) / 2 - 24) <= 0.5
    assert abs((left + right) / 2 - 32) <= 0.5
    assert abs((bottom - top) - 32 * cover) <= 1
    assert abs((right - left) - 32 * cover) <= 1


def test_a_wide_video_loses_its_sides_alone(tmp_path):
    frames = np.full((6, 48, 192, 3), 60, np.uint8)
    frames[:, :, :64], frames[:, :, 128:] = (255, 0, 0), (0, 0, 255)
    frames[:, :8], frames[:, -8:] = 255, 255
    frame = only(film_of(tmp_path / "v.mp4", frames))[2].astype(int)
    assert np.abs(frame[12:36, 4:60] - 60).max() < 6
    assert frame[:6].min() > 240
    assert frame[-6:].min() > 240


def test_colours_survive(tmp_path):
    for colour in ((200, 40, 40), (30, 160, 60), (40, 60, 190), (128, 128, 128), (255, 255, 255)):
        frames = np.broadcast_to(np.array(colour, np.uint8), (6, 48, 64, 3))
        seen = only(film_of(tmp_path / "v.mp4", frames))
        assert np.abs(seen.astype(int) - colour).max() <= 4, colour


@pytest.mark.parametrize(("width", "height"), [(64, 48), (1280, 720)])
def test_untagged_colours_are_read_as_programs_write_them_at_any_size(width, height, tmp_path):
    import imageio

    colour = np.array((229, 24, 24))
    frames = np.broadcast_to(colour.astype(np.uint8), (6, height, width, 3))
    path = tmp_path / "v.mp4"
    imageio.mimwrite(path, frames, fps=16, codec="libx264", output_params=["-crf", "4"])  # as diffusers does
    said = subprocess.run([FFMPEG[0], "-hide_banner", "-i", path], capture_output=True, text=True).stderr
    assert "yuv420p(progressive)" in said  # not a word of colours
    assert np.abs(only(path, size=f"{width}x{height}").astype(int) - colour).max() <= 4
    bt709 = ["-vf", "scale=out_color_matrix=bt709,format=yuv420p", "-colorspace", "bt709"]
    tagged = film_of(tmp_path / "t.mp4", frames, 16, *bt709)
    assert np.abs(only(tagged, size=f"{width}x{height}").astype(int) - colour).max() <= 4


@pytest.mark.parametrize(("source", "fps", "expected"), [(32, 16, 16), (24, 12.5, 13), (16, 48, 48), (30, None, 30)])
def test_a_second_of_film_has_as_many_frames_as_its_rate(source, fps, expected, tmp_path):
    path = film(tmp_path / "v.mp4", f"testsrc2=s=64x48:r={source}:d=1")
    assert len(only(path, fps=fps, frames=101)) == (expected - 1) // 4 * 4 + 1


def test_resampling_keeps_the_pace(tmp_path):
    path = film_of(tmp_path / "v.mp4", counted(120), 48)
    levels = only(path, fps=16, frames=37).mean((1, 2, 3))
    expected = np.linspace(0, 255, 120)[::3][:37]
    assert np.abs(levels - expected).max() < 6
    assert np.abs(only(path, fps=None, frames=117).mean((1, 2, 3)) - np.linspace(0, 255, 120)[:117]).max() < 4


def test_a_slower_video_repeats_frames(tmp_path):
    levels = only(film_of(tmp_path / "v.mp4", counted(10), 4), fps=16, frames=33).mean((1, 2, 3))
    steps = np.diff(levels)
    assert (np.abs(steps) < 2).sum() == 24
    assert (steps > 20).sum() == 8


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "webm", "ts", "avi", "mpg", "flv", "wmv", "mov", "m4v"])
def test_clips_of_a_long_video_are_spread_over_it_and_do_not_overlap(suffix, tmp_path):
    codec = {"webm": ["-c:v", "libvpx", "-b:v", "2M"], "mpg": ["-c:v", "mpeg2video", "-q:v", "2", "-r", "25"]}
    codec |= {"wmv": ["-c:v", "wmv2", "-q:v", "2"], "flv": ["-c:v", "flv1", "-q:v", "2"]}
    frames, rate = counted(800), 25  # 32 s: clips beyond the run-up are sought
    path = film_of(tmp_path / f"v.{suffix}", frames, rate, *codec.get(suffix, []), "-g", "50")
    clips = list(read_clips(path, Framing(size=SMALL, fps=12.5, frames=21, clips=4)))
    assert [c.shape for c in clips] == [(21, 48, 64, 3)] * 4
    brightness = [c.mean((1, 2, 3)) for c in clips]
    starts = [b[0] / 255 * 32 for b in brightness]
    assert starts == pytest.approx([0, 10.1, 20.2, 30.3], abs=0.5)
    for levels in brightness:
        assert np.abs(levels - np.linspace(levels[0], levels[0] + 40 * 255 / 799, 21)).max() < 3
    assert all(a[-1] < b[0] for a, b in itertools.pairwise(brightness))


def test_sought_clips_are_those_of_an_unbroken_reading(tmp_path):
    groups = ["-bf", "3", "-g", "70", "-x264-params", "open-gop=1"]
    path = film(tmp_path / "v.mp4", "testsrc2=s=64x48:r=25:d=40.2", *groups)
    whole = only(path, frames=641)
    clips = list(read_clips(path, Framing(size=SMALL, frames=21, clips=5)))
    places = []
    for clip in clips:
        [place] = [i for i in range(len(whole) - 20) if np.array_equal(whole[i : i + 21], clip)]
        places.append(place)
    assert places[0] == 0
    assert places[-1] >= len(whole) - 24
    gaps = np.diff(places)
    assert gaps.min() >= 21
    assert gaps.max() - gaps.min() <= 1


def test_clips_may_fill_the_video_to_the_last_frame(tmp_path):
    path = film_of(tmp_path / "v.mp4", counted(27))
    clips = list(read_clips(path, Framing(size=SMALL, frames=9, clips=7)))
    assert [len(c) for c in clips] == [9, 9, 9]
    assert np.array_equal(np.concatenate([*clips])[:25], only(path, frames=25))


def test_a_short_video_gives_the_largest_4n_plus_1(tmp_path):
    for count, expected in ((5, 5), (8, 5), (9, 9), (16, 13), (17, 17)):
        clips = list(read_clips(film_of(tmp_path / "v.mp4", counted(count)), Framing(size=SMALL, clips=3)))
        assert [len(c) for c in clips] == [expected]


def test_too_short_a_video_is_refused_with_its_count(tmp_path):
    path = film_of(tmp_path / "x.mp4", counted(3))
    with pytest.raises(VideoError, match=r"x\.mp4 has only 3 frames at 16 fps; 5 are needed$"):
        only(path)
    with pytest.raises(VideoError, match=r"x\.mp4 has only 3 frames; 5 are needed$"):
        only(path, fps=None)


@pytest.mark.parametrize("turn", [90, -90, 180])
def test_rotation_is_honoured(turn, tmp_path):
    frames = np.zeros((6, 96, 160, 3), np.uint8)
    frames[:, :24] = 255  # a bright top
    flat = film_of(tmp_path / "flat.mp4", frames)
    turned = tmp_path / "turned.mp4"
    subprocess.run([*FFMPEG, "-display_rotation:v:0", str(turn), "-i", flat, "-c", "copy", turned], check=True)
    clip = only(turned, size="272p")
    assert clip.shape[1:3] == ((272, 480) if turn == 180 else (480, 272))
    side = {90: clip[2][:, :20], -90: clip[2][:, -20:], 180: clip[2][-20:]}[turn]  # anticlockwise
    assert side.min() > 200
    assert clip[2][100:-100, 100:-100].max() < 60


def test_wide_pixels_are_stretched(tmp_path):
    path = film_of(tmp_path / "v.mp4", with_square(120, 90, 30), 16, "-vf", "setsar=2")  # shown as 180x120
    clip = only(path, size="480p")
    assert clip.shape[1:3] == (480, 720)
    top, bottom, left, right = square_of(clip[2])
    assert (right - left) / (bottom - top) == pytest.approx(2, abs=0.1)


TAGS = ["-color_primaries", "bt2020", "-colorspace", "bt2020nc", "-color_range", "tv"]


def ten_bit(path, transfer, code):
    """A grey at `code` (0 .. 1) of 10-bit video with the named transfer."""
    grey = f"color=s=64x48:r=16:d=1,format=yuv420p10le,geq=lum={round(64 + 876 * code)}:cb=512:cr=512"
    tags = ["-color_trc", transfer, *TAGS, "-x264-params", f"colorprim=bt2020:transfer={transfer}:colormatrix=bt2020nc"]
    return film(path, grey, "-pix_fmt", "yuv420p10le", *tags)


def level(path):
    clip = only(path).astype(float)
    assert clip.std() < 2
    return clip.mean() / 255


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_hdr_greys_are_tone_mapped_in_order(transfer, tmp_path):
    codes = (0.0, 0.2, 0.38, 0.5, 0.58, 0.75, 1.0)
    mapped = [level(ten_bit(tmp_path / "v.mp4", transfer, code)) for code in codes]
    assert mapped[0] < 0.02
    assert mapped[-1] > 0.97
    assert all(a < b for a, b in itertools.pairwise(mapped[:-1]))
    for code, brightness in list(zip(codes, mapped, strict=True))[2:5]:
        assert brightness > code + 0.03


def test_sdr_is_not_tone_mapped(tmp_path):
    for transfer in ("bt709", "bt2020-10"):
        for code in (0.0, 0.25, 0.5, 0.75, 1.0):
            assert level(ten_bit(tmp_path / "v.mp4", transfer, code)) == pytest.approx(code, abs=0.01)


def test_hdr_with_its_transfer_tag_alone_is_mapped(tmp_path):
    path = film(
        tmp_path / "v.mp4", "testsrc2=s=64x48:r=16:d=1", "-pix_fmt", "yuv420p10le", "-x264-params", "transfer=smpte2084"
    )
    plain = film(tmp_path / "p.mp4", "testsrc2=s=64x48:r=16:d=1", "-pix_fmt", "yuv420p10le")
    assert np.abs(only(path).astype(int) - only(plain)).mean() > 5


def test_a_reading_repeats_to_the_byte(tmp_path):
    path = film(tmp_path / "v.mp4", "testsrc2=s=320x240:r=30:d=3")
    first, second = (list(read_clips(path, Framing(size="272p", frames=9, clips=3))) for _ in range(2))
    assert len(first) == 3
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "it's \"q\".mp4", "-y.mp4", "%d.mp4", "f%03d.mp4", "concat:x.mp4", "http:..mp4", "猫é.mp4",
     "a|b;c$d.mp4", "[x],y=z.mp4", "new\nline.mp4", b"\xff\xfe.mp4"],
)  # fmt: skip
def test_any_name_is_read_and_refused_in_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = os.fsdecode(name)
    film(tmp_path / "plain.mp4", "testsrc2=s=64x48:r=16:d=1").rename(name)
    assert only(Path(name)).shape == (5, 48, 64, 3)
    Path(name).write_bytes(b"")
    with pytest.raises(VideoError) as refusal:
        only(Path(name))
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv"])
def test_sound_that_lasts_longer_or_starts_earlier_changes_nothing(suffix, tmp_path):
    path = tmp_path / f"v.{suffix}"
    silent = film(tmp_path / "silent.mp4", "testsrc2=s=64x48:r=16:d=2")
    sound = [*FFMPEG, "-f", "lavfi", "-i", "sine=d=5", "-map", "0", "-map", "1"]
    expected = list(read_clips(silent, Framing(size=SMALL, fps=None, frames=9, clips=9)))
    for offset in ("0", "0.5"):
        delayed = [*sound[:-4], "-itsoffset", offset, "-i", silent, *sound[-4:]]
        subprocess.run([*delayed, "-c:v", "copy", "-ar", "44100", path], check=True)
        found = list(read_clips(path, Framing(size=SMALL, fps=None, frames=9, clips=9)))
        assert [len(c) for c in found] == [9, 9, 9]
        assert all(np.array_equal(a, b) for a, b in zip(expected, found, strict=True))


def test_the_first_frame_is_whole_where_sound_comes_first(tmp_path):
    white = film(tmp_path / "white.mp4", "color=white:s=64x48:r=30:d=2")
    sound = ["-f", "lavfi", "-i", "sine=d=2", "-map", "0", "-map", "1"]
    for suffix in ("flv", "wmv", "mpg", "ts"):
        path = tmp_path / f"v.{suffix}"
        subprocess.run([*FFMPEG, "-i", white, *sound, "-ar", "44100", path], check=True)
        assert only(path).min() > 240, suffix


BAD = {
    "missing.mp4": "No such file",
    "folder.mp4": "a folder or a device",
    "pipe.mp4": "a folder or a device",
    "empty.mp4": "it is empty",
    "text.mp4": "no video, or truncated",
    "playlist.mp4": "no video, or truncated",
    "concat.mp4": "no video, or truncated",  # would play another file
    "subtitles.mkv": "no video, or truncated",
    "picture.mp4": "no video, or truncated",
    "random.mp4": "no video, or truncated",
    "no-index.mp4": "no video, or truncated",
    "torn.mp4": "it is truncated",
    "stump.mp4": "it is truncated",
    "torn.mkv": "it is truncated",
    "sound.mp4": "no moving pictures",
    "mp3.mp4": "no moving pictures",
    "art.mp4": "no moving pictures",
    "strip.mp4": "too narrow a strip",
}


@pytest.fixture(scope="module")
def bad_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    source = "testsrc2=s=320x240:r=30:d=4"
    early = film(folder / "early.mp4", source, "-movflags", "+faststart").read_bytes()
    late = film(folder / "late.mp4", source).read_bytes()
    matroska = film(folder / "good.mkv", source).read_bytes()
    film(folder / "strip.mp4", "testsrc2=s=1280x16:r=16:d=1")
    sound = [*FFMPEG, "-f", "lavfi", "-i", "sine=d=1"]
    picture = ["-f", "lavfi", "-i", "testsrc2=s=64x48:d=1", "-map", "0", "-map", "1", "-frames:v", "1", "-c:v", "png"]
    subprocess.run([*sound, folder / "sound.mp4"], check=True)
    subprocess.run([*sound, "-f", "mp3", folder / "mp3.mp4"], check=True)
    subprocess.run([*sound, *picture, "-disposition:v", "attached_pic", folder / "art.mp4"], check=True)
    subprocess.run([*sound, *picture, "-map", "-0", "-f", "image2", "-update", "1", folder / "picture.mp4"], check=True)
    contents = {
        "empty.mp4": b"",
        "text.mp4": b"no video at all\n" * 400,
        "playlist.mp4": b"#EXTM3U\n#EXT-X-TARGETDURATION:4\n#EXTINF:4,\nearly.mp4\n#EXT-X-ENDLIST\n",
        "concat.mp4": b"ffconcat version 1.0\nfile early.mp4\n",
        "subtitles.mkv": b"1\n00:00:01,000 --> 00:00:02,000\nhello\n\n",
        "random.mp4": np.random.default_rng(0).bytes(20_000),
        "no-index.mp4": late[: len(late) // 2],
        "torn.mp4": early[: len(early) * 6 // 10],
        "stump.mp4": early[:3000],
        "torn.mkv": matroska[: len(matroska) * 6 // 10],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "folder.mp4").mkdir()
    os.mkfifo(folder / "pipe.mp4")
    return folder


@pytest.mark.parametrize(("name", "said"), BAD.items(), ids=BAD)
def test_what_is_no_video_is_refused_in_one_line(name, said, bad_files, capfd):
    before = children()
    with pytest.raises(VideoError, match=said) as refusal:
        list(read_clips(bad_files / name, Framing(size=SMALL, clips=3, frames=9)))
    assert name in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert capfd.readouterr() == ("", "")
    assert children() == before


def test_a_file_that_may_not_be_read_is_refused(tmp_path):
    path = film(tmp_path / "v.mp4", "testsrc2=s=64x48:r=16:d=1")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:  # root may read every file
        os.seteuid(65534)
    try:
        with pytest.raises(VideoError, match=r"v\.mp4: Permission denied$"):
            only(path)
    finally:
        os.seteuid(user)


def test_a_closed_reading_leaves_no_ffmpeg(tmp_path):
    path = film(tmp_path / "v.mp4", "testsrc2=s=320x240:r=30:d=10")
    before = children()
    reading = read_clips(path, Framing(size="272p", frames=9, clips=5))
    next(reading)
    assert children() == before
    reading.close()
    assert children() == before


def test_an_interrupted_reading_leaves_no_ffmpeg(tmp_path):
    path = film(tmp_path / "v.mp4", "testsrc2=s=320x240:r=30:d=20")
    before, seen = children(), []

    def interrupt(*_):
        if seen:
            raise KeyboardInterrupt
        seen.extend(set(children()) - set(before))
        signal.setitimer(signal.ITIMER_REAL, 0.1)

    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            only(path, size="1080p", frames=201)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert seen
    assert children() == before


def test_ffmpeg_takes_nothing_from_our_input(tmp_path, root):
    path = film(tmp_path / "v.mp4", "testsrc2=s=320x240:r=16:d=6")
    code = "import sys, pathlib\nfrom shelllcc.guidance.media.footage import *\n"
    code += f"print([c.shape for c in read_clips(pathlib.Path({str(path)!r}), Framing(size='1280x960'))])\n"
    code += "print(repr(sys.stdin.read()))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input="q?\n", capture_output=True, text=True, timeout=60, check=True, cwd=root)
    assert done.stdout.splitlines() == ["[(81, 960, 1280, 3)]", "'q?\\n'"]
    assert done.stderr == ""
