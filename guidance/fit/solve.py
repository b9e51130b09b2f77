"""What a guide must do against drifts, solved. Knows numbers alone; measures nothing itself.

Three numbers of a guide (its knobs) are sought such that three drifts become what their own errors leave of them:
Gauss-Newton with a response measured by finite differences and kept up to date (Broyden 1965), held by bounds and by a
prior that the guide should do little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

KNOBS = ("coarse", "radius", "tone")  # logarithms
LOW = np.array([math.log(0.3), math.log(0.15), -0.8])
HIGH = np.array([math.log(2.5), math.log(6.0), 0.8])
USUAL = np.array([0.8, 1.8, 0.6])  # how far a guide may well go: the prior's deviations
FIRST = np.array([0.15, 0.5, 0.15])  # steps of the finite differences
LIMIT = np.array([0.5, 1.0, 0.4])  # of one step
NEAR = 0.012  # of a drift: nearer is near enough
FLOOR = 0.01  # an error that no number of clips gets below
COUNTS = np.array([0.4, 1.0, 0.8])  # of drifts: coarse bands answer little, and a person sees the fine ones


@dataclass(frozen=True)
class Point:
    """Knobs tried and the drifts that they left: of coarse bands, fine ones and the contrast."""

    knobs: tuple[float, ...]
    drifts: tuple[float, ...]


def solve(
    measure: Callable[[tuple[float, ...]], tuple[float, ...]],
    unguided: Sequence[float],
    wanted: Sequence[float],
    errors: Sequence[float],
    *,
    rounds: int = 3,
) -> Iterator[Point]:
    """Points tried, the best of which `best` names; `unguided` are the drifts at knobs 0.

    `wanted` are the drifts to be left: their own where they are within `errors`, near 0 where far beyond. Where all are
    their own already nothing is tried.
    """
    start, goal = np.array(unguided, float), np.array(wanted, float)
    weight = COUNTS / np.hypot(np.array(errors, float), FLOOR)
    if np.abs(start - goal).max() < NEAR:
        return
    response = np.zeros((len(start), len(KNOBS)))
    sign = np.where(goal >= start, 1.0, -1.0)
    for index in range(len(KNOBS)):
        step = np.zeros(len(KNOBS))
        step[index] = sign[index] * FIRST[index]
        seen = np.array(measure(_plain(step)))
        yield Point(_plain(step), _plain(seen))
        response[:, index] = (seen - start) / step[index]
    here, drifts = np.zeros(len(KNOBS)), start
    for _ in range(rounds):
        there = _step(here, drifts - goal, response, weight)
        if np.abs(there - here).max() < 5e-3:
            return
        seen = np.array(measure(_plain(there)))
        yield Point(_plain(there), _plain(seen))
        moved = there - here
        response += np.outer(seen - drifts - response @ moved, moved) / (moved @ moved)
        here, drifts = there, seen
        if np.abs(drifts - goal).max() < NEAR:
            return


def best(points: Sequence[Point], unguided: Sequence[float], wanted: Sequence[float], errors: Sequence[float]) -> Point:
    """The point of the lowest cost; unguided where none is better."""
    still = Point((0.0,) * len(KNOBS), tuple(unguided))
    weight = COUNTS / np.hypot(np.array(errors, float), FLOOR)

    def cost(point: Point) -> float:
        left = weight * (np.array(point.drifts) - np.array(wanted))
        return float(left @ left + np.square(np.array(point.knobs) / USUAL).sum())

    return min((still, *points), key=cost)


def _plain(vector: Vector) -> tuple[float, ...]:
    return tuple(map(float, vector))


def _step(here: Vector, left: Vector, response: Vector, weight: Vector) -> Vector:
    """Where the drifts would be gone, were the response straight, held by the prior, bounds and LIMIT."""
    a = weight[:, None] * response
    matrix = a.T @ a + np.diag(USUAL**-2.0)
    downhill = -a.T @ (weight * left) - here / USUAL**2
    move: Vector = np.linalg.solve(matrix, downhill)
    scale = min(1.0, float((LIMIT / np.abs(move).clip(1e-9)).min()))
    return np.asarray(np.clip(here + scale * move, LOW, HIGH))
