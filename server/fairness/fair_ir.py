"""FA*IR's floors: how few of a group a prefix may hold before chance no longer explains it.

Zehlike, Bonchi, Castillo, Hajian, Megahed, Baeza-Yates: "FA*IR: A Fair Top-k Ranking
Algorithm", CIKM 2017. A list is fair if a coin with the group's proportion p could have
made it: at every prefix k the count c has F(c; k, p) > alpha (their definition 3), where F
is the binomial distribution function. Looking at many prefixes rejects too often, so alpha
is lowered until a fair coin's list fails anywhere with probability at most alpha (their
section 4.2). That probability is computed exactly, by a program over the counts in
O(K^2), not by simulation; the lowered alpha is the largest one there is, since the table
changes only at the values of F. Where a probability comes so near to alpha that floats cannot
tell which is larger, whole numbers decide.

>>> from fractions import Fraction
>>> fair_ir_floors(12, Fraction(1, 2), Fraction(1, 10), adjusted=False).tolist()
[0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4]
"""

from __future__ import annotations

from fractions import Fraction
from math import comb

import numpy as np
from numpy.typing import NDArray

from server.fairness.types import Int32
from server.jit import kernel

_ROUNDING = 1e-12
"""Probabilities nearer to each other than this are one: the sums here are off by less."""
_NEAR = 1e-9
"""Nearer to alpha than this, floats are not asked."""


@kernel
def distribution(size: int, p: float) -> NDArray[np.float64]:
    """F(c; k, p) as `[size + 1, size + 1]`, row k, column c; 1 where c >= k."""
    table = np.ones((size + 1, size + 1), np.float64)
    mass = np.zeros(size + 1, np.float64)
    mass[0] = 1.0
    for k in range(1, size + 1):
        for c in range(k, 0, -1):
            mass[c] = mass[c] * (1.0 - p) + mass[c - 1] * p
        mass[0] *= 1.0 - p
        total = 0.0
        for c in range(k):
            total += mass[c]
            table[k, c] = total
    return table


@kernel
def floors_at(table: NDArray[np.float64], alpha: float) -> Int32:
    """`[size + 1] int32`: the fewest of the group that each prefix may hold, F(c; k, p) > alpha."""
    size = table.shape[0] - 1
    floors = np.zeros(size + 1, np.int32)
    c = 0
    for k in range(1, size + 1):
        while c < k and table[k, c] <= alpha:
            c += 1
        floors[k] = c
    return floors


@kernel
def fail_probability(floors: Int32, p: float) -> float:
    """How likely a list of independent draws, each of the group with probability p, breaks a floor.

    floors: `[size + 1] int32`, non-decreasing. O(size^2): the mass of every count, prefix by
    prefix; what falls below the floor has failed and is taken out.
    """
    size = floors.shape[0] - 1
    mass = np.zeros(size + 1, np.float64)
    mass[0] = 1.0
    failed = 0.0
    for k in range(1, size + 1):
        for c in range(k, 0, -1):
            mass[c] = mass[c] * (1.0 - p) + mass[c - 1] * p
        mass[0] *= 1.0 - p
        for c in range(floors[k]):
            failed += mass[c]
            mass[c] = 0.0
    return failed


def fair_ir_floors(size: int, share: Fraction, alpha: Fraction, *, adjusted: bool = True) -> Int32:
    """The floors of one group, `[size + 1] int32`, entry k for the first k places, entry 0 is 0.

    share: the group's proportion p. alpha: how often a fair list may be taken for an unfair one:
    at one prefix where `adjusted` is False, over the whole list where it is True.
    """
    table = distribution(size, float(share))
    if not adjusted:
        return _by_definition(table, share, alpha)
    steps = np.unique(table[table <= float(alpha) + _NEAR])
    # Of probabilities that are equal but for rounding the largest: a floor takes all of them.
    steps = steps[np.diff(steps, append=np.inf) > _ROUNDING]
    low, high = 0, len(steps)  # steps[:low] pass, steps[high:] fail
    while low < high:
        middle = (low + high) // 2
        if _passes(floors_at(table, steps[middle]), share, alpha):
            low = middle + 1
        else:
            high = middle
    return floors_at(table, steps[low - 1]) if low else np.zeros(size + 1, np.int32)


def _by_definition(table: NDArray[np.float64], share: Fraction, alpha: Fraction) -> Int32:
    """Definition 3: how many counts c of each prefix have F(c; k, p) <= alpha."""
    floors = floors_at(table, float(alpha) - _NEAR)
    highest = floors_at(table, float(alpha) + _NEAR)
    for k in np.flatnonzero(floors != highest).tolist():
        while floors[k] < highest[k] and _exactly(int(floors[k]), k, share) <= alpha:
            floors[k] += 1
    return floors


def _passes(floors: Int32, share: Fraction, alpha: Fraction) -> bool:
    """Whether a list of a fair coin breaks a floor with probability at most alpha."""
    gap = fail_probability(floors, float(share)) - float(alpha)
    if abs(gap) > _NEAR:
        return gap < 0
    return _fail_exactly(floors.tolist(), share) <= alpha


def _exactly(c: int, k: int, share: Fraction) -> Fraction:
    """F(c; k, p)."""
    a, q = share.numerator, share.denominator
    ways = sum(comb(k, i) * a**i * (q - a) ** (k - i) for i in range(c + 1))
    return Fraction(ways, q**k)


def _fail_exactly(floors: list[int], share: Fraction) -> Fraction:
    """`fail_probability` in whole numbers: of q^k outcomes of k draws, those that break a floor."""
    a, q = share.numerator, share.denominator
    ways, failed = [1], 0
    for floor in floors[1:]:
        ways = [
            less * a + same * (q - a) for less, same in zip([0, *ways], [*ways, 0], strict=True)
        ]
        failed = failed * q + sum(ways[:floor])
        ways[:floor] = [0] * floor
    return Fraction(failed, q ** (len(floors) - 1))
