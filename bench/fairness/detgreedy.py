"""DetGreedy, DetCons, DetRelaxed and DetConstSort as their paper has them, to compare with.

Geyik, Ambler, Kenthapadi: "Fairness-Aware Ranking in Search and Recommendation Systems with
Application to LinkedIn Talent Search", KDD 2019, algorithms 1 to 3. Proportions are whole numbers
over their sum, so that floor(k p) and ceil(k p) are exact. Each takes the scores of every group,
best first and never fewer than it needs, and gives the list's groups and scores, best place first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

Heads = Sequence[Sequence[float]]
Listed = tuple[list[int], list[float]]


def _greedy(heads: Heads, parts: Sequence[int], size: int, pick: Callable[..., int]) -> Listed:
    """Algorithms 1 and 2: who is below his floor goes first, else `pick` of those below ceiling."""
    whole = sum(parts)
    counts = [0] * len(parts)
    groups: list[int] = []
    scores: list[float] = []
    for k in range(1, size + 1):
        below_floor = [g for g, part in enumerate(parts) if counts[g] < k * part // whole]
        if below_floor:
            chosen = max(below_floor, key=lambda g: heads[g][counts[g]])
        else:
            below_ceiling = [g for g, part in enumerate(parts) if counts[g] < -(-k * part // whole)]
            chosen = pick(below_ceiling, counts)
        groups.append(chosen)
        scores.append(heads[chosen][counts[chosen]])
        counts[chosen] += 1
    return groups, scores


def det_greedy(heads: Heads, parts: Sequence[int], size: int) -> Listed:
    """Algorithm 1: the best score of those below their ceiling.

    >>> det_greedy([[9.0, 8.0], [1.0, 0.5]], [1, 1], 2)
    ([0, 1], [9.0, 1.0])
    """

    def best(choice: list[int], counts: list[int]) -> int:
        return max(choice, key=lambda g: heads[g][counts[g]])

    return _greedy(heads, parts, size, best)


def det_cons(heads: Heads, parts: Sequence[int], size: int) -> Listed:
    """Algorithm 2, DetCons: whose next ceiling comes first, (count + 1) / p, exactly."""

    def first_due(choice: list[int], counts: list[int]) -> int:
        return min(choice, key=lambda g: (Fraction(counts[g] + 1, parts[g]), -heads[g][counts[g]]))

    return _greedy(heads, parts, size, first_due)


def det_relaxed(heads: Heads, parts: Sequence[int], size: int) -> Listed:
    """Algorithm 2, DetRelaxed: as DetCons in whole places, and of equals the best score."""
    whole = sum(parts)

    def first_due(choice: list[int], counts: list[int]) -> int:
        return min(
            choice,
            key=lambda g: (-(-(counts[g] + 1) * whole // parts[g]), -heads[g][counts[g]]),
        )

    return _greedy(heads, parts, size, first_due)


def det_const_sort(heads: Heads, parts: Sequence[int], size: int) -> Listed:
    """Algorithm 3: an item enters when its group's floor rises and moves up past lower scores.

    An item that is passed moves down one place, which must not be after its own deadline.
    """
    whole = sum(parts)
    counts, floors = [0] * len(parts), [0] * len(parts)
    groups: list[int] = []
    scores: list[float] = []
    deadlines: list[int] = []
    columns: tuple[list[Any], ...] = (groups, scores, deadlines)
    k = 0
    while len(groups) < size:
        k += 1
        risen = [g for g, part in enumerate(parts) if floors[g] < k * part // whole]
        for g in sorted(risen, key=lambda g: -heads[g][counts[g]]):
            place = len(groups)
            groups.append(g)
            scores.append(heads[g][counts[g]])
            deadlines.append(k)
            # place counts from 0, deadlines from 1.
            while place > 0 and deadlines[place - 1] > place and scores[place - 1] < scores[place]:
                for column in columns:
                    column[place - 1], column[place] = column[place], column[place - 1]
                place -= 1
            counts[g] += 1
        floors = [k * part // whole for part in parts]
    return groups[:size], scores[:size]
