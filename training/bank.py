"""Make the anchor bank of the tiny Wan: `python -m training.bank OUT --model guidance/wan/tiny`.

Real clips are rendered and encoded; some place the anchors, some give the scales, and held-out ones the radius at
each noise level, by the model's own prediction from noised latents with the clip's caption.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from diffusers import WanPipeline
from torch import Tensor

from shelllcc.anchors.bank import Bank, Calibration
from shelllcc.anchors.bankfile import save_bank
from shelllcc.anchors.build import Recipe, fit_shell
from shelllcc.anchors.calibrate import calibrate_radius
from shelllcc.anchors.fingerprints import fingerprint, pipeline_fingerprint
from training import options, photographs, whole_clip
from training.clips import HELD_OUT, Clip
from training.options import Cache, Folder, Smoke
from training.studio import Studio

SEED = 20_000  # first seed of the clips behind the bank


@torch.no_grad()
def encode(pipe: WanPipeline, studio: Studio, clips: Sequence[Clip]) -> Tensor:
    """Normalised latents (n c t h w) of rendered clips, on the pipeline's device."""
    config, device = pipe.vae.config, pipe.device
    mean, std = (torch.tensor(v, device=device).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std))
    parts = [whole_clip.encode(pipe.vae, studio.film([clip]))[0] for clip in clips]
    return (torch.cat(parts) - mean) / std


def make_bank(
    pipe: WanPipeline,
    studio: Studio,
    *,
    clips: int = 192,
    held_out: int = 32,
    recipe: Recipe | None = None,
) -> Bank:
    """The bank of a tiny Wan pipeline, from `clips` rendered clips and `held_out` others."""
    device = pipe.device
    latents = encode(pipe, studio, studio.draw(range(SEED, SEED + clips))).cpu()
    unseen = studio.draw(range(HELD_OUT + SEED, HELD_OUT + SEED + held_out))
    unseen_latents = encode(pipe, studio, unseen)
    recipe = recipe or Recipe()
    fit = fit_shell(list(latents[0::2]), list(latents[1::2]), list(unseen_latents.cpu()), recipe)
    states, _ = pipe.encode_prompt(
        [clip.text for clip in unseen], do_classifier_free_guidance=False, max_sequence_length=512
    )

    def denoise(noised: Tensor, sigma: float, index: int) -> Tensor:
        timestep = torch.full((1,), 1000 * sigma, device=device)
        velocity: Tensor = pipe.transformer(noised, timestep, states[index : index + 1], return_dict=False)[0]
        return velocity

    curve = calibrate_radius(fit.shell.leading(fit.guided).to(device), list(unseen_latents), denoise)
    provenance: dict[str, Any] = {
        "source": "rendered camera clips of the photographs in training/photographs.py",
        "clips": clips,
        "held_out_clips": held_out,
        "clip": "17x192x192",
        "seed": SEED,
        "recipe": asdict(recipe),
        "coverage": round(fit.coverage, 4),
        "made_by": "python -m training.bank",
    }
    calibration = Calibration("shelllcc-tiny-wan", pipeline_fingerprint(pipe), curve)
    space = "shelllcc-tiny-wan", fingerprint(pipe.vae.config)
    return Bank(fit.shell, fit.guided, fit.clean, *space, provenance, fit.quantiles, (calibration,))


def main(
    out: Path,
    model: Annotated[Path, typer.Option(help="The tiny Wan's pipeline folder.")] = Path("guidance/wan/tiny"),
    clips: int = 192,
    held_out: int = 32,
    anchors: Annotated[int | None, typer.Option(help="Of the bank; its recipe's own if not given.")] = None,
    folder: Folder = photographs.HELD,
    cache: Cache = None,
    smoke: Smoke = False,
) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    pipe = WanPipeline.from_pretrained(model, torch_dtype=torch.float32).to(device)
    studio = Studio(photographs.load(cache, folder=folder, stand_in=smoke), device)
    bank = make_bank(pipe, studio, clips=clips, held_out=held_out, recipe=Recipe.usual(anchors=anchors))
    save_bank(bank, out)
    curve = bank.calibrations[0].curve
    for sigma, first, later in zip(curve.sigmas, *curve.radius, strict=True):
        print(f"sigma {sigma:.2f}  radius of the first latent frame {first:.3f}, of later ones {later:.3f}")
    print(f"{out}: {out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    options.run(main)
