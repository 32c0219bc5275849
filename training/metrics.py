"""Ranking metrics per user: arrays in, one number per user out.

Owns what the numbers mean. Must not know models, files or bootstrap.

A list is a row of item places, best first, padded with -1 at the end where it is
short. Targets are a user's distinct items in rising order (`Targets` of
`training.data.split`). A user without targets has no value: NaN, and means are
taken over the others.

>>> import numpy as np
>>> lists = np.array([[7, 3, 5], [2, -1, -1]])
>>> found = hits(lists, ptr=np.array([0, 2, 3]), items=np.array([3, 9, 2]))
>>> found.tolist()
[[False, True, False], [True, False, False]]
>>> recall(found, np.array([2, 1])).tolist()
[0.5, 1.0]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.features.types import Float64, Int64

Bool = NDArray[np.bool_]
Ints = NDArray[np.integer]
PerUser = dict[str, Float64]
"""Metric -> one value per evaluated user."""


def hits(lists: Ints, ptr: Int64, items: Ints) -> Bool:
    """Which places of the lists hold a target.

    lists: `[t, k]` int, -1 is no item. ptr: `[t + 1]`; user u's targets are
    items[ptr[u] : ptr[u + 1]]. Returns `[t, k] bool`.
    """
    if len(lists) != len(ptr) - 1:
        raise ValueError(f"{len(lists)} lists for {len(ptr) - 1} users' targets")
    span = 1 + max(int(items.max(initial=0)), int(lists.max(initial=0)))
    rows = np.arange(len(lists), dtype=np.int64)
    wanted = np.repeat(rows, np.diff(ptr)) * span + items
    listed = rows[:, None] * span + lists
    return np.isin(listed, wanted) & (lists >= 0)


def recall(found: Bool, n_targets: Ints) -> Float64:
    """`hits / targets`, per user: the share of what was bought that the list foresaw.

    found: `[t, k]` from `hits`. n_targets: `[t]`. Returns `[t] float64`, NaN where n_targets is 0.

    With more targets than places the best reachable value is k / targets.

    >>> recall(np.array([[True, False]]), np.array([4])).tolist()
    [0.25]
    """
    return _share(found.sum(axis=1), n_targets, n_targets > 0)


def ndcg(found: Bool, n_targets: Ints) -> Float64:
    """`DCG / ideal DCG`, per user; binary gains, discount `1 / log2(rank + 1)`, rank from 1.

    The ideal list holds `min(k, targets)` hits at its top (Jarvelin and Kekalainen,
    TOIS 2002), so a perfect list scores 1 however many targets there are.
    found: `[t, k]` from `hits`. n_targets: `[t]`. Returns `[t] float64`, NaN where n_targets is 0.

    >>> ndcg(np.array([[True, True, False], [False, True, False]]), np.array([2, 1])).round(4).tolist()
    [1.0, 0.6309]
    """
    depth = found.shape[1]
    discounts = 1.0 / np.log2(np.arange(2, depth + 2))
    reachable = np.concatenate([[0.0], np.cumsum(discounts)])
    ideal = reachable[np.minimum(n_targets, depth)]
    gains = found @ discounts
    return _share(gains, ideal, n_targets > 0)


def roc_auc(scores: Float64, positive: Bool) -> float:
    """How likely a positive scores above a negative, ties half: the area under the ROC curve.

    `(sum of the positives' mean ranks - p (p + 1) / 2) / (p n)` (Hanley and McNeil, Radiology
    1982). NaN where one of the two is missing.

    >>> roc_auc(np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    positives = int(positive.sum())
    pairs = positives * (len(scores) - positives)
    if pairs == 0:
        return float("nan")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    mean_ranks = np.cumsum(counts) - (counts - 1) / 2
    above = mean_ranks[inverse][positive].sum() - positives * (positives + 1) / 2
    return float(above / pairs)


def without(ptr: Int64, items: Ints, gone_ptr: Int64, gone_items: Ints) -> tuple[Int64, Ints]:
    """The targets that are not in the user's row of `gone` (the history): the novel ones.

    >>> ptr, items = without(np.array([0, 2]), np.array([3, 9]), np.array([0, 1]), np.array([3]))
    >>> ptr.tolist(), items.tolist()
    ([0, 1], [9])
    """
    span = 1 + max(int(items.max(initial=0)), int(gone_items.max(initial=0)))
    rows = np.repeat(np.arange(len(ptr) - 1, dtype=np.int64), np.diff(ptr))
    gone_rows = np.repeat(np.arange(len(gone_ptr) - 1, dtype=np.int64), np.diff(gone_ptr))
    kept = ~np.isin(rows * span + items, gone_rows * span + gone_items)
    counts = np.bincount(rows[kept], minlength=len(ptr) - 1)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), items[kept]


def _share(part: NDArray[Any], whole: NDArray[Any], defined: Bool) -> Float64:
    """`part / whole` where it is defined, NaN elsewhere."""
    out = np.full(len(part), np.nan)
    np.divide(part, whole, out=out, where=defined)
    return out
