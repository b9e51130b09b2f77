"""What figures say in words: better, worse, noise alarm, mean-regression alarm. Knows nothing of frames or models.

Sharpness alone is fooled by noise, and without a real clip of the same thing pictures do not tell how sharp a clip
should be. The latents of a sampled clip do: the farther out it lies, the less detail it may be given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shelllcc.guidance.measures.balance import ADVICE, ALARMS, EXPECTED, USUAL, Alarm, balance
from shelllcc.guidance.measures.figures import beside

Word = Literal[
    "reference", "same", "better", "worse", "noise alarm", "mean-regression alarm", "damaged", "not comparable"
]

SAME = 5e-4  # change of a pixel below which nobody sees a difference
EVEN = 0.02  # difference of two balances that says nothing
DOUBT = USUAL.spread / 4  # how far from 0 two balances lie together, for one to be nearer in three clips of five
VISIBLE = 0.5  # grey levels of noise
FLICKER = 1.2  # of the jitter's ratio, over what more detail explains
BLURRED = 0.8  # ratio of the Laplacian variance


@dataclass(frozen=True)
class Verdict:
    """A word and a sentence that says why."""

    word: Word
    why: str


def judge(figures: Mapping[str, Any], reference: Mapping[str, Any], alarm: Alarm | None = None) -> Verdict:
    """The verdict on a clip beside a reference.

    `figures` are the clip's own, those `beside` the reference, and `change`; `reference` the reference's own. `alarm`
    is the clip's own, of what its guide did (`balance.alarm`): it stands, whatever the clip lies beside. Noise and blur
    that only show beside the reference are alarms, too. Else the `balance` of both decides (see measures.balance), and
    images alone where these are not known.
    """
    ours, theirs = figures.get("balance"), reference.get("balance")
    if alarm is not None:
        return Verdict(ALARMS[alarm], ADVICE[alarm] + ("" if ours is None else f" ({ours:+.2f}, 0 is right)"))
    if figures["change"] < SAME:
        return Verdict("same", "no visible difference")
    if figures["noise"] > VISIBLE:
        return Verdict("noise alarm", f"noise of {figures['noise']:.1f} grey levels was added, also where nothing is")
    blurred = figures["lap_ratio"] < BLURRED and figures["fine"] < 0
    if blurred and (ours is None or ours < -EVEN):
        return Verdict("mean-regression alarm", "fine detail is lost: the clip is blurred toward a mean")
    if figures["jitter_ratio"] > FLICKER * math.sqrt(max(1.0, figures["lap_ratio"])):
        return Verdict("worse", "it flickers more than its detail explains")
    if ours is None or theirs is None:
        return _by_images(figures)
    return _by_balance(ours, theirs)


@dataclass(frozen=True)
class Sampled:
    """What a verdict asks of a sampled clip: its own figures, and what its guide saw and did, by steps as records have
    them. `expected` is the balance of a clip as it should be (GuideConfig)."""

    figures: Mapping[str, Any]
    trace: Sequence[Mapping[str, Any]] = ()
    expected: float = EXPECTED

    @property
    def excess(self) -> float | None:
        """What cfg added to the distance; None of an unguided clip."""
        return float(self.trace[0]["excess"][0]) if self.trace else None

    @property
    def alarm(self) -> Alarm | None:
        """The one that stands at its end, in every command."""
        found: Alarm | None = self.trace[-1].get("alarm") if self.trace else None
        return found

    def balance(self, excess: float | None) -> dict[str, float]:
        """The balance, where it can be known; `excess` is that of an unguided clip."""
        excess = excess if self.excess is None else self.excess
        if excess is None or "distance" not in self.figures:
            return {}
        gain = self.trace[-1]["gain"][0] if self.trace else 0.0
        facts = {"gain": gain, "excess": excess, "distance": self.figures["distance"]}
        return {"balance": balance(**facts, expected=self.expected)}

    def beside(self, reference: Sampled, change: float) -> tuple[Verdict, dict[str, Any]]:
        """The verdict on it beside a reference, and the figures that it rests on; `change` is that of a pixel.

        What cfg added is asked of the clip itself, so that no other variant has a say.
        """
        figures = dict(self.figures) | beside(self.figures, reference.figures) | {"change": change}
        figures |= self.balance(reference.excess)
        return judge(figures, dict(reference.figures) | reference.balance(self.excess), self.alarm), figures


def _by_balance(ours: float, theirs: float) -> Verdict:
    """The one that lies nearer to 0, as far as that tells: clips that are as they should be differ by their spread."""
    told = f"({theirs:+.2f} to {ours:+.2f}; real clips 0 on average)"
    middle, more = (ours + theirs) / 2, ours > theirs
    if abs(ours - theirs) <= EVEN:
        return Verdict("same", f"as far from real clips' detail as the reference {told}")
    if abs(middle) < DOUBT:
        return Verdict("same", f"{'more' if more else 'less'} detail, and real clips may have either {told}")
    if (middle < 0) == more:
        return Verdict("better", f"detail comes nearer to real clips' {told}")
    return Verdict("worse", f"probably too {'much' if more else 'little'} detail for such a clip {told}")


def _by_images(figures: Mapping[str, Any]) -> Verdict:
    lap, fine = figures["lap_ratio"], figures["fine"]
    if lap > 1.05 and fine > 0:
        return Verdict("better", f"{lap:.2f} times the detail, with no sign of noise or flicker")
    if lap < 0.95 and fine < 0:
        return Verdict("worse", f"{lap:.2f} times the detail")
    return Verdict("same", "neither sharper nor softer")
