"""Whether any list of some candidates keeps the bounds, by an integer program.

Which item of its groups stands somewhere is of no account to bounds, so the program only says how
many of which groups stand where. What it finds is counted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

SOLVER_S = 5.0

Groups = tuple[str, ...]
Table = Mapping[str, Sequence[tuple[int, int]]]


def list_exists(
    candidates: Sequence[Groups], table: Table, size: int, begins: Sequence[Groups] = ()
) -> bool | None:
    """Whether a list of `size` of the candidates keeps the bounds; None where the solver came to no end.

    candidates: the groups of each. table: row -> (least, most) of prefixes 0, 1, ... begins: the
    groups of the places that stand already.
    """
    if not size:
        return True
    supply = Counter(candidates)
    cells = list(supply)
    if any(own not in supply for own in begins) or len(candidates) < size:
        return False
    rows: list[int] = []
    columns: list[int] = []
    low: list[float] = []
    high: list[float] = []

    def constrain(taken: Sequence[int], least: float, most: float) -> None:
        rows.extend([len(low)] * len(taken))
        columns.extend(taken)
        low.append(least)
        high.append(most)

    # One binary for each cell and place.
    for place in range(size):
        constrain([c * size + place for c in range(len(cells))], 1, 1)
    for c, own in enumerate(cells):
        constrain(range(c * size, (c + 1) * size), 0, supply[own])
    for row, limits in table.items():
        members = [c for c, own in enumerate(cells) if row in own]
        for k in range(1, size + 1):
            least, most = limits[k]
            if least > 0 or most < k:
                constrain([c * size + at for c in members for at in range(k)], least, most)
    lowest = np.zeros(len(cells) * size)
    for place, own in enumerate(begins):
        lowest[cells.index(own) * size + place] = 1
    matrix = csr_array((np.ones(len(rows)), (rows, columns)), shape=(len(low), len(cells) * size))
    found = milp(
        np.zeros(len(cells) * size),
        integrality=np.ones(len(cells) * size, np.int64),
        bounds=Bounds(lowest, 1),
        constraints=LinearConstraint(matrix, low, high),
        options={"time_limit": SOLVER_S},
    )
    if found.status == 2:
        return False
    if found.x is None:
        return None
    taken = found.x.reshape(len(cells), size).argmax(axis=0)
    made = [cells[c] for c in taken.tolist()]
    return True if _keeps(made, supply, table, begins) else None


def _keeps(
    made: Sequence[Groups], supply: Counter[Groups], table: Table, begins: Sequence[Groups]
) -> bool:
    if list(made[: len(begins)]) != list(begins) or Counter(made) - supply:
        return False
    have: Counter[str] = Counter()
    for k, own in enumerate(made, start=1):
        have.update(own)
        if any(not limits[k][0] <= have[row] <= limits[k][1] for row, limits in table.items()):
            return False
    return True
