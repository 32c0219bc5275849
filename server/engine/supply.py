"""Which items besides those of the candidate generator a policy needs: best sellers of short groups."""

from __future__ import annotations

import numpy as np

from server.engine.groups import PolicyItems
from server.fairness import CompiledPolicy, shortage
from server.fairness.types import Int32


def missing_groups(
    items: Int32,
    unwanted: Int32,
    popular: Int32,
    policy: PolicyItems,
    compiled: CompiledPolicy,
    count: int,
) -> Int32:
    """The best sellers `[m]`, in the bundle's order, that groups too rare among `items` lack for a
    list of `count`; neither of `items` nor unwanted.

    The generator knows no policy: what sells best may all be of one group, and a bound would then be
    broken by the choice of candidates instead of by want of items.
    """
    if not compiled.labels:
        return np.empty(0, np.int32)
    rows = policy.rows
    have = np.bincount(rows[:, items].ravel(), minlength=len(compiled.labels))
    short = shortage(compiled, have, count)
    if not short.any():
        return np.empty(0, np.int32)
    barred = np.zeros(rows.shape[1], np.bool_)
    barred[items] = True
    barred[unwanted] = True
    free = popular[~barred[popular]]
    parts = [
        free[(rows[:, free] == row).any(axis=0)][: short[row]]
        for row in np.flatnonzero(short).tolist()
    ]
    return np.unique(np.concatenate(parts)).astype(np.int32)
