"""How far latents lie from a bank's shell. Knows nothing of video files or models."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shelllcc.anchors.bank import LEVELS, Bank
from shelllcc.guidance.errors import BankError


@dataclass(frozen=True)
class Score:
    """Distances of the patches of a clip; 1 is the median of held-out real ones in a bank made by `anchors build`.

    quantiles     at bank.LEVELS
    below, above  share of patches nearer than 95%, or farther than 95%, of held-out real ones; None where the bank has
                  no quantiles. Real clips like the held-out ones have about 0.05 each
    per_frame     mean distance of every latent frame
    """

    mean: float
    median: float
    quantiles: dict[str, float]
    below: float | None
    above: float | None
    per_frame: list[float]

    @property
    def outside(self) -> float | None:
        """Share of patches outside the shell."""
        return None if self.below is None or self.above is None else self.below + self.above


@torch.no_grad()
def score_latents(bank: Bank, latents: Tensor) -> Score:
    """The score of one clip of normalised latents (c t h w). For an imported manifold `mean` is its authors' reward."""
    if latents.shape[0] != bank.shell.channels:
        raise BankError(f"the bank holds {bank.shell.channels}-channel latents, these have {latents.shape[0]}")
    if min(latents.shape[-2:]) <= bank.shell.patch // 2:
        raise BankError(f"latents of {tuple(latents.shape[-2:])} are too small for patches of {bank.shell.patch}")
    distance = bank.shell.residuals(latents[None].float())[1].view(latents.shape[1], -1)
    flat = distance.flatten()
    marks = flat.sort().values[[round(level * (len(flat) - 1)) for level in LEVELS]]
    below = above = None
    if bank.quantiles is not None:
        rows = [min(i, 1) for i in range(len(distance))]
        low, high = (bank.quantiles[rows, LEVELS.index(level)][:, None].to(distance) for level in (0.05, 0.95))
        below, above = (float(part.float().mean()) for part in (distance < low, distance > high))
    return Score(
        mean=float(flat.double().mean()),
        median=float(marks[LEVELS.index(0.5)]),
        quantiles={f"{level:g}": float(mark) for level, mark in zip(LEVELS, marks, strict=True)},
        below=below,
        above=above,
        per_frame=distance.mean(1).tolist(),
    )


@torch.no_grad()
def typical_distance(bank: Bank, latents: Tensor) -> float:
    """Median distance, in the directions that guide, of the later latent frames of one clip (c t h w), over that of the
    bank's real clips, so that 1 is theirs whatever the bank."""
    distance = bank.shell.leading(bank.guided).to(latents.device).residuals(latents[None].float())[1]
    first = distance.shape[1] // latents.shape[1] if latents.shape[1] > 1 else 0
    median = distance[0, first:].sort().values[(distance.shape[1] - first - 1) // 2]
    return float(median) / bank.clean.at(0.0)[latents.shape[1] > 1]
