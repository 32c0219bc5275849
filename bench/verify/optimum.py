"""The largest DCG of any list that keeps the bounds of one group table: an assignment problem.

The j-th best item of a group may stand from the first prefix whose ceiling reaches j, and
must stand by the first prefix whose floor does. Every choice of places within those limits
is a list that keeps the bounds, and sorting each group's items by score never loses: so
the best assignment of items to places is the best list.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment


def largest_dcg(
    candidates: Sequence[tuple[float, Sequence[str]]],
    table: Mapping[str, Sequence[tuple[int, int]]],
    worth: Sequence[float],
) -> float | None:
    """The largest sum of gain times worth.

    candidates: (gain >= 0, groups). table: group -> (least, most) of prefixes 0, 1, ... worth: of
    the list's places. None where candidates have groups of several tables. `-inf` where no list
    keeps the bounds.
    """
    if any(len(groups) != 1 for _, groups in candidates):
        return None
    size = len(worth)
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
    owed = int((np.array(late) <= size).sum())
    total = float(value[rows, columns].sum())
    if (value[rows, columns] <= forbidden / 2).any() or total < owed * must - must / 2:
        return -np.inf
    return total - owed * must
