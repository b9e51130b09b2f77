"""Schedules that are given: noise levels and schedulers by name, as a distilled model needs them."""

import json
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import Start, guide_for, noise_levels, sample
from shelllcc.guidance.wan.model.loading import SHIPPED
from shelllcc.guidance.wan.model.presets import PRESETS

FOUR = (1.0, 0.9375, 0.8333, 0.625)
SMALL = {"prompt": "a tabby cat, zoom in, daylight", "width": 32, "height": 32, "frames": 5}
SIZE = ["--size", "32x32", "--frames", "5"]


def request(**values):
    return Request.resolve(PRESETS["tiny"], **SMALL, **values)


@pytest.fixture
def heard(pipe):
    """What the transformer is asked for: latents, times, and what it answers."""
    calls = []
    hook = pipe.transformer.register_forward_hook(
        lambda model, args, given, out: calls.append((given["hidden_states"], float(given["timestep"][0]), out[0])),
        with_kwargs=True,
    )
    yield calls
    hook.remove()


@pytest.mark.parametrize("scheduler", ["euler", "lcm"])
def test_a_sampling_takes_the_levels_given_and_steps_as_named(scheduler, pipe, heard):
    own = pipe.scheduler
    asked = request(sigmas=FOUR, scheduler=scheduler, seed=3, strength=0.0)
    assert asked.steps == 4
    clip = sample(pipe, asked)
    assert pipe.scheduler is own
    assert [time for _, time, _ in heard] == pytest.approx([1000 * sigma for sigma in FOUR])
    dice = torch.Generator().manual_seed(3)
    x = torch.randn((1, 16, 2, 4, 4), generator=dice)
    for (seen, _, velocity), (sigma, after) in zip(heard, pairwise([*FOUR, 0.0]), strict=True):
        assert_close(seen, x, atol=1e-4, rtol=1e-4)
        x0 = x - sigma * velocity
        noise = torch.randn(x.shape, generator=dice) if scheduler == "lcm" else (x - (1 - sigma) * x0) / sigma
        x = (1 - after) * x0 + after * noise
    assert_close(clip.latents, x, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("values", "levels"),
    [
        ({"scheduler": "euler", "steps": 4, "shift": 5.0}, FOUR),  # not diffusers' own, which are shifted twice
        ({"scheduler": "lcm", "steps": 4, "shift": 5.0}, FOUR),
        ({"scheduler": "unipc", "steps": 4, "shift": 5.0}, FOUR),
        ({"scheduler": "dpm", "sigmas": (0.9, 0.5)}, (0.9, 0.5)),
        ({"sigmas": (0.9, 0.5)}, (0.9, 0.5)),
    ],
)
def test_noise_levels_are_known_before_anything_is_sampled(values, levels, pipe):
    kind = type(pipe.scheduler)
    assert noise_levels(pipe, request(**values)) == pytest.approx([*levels, 0.0], abs=2e-3)
    assert type(pipe.scheduler) is kind


def test_noise_drawn_anew_is_the_seeds_own_and_never_the_first_again(pipe, heard):
    asked = request(sigmas=FOUR, scheduler="lcm", strength=0.0)
    torch.manual_seed(1)
    first = sample(pipe, asked)
    torch.manual_seed(2)
    assert torch.equal(sample(pipe, asked).latents, first.latents)
    assert not torch.equal(sample(pipe, asked.changed(seed=1)).latents, first.latents)
    heard.clear()
    noise = torch.randn((1, 16, 2, 4, 4), generator=torch.Generator().manual_seed(0))
    begun = sample(pipe, asked, start=Start(noise, 0))
    assert torch.equal(begun.latents, first.latents)  # as from pure noise: none of it comes twice


@pytest.mark.parametrize("scheduler", ["euler", "lcm"])
def test_the_last_step_of_four_is_guided(scheduler, pipe):
    from shelllcc import load_bank

    knobs = {"window": (0.0, 0.625), "last": True, "by_sigma": True, "toward": 0.0, "radius": 2.0, "calm": 0.0}
    asked = request(sigmas=FOUR, scheduler=scheduler, **knobs)
    clip = sample(pipe, asked, guide_for(asked, load_bank("auto", pipe)))
    assert [(step.index, round(step.sigma, 4)) for step in clip.trace] == [(3, 0.625)]
    assert clip.trace[0].gain[0] > 0
    plain = sample(pipe, asked.unguided())
    size = (clip.latents - plain.latents).square().mean().sqrt()
    assert_close(size, torch.tensor(clip.trace[0].move[0]), rtol=1e-3, atol=1e-5)  # the whole move, in the output


def test_steps_follow_from_sigmas_and_leave_them_behind():
    four = Request.resolve(PRESETS["lightx2v-4step"], **SMALL)
    assert (four.steps, four.sigmas, four.scheduler, four.cfg) == (4, FOUR, "euler", 1.0)
    eight = Request.resolve(PRESETS["lightx2v-4step"], **SMALL, steps=8)
    assert (eight.steps, eight.sigmas, eight.scheduler) == (8, (), "euler")
    assert four.changed(steps=3).sigmas == ()
    assert four.changed(shift=8.0).sigmas == ()
    assert four.changed(seed=3).sigmas == FOUR
    assert request(steps=25).changed(sigmas=(0.9, 0.4)).steps == 2
    with pytest.raises(UsageError, match="the sigmas give 4 steps, not 5"):
        request(sigmas=FOUR, steps=5)


def test_records_hold_the_schedule_and_those_of_before_lack_it():
    four = request(sigmas=FOUR, scheduler="lcm")
    record = json.loads(json.dumps(four.as_dict()))
    assert (record["sigmas"], record["scheduler"], record["steps"]) == (list(FOUR), "lcm", 4)
    assert Request.from_dict(record) == four
    assert {"sigmas", "scheduler"} <= four.lasting().keys()
    plain = request()
    assert not {"sigmas", "scheduler"} & plain.lasting().keys()
    old = {key: value for key, value in plain.as_dict().items() if key not in ("sigmas", "scheduler", "by_sigma")}
    assert Request.from_dict(old) == plain.changed(by_sigma=False)  # as it was before there was another way
    with pytest.raises(UsageError, match="no proper sigmas"):
        Request.from_dict(record | {"sigmas": ["1", 0.5]})


@pytest.mark.parametrize(
    ("sigmas", "said"),
    [
        (["--sigmas", "1,.5,.7"], "sigmas fall from step to step, above 0 and at most 1, e.g. 1,.9375,.8333,.625, got"),
        (["--sigmas", "1,1,.7"], "sigmas fall"),
        (["--sigmas", "1.2,.7"], "sigmas fall"),
        (["--sigmas", "1,.7,0"], "sigmas fall"),
        (["--sigmas", "nan"], "sigmas fall"),
        (["--sigmas", "1,a"], "sigmas takes a number, got a"),
        (["--sigmas", ""], "sigmas takes a number, got nothing"),
        (["--sigmas", "1,.5", "--steps", "4"], "the sigmas give 2 steps, not 4"),
        (["--scheduler", "heun"], "the scheduler is one of unipc, dpm, euler, lcm, got heun"),
    ],
)
@pytest.mark.parametrize("command", ["generate", "fit"])
def test_a_schedule_that_is_none_is_one_line(command, sigmas, said, shelllcc):
    prompt = ["--prompt", "a cat"] if command == "generate" else []
    code, _, err = shelllcc(command, *prompt, *sigmas, "--dry-run")
    assert code == 2
    [line] = err.splitlines()
    assert said in line


def test_a_clip_of_given_levels_is_replayed_by_its_sidecar(shelllcc, tmp_path):
    levels = ["--sigmas", ",".join(map(str, FOUR)), "--scheduler", "lcm"]
    code, out, err = shelllcc("generate", "-p", "a cat", *SIZE, *levels, "--fit", "never", "-o", "clip.mp4", "--json")
    assert code == 0, err
    [clip] = json.loads(out)["clips"]
    assert (clip["request"]["sigmas"], clip["request"]["scheduler"]) == (list(FOUR), "lcm")
    code, out, err = shelllcc("generate", "--from", "clip.json", "-o", "again.mp4", "--json")
    assert code == 0, err
    [again] = json.loads(out)["clips"]
    assert again["request"] == clip["request"]
    assert again["frames_sha256"] == clip["frames_sha256"]


def test_every_command_that_samples_takes_levels(shelllcc, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat --sigmas 1,.5 --scheduler euler\na rocket\n")
    sampled = ["--prompts-file", "prompts.txt", *SIZE, "--steps", "3", "--fit", "never"]
    code, out, err = shelllcc("generate", *sampled, "--dry-run", "--json")
    assert code == 0, err
    first, second = (clip["request"] for clip in json.loads(out)["clips"])
    assert (first["sigmas"], first["scheduler"], first["steps"]) == ([1.0, 0.5], "euler", 2)
    assert (second["sigmas"], second["steps"]) == ([], 3)
    levels = ["--sigmas", "1,.9,.5", "--scheduler", "euler"]
    code, out, err = shelllcc("fit", *levels, *SIZE, "--dry-run", "--json")
    assert code == 0, err
    belongs = json.loads(out)["belongs"]
    assert (belongs["sigmas"], belongs["scheduler"]) == ([1.0, 0.9, 0.5], "FlowMatchEulerDiscreteScheduler")
    code, out, err = shelllcc("fit", "--shift", "8", *levels, *SIZE, "--dry-run", "--json")
    assert json.loads(out)["belongs"] == belongs  # which the shift does not touch


def test_the_shipped_student_is_loaded_by_its_preset_or_missed_in_one_line(shelllcc, monkeypatch, tmp_path):
    monkeypatch.setitem(SHIPPED, "tiny-4step", tmp_path / "distilled.safetensors")
    command = ["generate", "-p", "a cat", *SIZE, "--preset", "tiny-4step", "--fit", "never"]
    code, _, err = shelllcc(*command, "--dry-run")
    assert code == 2
    [line] = err.splitlines()
    assert "the preset tiny-4step needs distilled.safetensors" in line
    _write_adapter(tmp_path / "distilled.safetensors")
    code, out, err = shelllcc(*command, "-o", "clip.mp4", "--json")
    assert code == 0, err
    assert "was distilled for" not in err
    [clip] = json.loads(out)["clips"]
    assert clip["loading"]["loras"] == [{"source": "tiny-4step", "weight": 1.0}]  # wherever the package lies
    assert list(clip["loading"]["fingerprints"]) == ["tiny-4step"]
    assert clip["request"]["sigmas"] == list(FOUR)
    code, out, err = shelllcc("generate", "--from", "clip.json", "-o", "again.mp4", "--json")
    assert code == 0, err
    assert json.loads(out)["clips"][0]["frames_sha256"] == clip["frames_sha256"]
    code, _, err = shelllcc(*command, "--cfg", "5", "--dry-run")
    [line] = [line for line in err.splitlines() if "was distilled for" in line]
    assert line.endswith("give --preset tiny-4step")
    code, _, err = shelllcc(*command, "--model", str(tmp_path), "--dry-run")
    assert code == 2
    assert "is for the embedded tiny Wan" in err
    _write_adapter(tmp_path / "distilled.safetensors", seed=1)
    code, _, err = shelllcc("generate", "--from", "clip.json", "-o", "third.mp4")
    assert code == 2
    assert "is not the file that the sidecar names" in err


def _write_adapter(path, seed=0):
    from safetensors.torch import save_file

    from shelllcc.guidance.wan.model.pipeline import find_model

    config = find_model(None).transformer
    width = config["num_attention_heads"] * config["attention_head_dim"]
    dice = torch.Generator().manual_seed(seed)
    pair = {"lora_A": torch.randn(4, width, generator=dice), "lora_B": torch.randn(width, 4, generator=dice)}
    save_file({f"transformer.blocks.0.attn1.to_q.{key}.weight": 0.1 * value for key, value in pair.items()}, path)


def test_an_adapter_beside_the_tiny_model_leaves_its_fingerprint(tmp_path):
    from shelllcc.guidance.wan.model.pipeline import weights_sha256

    (tmp_path / "vae").mkdir()
    (tmp_path / "vae/model.safetensors").write_bytes(b"weights")
    before = weights_sha256(tmp_path)
    (tmp_path / "distilled.safetensors").write_bytes(b"adapter")
    assert weights_sha256(tmp_path) == before


def test_the_knob_of_the_dose_is_a_variant():
    from shelllcc.guidance.wan.clips.parse import variants

    [even, own] = variants(["by_sigma=false; by_sigma=true"])
    assert (even.settings, own.settings) == ({"by_sigma": False}, {"by_sigma": True})
    with pytest.raises(UsageError, match="by_sigma must be true or false"):
        GuideConfig(by_sigma=1)


def test_without_a_fit_given_levels_are_fitted_first_or_left_alone(shelllcc, monkeypatch):
    """The guide's own defaults were found for many steps, and of such levels they would move nothing."""
    levels = ["--sigmas", "1,.9,.6", "--scheduler", "euler"]
    code, _, err = shelllcc("generate", "-p", "a cat", *SIZE, *levels, "--fit-budget", "0", "-o", "clip.mp4")
    assert code == 0, err
    [line] = [line for line in err.splitlines() if "makes it" in line]
    assert "shelllcc fit --sigmas 1,0.9,0.6 --scheduler euler" in line
    assert "sampling without guidance: no fit says how" in err
