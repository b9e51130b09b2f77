"""What is written, replaced and never touched: files, clips and their records."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from shelllcc.guidance import files
from shelllcc.guidance.errors import DiskFullError, OutputError
from shelllcc.guidance.media import video
from shelllcc.guidance.media.footage import read_video
from shelllcc.guidance.media.video import frames_in, read_tag, write_video

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "2"]
CAT = ["--prompt", "a tabby cat, zoom in, daylight", *SMALL]
FRAMES = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Stand in for ffmpeg with a shell script."""
    import imageio_ffmpeg

    def install(text):
        fake = tmp_path.parent / "ffmpeg.sh"
        fake.write_text(f"#!/bin/sh\nfor out; do :; done\nout=${{out#file:}}\n{text}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: str(fake))

    return install


@pytest.fixture
def small_disk(tmp_path):
    """A folder with 200 kB of room."""
    folder = tmp_path / "small"
    folder.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", folder], capture_output=True).returncode
    ):
        pytest.skip("a small disk needs the right to mount one")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_video_holds_its_frames_and_any_record(tmp_path):
    record = {"shows": "guided", "prompt": 'a = "b"; # c \\ \n 猫', "long": "x" * 200_000}
    write_video(tmp_path / "a.mp4", FRAMES, fps=16, record=record)
    assert frames_in(tmp_path / "a.mp4") == 5
    assert read_tag(tmp_path / "a.mp4") == record
    write_video(tmp_path / "b.mp4", FRAMES, fps=16)
    assert read_tag(tmp_path / "b.mp4") == {}


RED, GREEN = (229, 24, 24), (20, 200, 40)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's reader leaves its pipes
@pytest.mark.parametrize("size", [(64, 64), (480, 832), (704, 1280)], ids=str)
@pytest.mark.parametrize("reader", ["own", "imageio", "player of HD"])
def test_colours_are_those_of_the_frames_to_every_reader(reader, size, tmp_path):
    height, width = size
    frames = np.zeros((5, height, width, 3), np.uint8)
    frames[:, :, : width // 2], frames[:, :, width // 2 :] = RED, GREEN
    write_video(path := tmp_path / "a.mp4", frames, fps=16)
    if reader == "own":
        seen = read_video(path).frames
    elif reader == "imageio":
        with imageio.get_reader(path, format="FFMPEG") as opened:
            seen = np.stack(list(opened.iter_data()))
    else:  # BT.709, whatever the tags say
        matrix = ["-vf", "scale=in_color_matrix=bt709:in_range=tv,format=rgb24", "-f", "rawvideo", "-"]
        seen = np.frombuffer(ffmpeg("-i", path, *matrix).stdout, np.uint8).reshape(-1, height, width, 3)
    for place, colour in ((width // 4, RED), (3 * width // 4, GREEN)):
        assert np.abs(seen[2, height // 2, place].astype(int) - colour).max() <= 3
    said = ffmpeg("-i", path, check=False).stderr.decode()
    assert re.search(r"yuv420p\(tv, bt709, progressive\)", said), said


def ffmpeg(*words, check=True):
    import imageio_ffmpeg

    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-hide_banner", *(("-v", "error") if check else ()), *words]
    return subprocess.run(command, capture_output=True, check=check)


@pytest.mark.parametrize("text", ["exit 1", "echo 'Codec libx264 is neither known'", None])
def test_a_machine_that_can_write_no_clip_says_so_before_anything_is_sampled(text, shelllcc, script, monkeypatch):
    import imageio_ffmpeg

    words = ["--prompt", "a tabby cat", "--size", "32x32", "--frames", "5", "--steps", "2"]
    if text is None:
        monkeypatch.setattr(imageio_ffmpeg, "get_ffmpeg_exe", lambda: "/none/ffmpeg")
    else:
        script(text)
    video._check_encoder.cache_clear()
    commands = ["generate -o a.mp4", "generate --dry-run", "compare"]
    for command in (["doctor"], *([*command.split(), *words] for command in commands)):
        code, out, err = shelllcc(*command)
        assert code == 1
        assert ("no encoder for H.264" if text else "cannot run /none/ffmpeg") in out + err
        assert "sampling" not in err
    video._check_encoder.cache_clear()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cat > /dev/null; head -c 2000 /dev/zero > $out; exit 1", "ffmpeg ended with exit 1"),
        ("exit 3", "ffmpeg ended with exit 3"),
        ("kill -9 $$", "ffmpeg ended with signal SIGKILL"),
        ("[ $out = - ] || head -c 2000 /dev/zero > $out; cat > /dev/null", "0 of 5 frames can be read back"),
        ("echo nonsense >&2; exit 1", "nonsense"),
        ("echo 'av_interleaved_write_frame(): No space left on device' >&2; exit 1", "disk full"),
    ],
)
def test_a_writer_that_fails_leaves_the_old_video(text, said, tmp_path, script, capfd):
    write_video(tmp_path / "a.mp4", FRAMES, fps=16)
    before = contents(tmp_path)
    script(text)
    with pytest.raises(OutputError, match=said):
        write_video(tmp_path / "a.mp4", FRAMES[::-1], fps=16)
    assert contents(tmp_path) == before
    assert capfd.readouterr() == ("", "")


def test_a_video_that_lost_frames_is_not_published(tmp_path, monkeypatch, script):
    import imageio_ffmpeg

    real = imageio_ffmpeg.get_ffmpeg_exe()
    script(f'case "$*" in *ffmetadata*) head -c 36864 | {real} "$@";; *) exec {real} "$@";; esac')
    with pytest.raises(OutputError, match="3 of 5 frames can be read back"):
        write_video(tmp_path / "a.mp4", FRAMES, fps=16)
    assert not contents(tmp_path)


def test_a_full_disk_is_said_and_nothing_is_left(small_disk):
    write_video(small_disk / "a.mp4", FRAMES[:1], fps=16)
    before = contents(small_disk)
    with pytest.raises(DiskFullError, match=r"disk full: cannot write .*a\.mp4"):
        write_video(small_disk / "a.mp4", np.tile(FRAMES, (20, 1, 1, 1)), fps=16)
    with pytest.raises(DiskFullError, match=r"disk full: cannot write .*b\.json"):
        files.write_text(small_disk / "b.json", "x" * 300_000)
    assert contents(small_disk) == before


def test_what_a_killed_process_was_writing_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from shelllcc.guidance.files import whole_file\n"
        "with whole_file(Path(sys.argv[1])) as part:\n part.write_text('half'); print(part, flush=True); time.sleep(60)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / name], stdout=subprocess.PIPE, text=True)
        for name in ("dead.json", "living.json")
    ]
    _, living = (Path(process.stdout.readline().strip()) for process in both)
    both[0].kill()
    both[0].wait()
    mine = [tmp_path / name for name in (".part-of-mine.txt", ".part-download.mp4", ".part-abcdefgh")]
    for path in mine:
        path.write_text("a user's own")
    files._swept.discard(tmp_path)
    files.write_text(tmp_path / "new.json", "{}")
    assert sorted(tmp_path.iterdir()) == sorted([living, *mine, tmp_path / "new.json"])
    both[1].terminate()
    both[1].wait()
    for process in both:
        process.stdout.close()


def test_one_path_is_written_by_one_run_at_a_time(tmp_path):
    with files.claimed(tmp_path / "new" / "a.mp4"):
        with pytest.raises(OutputError, match="another run is writing"), files.claimed(tmp_path / "new" / "a.mp4"):
            pass
        with files.claimed(tmp_path / "new" / "b.mp4"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_json_of_another_program_is_never_replaced(shelllcc, tmp_path):
    workflow = tmp_path / "clip.json"
    workflow.write_text('{"nodes": [], "links": []}')
    code, out, err = shelllcc("generate", *CAT, "-o", "clip.mp4")
    assert (code, out) == (2, "")
    assert err == "shelllcc: error: clip.json is no record of this clip; give another --output, or --overwrite it\n"
    assert contents(tmp_path) == {"clip.json": workflow.read_bytes()}
    assert shelllcc("generate", *CAT, "-o", "clip.mp4", "--overwrite")[0] == 0
    assert "request" in json.loads(workflow.read_text())


def test_a_clip_of_another_recipe_is_kept_and_the_same_recipe_goes_on(shelllcc, tmp_path):
    (tmp_path / "foreign.mp4").write_bytes(b"a film of mine")
    assert shelllcc("generate", *CAT, "-o", "foreign.mp4")[0] == 2
    assert shelllcc("generate", *CAT, "-o", "a.mp4")[0] == 0
    before = contents(tmp_path)
    for words in (["--seed", "1"], ["--strength", "0.5"], ["--steps", "3"]):
        code, _, err = shelllcc("generate", *CAT, *words, "-o", "a.mp4")
        assert code == 2, err
        name, value = words[0].strip("-"), words[1]
        assert re.search(rf"a\.json is the record of another clip \({name} \S+, not {value}", err), err
        assert "give another --output, or --overwrite it" in err
    assert contents(tmp_path) == before
    (tmp_path / "a.json").unlink()  # as a kill between the two leaves it: the tag says what the clip is
    assert shelllcc("generate", *CAT, "--seed", "1", "-o", "a.mp4")[0] == 2
    assert shelllcc("generate", *CAT, "-o", "a.mp4")[0] == 0
    assert contents(tmp_path)["a.mp4"] == before["a.mp4"]
    (tmp_path / "a.compare.mp4").write_bytes(b"a film of mine")
    assert shelllcc("generate", *CAT, "--compare", "-o", "a.mp4")[0] == 2
    (tmp_path / "a.compare.mp4").unlink()
    assert shelllcc("generate", *CAT, "--compare", "-o", "a.mp4")[0] == 0
    (tmp_path / "a.compare.mp4").write_bytes(b"a film of mine")
    assert shelllcc("generate", *CAT, "--seed", "1", "-o", "a.mp4", "--overwrite")[0] == 0
    assert sorted(path.name for path in tmp_path.glob("a.*")) == [
        "a.compare.mp4",
        "a.json",
        "a.mp4",
    ]  # the rest was old


def test_a_video_in_a_clips_place_is_kept_whatever_the_sidecar_says(shelllcc, tmp_path):
    write_video(tmp_path / "holiday.mp4", FRAMES, fps=16)
    holiday = (tmp_path / "holiday.mp4").read_bytes()
    assert shelllcc("generate", *CAT, "--compare", "-o", "a.mp4")[0] == 0
    for name in ("a.mp4", "a.unguided.mp4"):
        clip = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(holiday)
        for words in ([], ["--resume"]):
            assert shelllcc("generate", *CAT, "--compare", "-o", "a.mp4", *words)[0] == 2
        assert (tmp_path / name).read_bytes() == holiday
        (tmp_path / name).write_bytes(clip[:2000])  # torn
        assert shelllcc("generate", *CAT, "--compare", "-o", "a.mp4")[0] == 0
        assert (tmp_path / name).read_bytes() == clip
    shutil.copy(tmp_path / "a.json", tmp_path / "b.json")
    (tmp_path / "b.mp4").write_bytes(holiday)
    assert shelllcc("generate", *CAT, "--compare", "-o", "b.mp4")[0] == 2
    assert shelllcc("generate", *CAT, "--compare", "-o", "a.MP4")[0] == 2  # it would take the sidecar of a.mp4
    for name, make in (("link.mp4", lambda p: p.symlink_to("nowhere.mp4")), ("pipe.mp4", os.mkfifo)):
        make(tmp_path / name)
        assert shelllcc("generate", *CAT, "-o", name)[0] == 2
        assert not (tmp_path / name).is_file()
    (tmp_path / ".c.mp4.lock").write_text("precious")
    code, _, err = shelllcc("generate", *CAT, "-o", "c.mp4")
    assert (code, (tmp_path / ".c.mp4.lock").read_text()) == (2, "precious"), err


def test_a_video_in_a_runs_place_is_kept(shelllcc, tmp_path):
    write_video(tmp_path / "holiday.mp4", FRAMES, fps=16)
    (tmp_path / "prompts.txt").write_text("a tabby cat\n")
    holiday = (tmp_path / "holiday.mp4").read_bytes()
    for words, place in (
        (["batch", "prompts.txt", *SMALL, "-o", "clips"], "clips/0000/000000-a-tabby-cat.mp4"),
        (["compare", *CAT, "--strengths", "0,1", "--window", "0:1", "-o", "run"], "run/00_strength-1.mp4"),
        (["compare", "holiday.mp4", "holiday.mp4", "-o", "films"], "films/00_holiday.mp4"),
    ):
        assert shelllcc(*words)[0] == 0
        clip = (tmp_path / place).read_bytes()
        mine = clip if clip != holiday else None
        write_video(tmp_path / place, FRAMES[::-1], fps=16)
        edited = (tmp_path / place).read_bytes()
        assert shelllcc(*words)[0] != 0, mine
        assert (tmp_path / place).read_bytes() == edited
        (tmp_path / place).write_bytes(clip[:2000])  # torn
        assert shelllcc(*words)[0] == 0
        assert (tmp_path / place).read_bytes() == clip


@pytest.mark.parametrize("place", ["", ".", "..", "~", "~/", "~nobody-here/x", b"n\xe9.mp4"])
def test_what_is_no_place_for_results_is_refused_everywhere(place, shelllcc, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "prompts.txt").write_text("a tabby cat\n")
    place = place if isinstance(place, str) else os.fsdecode(place)
    files = ["generate", *CAT, "-o"], ["anchors", "build", "films", "-o"], ["profiles", "export"]
    folders = ["compare", *CAT, "-o"], ["tune", *CAT, "-o"], ["batch", "prompts.txt", *SMALL, "-o"]
    folders += (["anchors", "analyze", "tiny-wan", "films", "-o"],)
    for words in ([*command, place] for command in (files if place == "." else (*files, *folders))):
        code, out, err = shelllcc(*words)
        assert (code, out, err.count("\n")) == (2, "", 1), err
    assert [path.name for path in tmp_path.iterdir()] == ["prompts.txt"]


def test_a_batch_keeps_clips_of_another_recipe(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tabby cat\n")
    words = ["batch", "prompts.txt", "-o", "clips", *SMALL]
    assert shelllcc(*words)[0] == 0
    before = contents(tmp_path)
    code, _, err = shelllcc(*words, "--seed", "5")
    assert code == 2
    assert "give another --output, or --overwrite it" in err
    assert contents(tmp_path) == before
    assert shelllcc(*words)[0] == 0
    assert contents(tmp_path) == before
    assert shelllcc(*words, "--seed", "5", "--overwrite")[0] == 0


def test_a_clip_goes_into_a_folder_that_is_there(shelllcc, tmp_path, monkeypatch):
    (tmp_path / "clips").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, _ = shelllcc("generate", *CAT, "-o", "clips", "--dry-run", "--json")
    assert code == 0
    assert json.loads(out)["clips"][0]["videos"]["guided"].startswith("clips/a-tabby-cat")
    out = shelllcc("generate", *CAT, "-o", "~/x.mp4", "--dry-run", "--json")[1]
    assert json.loads(out)["clips"][0]["videos"]["guided"] == str(tmp_path / "x.mp4")


def test_a_cache_that_cannot_be_written_is_done_without(shelllcc, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file where the cache should be")
    monkeypatch.setenv("SHELLLCC_CACHE", str(tmp_path / "taken"))
    words = ["generate", "--prompt", "a flower", "--prompt", "a rocket", *SMALL, "-o", "clips"]
    code, _, err = shelllcc(*words)
    assert code == 0, err
    assert err.count("note: text embeddings are not kept") == 1


def test_a_second_run_into_one_file_is_refused(shelllcc, tmp_path):
    with files.claimed(tmp_path / "a.mp4"):
        code, _, err = shelllcc("generate", *CAT, "-o", "a.mp4")
    assert code == 1
    assert "another run is writing a.mp4" in err


def test_a_bank_replaces_nothing_but_an_earlier_make_of_it(shelllcc, tmp_path):
    from safetensors.torch import save_file

    from shelllcc.anchors.latents import save_latents

    for number in range(8):
        noise = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(number))
        save_latents(tmp_path / "latents" / f"{number}.safetensors", noise, {})
    save_file({"weight": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "shell_lcc.pth").write_bytes(b"the authors' own")
    (tmp_path / "study").mkdir()
    (tmp_path / "study" / "analysis.json").write_text('{"mine": true}')
    small = ["--anchors", "2", "--components", "8", "--workers", "1"]
    short = ["--bases", "8", "--hidden", "8", "--epochs-skeleton", "1", "--epochs-shell", "1", "--workers", "1"]
    build = ["anchors", "build", "latents", *small, "-o"]
    train = ["anchors", "train", "latents", *short, "-o", "manifold.safetensors", "--export"]
    assert shelllcc(*build, "bank.safetensors")[0] == 0
    assert shelllcc(*train, "made.pth")[0] == 0
    before = contents(tmp_path)
    for words, said in (
        ([*build, "model.safetensors"], "is no bank"),
        ([*build, "bank.safetensors", "--seed", "1"], "holds another bank"),
        ([*build, "manifold.safetensors"], "holds another bank"),
        ([*train, "shell_lcc.pth"], "is no export of this training"),
        (["anchors", "calibrate", "tiny-wan", "latents", "-o", "bank.safetensors"], "holds another bank"),
        (["anchors", "import", "made.pth", "-o", "bank.safetensors"], "holds another bank"),
        (["anchors", "analyze", "bank.safetensors", "latents", "-o", "study"], "is of no study of this bank"),
    ):
        code, _, err = shelllcc(*words)
        assert (code, said in err) == (2, True), err
    after = contents(tmp_path)
    assert {name: after[name] for name in before} == before
    assert shelllcc(*build, "bank.safetensors")[0] == 0
    assert contents(tmp_path)["bank.safetensors"] == before["bank.safetensors"]
    assert shelllcc(*train, "made.pth")[0] == 0
    assert shelllcc(*build, "bank.safetensors", "--seed", "1", "--overwrite")[0] == 0
