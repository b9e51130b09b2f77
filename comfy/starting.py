"""A starter bank made in ComfyUI, of photographs that ship, by its VAE: the command line's `anchors start`.

It lies where the command line looks for it, and is chosen as its own are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from shelllcc.anchors.bank import Bank
from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.build import fit_shell, split_sources, starter_recipe
from shelllcc.anchors.choose import AUTO, STARTER, choose_bank
from shelllcc.anchors.shelf import user_folder
from shelllcc.comfy.models import name_of, space_of
from shelllcc.comfy.trips import encoded
from shelllcc.guidance.errors import BankError
from shelllcc.guidance.files import claimed
from shelllcc.guidance.media import photographs

FRAMES = 17  # of a clip


def bank_or_start(
    name: str, shape: str, patcher: Any, vae: Any, *, side: int | None = None, on_clip: Callable[[int, int], None]
) -> Bank:
    """The bank of that name, or the best for a ComfyUI model of that shape, with a starter made first where none is of
    its latents; `side` are pixels of its clips, None the usual ones. Raises BankError for a name that is none."""
    space = space_of(patcher)
    try:
        return choose_bank(name, space, shape)[0]
    except BankError:
        if name != AUTO:
            raise
    path = user_folder() / f"starter-{space}.safetensors"
    scale = getattr(patcher.model.latent_format, "spacial_downscale_ratio", 8)
    with claimed(path):
        save_bank(_starter(patcher, vae, side or photographs.starter_side(scale), on_clip), path)
    return choose_bank(name, space, shape)[0]


def _starter(patcher: Any, vae: Any, side: int, on_clip: Callable[[int, int], None]) -> Bank:
    clips = dict[str, Tensor]()
    takes = photographs.takes(side)
    for number, take in enumerate(takes):
        on_clip(number, len(takes))
        clips[take.photograph.sha256] = encoded(vae, patcher, take, side, FRAMES)
    sets = split_sources(clips, (recipe := starter_recipe(patcher.model.latent_format.latent_channels)).held_out)
    placing, scaling, held_out = (
        [clips[source] for source in clips if sets[source] == part] for part in ("placing", "scaling", "held out")
    )
    fit = fit_shell(placing, scaling, held_out, recipe)
    provenance = {
        "source": "photographs that ship with shelllcc, encoded by ComfyUI",
        "made_by": STARTER,
        "videos": len(clips),
        "clips": len(clips),
        "photographs": [{"name": p.name, "licence": p.licence, "sha256": p.sha256} for p in photographs.PHOTOGRAPHS],
        "coverage": round(fit.coverage, 4),
        "framing": None,
    }
    return Bank(fit.shell, fit.guided, fit.clean, name_of(patcher), space_of(patcher), provenance, fit.quantiles)
