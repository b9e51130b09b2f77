"""Guidance where it is easily wrong: several clips at once, very short ones, models that fail, schedulers exchanged."""

from dataclasses import replace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from shelllcc.guidance.errors import ModelError, SamplingError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.scheduler import guided
from shelllcc.guidance.wan.clips.request import Request
from shelllcc.guidance.wan.clips.sample import guide_for, sample
from shelllcc.guidance.wan.model.presets import PRESETS

PROMPTS = ["a tabby cat, zoom in, daylight", "grass, static, dusk", "a rocket, tilt up, daylight"]
EVERYWHERE = GuideConfig(window=(0.0, 1.0))
SMALL = dict(height=32, width=32, num_frames=5, num_inference_steps=3, guidance_scale=3.0, output_type="latent")


@pytest.fixture(scope="module")
def shipped():
    from shelllcc.anchors.bankfile import read_bank
    from shelllcc.anchors.shelf import locate

    return read_bank(locate("tiny-wan"))


def draw(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def request(**values):
    small = {"prompt": PROMPTS[0], "width": 32, "height": 32, "frames": 5, "steps": 3, "window": (0.0, 1.0)}
    return Request.resolve(PRESETS["tiny"], **small | values)


@pytest.mark.parametrize("copies", [1, 2])
def test_clips_that_are_sampled_together_are_guided_each_on_its_own(pipe, shipped, copies):
    together, alone = ShellGuide(shipped, EVERYWHERE), ShellGuide(shipped, EVERYWHERE)
    count = len(PROMPTS) * copies
    with guided(pipe, together):
        clips = pipe(PROMPTS, num_videos_per_prompt=copies, generator=draw(*range(count)), **SMALL).frames
    assert [len(step.distance) for step in together.trace] == [count] * 2
    with guided(pipe, alone):
        for index in range(count):
            one = pipe(PROMPTS[index // copies], generator=draw(index), **SMALL).frames
            torch.testing.assert_close(clips[index], one[0], rtol=1e-3, atol=1e-3)
            for step, own in zip(together.trace, alone.trace, strict=True):
                assert step.distance[index] == pytest.approx(own.distance[0], rel=1e-3)
                assert step.move[index] == pytest.approx(own.move[0], rel=1e-2)


@pytest.mark.parametrize("frames", [1, 5])
def test_short_clips_are_guided(pipe, shipped, frames):
    wanted = request(frames=frames)
    clip, plain = sample(pipe, wanted, guide_for(wanted, shipped)), sample(pipe, wanted)
    assert clip.frames.shape == plain.frames.shape == (frames, 32, 32, 3)
    assert len(clip.trace) == 2
    assert all(step.move[0] > 0 for step in clip.trace)
    assert clip.frames_sha256 != plain.frames_sha256


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("bank_on", ["cpu", "cuda"])
@pytest.mark.parametrize("latents_on", ["cpu", "cuda"])
def test_a_bank_on_any_device_guides_latents_on_any_other(shipped, latents, bank_on, latents_on):
    x0 = latents(3, height=24, width=24)
    expected = ShellGuide(shipped).move(x0, 0.4, share=0.3)
    moved = replace(shipped, shell=shipped.shell.to(torch.device(bank_on)))
    found = ShellGuide(moved).move(x0.to(latents_on), 0.4, share=0.3)
    assert found.device.type == latents_on
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_a_model_that_gives_no_number_ends_in_one_line(pipe, shipped, value, cfg):
    calls = []

    def spoil(_model, _args, output):
        calls.append(output)
        if len(calls) == 2:
            output[0][0, 0, 0, 0, 0] = value

    handle = pipe.transformer.register_forward_hook(spoil)
    wanted = request(cfg=cfg)
    try:
        with pytest.raises(SamplingError, match="NaN or infinity in step"):
            sample(pipe, wanted, guide_for(wanted, shipped))
    finally:
        handle.remove()
    assert sample(pipe, wanted).frames_sha256  # the pipeline is as it was


@pytest.mark.parametrize("when", ["before", "midway"])
def test_another_scheduler_within_guided_is_told(pipe, shipped, when):
    own = pipe.scheduler
    other = FlowMatchEulerDiscreteScheduler(shift=3.0)

    def exchange(pipe, index, _timestep, _state):
        pipe.scheduler = other
        return {}

    def run():
        with guided(pipe, ShellGuide(shipped, EVERYWHERE)):
            if when == "before":
                pipe.scheduler = other
            pipe(PROMPTS[0], generator=draw(0), callback_on_step_end=exchange, **SMALL)

    try:
        with pytest.raises(ModelError, match=r"another scheduler within guided\(\); set it before"):
            run()
    finally:
        pipe.scheduler = own
    assert type(own).__module__.startswith("diffusers")
    assert type(own).step.__qualname__.startswith(type(own).__name__)
