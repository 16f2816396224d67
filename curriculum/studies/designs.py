"""The points of a design: which mixtures a swarm trains, so that few runs tell a law most.

Candidates come from a Dirichlet distribution around a mixture, cut by the caps, as in RegMix (Liu et al., arXiv
2407.01492); of them the runs are picked one after the other so that the determinant of the law's information grows most
(D-optimality: Fedorov, *Theory of Optimal Experiments*, 1972). The same arguments give the same points on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from curriculum.studies.laws.huber import Array
from curriculum.studies.laws.mixture import SHIFTS
from curriculum.studies.programme import within
from curriculum.units import counted

CANDIDATES = 2000
PARTS = 1000
"""Shares of candidates are whole numbers of this many parts."""
WEAKEST, STRONGEST = 0.1, 5.0
_CONCENTRATION = 6.0
"""Of the Dirichlet distribution, for each source, at a strength of 1."""
NEAREST = 0.05
"""Two points of a swarm differ by at least this share of the text, where there are enough that do."""
RIDGE = 0.01
RUNS_A_SOURCE = 5


def least_runs(sources: int) -> int:
    """The fewest runs that a law of `sources` shares is fitted to: one more than its numbers."""
    return sources + 3


def d_optimal(
    points: Array,
    runs: int,
    *,
    picked: Array | None = None,
    ridge: float = RIDGE,
    apart: Array | None = None,
    nearest: float = 0.0,
) -> list[int]:
    """The indices of `runs` of `points`, shape `[n, features]`, in the order in which they are picked.

    Each pick maximises the determinant of `ridge` * identity + the sum of outer products of the picked points, those of
    `picked`, shape `[m, features]`, counted; of equal ones the first. `apart` are the mixtures of the points, shape
    `[n, sources]`: as long as there are others, one that differs from a picked one by less than the share `nearest`
    is not picked. ValueError for more runs than points.
    """
    if runs > len(points):
        raise ValueError(f"{counted(runs, 'run')} cannot be picked from {counted(len(points), 'point')}")
    information = ridge * np.eye(points.shape[1])
    if picked is not None:
        information += picked.T @ picked
    inverse = np.linalg.inv(information)
    available, distinct = np.ones(len(points), bool), np.ones(len(points), bool)
    chosen: list[int] = []
    for _ in range(runs):
        eligible = available & distinct if (available & distinct).any() else available
        gain = np.where(eligible, np.einsum("ij,ij->i", points @ inverse, points), -1.0)
        index = int(np.flatnonzero(gain >= gain.max() - 1e-12)[0])
        direction = inverse @ points[index]
        inverse -= np.outer(direction, direction) / (1.0 + float(points[index] @ direction))
        available[index] = False
        if apart is not None:
            distinct &= 0.5 * np.abs(apart - apart[index]).sum(axis=1) >= nearest
        chosen.append(index)
    return chosen


def candidates(
    around: Sequence[Fraction],
    low: Sequence[Fraction],
    high: Sequence[Fraction],
    name: str,
    seed: int,
    number: int = CANDIDATES,
) -> NDArray[np.int64]:
    """Mixtures around `around`, in `PARTS`, shape `[number, sources]`; each row sums to `PARTS`.

    Strengths are spaced evenly in their logarithm between `WEAKEST` and `STRONGEST`. What exceeds a bound is cut, and
    the rest scaled. A source without a share in `around` has none. The bounds must allow a sum of 1, in whole parts.
    """
    from scipy.special import gammaincinv

    digest = hashlib.sha256(f"swarm/{name}/{seed}".encode()).digest()
    draw = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))
    centre = np.array([float(share) for share in around])
    lowest = np.array([-(-share * PARTS // 1) for share in low], dtype=np.int64)
    highest = np.array([share * PARTS // 1 for share in high], dtype=np.int64)
    highest[centre == 0] = lowest[centre == 0]
    strengths = WEAKEST * (STRONGEST / WEAKEST) ** ((np.arange(number) + 0.5) / number)
    uniform = draw.random((number, len(centre)))
    inside = centre > 0
    weights = np.zeros((number, len(centre)))
    concentrations = strengths[:, None] * centre[None, inside] * (_CONCENTRATION * inside.sum())
    weights[:, inside] = gammaincinv(concentrations, uniform[:, inside])
    weights += 1e-9 * centre
    rows = weights / weights.sum(axis=1, keepdims=True)
    low_shares, high_shares = lowest / PARTS, highest / PARTS
    outside = ((rows < low_shares) | (rows > high_shares)).any(axis=1)
    if outside.any():
        rows[outside] = [within(row, low_shares, high_shares) for row in rows[outside]]
    return np.array([rounded(row, lowest, highest) for row in rows])


def rounded(shares: Array, low: NDArray[np.int64], high: NDArray[np.int64], parts: int = PARTS) -> NDArray[np.int64]:
    """`shares`, shape `[sources]`, in whole parts that sum to `parts` within the bounds, by largest remainders.

    ValueError where the bounds do not allow the sum.
    """
    exact = shares * parts
    counts = np.clip(np.floor(np.round(exact, 6)).astype(np.int64), low, high)
    while (missing := parts - int(counts.sum())) != 0:
        step = 1 if missing > 0 else -1
        room = counts < high if step > 0 else counts > low
        if not room.any():
            raise ValueError(f"the bounds allow no mixture of {parts} parts")
        order = np.argsort(np.where(room, -step * np.round(exact - counts, 6), np.inf), kind="stable")
        for index in order[: min(abs(missing), int(room.sum()))]:
            counts[index] += step
    return counts


def readable(
    row: NDArray[np.int64], low: Sequence[Fraction], high: Sequence[Fraction], least: NDArray[np.int64]
) -> NDArray[np.int64] | None:
    """A mixture in whole parts, shape `[sources]`, without shares between 0 and `least` parts.

    The larger half of them is raised to `least`, the others are taken away; None where the bounds allow neither.
    """
    small = (row > 0) & (row < least)
    if not small.any():
        return row
    lowest = np.array([-(-share * PARTS // 1) for share in low], dtype=np.int64)
    highest = np.array([share * PARTS // 1 for share in high], dtype=np.int64)
    absent = (row == 0) | (small & (2 * row < least) & (lowest == 0))
    lowest, highest = np.where(absent, 0, np.maximum(lowest, least)), np.where(absent, 0, highest)
    if (lowest > highest).any() or not lowest.sum() <= PARTS <= highest.sum():
        return None
    return rounded(within(row / PARTS, lowest / PARTS, highest / PARTS), lowest, highest)


def swarm(
    around: Sequence[Fraction],
    low: Sequence[Fraction],
    high: Sequence[Fraction],
    runs: int,
    *,
    name: str,
    seed: int,
    controls: Sequence[Sequence[Fraction]] = (),
    least: Sequence[Fraction] = (),
) -> list[tuple[Fraction, ...]]:
    """The mixtures of a swarm of `runs`, exact shares that sum to 1, in the order in which they were picked.

    `controls` are mixtures that are trained in any case and tell the law as much as picked ones. `least` are the
    smallest shares above 0 that an arm reads: a law is fitted to what was read. ValueError where the bounds leave fewer
    than `runs` different mixtures.
    """
    drawn = np.unique(candidates(around, low, high, name, seed), axis=0)
    smallest = np.array([-(-share * PARTS // 1) for share in least], dtype=np.int64)
    if (smallest > 1).any():
        rows = [readable(row, low, high, smallest) for row in drawn]
        drawn = np.unique(np.array([row for row in rows if row is not None]).reshape(-1, len(around)), axis=0)
    shares = drawn / PARTS
    features = _features(shares)
    control = np.array([[float(share) for share in mixture] for mixture in controls]).reshape(-1, shares.shape[1])
    picked = d_optimal(features, runs, picked=_features(control), apart=shares, nearest=NEAREST)
    return [tuple(Fraction(int(part), PARTS) for part in drawn[index]) for index in picked]


def _features(shares: Array) -> Array:
    """What the logarithm of a law of a mixture is linear in: the shares, and own-share terms on the same scale."""
    shift = SHIFTS[-1]
    return np.hstack([shares, np.log((shares + shift) / (1 + shift)) / np.log(shift / (1 + shift))])
