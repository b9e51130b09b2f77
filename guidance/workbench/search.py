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
    if best(probes).cost < TOLERANCE:
        return None
    line = sorted(probes, key=lambda probe: probe.strength)
    for low, up in itertools.pairwise(line):
        if low.balance * up.balance < 0:
            return _between(low, up)
    first, last = line[-2:]
    slope = (last.balance - first.balance) / (last.strength - first.strength)
    if last.alarm or last.strength >= high or abs(slope) < FLAT or slope * last.balance > 0:
        return _before_the_alarm(line)
    return _new(min(high, last.strength - last.balance / slope), line)


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
