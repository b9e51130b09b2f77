"""The command line end to end: files, replays, refusals."""

import json
import shutil
import subprocess

import imageio.v2 as imageio
import numpy as np
import pytest
import torch

from shelllcc.guidance.errors import SamplingError
from shelllcc.guidance.wan.clips.generate import remarks
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.model.pipeline import TINY
from shelllcc.guidance.wan.model.presets import PRESETS

SMALL = ["--size", "32x32", "--frames", "5", "--steps", "3", "--window", "0:1"]
PROMPT = ["--prompt", "a tabby cat, zoom in, daylight"]


def frames_of(path):
    return np.stack(imageio.mimread(path, format="FFMPEG", memtest=False))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio's reader leaves its pipes
def test_compare_writes_three_videos_and_a_sidecar(shelllcc, tmp_path):
    code, out, err = shelllcc("generate", *PROMPT, *SMALL, "--compare", "-o", "a/clip.mp4", "--json")
    assert code == 0, err
    [record] = json.loads(out)["clips"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "clip.compare.mp4", "clip.json", "clip.mp4", "clip.unguided.mp4",
    ]  # fmt: skip
    assert json.loads((tmp_path / "a/clip.json").read_text()) == record
    assert frames_of(tmp_path / "a/clip.mp4").shape == (5, 32, 32, 3)
    assert frames_of(tmp_path / "a/clip.compare.mp4").shape[2] >= 64
    assert record["frames_sha256"]["guided"] != record["frames_sha256"]["unguided"]
    assert [step["index"] for step in record["trace"]] == [0, 1]
    assert record["bank"]["sha256"]
    for stage in ("loading", "unguided sampling", "guided sampling", "guided decoding", "writing"):
        assert stage in err


LONG = "a tabby cat " * 170 + "at night"  # 512 tokens with the one that ends it, and one more


def test_what_the_text_encoder_does_not_read_of_a_prompt_is_said(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text(f"{LONG}\n{LONG} by the sea\na tabby cat\n")
    short = " ".join(LONG.split()[:-1])
    for words in (
        ("generate", "--prompt", LONG, *SMALL, "-o", "clip.mp4"),
        ("generate", "--prompt", "a tabby cat", "--negative-prompt", LONG, "--cfg", "2", "--dry-run"),
        ("compare", "--prompt", LONG, "--strengths", "0,1", "--dry-run"),
        ("batch", "prompts.txt", "-o", "all", "--dry-run"),
        ("generate", "--prompt", short, "--dry-run"),
    ):
        code, _, err = shelllcc(*words)
        assert code == 0, err
        notes = [line for line in err.splitlines() if "is cut" in line]
        assert len(notes) == (short not in words)
        assert all("the text encoder reads 512, and nothing from 'night" in note for note in notes)
        assert ("prompts.txt" in words) == any("513 tokens is cut, and 1 other" in note for note in notes)
    assert json.loads((tmp_path / "clip.json").read_text())["cut"] == {
        "prompt": {"tokens": 513, "read": 512, "unread": "night"}
    }


@pytest.mark.parametrize(
    ("knobs", "alarm"),
    [
        (("--strength", "10", "--radius", "50"), "noise"),
        (("--strength", "10", "--radius", "0.1"), "mean regression"),
        ((), None),
    ],
)
def test_a_clip_guided_too_far_raises_an_alarm(shelllcc, knobs, alarm):
    small = ["--size", "128x128", "--frames", "9", "--steps", "16"]
    code, out, err = shelllcc("generate", *PROMPT, *small, *knobs, "-o", "clip.mp4", "--json")
    assert code == 0, err
    [record] = json.loads(out)["clips"]
    assert record["alarm"] == record["trace"][-1]["alarm"] == alarm
    assert (f"note: {str(alarm).replace(' ', '-')} alarm" in err) == (alarm is not None)


def test_the_mp4_carries_the_recipe(shelllcc, tmp_path):
    import imageio_ffmpeg

    assert shelllcc("generate", *PROMPT, *SMALL, "-o", "clip.mp4")[0] == 0
    ffmpeg = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", "clip.mp4", "-f", "ffmetadata", "-"]
    tags = subprocess.run(ffmpeg, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    comment = next(line for line in tags.splitlines() if line.startswith("comment="))
    text = comment.removeprefix("comment=").replace("\\", "")
    assert json.loads(text)["request"]["prompt"] == PROMPT[1]


def test_a_sidecar_replays_its_clip_and_flags_override_it(shelllcc):
    first = json.loads(shelllcc("generate", *PROMPT, *SMALL, "--seed", "7", "-o", "a.mp4", "--json")[1])["clips"][0]
    again = json.loads(shelllcc("generate", "--from", "a.json", "-o", "b.mp4", "--json")[1])["clips"][0]
    other = json.loads(shelllcc("generate", "--from", "a.json", "--seed", "8", "-o", "c.mp4", "--json")[1])["clips"][0]
    assert again["request"] == first["request"]
    assert again["frames_sha256"] == first["frames_sha256"]
    assert other["request"] == first["request"] | {"seed": 8}
    assert other["frames_sha256"] != first["frames_sha256"]


def test_a_replay_hears_flags_alone_and_repeats_dtype_and_compare(shelllcc, tmp_path, monkeypatch):
    words = [*PROMPT, *SMALL, "--compare", "--dtype", "bfloat16", "-o", "a.mp4", "--json"]
    record = json.loads(shelllcc("generate", *words)[1])["clips"][0]
    sidecar = json.loads((tmp_path / "a.json").read_text())
    sidecar["dtype"] = "bfloat16"  # the loaded model of these tests is float32 whatever is asked for
    (tmp_path / "a.json").write_text(json.dumps(sidecar))
    monkeypatch.setenv("SHELLLCC_STRENGTH", "0.9")
    (tmp_path / "shelllcc.toml").write_text("[generate]\nsteps = 9\n")
    from shelllcc.guidance.wan.clips.asked import Asked
    from shelllcc.guidance.wan.clips.plan import plan_clips

    [plan] = plan_clips(Asked(sidecar=tmp_path / "a.json"))
    assert (plan.loading.dtype, plan.compare) == ("bfloat16", True)
    code, out, err = shelllcc("generate", "--from", "a.json", "-o", "b.mp4", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"][0]["request"] == record["request"]
    assert shelllcc("generate", "--from", "a.json", "--preset", "tiny")[0] == 2


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("request.seed", 1.5),
        ("request.steps", True),
        ("request.prompt", 5),
        ("request.cfg_2", "a"),
        ("request.window", [0.1]),
        ("request.negative_prompt", None),
        ("model", "tiny"),
        ("bank", []),
        ("sha256", "x"),
        ("model.source", 3),
    ],
)
def test_a_sidecar_of_wrong_types_is_refused(key, value, shelllcc, tmp_path):
    request = json.loads(shelllcc("generate", *PROMPT, "--dry-run", "--json")[1])["clips"][0]
    first, _, second = key.partition(".")
    if second:
        request[first][second] = value
    else:
        request[first] = value
    (tmp_path / "bad.json").write_text(json.dumps(request))
    code, out, err = shelllcc("generate", "--from", "bad.json")
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "sidecar" in err


def test_an_interrupted_replay_leaves_the_old_clip_alone(shelllcc, tmp_path, monkeypatch):
    assert shelllcc("generate", *PROMPT, *SMALL, "-o", "a.mp4")[0] == 0
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    from shelllcc.guidance.wan.clips import sample

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "sample", interrupt)
    assert shelllcc("generate", "--from", "a.json", "-o", "a.mp4")[0] == 130
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_strength_zero_is_the_stock_pipeline_to_the_bit(shelllcc, pipe):
    record = json.loads(shelllcc("generate", *PROMPT, *SMALL, "--strength", "0", "-o", "a.mp4", "--json")[1])["clips"][
        0
    ]
    stock = pipe(
        prompt=PROMPT[1],
        negative_prompt="",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=3,
        guidance_scale=record["request"]["cfg"],
        generator=torch.Generator("cpu").manual_seed(0),
        output_type="np",
    ).frames[0]
    import hashlib

    digest = hashlib.sha256((stock * 255).round().astype(np.uint8).tobytes()).hexdigest()
    assert record["frames_sha256"]["unguided"] == digest
    assert record["bank"] is None
    assert record["trace"] == []


def test_several_prompts_take_their_own_seeds_and_resume_redoes_torn_ones(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("# two\na rocket, pan left, night\n\na flower, roll, fog\n")
    words = ["generate", "--prompts-file", "prompts.txt", *SMALL, "--seed", "5", "-o", "clips", "--json"]
    first = json.loads(shelllcc(*words)[1])["clips"]
    assert [c["request"]["seed"] for c in first] == [5, 6]
    names = sorted(p.name for p in (tmp_path / "clips").glob("*.mp4"))
    assert names == ["000-a-rocket-pan-left-night.mp4", "001-a-flower-roll-fog.mp4"]
    video = tmp_path / "clips" / names[1]
    video.write_bytes(video.read_bytes()[:500])
    report = json.loads(shelllcc(*words, "--resume")[1])
    assert report["skipped"] == 1
    assert [c["frames_sha256"] for c in report["clips"]] == [first[1]["frames_sha256"]]


def test_dry_run_says_what_it_would_do_and_does_nothing(shelllcc, tmp_path):
    code, out, _ = shelllcc("generate", *PROMPT, "--dry-run", "--json")
    assert code == 0
    [clip] = json.loads(out)["clips"]
    assert clip["request"]["frames"] >= 17
    assert clip["request"]["width"] >= 192
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[generat]\nsteps = 3\n", "[generate]\nstepz = 3\n", "generate = 5\n", "[generate"])
def test_a_config_file_that_says_nonsense_is_refused(text, shelllcc, tmp_path):
    (tmp_path / "shelllcc.toml").write_text(text)
    code, _, err = shelllcc("generate", *PROMPT, "--dry-run")
    assert code == 2
    assert "shelllcc.toml" in err
    assert err.count("\n") == 1
    assert shelllcc("--config", "none.toml", "generate", *PROMPT, "--dry-run")[0] == 2


@pytest.mark.parametrize("text", ["{}", '{"z_dim": 16, "latents_mean": [null], "latents_std": [1]}', "[1]", "{"])
def test_a_model_with_a_broken_config_is_refused(text, shelllcc, tmp_path):
    for name in ("model_index.json", "transformer/config.json", "vae/config.json"):
        (tmp_path / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TINY / name, tmp_path / "model" / name)
    (tmp_path / "model/vae/config.json").write_text(text)
    code, _, err = shelllcc("generate", *PROMPT, "--model", "model", "--dry-run")
    assert code == 1
    assert err.count("\n") == 1


def test_an_unknown_subject_is_told_what_there_is_and_still_runs(shelllcc):
    code, out, err = shelllcc("generate", "--prompt", "a submarine", *SMALL, "-o", "x.mp4")
    assert code == 0
    assert "a tabby cat" in err
    assert "zoom in" in err
    assert "daylight" in err
    assert "x.mp4" in out


def test_variables_and_the_config_file_set_defaults_below_flags(shelllcc, tmp_path, monkeypatch):
    (tmp_path / "shelllcc.toml").write_text('[generate]\nsteps = 7\nstrength = 0.1\nnegative-prompt = "blur"\n')

    def resolved(*words):
        code, out, err = shelllcc("generate", *PROMPT, "--dry-run", "--json", *words)
        assert code == 0, err
        return json.loads(out)["clips"][0]["request"]

    request = resolved()
    assert (request["steps"], request["strength"], request["negative_prompt"]) == (7, 0.1, "blur")
    monkeypatch.setenv("SHELLLCC_STRENGTH", "0.2")
    assert resolved()["strength"] == 0.2
    assert resolved("--strength", "0.4", "--num-inference-steps", "9")["strength"] == 0.4
    assert resolved("--num-inference-steps", "9")["steps"] == 9


def test_a_guide_that_never_acts_says_so(shelllcc):
    code, _, err = shelllcc("generate", *PROMPT, *SMALL, "--window", "0:0.01", "-o", "x.mp4")
    assert code == 0
    assert "no step but the last lies in the sigmas 0:0.01" in err


USAGE = {
    "no prompt": ([], "give --prompt"),
    "empty prompt": (["--prompt", "  "], "prompt is empty"),
    "frames": ([*PROMPT, "--frames", "16"], "the nearest is 17"),
    "size": ([*PROMPT, "--size", "200x192"], "the nearest is 192"),
    "size words": ([*PROMPT, "--size", "big"], "WIDTHxHEIGHT"),
    "negative steps": ([*PROMPT, "--steps", "-3"], "steps must lie in 1 .. 1000, got -3"),
    "steps words": ([*PROMPT, "--steps", "many"], "--steps takes a whole number, got many"),
    "strength": ([*PROMPT, "--strength", "-1"], "strength goes from 0"),
    "nan strength": ([*PROMPT, "--strength", "nan"], "strength goes from 0"),
    "window": ([*PROMPT, "--window", "0.9:0.1"], "window is LOW:HIGH"),
    "window words": ([*PROMPT, "--window", "late"], "window is LOW:HIGH"),
    "cfg": ([*PROMPT, "--cfg", "nan"], "cfg must be positive"),
    "seed": ([*PROMPT, "--seed", "-1"], "seed must lie in"),
    "preset": ([*PROMPT, "--preset", "huge"], "no preset huge"),
    "dtype": ([*PROMPT, "--dtype", "int4"], "--dtype is one of float32"),
    "compare": ([*PROMPT, "--compare", "--strength", "0"], "nothing to compare"),
    "sidecar": (["--from", "none.json"], "cannot read the sidecar"),
    "prompts file": (["--prompts-file", "none.txt"], "cannot read the prompts file"),
    "cfg-2": ([*PROMPT, "--cfg-2", "3"], "second transformer"),
    "many frames": ([*PROMPT, "--frames", "400000001"], "the nearest is 2001"),
    "several to one file": ([*PROMPT, *PROMPT, "-o", "x.mp4"], "need a folder"),
    "several to a file": ([*PROMPT, *PROMPT, "-o", "taken"], "need a folder"),
    "not mp4": ([*PROMPT, "-o", "clip.gif"], "must be an .mp4"),
    "json": ([*PROMPT, "-o", "taken.json"], "must be an .mp4"),
    "no suffix": ([*PROMPT, "-o", "clip"], "must be an .mp4"),
    "no stem": ([*PROMPT, "-o", ".mp4"], "must be an .mp4"),
    "empty output": ([*PROMPT, "-o", ""], "no place for results"),
    "here": ([*PROMPT, "-o", "."], "no place for results"),
    "long name": ([*PROMPT, "-o", f"{'x' * 300}.mp4"], "too long"),
    "home": ([*PROMPT, "-o", "~"], "no place for results"),
    "nobody's home": ([*PROMPT, "-o", "~nobody-here/x.mp4"], "no home folder"),
    "surrogates": (["--prompt", "cat \udcff"], "no text"),
    "unknown flag": ([*PROMPT, "--sharpness", "2"], "--sharpness"),
}
FAILED = {
    "model": ([*PROMPT, "--model", "/nowhere"], "no model at /nowhere"),
    "model folder": ([*PROMPT, "--model", "."], "model_index.json"),
    "hub": ([*PROMPT, "--model", "nobody/nothing"], "no model nobody/nothing"),
    "bank": ([*PROMPT, "--bank", "none"], "no bank at none"),
    "device": ([*PROMPT, "--device", "cuda:77"], "device cuda:77 is not available"),
    "folder": ([*PROMPT, "-o", "taken/clip.mp4"], "cannot write"),
}


@pytest.mark.parametrize(
    ("code", "words", "said"), [(2, *v) for v in USAGE.values()] + [(1, *v) for v in FAILED.values()],
    ids=[*USAGE, *FAILED],
)  # fmt: skip
def test_bad_input_gets_one_line_and_leaves_nothing(code, words, said, shelllcc, tmp_path, monkeypatch):
    (tmp_path / "taken").write_text("a file where a folder should be")
    (tmp_path / "taken.json").write_text('{"nodes": []}')
    before = sorted(tmp_path.rglob("*"))
    got, out, err = shelllcc("generate", *SMALL, *words)
    assert got == code
    assert said in err
    lines = [line for line in err.splitlines() if line != "shelllcc: loading"]
    assert len(lines) == 1
    assert lines[0].startswith("shelllcc: error: ")
    assert out == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bank_for_another_vae_is_refused(shelllcc, bank, tmp_path):
    from shelllcc.anchors.bankfile import save_bank

    save_bank(bank, tmp_path / "other.safetensors")
    code, _, err = shelllcc("generate", *PROMPT, *SMALL, "--bank", "other.safetensors", "-o", "x.mp4")
    assert code == 1
    assert "anchors build" in err
    assert not (tmp_path / "x.mp4").exists()


def test_a_model_that_gives_nan_is_caught_at_once(shelllcc, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(TINY, tmp_path / "broken")
    weights = tmp_path / "broken/transformer/diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    save_file({k: v * float("nan") if k == "proj_out.weight" else v for k, v in tensors.items()}, weights)
    for extra in (["--strength", "0"], ["--bank", "auto", "--fit", "never"]):
        code, _, err = shelllcc("generate", *PROMPT, *SMALL, "--model", "broken", "-o", "x.mp4", *extra)
        assert code == 1
        assert "the model gave NaN or infinity in step 1 of 3" in err
        assert not list(tmp_path.glob("x*"))
        assert not list(tmp_path.glob(".x*"))


def test_the_pipeline_is_restored_after_a_failure_in_mid_sampling(pipe, monkeypatch):
    from shelllcc import ShellGuide, load_bank
    from shelllcc.guidance.wan.clips.request import Request
    from shelllcc.guidance.wan.clips.sample import sample
    from shelllcc.guidance.wan.model.presets import PRESETS

    kind = type(pipe.scheduler)
    request = Request.resolve(PRESETS["tiny"], prompt="a cat", width=32, height=32, frames=5, steps=3)

    def stop(moment):
        raise SamplingError("stopped by the test")

    with pytest.raises(SamplingError, match="stopped by the test"):
        sample(pipe, request, ShellGuide(load_bank("auto", pipe)), on_moment=stop)
    assert type(pipe.scheduler) is kind


def test_an_interrupt_exits_with_130(shelllcc, monkeypatch, tmp_path):
    from shelllcc.guidance.wan.clips import sample

    def interrupt(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "sample", interrupt)
    code, _, err = shelllcc("generate", *PROMPT, *SMALL, "-o", "x.mp4")
    assert code == 130
    assert "interrupted" in err
    assert not (tmp_path / "x.mp4").exists()


def test_doctor_reports_the_model_the_banks_and_a_step(shelllcc):
    code, out, _ = shelllcc("doctor", "--json")
    report = json.loads(out)
    assert code == 0, report["problems"]
    assert report["tiny_model"] == str(TINY)
    assert report["banks"]
    assert report["step"]["move"] > 0
    assert shelllcc("doctor")[0] == 0


def test_wan21_configs_run_at_a_toy_size(shelllcc, root, tmp_path):
    from benchmarks.wan_geometry import main

    main(tmp_path / "geometry", toy=True, device="cpu")
    words = ["--model", "geometry/model", "--bank", "geometry/bank.safetensors", "--preset", "diffusers-480p"]
    words += ["--fit", "never"]
    code, out, err = shelllcc(
        "generate", "--prompt", "一只猫在草地上 a cat", *words, *SMALL, "--compare", "-o", "wan.mp4", "--json"
    )
    assert code == 0, err
    [record] = json.loads(out.splitlines()[-1])["clips"]
    assert record["request"]["cfg"] == 5.0
    assert "过曝" in record["request"]["negative_prompt"]
    assert len(record["trace"]) == 2
    unfitted = ("generate", "--prompt", "a cat", "--model", "geometry/model", *SMALL, "--fit", "never")
    code, _, err = shelllcc(*unfitted, "--strength", "0.2")
    assert code == 1
    assert "no bank fits this model's VAE" in err
    code, out, err = shelllcc(*unfitted, "--json")
    assert code == 0
    assert "sampling without guidance: no bank fits" in err
    assert json.loads(out)["clips"][0]["request"]["strength"] == 0


def test_a_clip_that_nothing_was_to_guide_is_not_said_to_need_nothing():
    """`--sigmas` without a fit samples unguided: neither a fit nor a window has to do with it."""
    plain = Request.resolve(PRESETS["tiny"], prompt="a cat")
    still = dict.fromkeys(("coarse", "radius"), 1.0) | {"tone": 0.0}
    cases = ((plain.unguided(), None), (plain.changed(**still), "found no drift"), (plain, "the guide never acted"))
    for request, said in cases:
        record = {"bank": {"name": "any"}, "trace": [], "alarm": None, "request": request.as_dict()}
        lines = list(remarks(record))
        assert len(lines) == (said is not None)
        assert all(said in line for line in lines)
