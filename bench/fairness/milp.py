"""The best list under the bounds of several attributes, as a mixed-integer program.

An oracle for lists of up to some twenty places from some sixty candidates: exact and slow,
and shares no code with the kernels. Example:

    best = best_list(scores, members, floors, ceilings, discounts)
    best is None  # no list keeps the bounds
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

# What HiGHS answers when there is no list, and when it is done.
_OPTIMAL = 0
_INFEASIBLE = 2


def best_list(
    scores: NDArray[np.float32],
    members: NDArray[np.int32],
    floors: NDArray[np.int32],
    ceilings: NDArray[np.int32],
    discounts: NDArray[np.float64],
) -> list[int] | None:
    """Positions of the list with the largest sum of discount x score; None where there is none.

    members `[A, n]`; floors, ceilings `[R, >= size + 1]`; discounts `[size]`. x[i, t] is 1 where
    item i stands at place t.

    Raises:
        RuntimeError: the solver found neither a list nor a proof.
    """
    n, size = scores.shape[0], discounts.shape[0]
    at = np.arange(n * size).reshape(n, size)
    rows: list[NDArray[np.int64]] = [at[:, t] for t in range(size)]
    low, high = [1.0] * size, [1.0] * size
    rows += [at[i] for i in range(n)]
    low += [0.0] * n
    high += [1.0] * n
    for r in range(floors.shape[0]):
        mine = (members == r).any(axis=0)
        for k in range(1, size + 1):
            if floors[r, k] > 0 or ceilings[r, k] < k:
                rows.append(at[mine, :k].ravel())
                low.append(float(floors[r, k]))
                high.append(float(ceilings[r, k]))
    lengths = [len(row) for row in rows]
    matrix = csr_matrix(
        (np.ones(sum(lengths)), np.concatenate(rows), np.cumsum([0, *lengths])),
        shape=(len(rows), n * size),
    )
    found = milp(
        -np.outer(scores.astype(np.float64), discounts).ravel(),
        constraints=LinearConstraint(matrix, np.array(low), np.array(high)),
        integrality=np.ones(n * size),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0.0},
    )
    if found.status == _INFEASIBLE:
        return None
    if found.status != _OPTIMAL:
        raise RuntimeError(f"no answer from the solver: {found.message}")
    return [int(i) for i in np.asarray(found.x).reshape(n, size).argmax(axis=0)]
