"""The best DCG that any list can have, from two general solvers; slow, exact, and not ours.

`by_assignment`: the j-th item of a group in score order may stand from the first prefix whose
ceiling allows j items until the first whose floor asks for j; that is an assignment of items to
places (`scipy.optimize.linear_sum_assignment`). `by_program`: the bounds word for word as an
integer program (`bench.fairness.milp`, HiGHS).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from bench.fairness.milp import best_list
from server.fairness.discount import discounts
from server.fairness.types import Float32, Int32

Float64 = NDArray[np.float64]


def by_assignment(
    scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int
) -> float | None:
    """The largest DCG of a list of `size` that keeps every bound; None where there is none.

    scores: at least 0. floors, ceilings `[G, >= size + 1]`.
    """
    order = np.argsort(-scores, kind="stable")
    prefix = np.arange(size + 1)
    rows: list[Float64] = []
    due = 0
    # An item that a floor asks for is worth more than any DCG, a place outside its time less.
    must = 2.0 * (1.0 + float(np.abs(scores).max()) * float(discounts(size).sum()))
    for g in range(len(floors)):
        own = order[groups[order] == g][:size]
        # release[j], deadline[j]: the first prefixes with ceiling >= j + 1 and floor >= j + 1.
        nth = np.arange(1, len(own) + 1)
        release = np.searchsorted(ceilings[g, : size + 1], nth)
        deadline = np.searchsorted(floors[g, : size + 1], nth)
        if floors[g, size] > len(own):
            return None
        due += int(floors[g, size])
        allowed = (prefix[1:] >= release[:, np.newaxis]) & (prefix[1:] <= deadline[:, np.newaxis])
        gains = scores[own].astype(np.float64)[:, np.newaxis] * discounts(size)
        gains += np.where(deadline <= size, must, 0.0)[:, np.newaxis]
        rows.append(np.where(allowed, gains, -must * size * size))
    gain = np.concatenate(rows)
    items, places = linear_sum_assignment(gain, maximize=True)
    total = float(gain[items, places].sum())
    if len(places) < size or gain[items, places].min() < 0 or total < must * due:
        return None
    return total - must * due


def by_program(
    scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int
) -> float | None:
    """As `by_assignment`, by an integer program that is solved to the optimum itself.

    Raises:
        RuntimeError: the solver found neither a list nor a proof.
    """
    worth = discounts(size)
    best = best_list(scores, groups[np.newaxis], floors, ceilings, worth)
    return None if best is None else float(scores[best].astype(np.float64) @ worth)
