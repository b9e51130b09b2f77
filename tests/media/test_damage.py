"""Damaged and HDR videos: counted and said, never judged or taken into a bank; sound ones of any codec are sound."""

import json
import random
import subprocess

import imageio_ffmpeg
import numpy as np
import pytest

from shelllcc.guidance.errors import VideoError
from shelllcc.guidance.media.damage import heard
from shelllcc.guidance.media.footage import Framing, read_clips, read_video
from shelllcc.guidance.media.video import write_video

FFMPEG = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", "-threads", "1"]
MOVING = "testsrc2=s=160x128:r=16:d=2,noise=alls=8"
FRAMES = 32


@pytest.fixture(scope="module")
def moving():
    """Frames (t, H, W, 3) with something to see everywhere."""
    raw = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    made = subprocess.run([*FFMPEG, "-f", "lavfi", "-i", MOVING, *raw], capture_output=True, check=True).stdout
    return np.frombuffer(made, np.uint8).reshape(FRAMES, 128, 160, 3)


@pytest.fixture(scope="module")
def good(moving, tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "good.mp4"
    write_video(path, moving, fps=16)
    return path


def spoilt(good, path, place, size):
    """The video with `size` bytes overwritten at that share of its frames' bytes; returns its path."""
    content = bytearray(good.read_bytes())
    begin = content.index(b"mdat") + 4
    at = begin + int(place * (len(content) - begin))
    content[at : at + size] = random.Random(size).randbytes(size)
    path.write_bytes(content)
    return path


def clips(path, **framing):
    return list(read_clips(path, Framing(**{"size": "160x128", "frames": 9} | framing)))


@pytest.mark.parametrize("place", [0.03, 0.3, 0.55, 0.8, 0.95])
@pytest.mark.parametrize("size", [8, 300, 2000])
def test_bytes_overwritten_anywhere_are_counted_and_no_clip_is_made_of_them(place, size, good, tmp_path):
    path = spoilt(good, tmp_path / "bad.mp4", place, size)
    video = read_video(path)
    assert 1 <= video.damaged <= 8
    assert video.total == FRAMES
    assert FRAMES - video.damaged <= len(video.frames) <= FRAMES
    with pytest.raises(VideoError, match=r"bad\.mp4 is damaged: \d frames? that a clip needs could not be decoded$"):
        clips(path, frames=29)


def test_clips_ahead_of_the_damage_are_those_of_the_sound_video(good, tmp_path):
    path = spoilt(good, tmp_path / "bad.mp4", 0.95, 300)
    reading = read_clips(path, Framing(size="160x128", frames=9, clips=3))
    assert np.array_equal(next(reading), clips(good)[0])
    with pytest.raises(VideoError, match="is damaged"):
        list(reading)


def test_frames_that_lean_on_damage_ahead_of_them_are_not_taken(tmp_path):
    whole = film(tmp_path / "whole.mp4", "-g", "500", source=MOVING.replace("d=2", "d=14"))
    path = spoilt(whole, tmp_path / "bad.mp4", 0.1, 300)  # 11 seconds ahead of the last clip
    [*_, last] = clips(whole, clips=2)
    seen = read_video(path).frames[-9:]
    assert not np.array_equal(seen, last)
    with pytest.raises(VideoError, match="is damaged"):
        clips(path, clips=2)


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_lost_end_is_counted(suffix, good, tmp_path):
    path = tmp_path / f"torn.{suffix}"
    subprocess.run([*FFMPEG, "-i", good, "-c", "copy", "-movflags", "+faststart", path], check=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    video = read_video(path)
    assert abs(video.total - FRAMES) <= 1
    assert len(video.frames) < FRAMES * 3 // 4
    assert video.total - len(video.frames) <= video.damaged <= video.total - len(video.frames) + 2
    with pytest.raises(VideoError, match="it is truncated"):
        clips(path)


def test_a_torn_end_is_found_where_every_frame_is_a_keyframe(tmp_path):
    path = film(tmp_path / "v.mov", "-c:v", "prores", "-pix_fmt", "yuv422p10le", "-movflags", "+faststart")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    assert read_video(path).damaged > 5
    with pytest.raises(VideoError, match="it is truncated"):
        clips(path)


DETECTED = {
    "mkv": ["-c:v", "libx264"],
    "avi": ["-c:v", "mpeg4", "-q:v", "3"],
    "mov": ["-c:v", "mjpeg", "-q:v", "3", "-pix_fmt", "yuvj420p"],
    "nut.mkv": ["-c:v", "ffv1"],
    "av1.mp4": ["-c:v", "libsvtav1", "-preset", "12"],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-cpu-used", "8", "-deadline", "realtime"],
}


@pytest.mark.parametrize(("suffix", "codec"), DETECTED.items(), ids=DETECTED)
def test_a_hole_is_found_in_files_of_other_codecs(suffix, codec, tmp_path):
    path = film(tmp_path / f"v.{suffix}", *codec)
    content = bytearray(path.read_bytes())
    begin = len(content) // 3
    content[begin : begin + 12_000] = bytes(12_000)
    path.write_bytes(content)
    assert read_video(path).damaged
    with pytest.raises(VideoError, match="is damaged"):
        clips(path, frames=29)


SOUND = {
    "h264.mp4": ["-c:v", "libx264"],
    "open.mkv": ["-c:v", "libx264", "-x264-params", "open-gop=1:keyint=12:bframes=3"],
    "refresh.mkv": ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=12"],
    "interlaced.mp4": ["-c:v", "libx264", "-flags", "+ildct+ilme"],
    "hevc.mp4": ["-c:v", "libx265", "-x265-params", "log-level=none:open-gop=1:keyint=12", "-tag:v", "hvc1"],
    "hevc10.mkv": ["-c:v", "libx265", "-x265-params", "log-level=none", "-pix_fmt", "yuv420p10le"],
    "vp9.webm": ["-c:v", "libvpx-vp9", "-cpu-used", "8", "-auto-alt-ref", "1", "-lag-in-frames", "16"],
    "vp8.webm": ["-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "16"],
    "av1.mp4": ["-c:v", "libsvtav1", "-preset", "12"],
    "av1.webm": ["-c:v", "libsvtav1", "-preset", "12", "-pix_fmt", "yuv420p10le"],
    "mpeg4.mp4": ["-c:v", "mpeg4", "-bf", "2"],
    "prores.mov": ["-c:v", "prores_ks", "-pix_fmt", "yuv422p10le"],
    "mpeg2.mpg": ["-c:v", "mpeg2video", "-bf", "2", "-r", "25"],
    "mjpeg.avi": ["-c:v", "mjpeg", "-pix_fmt", "yuvj420p"],
    "ffv1.mkv": ["-c:v", "ffv1"],
}


@pytest.mark.parametrize(("name", "codec"), SOUND.items(), ids=SOUND)
def test_a_sound_video_is_called_sound_also_where_it_was_cut_without_encoding(name, codec, tmp_path):
    path, cut = film(tmp_path / name, *codec), tmp_path / f"cut-{name}"
    subprocess.run([*FFMPEG, "-ss", "0.9", "-i", path, "-c", "copy", cut], check=True)
    for each in (path, cut):
        video = read_video(each)
        assert (video.damaged, video.total) == (0, len(video.frames))
        assert len(clips(each, fps=None, clips=3)) >= 1


def film(path, *words, source=MOVING):
    """A video of an ffmpeg source; returns its path."""
    yuv = ["-pix_fmt", "yuv420p"]
    subprocess.run([*FFMPEG, "-f", "lavfi", "-i", source, *yuv, *words, path], check=True, stdout=subprocess.DEVNULL)
    return path


SAID = {
    "ffmpeg 4": (
        "decoder -> ist_index:0 type:video frame_pts:0 frame_pts_time:{} best_effort_ts:0 keyframe:{} ",
        "Error while decoding stream #0:0: Invalid data found",
    ),
    "ffmpeg 7": (
        "[dec:h264 @ 0x1] [info] decoder -> pts:0 pts_time:{} pkt_dts:0 pkt_dts_time:0 keyframe:{} frame_type:1 ",
        "[dec:h264 @ 0x1] [error] Error submitting packet to decoder: Invalid data",
    ),
}


@pytest.mark.parametrize(("frame", "lost"), SAID.values(), ids=SAID)
def test_what_older_and_newer_ffmpegs_say_is_heard(frame, lost):
    frames = [frame.format(time, int(time in (0, 4))) for time in range(8)]
    damage = heard("\n".join([*frames[:2], "[warning] corrupt decoded frame", frames[2], lost, *frames[3:]]))
    assert (damage.lost, damage.concealed, damage.keyframes) == ((2.0,), (2.0,), (0.0, 4.0))
    assert [damage.frames(*span) for span in ((0, 1), (0, 3), (3, 3), (4, 8))] == [0, 2, 2, 0]


@pytest.fixture(scope="module")
def bad(good, tmp_path_factory):
    return spoilt(good, tmp_path_factory.mktemp("bad") / "bad.mp4", 0.55, 2000)


def test_compare_says_damaged_in_place_of_a_verdict(shelllcc, good, bad, tmp_path):
    count = read_video(bad).damaged
    code, out, err = shelllcc("compare", good, bad, good, "-o", "run")
    assert code == 0, err
    assert f"bad.mp4 is damaged: {count} of {FRAMES} frames could not be decoded" in err
    assert "in length" not in err
    assert f"bad: damaged, {count} of {FRAMES} frames could not be decoded" in out
    assert "alarm" not in out
    lines = [json.loads(line) for line in (tmp_path / "run/results.jsonl").read_text().splitlines()]
    assert [line["verdict"]["word"] for line in lines] == ["reference", "damaged", "same"]
    assert lines[1]["verdict"]["why"] == f"{count} of {FRAMES} frames could not be decoded"
    assert lines[1]["figures"] == {}
    assert lines[1]["verdict"]["why"] in (tmp_path / "run/report.html").read_text()


def test_nothing_is_judged_beside_a_damaged_reference(shelllcc, good, bad):
    code, out, err = shelllcc("compare", bad, good, "-o", "run", "--json")
    assert code == 0, err
    first, second = json.loads(out)["items"][0]["clips"]
    assert first["verdict"]["word"] == "damaged"
    assert second["verdict"]["word"] == "not comparable"
    assert "the reference is damaged" in second["verdict"]["why"]
    assert "lap" in second["figures"]
    assert not any(name.endswith("_ratio") for name in second["figures"])


SIZES = ["--size", "64x64", "--frames", "5"]


def test_score_and_build_say_that_a_video_is_damaged_and_go_on(shelllcc, good, bad, tmp_path):
    code, out, err = shelllcc("score", bad, good, "--size", "160x128", "--frames", "29", "--json")
    assert code == 0, err
    assert [row["file"] for row in json.loads(out)["scores"]] == [str(good)]
    assert "bad.mp4 is damaged: " in err
    (tmp_path / "v").mkdir()
    spoilt(good, tmp_path / "v/bad.mp4", 0.03, 300)
    for number in range(3):
        film(tmp_path / f"v/{number}.mp4", source=f"testsrc2=s=64x64:r=16:d=1,noise=alls=8:all_seed={number + 1}")
    words = ["--components", "12", "--anchors", "2", "--workers", "1", *SIZES, "--json"]
    code, out, err = shelllcc("anchors", "build", "v", "-o", "b.safetensors", *words)
    assert code == 0, err
    [reason] = json.loads(out)["skipped"]
    assert "bad.mp4 is damaged: " in reason
    assert len(list((tmp_path / "b.latents").glob("[!.]*"))) == 3


NAMED = "setparams=colorspace=smpte170m:color_primaries=bt709:color_trc=bt709:range=tv"
LINEAR = "format=gbrpf32le,zscale=transfer=linear:npl=100,format=gbrpf32le,zscale=primaries=bt2020"


@pytest.fixture(scope="module")
def hdr(good, tmp_path_factory):
    """The good video in PQ and HLG, of 10 bits."""
    paths = []
    for transfer, name in (("smpte2084", "pq.mp4"), ("arib-std-b67", "hlg.mkv")):
        path = tmp_path_factory.mktemp("hdr") / name
        graph = f"{NAMED},{LINEAR},zscale=transfer={transfer}:matrix=bt2020nc:range=tv,format=yuv420p10le"
        tags = ["-color_primaries", "bt2020", "-colorspace", "bt2020nc", "-color_trc", transfer]
        x265 = ["-c:v", "libx265", "-x265-params", "log-level=none", "-crf", "8"]
        subprocess.run([*FFMPEG, "-i", good, "-vf", graph, *x265, *tags, path], check=True)
        paths.append(path)
    return paths


def test_hdr_is_tone_mapped_as_for_a_bank_and_not_judged_beside_sdr(shelllcc, good, hdr):
    for path, kind in zip(hdr, ("PQ", "HLG"), strict=True):
        video = read_video(path)
        assert (video.hdr, video.damaged) == (kind, 0)
        [clip] = clips(path, fps=None, frames=29)
        assert np.array_equal(clip, video.frames[:29])
    assert read_video(good).hdr == ""
    code, out, err = shelllcc("compare", good, *hdr, hdr[0], "-o", "run", "--json")
    assert code == 0, err
    assert "pq.mp4 is HDR (PQ); its frames were tone-mapped, as `anchors build` does" in err
    verdicts = [clip["verdict"] for clip in json.loads(out)["items"][0]["clips"]]
    assert [verdict["word"] for verdict in verdicts] == ["reference", *["not comparable"] * 3]
    assert verdicts[1]["why"] == "HDR (PQ), tone-mapped, beside SDR"
    code, _, err = shelllcc("score", *hdr, good, "--size", "64x64", "--frames", "5", "--json")
    assert code == 0, err
    told = [line.partition("note: ")[2] for line in err.splitlines() if "HDR" in line]
    how = "its frames were tone-mapped, as `anchors build` does"
    assert told == [f"{hdr[0]} is HDR (PQ); {how}", f"{hdr[1]} is HDR (HLG); {how}"]
    code, out, _ = shelllcc("compare", hdr[0], hdr[0], good, "-o", "two", "--json")
    words = [clip["verdict"]["word"] for clip in json.loads(out)["items"][0]["clips"]]
    assert words == ["reference", "same", "not comparable"]


def test_hdr_is_known_by_its_transfer_alone_in_the_stream_or_the_container(tmp_path):
    ten = ["-pix_fmt", "yuv420p10le", "-c:v", "libx264"]
    film(tmp_path / "stream.mp4", *ten, "-x264-params", "transfer=smpte2084")
    plain = film(tmp_path / "plain.mp4", *ten)
    tag = ["-c", "copy", "-color_trc", "smpte2084"]
    subprocess.run([*FFMPEG, "-i", plain, *tag, tmp_path / "container.mkv"], check=True)
    videos = [read_video(tmp_path / name) for name in ("stream.mp4", "container.mkv", "plain.mp4")]
    assert [video.hdr for video in videos] == ["PQ", "PQ", ""]
    assert np.array_equal(videos[0].frames, videos[1].frames)
    assert np.abs(videos[0].frames.astype(int) - videos[2].frames).mean() > 5


def test_a_video_without_one_sound_frame_is_refused_in_one_line(shelllcc, good, tmp_path):
    content = bytearray(good.read_bytes())
    begin = content.index(b"mdat") + 4
    content[begin:] = bytes(len(content) - begin)
    (tmp_path / "void.mp4").write_bytes(content)
    code, out, err = shelllcc("compare", good, "void.mp4", "-o", "run")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "cannot read void.mp4" in err
    assert not (tmp_path / "run").exists()


def test_videos_of_other_lengths_and_rates_are_compared_with_a_remark(shelllcc, moving, good, tmp_path):
    write_video(tmp_path / "fast.mp4", moving[:20], fps=24)
    code, _, err = shelllcc("compare", good, "fast.mp4", "-o", "run", "--json")
    assert code == 0, err
    assert err.count("the videos differ in length: figures are of the first 20 frames") == 1
    assert err.count("the videos differ in frame rate: frames are compared one by one") == 1
