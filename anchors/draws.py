"""Bounded, seeded draws from what a clip gives. Knows nothing of shells or files."""

from __future__ import annotations

import torch
from torch import Tensor


def draw(values: Tensor, most: int, *, seed: int) -> Tensor:
    """At most `most` rows of `values` (n, ...), at random and in their own order; the seed alone decides which."""
    if len(values) <= most:
        return values
    chosen = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed))[:most]
    return values[chosen.sort().values.to(values.device)]
