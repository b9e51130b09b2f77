"""What the tensors of an adapter make of one weight: LoRA, LoHa, LoKr, and DoRA of each.

Torch alone; knows nothing of names, files or models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

HADA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")


@dataclass(frozen=True)
class Made:
    """What factors make of one layer: `join(left, scale * right)`, the right one first; `first` is the role of one."""

    kind: str
    first: str
    shape: tuple[int, ...]
    scale: float
    factors: tuple[Tensor, Tensor]
    join: Callable[[Tensor, Tensor], Tensor]

    def of(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that they must make for a weight of that shape: LoHa and LoKr are of rows, whatever it is."""
        return shape if self.kind == "LoRA" else (shape[0], math.prod(shape[1:]))

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """For a LoRA, what goes in and what comes out."""
        return self.factors[0], self.scale * self.factors[1]

    def whole(self) -> Tensor:
        return self.join(self.scale * self.factors[1], self.factors[0])


def made_of(given: Mapping[str, Tensor], scale: Callable[[int], float]) -> Made | None:
    """What the factors of a layer make; `scale` tells of a rank by what they are multiplied. None of incomplete ones.

    LoHa is arXiv 2108.06098, LoKr arXiv 2212.10650, as LyCORIS and PEFT write them: of LoKr a factor may be whole, and
    where both are, LyCORIS has no scale.
    """
    if "down" in given and "up" in given:
        down, up = given["down"].flatten(1), given["up"].flatten(1)
        shape = (up.shape[0], *given["down"].shape[1:]) if up.shape[1] == down.shape[0] else ()
        return Made("LoRA", "down", shape, scale(down.shape[0]), (down, up), torch.mm)
    if all(role in given for role in HADA):
        left, right = (given[f"hada_w{n}_a"] @ given[f"hada_w{n}_b"] for n in (1, 2))
        return Made("LoHa", HADA[0], tuple(left.shape), scale(given[HADA[1]].shape[0]), (right, left), torch.mul)
    found = [_factor(given, name) for name in ("lokr_w1", "lokr_w2")]
    if any(factor is None for factor in found):
        return None
    (left, first, rank), (right, _, other) = (factor for factor in found if factor)
    shape = (left.shape[0] * right.shape[0], left.shape[1] * right.shape[1:].numel())
    return Made("LoKr", first, shape, scale(rank or other), (right.flatten(1), left), torch.kron)


def _factor(given: Mapping[str, Tensor], name: str) -> tuple[Tensor, str, int] | None:
    """A factor of LoKr, whole or the product of two, with the role of its first tensor, and its rank: 0 of a whole."""
    if name in given:
        return given[name], name, 0
    a, b = given.get(f"{name}_a"), given.get(f"{name}_b")
    return None if a is None or b is None else (a @ b.flatten(1), f"{name}_a", b.shape[0])


def axis_of(magnitude: Tensor, shape: tuple[int, ...]) -> int | None:
    """The axis of a weight whose every place has a magnitude: 0 of its outputs, 1 of its inputs, None for neither."""
    sizes = tuple(magnitude.shape)
    if sizes[:1] == shape[:1] and magnitude.numel() == shape[0]:
        return 0
    return 1 if sizes[:2] == (1, *shape[1:2]) and magnitude.numel() == shape[1] else None


def decomposed(weight: Tensor, product: Tensor, magnitude: Tensor, axis: int) -> Tensor:
    """What DoRA (arXiv 2402.09353, equation 5) adds to a weight: its sum with the product is given the magnitude."""
    merged = weight + product.to(weight.device)
    others = [dim for dim in range(weight.ndim) if dim != axis]
    norm = torch.linalg.vector_norm(merged, dim=others, keepdim=True).clamp_min(torch.finfo(merged.dtype).tiny)
    return magnitude.to(weight.device).reshape(norm.shape) / norm * merged - weight
