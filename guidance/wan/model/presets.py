"""Named sampling defaults, and which of them a model gets. Knows nothing of pipelines or torch.

Wan's tools disagree on shift, cfg and steps: a preset is named, resolved in one place and recorded with every clip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Wan's own default (wan/configs/shared_config.py); the released models know it better in Chinese than in English.
WAN_NEGATIVE = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，"
    "杂乱的背景，三条腿，背景人很多，倒着走"
)

I2V_NEGATIVE = "镜头晃动，" + WAN_NEGATIVE  # no shaking camera: wan/configs/wan_i2v_14B.py of Wan2.1
FLF2V_NEGATIVE = "镜头切换，" + I2V_NEGATIVE  # nor a cut: its wan/configs/__init__.py


@dataclass(frozen=True)
class Preset:
    """Defaults of one family of models, or of one tool. `cfg_2` is for a second transformer (Wan2.2-A14B).

    Presets of few steps have the noise levels that a distilled model was trained for, in `sigmas`, and the scheduler
    that steps as it was trained; `lora` is an adapter that ships.
    """

    name: str
    width: int
    height: int
    frames: int
    fps: int
    steps: int
    cfg: float
    shift: float
    negative_prompt: str
    cfg_2: float | None = None
    scheduler: str = ""
    sigmas: tuple[float, ...] = ()
    lora: str | None = None


FOUR = (1.0, 0.9375, 0.8333, 0.625)  # 1000, 750, 500 and 250 warped by shift 5
NINE = (0.999, 0.934, 0.862, 0.756, 0.603, 0.41, 0.25, 0.14, 0.074)


def _few(name: str, sigmas: tuple[float, ...], scheduler: str, *, cfg_2: float | None = None) -> Preset:
    """A preset of a distilled model: at cfg 1, at these noise levels."""
    return Preset(name, 832, 480, 81, 16, len(sigmas), 1.0, 5.0, WAN_NEGATIVE, cfg_2, scheduler, sigmas)


PRESETS: Mapping[str, Preset] = {
    p.name: p
    for p in (
        Preset("tiny", 192, 192, 17, 8, 25, 1.0, 3.0, ""),
        Preset("wan-official", 1280, 720, 81, 16, 50, 5.0, 5.0, WAN_NEGATIVE),  # generate.py of Wan2.1, for 14B
        Preset("wan-1.3b-480p", 832, 480, 81, 16, 50, 6.0, 8.0, WAN_NEGATIVE),  # the same project's README, for 1.3B
        Preset("diffusers-480p", 832, 480, 81, 16, 50, 5.0, 3.0, WAN_NEGATIVE),
        Preset("diffusers-720p", 1280, 720, 81, 16, 50, 5.0, 5.0, WAN_NEGATIVE),
        Preset("wan2.2-a14b", 1280, 720, 81, 16, 40, 4.0, 12.0, WAN_NEGATIVE, cfg_2=3.0),
        Preset("wan2.1-i2v-480p", 832, 480, 81, 16, 40, 5.0, 3.0, I2V_NEGATIVE),  # generate.py of Wan2.1, for i2v-14B
        Preset("wan2.1-i2v-720p", 1280, 720, 81, 16, 40, 5.0, 5.0, I2V_NEGATIVE),
        Preset("wan2.1-flf2v-720p", 1280, 720, 81, 16, 50, 5.0, 16.0, FLF2V_NEGATIVE),  # the same, for flf2v-14B
        # wan/configs of Wan2.2: wan_i2v_A14B.py, wan_ti2v_5B.py, which has one set for text and images
        Preset("wan2.2-i2v-a14b", 1280, 720, 81, 16, 40, 3.5, 5.0, WAN_NEGATIVE, cfg_2=3.5),
        Preset("wan2.2-5b", 1280, 704, 121, 24, 50, 5.0, 5.0, WAN_NEGATIVE),
        Preset("shelllcc-paper", 1280, 720, 49, 16, 40, 5.0, 5.0, WAN_NEGATIVE),  # seeds: 42 + index of the prompt
        Preset("tiny-4step", 192, 192, 17, 8, 4, 1.0, 5.0, "", None, "euler", FOUR, "tiny-4step"),
        _few("lightx2v-4step", FOUR, "euler"),  # and Self-Forcing, which steps by lcm
        _few("wan2.2-lightning", FOUR, "euler", cfg_2=1.0),  # two of the four for high noise, boundary .875
        _few("causvid", NINE, "euler"),  # the 14B's; the first, of 1.3B, is as fastwan
        _few("fastwan", (1.0, 0.757, 0.522), "lcm"),
        _few("rcm", (0.988, 0.934, 0.853, 0.609), "lcm"),
    )
}


def preset_for(
    transformer: Mapping[str, Any], *, two_stage: bool = False, vae: Mapping[str, Any] | None = None, name: str = ""
) -> Preset:
    """The preset of a model by its transformer's and its VAE's configs and whether it has a second transformer.

    Wan2.1's two models of one image differ in their name alone; that of two has places for both in its image encoder's.
    """
    if int(transformer.get("in_channels") or 0) > int(transformer.get("out_channels") or 0) > 0:
        if transformer.get("pos_embed_seq_len"):
            return PRESETS["wan2.1-flf2v-720p"]
        large = "wan2.1-i2v-720p" if "720p" in name.lower() else "wan2.1-i2v-480p"
        return PRESETS["wan2.2-i2v-a14b" if two_stage else large]
    if two_stage:
        return PRESETS["wan2.2-a14b"]
    if vae is not None and vae.get("z_dim") == 48:
        return PRESETS["wan2.2-5b"]
    width = transformer["num_attention_heads"] * transformer["attention_head_dim"]
    if width < 1024:
        return PRESETS["tiny"]
    return PRESETS["wan-1.3b-480p" if width <= 1536 else "wan-official"]
