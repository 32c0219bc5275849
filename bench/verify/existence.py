"""Whether any list of some candidates keeps the bounds, by an integer program.

Which item of its groups stands somewhere is of no account to bounds, so the program only says how
many of which groups stand where. What it finds is counted again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from bench.verify.program import Groups, Table, solved

SOLVER_S = 5.0


def list_exists(
    candidates: Sequence[Groups], table: Table, size: int, begins: Sequence[Groups] = ()
) -> bool | None:
    """Whether a list of `size` of the candidates keeps the bounds; None: the solver came to no end.

    candidates: the groups of each. table: row -> (least, most) of prefixes 0, 1, ... begins: the
    groups of the places that stand already.
    """
    if not size:
        return True
    supply = Counter(candidates)
    cells = list(supply)
    if any(own not in supply for own in begins) or len(candidates) < size:
        return False
    lowest = np.zeros((len(cells), size))
    for place, own in enumerate(begins):
        lowest[cells.index(own), place] = 1
    stock = [supply[own] for own in cells]
    found = solved(cells, stock, table, size, np.zeros_like(lowest), lowest, SOLVER_S)
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
