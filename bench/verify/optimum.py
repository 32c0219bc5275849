"""The largest DCG of any list that keeps the bounds, from general solvers.

Of one group table it is an assignment problem: the j-th best item of a group may stand from the first prefix whose ceiling reaches j, and
must stand by the first prefix whose floor does. Every choice of places within those limits
is a list that keeps the bounds, and sorting each group's items by score never loses: so
the best assignment of items to places is the best list. Of several tables it is an integer
program: which item stands where, with the bounds word for word.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from bench.verify.program import solved

SOLVER_S = 20.0


def largest_dcg(
    candidates: Sequence[tuple[float, Sequence[str]]],
    table: Mapping[str, Sequence[tuple[int, int]]],
    worth: Sequence[float],
) -> float | None:
    """The largest sum of gain times worth.

    candidates: (gain >= 0, groups). table: group -> (least, most) of prefixes 0, 1, ... worth: of
    the list's places. None where the solver of several tables came to no end in `SOLVER_S`. `-inf`
    where no list keeps the bounds.
    """
    # Solvers stop at a gap that is small for numbers near 1, and gains may be of any size. Those of
    # candidates that may not stand anywhere set no scale.
    size = len(worth)
    may_stand = [
        (gain, groups) for gain, groups in candidates if all(table[g][size][1] > 0 for g in groups)
    ]
    unit = max((gain for gain, _ in may_stand), default=0.0) or 1.0
    best = _in_units([(gain / unit, groups) for gain, groups in may_stand], table, worth)
    return None if best is None else best * unit


def _in_units(
    candidates: Sequence[tuple[float, Sequence[str]]],
    table: Mapping[str, Sequence[tuple[int, int]]],
    worth: Sequence[float],
) -> float | None:
    if any(len(groups) != 1 for _, groups in candidates):
        return _of_several_tables(candidates, table, worth)
    size = len(worth)
    if not size:
        return 0.0
    by_group: dict[str, list[float]] = {}
    for gain, groups in candidates:
        by_group.setdefault(groups[0], []).append(gain)
    gains, early, late = [], [], []
    for group, limits in table.items():
        own = sorted(by_group.get(group, []), reverse=True)
        if limits[size][0] > len(own):
            return -np.inf
        for place, gain in enumerate(own[:size], start=1):
            start = next((k for k in range(1, size + 1) if limits[k][1] >= place), None)
            if start is None:
                break
            gains.append(gain)
            early.append(start)
            late.append(next((k for k in range(1, size + 1) if limits[k][0] >= place), size + 1))
    if len(gains) < size:
        return -np.inf
    places = np.arange(1, size + 1)
    opened, due = np.array(early)[:, np.newaxis], np.array(late)[:, np.newaxis]
    value = np.array(gains)[:, np.newaxis] * np.array(worth)
    # An item that must stand outweighs any gain; a place that it may not take, any such item.
    must = 1.0 + float(np.sum(np.max(gains) * np.array(worth)))
    forbidden = -must * (size + 1)
    value = np.where(due <= size, value + must, value)
    value = np.where((places < opened) | (places > due), forbidden, value)
    rows, columns = linear_sum_assignment(value, maximize=True)
    owed = np.array(late) <= size
    total = float(value[rows, columns].sum())
    if (value[rows, columns] <= forbidden / 2).any() or owed[rows].sum() < owed.sum():
        return -np.inf
    return total - float(owed.sum()) * must


def _of_several_tables(
    candidates: Sequence[tuple[float, Sequence[str]]],
    table: Mapping[str, Sequence[tuple[int, int]]],
    worth: Sequence[float],
) -> float | None:
    """One binary for each item and place; of items with the same groups only the best can stand."""
    size = len(worth)
    cells: dict[tuple[str, ...], list[float]] = {}
    for gain, groups in candidates:
        cells.setdefault(tuple(groups), []).append(gain)
    kept = [
        (gain, groups)
        for groups, gains in cells.items()
        for gain in sorted(gains, reverse=True)[:size]
    ]
    gains = np.outer([gain for gain, _ in kept], worth)
    found = solved(
        [groups for _, groups in kept], [1] * len(kept), table, size, gains, np.zeros_like(gains),
        SOLVER_S,
    )  # fmt: skip
    if found.status == 2:
        return -np.inf
    return float(-found.fun) if found.status == 0 else None
