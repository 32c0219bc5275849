"""The bounds of a list, word for word, as an integer program: which of several kinds of item stands where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Groups = tuple[str, ...]
Table = Mapping[str, Sequence[tuple[int, int]]]


def solved(
    kinds: Sequence[Groups],
    stock: Sequence[int],
    table: Table,
    size: int,
    gains: NDArray[np.float64],
    lowest: NDArray[np.float64],
    limit_s: float,
) -> Any:
    """What HiGHS finds for lists of `size` places, as `scipy.optimize.milp` tells it; `x` is
    `[kinds * size]`, 1 where one of a kind stands at a place.

    kinds: the groups of each; stock: how many there are of it. table: row -> (least, most) of
    prefixes 0, 1, ... gains, lowest: `[kinds, size]`, what a kind is worth at a place, and 1 where it
    has to stand.
    """
    rows: list[int] = []
    columns: list[int] = []
    low: list[float] = []
    high: list[float] = []

    def constrain(taken: Sequence[int], least: float, most: float) -> None:
        rows.extend([len(low)] * len(taken))
        columns.extend(taken)
        low.append(least)
        high.append(most)

    for place in range(size):
        constrain([kind * size + place for kind in range(len(kinds))], 1, 1)
    for kind, most_of_it in enumerate(stock):
        constrain(range(kind * size, (kind + 1) * size), 0, most_of_it)
    for row, limits in table.items():
        members = [kind for kind, own in enumerate(kinds) if row in own]
        for k in range(1, size + 1):
            least, most = limits[k]
            if least > 0 or most < k:
                taken = [kind * size + place for kind in members for place in range(k)]
                constrain(taken, least, most)
    matrix = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(low), gains.size))
    return milp(
        -gains.ravel(),
        integrality=np.ones(gains.size, np.int64),
        bounds=Bounds(lowest.ravel(), 1),
        constraints=LinearConstraint(matrix, low, high),
        options={"time_limit": limit_s, "mip_rel_gap": 1e-6},
    )
