"""The best list that keeps the bounds of one group table, exactly: an assignment problem.

The j-th best item of a group may stand from the first prefix whose ceiling reaches j, and
must stand by the first prefix whose floor does. Every choice of places within those limits
is a list that keeps the bounds, and sorting each group's items by score never loses: so
the best assignment of items to places is the best list. Shares no code with the kernels
that it is compared with, nor with the verifier's, which training may not import.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from server.fairness.types import Float64, Int32


def best_order(
    gains: Float64, groups: Int32, floors: Int32, ceilings: Int32, worth: Float64
) -> Int32 | None:
    """Positions of the best list's items, `[k] int32`; None where no list keeps the bounds.

    gains `[n]`, finite; groups `[n]`, rows of the bounds; floors, ceilings `[G, >= k + 1]`,
    non-decreasing; worth `[k]` of the places. A list has min(k, n) places.

    >>> bounds = np.int32([[0, 0, 0], [0, 0, 1]]), np.int32([[0, 1, 2], [0, 1, 2]])
    >>> best_order(np.array([3.0, 2.0, 1.0]), np.int32([0, 0, 1]), *bounds, np.array([1.0, 0.5]))
    array([0, 2], dtype=int32)
    """
    size = min(len(worth), len(gains))
    if size == 0:
        return np.empty(0, np.int32)
    low, high = floors[:, : size + 1], ceilings[:, : size + 1]
    supply = np.bincount(groups, minlength=len(low))
    if (low[:, size] > supply).any():
        return None
    ordered = np.lexsort((np.arange(len(gains)), -gains, groups))
    nth = np.arange(len(gains)) - np.concatenate([[0], np.cumsum(supply)])[groups[ordered]] + 1
    # A group's items beyond its last ceiling stand in no list.
    kept = nth <= high[groups[ordered], size]
    chosen, nth = ordered[kept], nth[kept]
    if len(chosen) < size:
        return None
    rows = groups[chosen]
    # The number of prefixes whose bound is below n: the first that reaches it, or size + 1.
    opens = (high[rows] < nth[:, np.newaxis]).sum(axis=1)
    due = (low[rows] < nth[:, np.newaxis]).sum(axis=1)
    places = np.arange(1, size + 1)
    # A shift is the same for all full lists, and makes every gain one that is worth taking.
    value = (gains[chosen] - gains[chosen].min())[:, np.newaxis] * worth[:size]
    # An item that must stand outweighs any gain; a place that it may not take, any such item.
    must = 1.0 + float(value.max(axis=0).sum())
    forbidden = -must * (size + 1)
    owed = due <= size
    value[owed] += must
    value[(places < opens[:, np.newaxis]) | (places > due[:, np.newaxis])] = forbidden
    items, at = linear_sum_assignment(value, maximize=True)
    if (value[items, at] <= forbidden / 2).any() or int(owed[items].sum()) < int(owed.sum()):
        return None
    order = np.empty(size, np.int32)
    order[at] = chosen[items]
    return order


def largest_dcg(
    gains: Float64, groups: Int32, floors: Int32, ceilings: Int32, worth: Float64
) -> float | None:
    """The largest sum of gain times worth of any list that keeps the bounds; see `best_order`."""
    order = best_order(gains, groups, floors, ceilings, worth)
    return None if order is None else float(gains[order] @ worth[: len(order)])
