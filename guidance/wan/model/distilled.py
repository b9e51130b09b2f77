"""Distilled models: known by their names, and what each was trained for. Knows nothing of files or of torch.

A model that was distilled into few steps is right at the noise levels and the stepping of its training, and without
cfg; elsewhere it is something else. Nothing in its weights says which they were, so that its name must.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePath

from shelllcc.guidance.wan.model.presets import PRESETS, Preset
from shelllcc.guidance.words import plural

NEAR = 0.02  # in sigma: such levels are as good as the same
TOLD = {  # what a name says, without what separates its words, and the preset of it
    r"causvid": "causvid",
    r"fastwan": "fastwan",
    r"turbowan|turbodiffusion": "rcm",
    r"lightx2v|stepdistill|cfgdistill|selfforcing|(?<!\d)4steps?|wan2[12]lightning": "lightx2v-4step",
}  # fmt: skip
WORDS = {"rcm": "rcm"}  # as whole words alone
BARE = {  # names of files whose folder tells
    "pytorch_lora_weights", "adapter_model", "lora", "model", "diffusion_pytorch_model",
    "high_noise_model", "low_noise_model",
}  # fmt: skip


def of_name(source: str, *, two_stage: bool = False) -> Preset | None:
    """What a LoRA, a file or a model of this path or hub id was distilled for, as far as its name says."""
    if source in PRESETS:
        return PRESETS[source]
    path = PurePath(source)
    own = path.parent.name if path.stem in BARE else path.name
    words = [word for word in re.split(r"[^a-z0-9]+", own.lower()) if word]
    found = next((preset for told, preset in TOLD.items() if re.search(told, "".join(words))), None)
    found = found or next((preset for word, preset in WORDS.items() if word in words), None)
    if found == "lightx2v-4step" and two_stage:
        found = "wan2.2-lightning"
    return None if found is None else PRESETS[found]


def remark(
    sources: Iterable[str],
    levels: Sequence[float],
    scheduler: str,
    cfgs: Sequence[float],
    *,
    preset: str = "",
    two_stage: bool = False,
) -> str | None:
    """One line where a distilled model is sampled otherwise than it was trained, or a preset of few steps has none.

    `sources` are the LoRAs and what else the transformer's weights are from, `levels` about the noise levels that it
    sees, `scheduler` a short name, empty for the model's own.
    """
    known = [(source, kind) for source in sources if (kind := of_name(source, two_stage=two_stage)) is not None]
    asked = PRESETS.get(preset)
    if not known:
        few = asked is not None and asked.sigmas
        return f"the preset {preset} is for a distilled model; give its LoRA with --lora FILE" if few else None
    source, kind = known[0]
    if _as_trained(kind, levels, scheduler, cfgs):
        return None
    right = ", ".join(f"{sigma:g}" for sigma in kind.sigmas)
    anew = ", noised anew" if kind.scheduler == "lcm" else ""
    seen = plural(len(levels), "step") if len(levels) != len(kind.sigmas) else ", ".join(f"{s:.4g}" for s in levels)
    return (
        f"{PurePath(source).name} was distilled for sigmas {right} at cfg 1{anew}; this samples {seen} at cfg "
        f"{max(cfgs):g}: give --preset {kind.name}"
    )


def _as_trained(kind: Preset, levels: Sequence[float], scheduler: str, cfgs: Sequence[float]) -> bool:
    same = len(levels) == len(kind.sigmas) and all(abs(a - b) <= NEAR for a, b in zip(levels, kind.sigmas, strict=True))
    stepped = kind.scheduler != "lcm" or scheduler == "lcm"  # at Euler's levels Self-Forcing noises anew
    return same and stepped and max(cfgs) <= 1
