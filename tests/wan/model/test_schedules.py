"""Noise levels by a scheduler's short name, and what distilled models were trained for."""

import pytest

from shelllcc.guidance.wan.model import distilled, schedules
from shelllcc.guidance.wan.model.presets import PRESETS

FOUR = (1.0, 0.9375, 0.8333, 0.625)


@pytest.mark.parametrize(("shift", "steps"), [(5.0, 4), (3.0, 25), (8.0, 20)])
@pytest.mark.parametrize("name", schedules.SCHEDULERS)
def test_expected_levels_are_about_diffusers_own(name, shift, steps):
    import diffusers

    kind = schedules.SCHEDULERS[name]
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
    scheduler = getattr(diffusers, kind)(**({"shift": shift} if kind.startswith("FlowMatch") else flow))
    scheduler.set_timesteps(steps)
    found = schedules.expected(kind, "", (), shift, steps)
    assert list(found) == pytest.approx(scheduler.sigmas[:-1].tolist(), abs=0.02)
    assert schedules.expected(kind, "lcm", (), 5.0, 4) == pytest.approx(FOUR, abs=1e-4)  # chosen by name it is right


def test_presets_of_few_steps_have_the_levels_that_were_trained():
    few = {name: (p.sigmas, p.scheduler, p.cfg, p.cfg_2, p.steps) for name, p in PRESETS.items() if p.sigmas}
    assert few == {
        "tiny-4step": (FOUR, "euler", 1.0, None, 4),
        "lightx2v-4step": (FOUR, "euler", 1.0, None, 4),
        "wan2.2-lightning": (FOUR, "euler", 1.0, 1.0, 4),
        "causvid": ((0.999, 0.934, 0.862, 0.756, 0.603, 0.41, 0.25, 0.14, 0.074), "euler", 1.0, None, 9),
        "fastwan": ((1.0, 0.757, 0.522), "lcm", 1.0, None, 3),
        "rcm": ((0.988, 0.934, 0.853, 0.609), "lcm", 1.0, None, 4),
    }
    assert schedules.even(5.0, 4) == pytest.approx(FOUR, abs=1e-4)
    high = [sigma for sigma in PRESETS["wan2.2-lightning"].sigmas if sigma >= 0.875]
    assert len(high) == 2


@pytest.mark.parametrize(
    ("name", "preset"),
    [
        ("Kijai/WanVideo_comfy/Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank64.safetensors", "lightx2v-4step"),
        ("lightx2v/Wan2.1-T2V-14B-StepDistill-CfgDistill-Lightx2v", "lightx2v-4step"),
        ("/m/Wan2.2-T2V-A14B-4steps-lora-rank64-Seko-V1.1/high_noise_model.safetensors", "lightx2v-4step"),
        ("Wan2.2-Lightning_T2V-v1.1-A14B-4steps-lora_HIGH_fp16.safetensors", "lightx2v-4step"),
        ("self_forcing_dmd.safetensors", "lightx2v-4step"),
        ("Wan21_CausVid_14B_T2V_lora_rank32.safetensors", "causvid"),
        ("FastVideo/FastWan2.1-T2V-1.3B-Diffusers", "fastwan"),
        ("Wan2.1_14B_rCM_lora.safetensors", "rcm"),
        ("TurboWan2.1-T2V-1.3B-480P.safetensors", "rcm"),
        ("tiny-4step", "tiny-4step"),
        ("lightx2v/detail_enhancer.safetensors", None),
        ("lightning_strike_v1.safetensors", None),
        ("circmotion.safetensors", None),
        ("24steps_of_dance.safetensors", None),
        ("Wan-AI/Wan2.1-T2V-14B-Diffusers", None),
    ],
)
def test_a_distilled_model_is_known_by_its_name(name, preset):
    found = distilled.of_name(name)
    assert (found and found.name) == preset
    if preset == "lightx2v-4step":
        assert distilled.of_name(name, two_stage=True).name == "wan2.2-lightning"


def said(source, levels, scheduler="", cfg=1.0, **about):
    return distilled.remark([source], levels, scheduler, [cfg], **about)


def test_a_schedule_that_was_trained_is_passed_over_and_others_are_told_of():
    file = "/loras/wan_lightx2v_rank64.safetensors"
    own = schedules.expected("UniPCMultistepScheduler", "", (), 5.0, 4)
    assert said(file, own) is None
    assert said(file, FOUR, "lcm") is None  # Self-Forcing
    wrong = schedules.expected("FlowMatchEulerDiscreteScheduler", "", (), 5.0, 4)
    for levels, cfg, seen in (
        (own, 5.0, "at cfg 5"),
        (wrong, 1.0, "1, 0.9097, 0.7173"),
        (schedules.even(5.0, 50), 1.0, "50 steps"),
    ):
        line = said(file, levels, cfg=cfg)
        assert seen in line
        assert line.startswith("wan_lightx2v_rank64.safetensors was distilled for sigmas 1, 0.9375, 0.8333, 0.625")
        assert line.endswith("give --preset lightx2v-4step")
        assert "\n" not in line
    fast = PRESETS["fastwan"].sigmas
    assert "noised anew" in said("FastWan.safetensors", fast, "euler")
    assert said("FastWan.safetensors", fast, "lcm") is None
    assert said("style.safetensors", own, cfg=5.0) is None
    assert "for a distilled model" in said("style.safetensors", FOUR, "euler", preset="lightx2v-4step")
    assert said("style.safetensors", own, preset="wan-official") is None
