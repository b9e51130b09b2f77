"""A fit made in ComfyUI, from its model, VAE and CLIP to the file that its nodes and the command line read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from shelllcc.comfy.choosing import NEAR
from shelllcc.comfy.guiding import check_unguided
from shelllcc.comfy.models import (
    SAMPLERS,
    check_model,
    shapes_of,
    shift_of,
    space_of,
    weights_of,
)
from shelllcc.comfy.starting import bank_or_start
from shelllcc.comfy.trips import OF_A_CLIP, Asked, HostTrips, levels_of, solver_of, takes_of
from shelllcc.guidance.errors import UsageError
from shelllcc.guidance.files import claimed
from shelllcc.guidance.fit import shelf
from shelllcc.guidance.fit.fit import Belongs, Fit, read_fit
from shelllcc.guidance.fit.fitting import Fitting, Progress

if TYPE_CHECKING:
    from shelllcc.anchors.bank import Bank


@torch.no_grad()
def make_fit(
    models: Sequence[Any],
    vae: Any,
    clip: Any,
    asked: Asked,
    *,
    bank: str = "auto",
    negative: Any = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Fit:
    """The fit of one ComfyUI model, or of Wan2.2's two, for these settings: kept in the user's folder, made where there
    is none. One that was interrupted goes on where it was.

    Raises ModelError for no Wan, BankError where no bank is of its latents, UsageError for what does not go together.
    """
    for model in models:
        check_model(model)
        check_unguided(model)
    model, shape = models[0], _shape(models)
    if len({space_of(found) for found in models}) > 1:
        raise UsageError("the two models have different latents; give both of one Wan2.2, high noise first")
    if len(models) > 1 and not 0 < asked.switch < asked.steps:
        raise UsageError(f"two models switch after a step from 1 to {asked.steps - 1}, got {asked.switch}")
    check_vae(vae, model)
    chosen = bank_or_start(bank, shape, model, vae, on_clip=lambda n, of: on_progress(Progress(n, of, None, "bank")))
    belongs = belonging(models, chosen, asked)
    path = shelf.folder() / f"{belongs.name}.json"
    if path.exists():
        return read_fit(path)
    if negative is not None:
        negative = [[text, {k: v for k, v in more.items() if k not in OF_A_CLIP}] for text, more in negative]
    takes = takes_of(vae, model, asked)
    trips = HostTrips(models, vae, clip, takes, chosen, asked, shape=shape, negative=negative)
    state = shelf.folder() / "begun" / path.name
    with claimed(state):
        fit = Fitting(trips, belongs, state=state, on_progress=on_progress).fit()
        shelf.keep(fit)
    return fit


def check_vae(vae: Any, patcher: Any) -> None:
    """Raise UsageError for a VAE of other latents than the model's."""
    ours, theirs = patcher.model.latent_format.latent_channels, vae.latent_channels
    if ours != theirs:
        raise UsageError(f"this VAE makes {theirs}-channel latents, the model has {ours}; load the model's own")


def belonging(models: Sequence[Any], bank: Bank, asked: Asked) -> Belongs:
    """What a fit for this sampling is made for. Noise levels that no shift makes of the steps are its own."""
    solver = solver_of(asked)
    levels, shift = levels_of(models[0], asked).tolist(), shift_of(models[0])
    bare = [1 - index / asked.steps for index in range(asked.steps + 1)]
    usual = [shift * level / (1 + (shift - 1) * level) for level in bare]
    given = len(levels) != len(usual) or any(abs(a - b) > NEAR for a, b in zip(levels, usual, strict=True))
    return Belongs(
        bank=bank.identity,
        calibration=bank.chosen.digest if bank.chosen else None,
        weights=weights_of(models),
        scheduler=SAMPLERS.get(solver, solver),
        steps=asked.steps,
        cfg=float(asked.cfg),
        cfg_2=None,
        shift=1.0 if given else shift,
        sigmas=tuple(round(level, 6) for level in levels[:-1]) if given else (),
    )


def _shape(models: Sequence[Any]) -> str:
    """The fingerprint of the shape: of one transformer, or of Wan2.2's two, of a text or of an image."""
    alone, of_text, of_image = shapes_of(models[0])
    if len(models) == 1:
        return alone
    return of_image if getattr(models[0].model, "image_to_video", False) else of_text
