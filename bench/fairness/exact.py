"""The best DCG that any list can have, from two general solvers; slow, exact, and not ours.

`by_assignment`: the j-th item of a group in score order may stand from the first prefix whose
ceiling allows j items until the first whose floor asks for j; that is an assignment of items to
places (`scipy.optimize.linear_sum_assignment`). `by_program`: the bounds word for word as an
integer program (`scipy.optimize.milp`, HiGHS).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, linear_sum_assignment, milp

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
    """As `by_assignment`; a variable for each item and place, a row for each bound."""
    n, n_groups = len(scores), len(floors)
    gain = np.outer(scores.astype(np.float64), discounts(size))
    item = np.kron(np.eye(n), np.ones(size))
    place = np.kron(np.ones(n), np.eye(size))
    member = (groups == np.arange(n_groups)[:, np.newaxis]).astype(np.float64)
    counts = np.kron(member, np.tril(np.ones((size, size))))
    rows = [
        LinearConstraint(item, 0, 1),
        LinearConstraint(place, 1, 1),
        LinearConstraint(
            counts, floors[:, 1 : size + 1].reshape(-1), ceilings[:, 1 : size + 1].reshape(-1)
        ),
    ]
    found = milp(
        -gain.reshape(-1),
        constraints=rows,
        integrality=np.ones(n * size, np.int64),
        bounds=Bounds(0, 1),
    )
    return None if found.x is None else float(-found.fun)
