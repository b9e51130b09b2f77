"""The commands of banks end to end: build, calibrate, import, train, score, analyze, verify, pull."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from shelllcc.anchors.bankfile import read_bank
from shelllcc.anchors.fingerprints import WAN21_VAE, fingerprint
from shelllcc.anchors.latents import open_latents, save_latents
from shelllcc.anchors.shelf import open_bank

TINY = ["--size", "64x64", "--frames", "5", "--fps", "8", "--workers", "1"]
SMALL = ["--anchors", "8", "--components", "24"]
WAN = ["--model", "wan2.1-vae"]


def film(path, *, seed, frames=9, side=64):
    """A short video of moving blots, every seed another."""
    dice = np.random.default_rng(seed)
    field = dice.normal(size=(side // 4 + frames, side // 4, 3))
    field = np.kron(field, np.ones((4, 4, 1))) + 0.3 * dice.normal(size=(side + 4 * frames, side, 3))
    clip = np.stack([field[4 * t : 4 * t + side] for t in range(frames)])
    iio.imwrite(path, (128 + 50 * clip).clip(0, 255).astype(np.uint8), fps=8, codec="libx264", macro_block_size=2)


@pytest.fixture(scope="session")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for seed in range(20):
        film(folder / f"clip {seed:02d}.mp4", seed=seed)
    (folder / "clip 03.txt").write_text("a tabby cat, zoom in, daylight")
    return folder


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of its own that holds 16 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def real(shared, tmp_path_factory):
    """One real Wan2.1 clip: five tiles of its left half, and its right half whole, noised and blurred."""
    from shelllcc.guidance.wan.banks.analyze import degraded

    folder = tmp_path_factory.mktemp("real")
    whole = load_file(shared / "data/wan21_latents.safetensors")["latents"]
    (folder / "left").mkdir()
    for i in range(5):
        save_latents(folder / f"left/{i}.safetensors", whole[:, :, :, 8 * i : 8 * i + 8, :32], {})
    right = whole[0, :, :, :, 32:].float()
    for name, version in {"right": right, **degraded(right)}.items():
        save_file({"latents": version[None].contiguous()}, folder / f"{name.replace(' ', '-')}.safetensors")
    return folder


def run(*words, cwd, **environment):
    """The command in a process of its own."""
    command = [sys.executable, "-m", "shelllcc", *map(str, words)]
    return subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)


def lives(group):
    """Whether any process of the group does."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def build(shelllcc, *words):
    code, out, err = shelllcc("anchors", "build", *words, "--json")
    assert code == 0, err
    return json.loads(out), err


def test_a_folder_of_videos_becomes_a_bank_that_guides_the_model(shelllcc, films, tmp_path):
    shutil.copytree(films, tmp_path / "videos")
    (tmp_path / "videos/torn.mp4").write_bytes(b"no video at all")
    report, err = build(shelllcc, "videos", "-o", "mine.safetensors", *TINY, *SMALL)
    assert "torn.mp4" in err
    assert len(report["skipped"]) == 1
    bank = read_bank(tmp_path / "mine.safetensors")
    assert bank.provenance["videos"] == 20
    assert bank.provenance["clips"] == {"placing": 9, "scaling": 8, "held out": 3}
    assert float(bank.quantiles[1, 3]) == pytest.approx(1)
    assert 0.5 < bank.provenance["coverage"] <= 1
    captions = {open_latents(path).caption for path in (tmp_path / "mine.latents").iterdir()}
    assert captions == {"", "a tabby cat, zoom in, daylight"}

    code, out, err = shelllcc("anchors", "calibrate", "mine.safetensors", "--json", *TINY, "--most", "2")
    assert code == 0, err
    assert json.loads(out)["calibrated_for"] == ["tiny"]
    assert not read_bank(tmp_path / "mine.safetensors").calibrations
    curve = open_bank("mine.safetensors").current[0].curve
    assert 0.5 < curve.radius[1, 0] < 2
    assert (curve.sigmas.diff() > 0).all()
    clip = ["--prompt", "a cat", "--size", "64x64", "--frames", "5", "--steps", "3", "--window", "0:1"]
    code, out, err = shelllcc("generate", *clip, "--bank", "mine.safetensors", "-o", "x.mp4", "--json")
    assert code == 0, err
    assert "not calibrated" not in err
    assert json.loads(out)["clips"][0]["trace"]


def test_order_threads_and_workers_do_not_change_a_byte(films, forked, tmp_path):
    names = sorted((str(path) for path in films.glob("*.mp4")), reverse=True)[-6:]
    blobs = set()
    for order, threads, workers in (([str(films / "clip 0[0-5].mp4")], 1, 1), (names, 2, 2)):
        folder = tmp_path / f"{threads}{workers}"
        folder.mkdir()
        options = [*TINY[:-1], workers, *SMALL, "--kind", "local", "--neighbours", 4]
        words = ["anchors", "build", *order, "-o", "bank.safetensors", *options]
        if threads == 1:
            done = forked(folder).run(words)
            assert done.code == 0, done.err
        else:
            done = run(*words, cwd=folder, OMP_NUM_THREADS=str(threads))
            assert done.returncode == 0, done.stderr
        blobs.add((folder / "bank.safetensors").read_bytes())
    assert len(blobs) == 1


@pytest.mark.faults
def test_a_build_killed_in_the_middle_goes_on_to_the_same_bytes(films, forked, tmp_path):
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    command = ["anchors", "build", films, "-o", "bank.safetensors", *TINY, *SMALL]
    assert forked(tmp_path / "whole").run(command).code == 0
    shell = forked(tmp_path / "killed")
    pid, out = shell.start(command, before=lambda: os.nice(10))  # this process sees in time how far it is
    latents, deadline = tmp_path / "killed/bank.latents", time.monotonic() + 120
    while len(list(latents.glob("[!.]*"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert shell.end(pid, out).code == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in latents.glob("[!.]*")}
    assert 5 <= len(kept) < 20
    assert not (tmp_path / "killed/bank.safetensors").exists()
    assert shell.run(command).code == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # finished videos were not encoded again
    banks = [(tmp_path / name / "bank.safetensors").read_bytes() for name in ("killed", "whole")]
    assert banks[0] == banks[1]


def test_other_framings_and_captions_are_not_mistaken_for_these(shelllcc, films, tmp_path):
    """The output lies among the sources; latents of another framing or caption are there already."""
    shutil.copytree(films, tmp_path / "v", ignore=lambda folder, names: [n for n in names if n > "clip 05.mp4"])
    wide = ["--size", "80x64", *TINY[2:]]
    build(shelllcc, "v", "-o", "v/b.safetensors", *wide, *SMALL)
    (tmp_path / "v/b.safetensors").unlink()
    build(shelllcc, "v", "-o", "v/b.safetensors", *TINY, *SMALL)
    code, _, err = shelllcc("anchors", "calibrate", "v/b.safetensors", "-o", "late.safetensors")
    assert code == 0, err
    build(shelllcc, "v/*.mp4", "-o", "clean.safetensors", *TINY, *SMALL)
    assert (tmp_path / "clean.safetensors").read_bytes() == (tmp_path / "v/b.safetensors").read_bytes()
    code, _, err = shelllcc("anchors", "calibrate", "clean.safetensors", "-o", "calibrated.safetensors")
    assert code == 0, err
    assert (tmp_path / "calibrated.safetensors").read_bytes() == (tmp_path / "late.safetensors").read_bytes()
    count = len(list((tmp_path / "clean.latents").iterdir()))
    (tmp_path / "v/clip 00.txt").write_text("another caption")
    build(shelllcc, "v/*.mp4", "-o", "clean.safetensors", *TINY, *SMALL)
    assert len(list((tmp_path / "clean.latents").iterdir())) == count + 1


@pytest.mark.faults
def test_an_interrupt_ends_every_worker_at_once(films, forked, tmp_path):
    command = ["anchors", "build", films, "-o", "b.safetensors", *TINY[:-1], "2", *SMALL]
    shell = forked(tmp_path)
    pid, out = shell.start(command, before=lambda: (os.setsid(), os.nice(10)))
    latents, deadline = tmp_path / "b.latents", time.monotonic() + 120
    while len(list(latents.glob("[!.]*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(pid, signal.SIGINT)
    done = shell.end(pid, out)
    assert done.code == 130
    assert "Traceback" not in done.err
    assert done.err.splitlines()[-1] == "shelllcc: interrupted"
    deadline = time.monotonic() + 20
    while lives(pid) and time.monotonic() < deadline:  # the last process of multiprocessing sees the end late
        time.sleep(0.1)
    assert not lives(pid)


@pytest.mark.faults
@pytest.mark.parametrize("workers", ["1", "2"])
def test_where_the_disk_is_full_every_worker_stops_at_the_first(workers, shelllcc, films, tiny_disk, tmp_path):
    words = ["-o", tmp_path / "b.safetensors", *TINY, *SMALL, "--workers", workers, "--latents", tiny_disk]
    assert_a_full_disk(*shelllcc("anchors", "build", *sorted(films.glob("*.mp4"))[:4], *words))
    assert not list(tiny_disk.rglob(".part-*"))


@pytest.mark.parametrize("where", ["latents", "decoding"])
def test_the_first_video_that_finds_no_room_is_the_last(where, shelllcc, films, tmp_path, monkeypatch):
    from shelllcc.guidance.wan.banks import encode

    real, calls = Path.write_bytes, []

    def full(*args):
        calls.append(args)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def write_bytes(path, contents):
        return full() if path.name.startswith(".part-") else real(path, contents)

    if where == "latents":
        monkeypatch.setattr(Path, "write_bytes", write_bytes)
    else:
        monkeypatch.setattr(encode, "read_clips", full)
    words = ["-o", tmp_path / "b.safetensors", *TINY, *SMALL]
    assert_a_full_disk(*shelllcc("anchors", "build", *sorted(films.glob("*.mp4"))[:4], *words))
    assert len(calls) == 1


def assert_a_full_disk(code, out, err):
    """One line, and nothing that blames the videos."""
    assert (code, out) == (1, "")
    [error] = [line for line in err.splitlines() if "error" in line]
    assert error.startswith("shelllcc: error: disk full: cannot write ")
    assert "skipped" not in err
    assert "Traceback" not in err


def test_shards_encode_their_shares_and_the_last_call_builds(shelllcc, films, tmp_path):
    for shard in ("0/2", "1/2"):
        code, _, err = shelllcc("anchors", "build", films, "-o", "s.safetensors", *TINY, *SMALL, "--shard", shard)
        assert code == 0, err
        assert not (tmp_path / "s.safetensors").exists()
    assert len(list((tmp_path / "s.latents").iterdir())) == 20
    build(shelllcc, films, "-o", "s.safetensors", *TINY, *SMALL)
    build(shelllcc, films, "-o", "t.safetensors", *TINY, *SMALL)
    assert (tmp_path / "s.safetensors").read_bytes() == (tmp_path / "t.safetensors").read_bytes()


@pytest.mark.parametrize(("kind", "patch"), [("covariance", 3), ("local", 3), ("covariance", 1), ("local", 1)])
def test_real_wan_latents_lie_nearer_than_noised_ones_and_blurred_ones_nearer_still(shelllcc, real, kind, patch):
    build(shelllcc, real / "left", *WAN, "--kind", kind, "--patch", patch, "-o", "left.safetensors", "--anchors", "32")
    names = ["right", "noise-0.1", "noise-0.2", "blur"]
    files = [real / f"{name}.safetensors" for name in names]
    code, out, err = shelllcc("score", *files, "--bank", "left.safetensors", "--json")
    assert code == 0, err
    rows = {Path(row["file"]).name.removesuffix(".safetensors"): row for row in json.loads(out)["scores"]}
    assert 0.5 < rows["right"]["median"] < 2
    assert rows["right"]["mean"] < rows["noise-0.1"]["mean"] < rows["noise-0.2"]["mean"]
    assert rows["right"]["above"] < rows["noise-0.2"]["above"]
    if patch == 3:
        assert rows["blur"]["mean"] < 0.8 * rows["right"]["mean"]
        assert rows["blur"]["below"] > rows["right"]["below"]


def test_the_score_of_an_imported_manifold_is_its_authors_distance(shelllcc, shared, tmp_path):
    golden = shared / "golden/reference_checkpoint.pth"
    expected = load_file(golden.with_name("reference_checkpoint.expected.safetensors"))
    save_file({"latents": expected["latents"]}, tmp_path / "x.safetensors")
    code, _, err = shelllcc("anchors", "import", golden, "-o", "m.safetensors")
    assert code == 0, err
    code, out, err = shelllcc("score", "x.safetensors", "--bank", "m.safetensors", "--json")
    assert code == 0, err
    [row] = json.loads(out)["scores"]
    assert row["mean"] == pytest.approx(float(expected["reward"]), rel=1e-5)
    frames = expected["distance"].view(3, -1).mean(1)
    assert row["per_frame"] == pytest.approx(frames.tolist(), rel=1e-5)
    assert row["outside"] is None


def test_the_authors_latents_are_read_with_their_32_channels(shelllcc, real, tmp_path):
    whole = load_file(real / "right.safetensors")["latents"][0].transpose(0, 1)
    torch.save(whole.bfloat16(), tmp_path / "mean.pt")
    torch.save(torch.cat([whole, whole + 5], dim=1).bfloat16(), tmp_path / "both.pt")
    build(shelllcc, real / "left", *WAN, "-o", "left.safetensors", "--anchors", "8")
    code, out, err = shelllcc("score", "mean.pt", "both.pt", "--bank", "left.safetensors", "--json")
    assert code == 0, err
    first, second = json.loads(out)["scores"]
    assert first["mean"] == second["mean"]


def test_the_two_stage_manifold_is_trained_resumed_and_exported(shelllcc, real, tmp_path):
    words = ["anchors", "train", real / "left", *WAN, "-o", "m.safetensors", "--export", "m.pth", "--json"]
    words += ["--bases", "32", "--hidden", "16", "--tokens", "512", "--epochs-skeleton", "60"]
    code, _, err = shelllcc(*words, "--epochs-shell", "3")
    assert code == 0, err
    first = (tmp_path / "m.safetensors").read_bytes()
    code, _, err = shelllcc(*words, "--epochs-shell", "30")
    assert code == 0, err
    assert (tmp_path / "m.safetensors").read_bytes() != first
    assert shelllcc("anchors", "import", "m.pth", "-o", "n.safetensors")[0] == 0
    scores = []
    for bank in ("m.safetensors", "n.safetensors"):
        code, out, err = shelllcc("score", real / "right.safetensors", "--bank", bank, "--json")
        assert code == 0, err
        scores.append(json.loads(out)["scores"][0]["mean"])
    assert scores[0] == scores[1]
    assert 0.5 < scores[0] < 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's reader leaves its pipes
def test_analyze_gives_numbers_pictures_and_the_radial_video(shelllcc, films, tmp_path):
    build(shelllcc, films, "-o", "b.safetensors", *TINY, *SMALL)
    (tmp_path / "made").mkdir()
    for seed in range(3):
        film(tmp_path / f"made/{seed}.mp4", seed=seed + 90)
    words = ["b.safetensors", films, "--generated", "made", "-o", "study", "--latents", "b.latents", *TINY]
    code, out, err = shelllcc("anchors", "analyze", *words, "--json")
    assert code == 0, err
    table = json.loads(out)
    assert table == json.loads((tmp_path / "study/analysis.json").read_text())
    assert table["clips"] == {"real": 3, "generated": 3, "videos_to_fit": 17}
    for row in table["distinguishability"].values():
        assert all(0 <= share <= 1 for share in row.values())
    assert table["distinguishability"]["this bank"]["noise 0.2"] > 0.9
    assert [row["videos"] for row in table["data_efficiency"]] == [3, 6, 12, 17]
    assert sum(table["usage"]["real"]["shares"]) == pytest.approx(1, abs=1e-3)
    for histogram in table["distance"]["sets"].values():
        assert sum(histogram["histogram"]) == pytest.approx(1, abs=1e-4)
    assert iio.imread(tmp_path / "study/radial.png").shape == (64, 9 * 64, 3)
    assert iio.imread(tmp_path / "study/radial.mp4").shape == (5, 192, 192, 3)
    assert iio.imread(tmp_path / "study/analysis.png").shape[2] >= 3


def test_a_tampered_truncated_or_foreign_bank_is_refused_by_verify(shelllcc, tmp_path, root):
    shipped = (root / "anchors/tiny-wan.safetensors").read_bytes()
    code, out, _ = shelllcc("anchors", "verify", "tiny-wan", "--json")
    assert code == 0
    digest = json.loads(out)["sha256"]
    assert shelllcc("anchors", "verify", "tiny-wan", "--sha256", digest.upper())[0] == 0
    tampered = bytearray(shipped)
    tampered[-100] ^= 1
    size = len(shipped) * 2
    bad = {
        "tampered": bytes(tampered),
        "truncated": shipped[:-10],
        "long header": size.to_bytes(8, "little") + shipped[8:],
        "foreign": b"PK\x03\x04" + shipped,
        "empty": b"",
    }
    for name, blob in bad.items():
        (tmp_path / "bad.safetensors").write_bytes(blob)
        code, out, err = shelllcc("anchors", "verify", "bad.safetensors")
        assert (code, out) == (1, ""), name
        assert len(err.splitlines()) == 1, err
    code, _, err = shelllcc("anchors", "verify", "tiny-wan", "--sha256", "0" * 64)
    assert code == 1
    assert digest in err


def test_info_and_list_say_what_there_is(shelllcc):
    code, out, _ = shelllcc("anchors", "info", "tiny-wan", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["held_out_distance"]["later_frames"]["0.5"] == pytest.approx(1, abs=0.01)
    assert facts["calibrations"][0]["model"] == "shelllcc-tiny-wan"
    code, out, _ = shelllcc("anchors", "list", "--json")
    assert code == 0
    listed = json.loads(out)
    assert "tiny-wan" in {entry["bank"].rpartition("/")[2].removesuffix(".safetensors") for entry in listed["banks"]}
    assert "shell-lcc" in listed["published"]


REFUSED = {
    "no such source": (2, ["build", "nowhere", "-o", "x.safetensors"], "nowhere"),
    "too few": (2, ["build", "one.safetensors", *WAN, "-o", "x.safetensors"], "at least 3 different videos, got 1"),
    "not a bank": (2, ["build", "one.safetensors", "-o", "x.txt"], "a bank is a .safetensors file"),
    "kind": (2, ["build", "one.safetensors", "--kind", "magic", "-o", "x.safetensors"], "covariance or local"),
    "patch": (2, ["build", "one.safetensors", "--patch", "2", "-o", "x.safetensors"], "patch 1 or 3"),
    "shard": (2, ["build", "one.safetensors", "--shard", "3/2", "-o", "x.safetensors"], "a shard is i/n"),
    "frames": (2, ["build", "one.safetensors", "--frames", "6", "-o", "x.safetensors"], "4n+1"),
    "size": (2, ["build", "one.safetensors", "--size", "huge", "-o", "x.safetensors"], "480p"),
    "video without weights": (1, ["build", "film.mp4", *WAN, "-o", "x.safetensors"], "stands for ready latents"),
    "checkpoint": (1, ["import", "nowhere.pth", "-o", "x.safetensors"], "cannot read nowhere.pth"),
    "pickle bomb": (1, ["import", "bomb.pth", "-o", "x.safetensors"], "nothing in it was executed"),
    "published name": (2, ["pull", "nothing"], "no published bank nothing"),
    "seed": (2, ["build", "one.safetensors", "--seed", "2147483648", "-o", "x.safetensors"], "seed must lie in"),
    "long name": (2, ["build", "one.safetensors", "-o", "x" * 300 + ".safetensors"], "too long"),
    "training's held-out": (
        2,
        ["train", "one.safetensors", "--held-out", "nan", "-o", "x.safetensors"],
        "share between",
    ),
    "dtype": (2, ["calibrate", "tiny-wan", "one.safetensors", "--dtype", "int4", "-o", "x.safetensors"], "dtype is"),
    "digest": (2, ["verify", "tiny-wan", "--sha256", "zz"], "64 hexadecimal digits"),
    "lr": (2, ["train", "one.safetensors", "--lr", "-1", "-o", "x.safetensors"], "lr must be positive"),
    "unknown bank": (1, ["info", "nowhere"], "no bank at nowhere"),
    "calibrate without clips": (2, ["calibrate", "tiny-wan", "-o", "x.safetensors"], "give held-out videos"),
}


@pytest.mark.parametrize(("code", "words", "said"), REFUSED.values(), ids=REFUSED)
def test_bad_input_gets_one_line_and_leaves_nothing(code, words, said, shelllcc, tmp_path, latents):
    save_file({"latents": latents(0)}, tmp_path / "one.safetensors")
    film(tmp_path / "film.mp4", seed=0)
    (tmp_path / "bomb.pth").write_bytes(b"cos\nsystem\n(S'touch executed'\ntR.")
    before = sorted(tmp_path.rglob("*"))
    got, out, err = shelllcc("anchors", *words)
    assert (got, out) == (code, ""), err
    errors = [
        line
        for line in err.splitlines()
        if not line.startswith(("shelllcc: note: ", "shelllcc: encoding", "shelllcc: fetching"))
    ]
    assert len(errors) == 1, err
    assert said in errors[0]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_without_a_bank_is_told_which_command_gives_one(shelllcc, tmp_path, root, monkeypatch):
    monkeypatch.setenv("SHELLLCC_BANKS", str(tmp_path / "banks"))
    model = tmp_path / "wan"
    shutil.copytree(root / "guidance/wan/tiny", model, ignore=shutil.ignore_patterns("*.safetensors"))
    config = json.loads((model / "vae/config.json").read_text())
    for statistics, hint in ((WAN21_VAE, "anchors pull shell-lcc"), ({"latents_mean": [0.5] * 16}, "anchors build")):
        (model / "vae/config.json").write_text(json.dumps(config | dict(statistics)))
        code, _, err = shelllcc("generate", "--prompt", "a cat", "--model", model, "--strength", "0.3", "--dry-run")
        assert code == 1
        assert hint in err
        assert ("anchors pull" in err) == ("pull" in hint)
    assert fingerprint(WAN21_VAE) != fingerprint(config)
