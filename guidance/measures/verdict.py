"""What figures say in words: better, worse, noise alarm, mean-regression alarm. Knows nothing of frames or models.

Sharpness alone is fooled by noise, and without a real clip of the same thing pictures do not tell how sharp a clip
should be. The latents of a sampled clip do: the farther out it lies, the less detail it may be given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from shelllcc.guidance.measures.balance import ADVICE

Word = Literal[
    "reference", "same", "better", "worse", "noise alarm", "mean-regression alarm", "damaged", "not comparable"
]

SAME = 5e-4  # change of a pixel below which nobody sees a difference
EVEN = 0.02  # difference of two balances that says nothing
VISIBLE = 0.5  # grey levels of noise
FLICKER = 1.2  # of the jitter's ratio, over what more detail explains
BLURRED = 0.8  # ratio of the Laplacian variance
HARSH = 0.15  # of the balance (docs/research-log.md, section 10)


@dataclass(frozen=True)
class Verdict:
    """A word and a sentence that says why."""

    word: Word
    why: str


def judge(figures: Mapping[str, Any], reference: Mapping[str, Any]) -> Verdict:
    """The verdict on a clip beside a reference.

    `figures` are the clip's own, those `beside` the reference, and `change`; `reference` the reference's own. Their
    `balance` (see measures.balance) decides where both have it, and images alone otherwise.
    """
    if figures["change"] < SAME:
        return Verdict("same", "no visible difference")
    if figures["noise"] > VISIBLE:
        return Verdict("noise alarm", f"noise of {figures['noise']:.1f} grey levels was added, also where nothing is")
    ours, theirs = figures.get("balance"), reference.get("balance")
    if ours is not None and theirs is not None and ours > max(HARSH, theirs):
        return Verdict("noise alarm", f"{ADVICE['noise']} ({ours:+.2f}, 0 is right)")
    blurred = figures["lap_ratio"] < BLURRED and figures["fine"] < 0
    if blurred and (ours is None or ours < -EVEN):
        return Verdict("mean-regression alarm", "fine detail is lost: the clip is blurred toward a mean")
    if figures["jitter_ratio"] > FLICKER * math.sqrt(max(1.0, figures["lap_ratio"])):
        return Verdict("worse", "it flickers more than its detail explains")
    if ours is None or theirs is None:
        return _by_images(figures)
    return _by_balance(ours, theirs)


def _by_balance(ours: float, theirs: float) -> Verdict:
    side = "too much detail" if ours > 0 else "too little detail"
    if abs(ours) < abs(theirs) - EVEN:
        return Verdict("better", f"detail comes nearer to real clips' ({theirs:+.2f} to {ours:+.2f}, 0 is right)")
    if abs(ours) > abs(theirs) + EVEN:
        return Verdict("worse", f"{side} for such a clip ({theirs:+.2f} to {ours:+.2f}, 0 is right)")
    return Verdict("same", f"as far from real clips' detail as the reference ({theirs:+.2f} to {ours:+.2f})")


def _by_images(figures: Mapping[str, Any]) -> Verdict:
    lap, fine = figures["lap_ratio"], figures["fine"]
    if lap > 1.05 and fine > 0:
        return Verdict("better", f"{lap:.2f} times the detail, with no sign of noise or flicker")
    if lap < 0.95 and fine < 0:
        return Verdict("worse", f"{lap:.2f} times the detail")
    return Verdict("same", "neither sharper nor softer")
