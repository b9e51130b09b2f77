"""The search for a strength by its balance: a coarse bracket, then refinement. Knows numbers alone; samples nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TOLERANCE = 0.01  # of the balance: nearer to 0 is not worth a sample
FLAT = 0.005  # change of the balance over a strength of 1 that says that strength does nothing
ALARMED = 1.0  # what an alarm costs


@dataclass(frozen=True)
class Probe:
    """A strength tried. `balance` is the mean over seeds (see `verdict.balance`), `alarm` whether any clip had one."""

    strength: float
    balance: float
    alarm: bool = False

    @property
    def cost(self) -> float:
        """How far from right; the best strength has the lowest."""
        return abs(self.balance) + ALARMED * self.alarm

    @property
    def word(self) -> str:
        """What became of it, for people."""
        if self.alarm:
            return "alarm"
        return "right" if self.cost < TOLERANCE else "too much" if self.balance > 0 else "too little"


def best(probes: Sequence[Probe]) -> Probe:
    """The probe of the lowest cost; of equals the gentlest."""
    return min(probes, key=lambda probe: (probe.cost, probe.strength))


def search(measure: Callable[[float], Probe], *, most: int, high: float = 3.0) -> Iterator[Probe]:
    """Probes of strengths in 0 .. high, at most `most`; ends early where another would not pay.

    Strength 1 comes first, as it tells what cfg added, then 0. Where the balance changes its sign, the next probe is
    the zero of the line between the neighbours; where it does not, the line through the last two is followed outward.
    """
    probes: list[Probe] = []
    for strength in (1.0, 0.0)[:most]:
        probes.append(measure(strength))
        yield probes[-1]
    while len(probes) < most and (proposed := propose(probes, high=high)) is not None:
        probes.append(measure(proposed))
        yield probes[-1]


def propose(probes: Sequence[Probe], *, high: float) -> float | None:
    """The next strength to try; None where the search is over."""
    return _next(probes, high)[0]


def bracket(probes: Sequence[Probe]) -> tuple[Probe, Probe] | None:
    """The neighbours between which the balance changes its sign, if any do."""
    line = sorted(probes, key=lambda probe: probe.strength)
    return next(((low, up) for low, up in itertools.pairwise(line) if low.balance * up.balance < 0), None)


@dataclass(frozen=True)
class Searched:
    """Where a search went: its probes as they were tried, why each of them was, and why there was no other.

    Without `whys` the probes lie by strength: they are of a search that went by other rules than this one.
    """

    probes: tuple[Probe, ...]
    whys: tuple[str, ...]
    ended: str


def retrace(probes: Sequence[Probe], *, high: float = 3.0) -> Searched:
    """The search that found these probes, in whatever order they come. At least one."""
    known = {probe.strength: probe for probe in probes}
    tried, whys = list[Probe](), list[str]()
    for strength, why in zip((1.0, 0.0), ("the first: it tells what cfg added", "no guidance at all"), strict=True):
        if strength in known:
            tried.append(known.pop(strength))
            whys.append(why)
    while known and len(tried) > 1:
        proposed, why = _next(tried, high)
        if proposed not in known:
            break
        tried.append(known.pop(proposed))
        whys.append(why)
    if known:
        return Searched(tuple(sorted(probes, key=lambda probe: probe.strength)), (), "")
    proposed, why = _next(tried, high) if len(tried) > 1 else (high, "")
    return Searched(tuple(tried), tuple(whys), why if proposed is None else "there was no budget for another")


def _next(probes: Sequence[Probe], high: float) -> tuple[float | None, str]:
    """The next strength to try, and why it, or why there is none; of two probes or more."""
    found = best(probes)
    if found.cost < TOLERANCE:
        return None, f"strength {found.strength:g} is right: its balance is within {TOLERANCE:g} of 0"
    line = sorted(probes, key=lambda probe: probe.strength)
    over = "the next strength is one that was tried"
    if (pair := bracket(line)) is not None:
        low, up = pair
        why = f"where the line from {low.strength:g} to {up.strength:g} crosses 0"
        return _or(_between(low, up), why, over)
    first, last = line[-2:]
    slope = (last.balance - first.balance) / (last.strength - first.strength)
    half = "half way to the first strength with an alarm"
    if last.alarm:
        return _or(_before_the_alarm(line), half, f"strength {last.strength:g} has an alarm")
    if last.strength >= high:
        return _or(_before_the_alarm(line), half, f"strength {last.strength:g} is as far as is tried")
    if abs(slope) < FLAT:
        return _or(_before_the_alarm(line), half, "strength changes nothing here")
    if slope * last.balance > 0:
        return _or(_before_the_alarm(line), half, "more strength leads away from 0")
    why = f"where the line from {first.strength:g} to {last.strength:g} leads to 0, at most {high:g}"
    return _or(_new(min(high, last.strength - last.balance / slope), line), why, over)


def _or(strength: float | None, why: str, otherwise: str) -> tuple[float | None, str]:
    return strength, otherwise if strength is None else why


def _between(low: Probe, up: Probe) -> float | None:
    """The zero of the line through two probes, kept off their ends."""
    zero = low.strength - low.balance * (up.strength - low.strength) / (up.balance - low.balance)
    margin = 0.1 * (up.strength - low.strength)
    return _new(min(max(zero, low.strength + margin), up.strength - margin), (low, up))


def _before_the_alarm(line: Sequence[Probe]) -> float | None:
    """Half way to the first strength with an alarm, if the one before it has too little; None otherwise."""
    for low, up in itertools.pairwise(line):
        if up.alarm and not low.alarm and low.balance < 0:
            return _new((low.strength + up.strength) / 2, line)
    return None


def _new(strength: float, line: Sequence[Probe]) -> float | None:
    """The strength to two decimals, unless it was tried."""
    rounded = round(strength, 2)
    return None if any(abs(rounded - probe.strength) < 0.02 for probe in line) else rounded
