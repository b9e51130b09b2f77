"""`ShellGuider` in diffusers' modular pipelines: as `guided` in the stock one, and the inner guider's own when off."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler, UniPCMultistepScheduler
from diffusers.guiders import AdaptiveProjectedGuidance, ClassifierFreeGuidance
from diffusers.modular_pipelines.wan import Wan22Blocks, WanBlocks
from torch.testing import assert_close

from shelllcc.anchors.choose import load_bank
from shelllcc.guidance.errors import ModelError, UsageError
from shelllcc.guidance.guide.config import GuideConfig
from shelllcc.guidance.guide.guide import ShellGuide
from shelllcc.guidance.guide.modular import ShellGuider
from shelllcc.guidance.guide.scheduler import guided
from shelllcc.guidance.wan.model.pipeline import TINY

FLOW = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
SCHEDULERS = {
    "unipc": lambda: UniPCMultistepScheduler(**FLOW),
    "euler": lambda: FlowMatchEulerDiscreteScheduler(shift=3.0),
}
SIZE = dict(height=32, width=32, num_frames=5, num_inference_steps=5)
WIDE = GuideConfig(window=(0.0, 0.9), last=True, calm=3.8, contrast=1.5)  # what cfg adds counts
HERE = {
    "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": str(TINY),
    "torch.bfloat16": "torch.float32",
    'pipe.to("cuda")': "",
    "prompt=prompt": "prompt=prompt, height=32, width=32, num_frames=5, num_inference_steps=10",
}
PROMPTS = ["a tabby cat, zoom in, daylight", "a rocket, tilt up, night"]


@pytest.fixture(scope="module")
def tiny_bank(pipe):
    return load_bank("auto", pipe)


@pytest.fixture
def modular(pipe, monkeypatch):
    """Makes a modular pipeline of the embedded model's parts, which takes embeddings; the stock one has its scheduler.

    Embeddings, since at cfg 1 the text encoder's block of diffusers 0.42.1 raises UnboundLocalError.
    """

    def make(scheduler="unipc", *, blocks=WanBlocks):
        chosen = blocks()
        chosen.sub_blocks.pop("text_encoder")
        made = chosen.init_pipeline()
        made.encode = pipe.encode_prompt
        made.set_progress_bar_config(disable=True)
        parts = {name: getattr(pipe, name) for name in ("transformer", "vae")}
        twice = {"transformer_2": pipe.transformer} if blocks is Wan22Blocks else {}
        made.update_components(**parts, **twice, scheduler=SCHEDULERS[scheduler]())
        monkeypatch.setattr(pipe, "scheduler", SCHEDULERS[scheduler]())
        return made

    return make


def noise(prompt, seed):
    clips = 1 if isinstance(prompt, str) else len(prompt)
    return torch.randn(clips, 16, 2, 4, 4, generator=torch.Generator().manual_seed(seed))


def sampled(made, prompt=PROMPTS[0], seed=3, **more):
    with torch.no_grad():  # else another kernel encodes
        asked, none = made.encode(prompt, do_classifier_free_guidance=True, max_sequence_length=512)
    words = dict(prompt_embeds=asked, negative_prompt_embeds=none)
    return made(**words, latents=noise(prompt, seed), **SIZE | more, output="latents")


def stock(pipe, cfg, prompt=PROMPTS[0], seed=3):
    words = dict(prompt=prompt, guidance_scale=cfg, latents=noise(prompt, seed))
    return pipe(**words, **SIZE, output_type="latent").frames


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_it_equals_guided(scheduler, cfg, modular, pipe, tiny_bank):
    made, guide, same = modular(scheduler), ShellGuide(tiny_bank, WIDE), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider=ClassifierFreeGuidance(cfg))
    plain = sampled(made)
    made.update_components(guider=ShellGuider(guide, made))
    with guided(pipe, same):
        wanted = stock(pipe, cfg)
    result = sampled(made)
    assert_close(result, wanted, atol=1e-5, rtol=1e-5)
    assert (result - plain).abs().max() > 0.05
    assert len(guide.trace) == len(same.trace) >= 3
    assert [step.index for step in guide.trace] == [step.index for step in same.trace]
    assert (guide.trace[0].excess != [0.0]) == (cfg > 1)


def test_two_prompts_in_a_batch_are_each_guided_alone(modular, pipe, tiny_bank):
    made, same = modular(), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider=ClassifierFreeGuidance(3.0))
    made.update_components(guider=ShellGuider(ShellGuide(tiny_bank, WIDE), made))
    with guided(pipe, same):
        wanted = stock(pipe, 3.0, PROMPTS)
    assert_close(sampled(made, PROMPTS), wanted, atol=1e-5, rtol=1e-5)
    assert len(same.trace[0].distance) == 2


def test_every_run_begins_anew(modular, tiny_bank):
    made, guide = modular(), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider=ClassifierFreeGuidance(3.0))
    made.update_components(guider=ShellGuider(guide, made))
    first, trace = sampled(made), list(guide.trace)
    sampled(made, PROMPTS[1], seed=4)
    assert guide.trace != trace
    assert torch.equal(sampled(made), first)
    assert guide.trace == trace


def test_a_run_that_was_interrupted_leaves_nothing(modular, tiny_bank, monkeypatch):
    made, guide = modular(), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider=ShellGuider(guide, made))
    first, step, calls = sampled(made), made.scheduler.step, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(made.scheduler, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sampled(made)
    assert torch.equal(sampled(made), first)


@pytest.mark.parametrize("inner", [lambda: ClassifierFreeGuidance(3.0), lambda: AdaptiveProjectedGuidance(3.0)])
def test_strength_zero_is_the_inner_guider_to_the_bit(inner, modular, tiny_bank):
    made = modular()
    made.update_components(guider=inner())
    plain = sampled(made)
    made.update_components(guider=inner())
    made.update_components(guider=ShellGuider(ShellGuide(tiny_bank, strength=0.0), made))
    assert torch.equal(sampled(made), plain)


def test_a_window_without_steps_is_the_stock_guider_to_the_bit(modular, tiny_bank):
    made = modular()
    plain = sampled(made)
    made.update_components(guider=ShellGuider(ShellGuide(tiny_bank, GuideConfig(window=(0.001, 0.002))), made))
    assert torch.equal(sampled(made), plain)


def test_two_transformers_have_one_guide(modular, pipe, tiny_bank):
    """Of Wan2.2, whose guiders hand over at the boundary, what was begun by the first goes on in the second."""
    made, guide, same = modular(blocks=Wan22Blocks), ShellGuide(tiny_bank, WIDE), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider=ClassifierFreeGuidance(3.0), guider_2=ClassifierFreeGuidance(3.0))
    second = ShellGuider(guide, made, around=made.guider_2)
    made.update_components(guider=ShellGuider(guide, made), guider_2=second)
    with guided(pipe, same):
        wanted = stock(pipe, 3.0)
    assert_close(sampled(made), wanted, atol=1e-5, rtol=1e-5)
    assert [step.index for step in guide.trace] == [step.index for step in same.trace]


def test_only_the_second_transformer_is_guided_in_every_run(modular, tiny_bank):
    made, guide = modular(blocks=Wan22Blocks), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider_2=ShellGuider(guide, made, around=made.guider_2))
    first, trace = sampled(made), list(guide.trace)
    assert trace
    assert torch.equal(sampled(made), first)
    assert guide.trace == trace


def test_given_frames_are_not_moved(bank, latents):
    """As an image-to-video model's block state has them: four channels of a mask, 1 where an image lies."""
    scheduler = SCHEDULERS["euler"]()
    scheduler.set_timesteps(4)
    holder = SimpleNamespace(scheduler=scheduler)
    guider = ShellGuider(ShellGuide(bank, WIDE), holder, around=ClassifierFreeGuidance(1.0))
    condition = torch.zeros(1, 20, 3, 12, 10)
    condition[:, :4, 0] = 1
    state = SimpleNamespace(latents=latents(1), image_condition_latents=condition, text=torch.zeros(1))
    guider.set_state(0, 4, scheduler.timesteps[0])
    scheduler._init_step_index(scheduler.timesteps[1])  # sigma 0.9, inside the window
    (batch,) = guider.prepare_inputs_from_block_state(state, {"text": ("text", "text")})
    batch.noise_pred = latents(2)
    moved = guider([batch])[0] - latents(2)
    assert torch.equal(moved[:, :, 0], torch.zeros_like(moved[:, :, 0]))
    assert moved[:, :, 1].abs().max() > 0.01


def test_it_takes_the_place_of_another(modular, tiny_bank):
    made, guide = modular(), ShellGuide(tiny_bank, WIDE)
    made.update_components(guider=ShellGuider(guide, made))
    once = sampled(made)
    made.update_components(guider=ShellGuider(guide, made))
    assert torch.equal(sampled(made), once)
    assert isinstance(made.guider.inner, ClassifierFreeGuidance)
    stronger = made.guider.new(guidance_scale=2.0)
    assert (stronger.guide, stronger.inner.guidance_scale) == (guide, 2.0)


def test_switched_off_cfg_asks_for_no_negative_prompt(modular, tiny_bank):
    made = modular()
    made.update_components(guider=ShellGuider(ShellGuide(tiny_bank, WIDE), made))
    assert made.requires_unconditional_embeds
    made.guider.disable()
    assert not made.requires_unconditional_embeds
    assert made.guider.num_conditions == 1


def test_what_cannot_be_guided_is_refused_by_name(modular, tiny_bank):
    made, guide = modular(), ShellGuide(tiny_bank)
    with pytest.raises(UsageError, match="around a guider of diffusers, got NoneType"):
        ShellGuider(guide, SimpleNamespace(scheduler=None))
    with pytest.raises(UsageError, match="ShellGuider\\(guide, pipe\\)"):
        ShellGuider.from_config({})
    made.update_components(scheduler=FlowMatchHeunDiscreteScheduler())
    with pytest.raises(ModelError, match="cannot guide FlowMatchHeun"):
        ShellGuider(guide, made)
    guider = ShellGuider(guide, modular())
    guider.set_state(0, 4, torch.tensor(999))
    (batch, other) = guider.prepare_inputs({"text": (torch.zeros(1), torch.ones(1))})
    batch.noise_pred = other.noise_pred = torch.zeros(1)
    with pytest.raises(ModelError, match="hand their guider no latents"):
        guider([batch, other])


def test_the_page_shows_what_runs(root):
    """The Python of docs/modular.md, word for word but for the model, its device, and a size that takes a second."""
    text, names = (root / "docs/modular.md").read_text(encoding="utf-8"), {"prompt": PROMPTS[0]}
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    for said, instead in HERE.items():
        assert said in blocks[0]
        blocks[0] = blocks[0].replace(said, instead)
    for block in blocks:
        exec(block, names)
    assert names["guide"].trace
    assert names["videos"][0].shape[-1] == 3
    assert isinstance(names["pipe"].guider, ShellGuider)


def test_the_package_stays_light():
    code = "import sys, shelllcc; print([m for m in ('diffusers', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
