"""How real latents use a shell: where on it they lie, and what is left of a move where patches overlap.

Measured when a bank is made, on clips that did not make it. A shell's own anchors say little of this: many are hardly
visited, and patches overlap as much as they are large. Knows nothing of video, models or bank files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from shelllcc.anchors.draws import draw
from shelllcc.guidance.geometry.patches import to_tokens
from shelllcc.guidance.geometry.shell import Shell
from shelllcc.guidance.geometry.skeletons import Anchors, Skeleton

VISITED = 1024  # points of an amortized skeleton that are kept


@torch.no_grad()
def as_used(shell: Shell, clips: Sequence[Tensor], *, guided: int) -> Shell:
    """The shell with what real latents use of it: its places, and the survival of moves in the guided components.

    `clips` are normalised latents (c t h w); each counts alike.
    """
    shell = replace(shell, skeleton=_visited(shell, clips), survival=1.0)
    return replace(shell, survival=_survival(shell.leading(guided), clips))


def _visited(shell: Shell, clips: Sequence[Tensor]) -> Skeleton:
    skeleton = shell.skeleton
    if isinstance(skeleton, Anchors):
        total = torch.zeros(len(skeleton.anchors), dtype=torch.float64)
        for clip in clips:
            nearest = torch.cat([skeleton.code(frame)[1] for frame in _frames(shell, clip)])
            total += torch.bincount(nearest, minlength=len(total)).double() / len(nearest)
        return replace(skeleton, usage=(total / total.sum()).float())
    points, share = list[Tensor](), -(-VISITED // len(clips))
    for number, clip in enumerate(clips):
        coded = torch.cat([skeleton.code(frame)[0] for frame in _frames(shell, clip)])
        points.append(draw(coded, share, seed=number))
    return replace(skeleton, visited=torch.cat(points)[:VISITED])


def _frames(shell: Shell, clip: Tensor) -> list[Tensor]:
    """The tokens of each frame: codes of all at once would take too much memory."""
    return [shell.project(frame[None].float())[0] for frame in clip.split(1, dim=1)]


def _survival(shell: Shell, clips: Sequence[Tensor]) -> float:
    """The share of a move along all residuals that is left along them, once overlapping patches are averaged."""
    if shell.patch == 1:
        return 1.0
    kept = wanted = 0.0
    for clip in clips:
        latents = clip[None].float()
        residual, _ = shell.residuals(latents)
        moved = shell.to_latents(residual, latents.shape, lambda part: part)
        left = (to_tokens(moved, size=shell.patch) @ shell.basis * residual).double().mean()
        size = residual.double().square().mean()
        kept, wanted = kept + float(left), wanted + float(size)
    return float(torch.tensor(kept / wanted)) if wanted > 0 else 1.0
