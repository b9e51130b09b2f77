"""What a guide must do against drifts, solved. Knows numbers alone; measures nothing itself.

Four numbers of a guide (its knobs) are sought such that drifts become what their own errors leave of them, and that
flat places stay flat: Gauss-Newton with a response measured by finite differences and kept up to date (Broyden 1965),
held by bounds and by a prior that the guide should do little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

KNOBS = ("coarse", "radius", "tone", "flat")  # logarithms
LOW = np.array([math.log(0.3), math.log(0.15), -0.8, 0.0])
HIGH = np.array([math.log(2.5), math.log(8.0), 0.8, math.log(4.0)])
USUAL = np.array([0.8, 1.8, 0.6, 1.5])  # how far a guide may well go: the prior's deviations
FIRST = np.array([0.15, 0.5, 0.15])  # steps of the finite differences in the first three
FLATTER = 0.5  # and in the last, taken from where the others would go: it does nothing alone
LIMIT = np.array([0.6, 1.7, 0.5, 0.7])  # of one step
NEAR = 0.012  # of a drift: nearer is near enough
FLOOR = 0.01  # an error that no number of clips gets below
COUNTS = np.array([0.4, 1.0, 0.8, 0.6])  # of drifts: coarse bands answer little, and a person sees the fine ones


@dataclass(frozen=True)
class Point:
    """Knobs tried and the drifts that they left: of coarse bands, fine ones, the contrast, and flat places.

    Flat places may be calmer than real ones, but not busier: theirs is a limit, the others are goals.
    """

    knobs: tuple[float, ...]
    drifts: tuple[float, ...]


def solve(
    measure: Callable[[tuple[float, ...]], tuple[float, ...]],
    unguided: Sequence[float],
    wanted: Sequence[float],
    errors: Sequence[float],
    *,
    rounds: int = 4,
) -> Iterator[Point]:
    """Points tried, the best of which `best` names; `unguided` are the drifts at knobs 0.

    `wanted` are the drifts to be left: their own where they are within `errors`, near 0 where far beyond; the last is
    the most that flat places may have. Where all is as wanted already nothing is tried.
    """
    start, goal, weight = np.array(unguided, float), np.array(wanted, float), _weight(errors)
    if np.abs(_left(start, goal)).max() < NEAR:
        return
    response = np.zeros((len(start), len(KNOBS)))
    sign = np.where(goal >= start, 1.0, -1.0)
    for index, size in enumerate(FIRST):
        step = np.zeros(len(KNOBS))
        step[index] = sign[index] * size
        seen = np.array(measure(_plain(step)))
        yield Point(_plain(step), _plain(seen))
        response[:, index] = (seen - start) / step[index]
    here, drifts = np.zeros(len(KNOBS)), start
    tried = False  # the last knob
    for _ in range(rounds):
        there = _step(here, drifts, goal, response, weight)
        if not tried and here.any() and drifts[-1] > goal[-1] + NEAR:
            there, tried = here + np.array([0.0, 0.0, 0.0, FLATTER]), True
        if np.abs(there - here).max() < 5e-3:
            return
        seen = np.array(measure(_plain(there)))
        yield Point(_plain(there), _plain(seen))
        moved = there - here
        response += np.outer(seen - drifts - response @ moved, moved) / (moved @ moved)
        here, drifts = there, seen
        if np.abs(_left(drifts, goal)).max() < NEAR:
            return


def best(points: Sequence[Point], unguided: Sequence[float], wanted: Sequence[float], errors: Sequence[float]) -> Point:
    """The point of the lowest cost; unguided where none is better."""
    still = Point((0.0,) * len(KNOBS), tuple(unguided))
    goal, weight = np.array(wanted, float), _weight(errors)

    def cost(point: Point) -> float:
        left = weight * _left(np.array(point.drifts), goal)
        return float(left @ left + np.square(np.array(point.knobs) / USUAL).sum())

    return min((still, *points), key=cost)


def _left(drifts: Vector, goal: Vector) -> Vector:
    """What of drifts is not as wanted."""
    left: Vector = drifts - goal
    left[-1] = max(0.0, left[-1])
    return left


def _weight(errors: Sequence[float]) -> Vector:
    weight: Vector = COUNTS / np.hypot(np.array(errors, float), FLOOR)
    return weight


def _step(here: Vector, drifts: Vector, goal: Vector, response: Vector, weight: Vector) -> Vector:
    """Where the drifts would be gone, were the response straight, held by the prior, bounds and LIMIT.

    The limit of flat places counts where it would not be kept without it.
    """
    there = here
    for limited in (False, True):
        a = weight[:, None] * response * (1.0 if limited else np.array([[1.0], [1.0], [1.0], [0.0]]))
        downhill = -a.T @ (weight * (drifts - goal)) - here / USUAL**2
        move: Vector = np.linalg.solve(a.T @ a + np.diag(USUAL**-2.0), downhill)
        scale = min(1.0, float((LIMIT / np.abs(move).clip(1e-9)).min()))
        there = np.asarray(np.clip(here + scale * move, LOW, HIGH))
        if drifts[-1] + response[-1] @ (there - here) <= goal[-1]:
            break
    return there


def _plain(vector: Vector) -> tuple[float, ...]:
    return tuple(map(float, vector))
