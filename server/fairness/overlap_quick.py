"""Lists for overlapping groups place by place, without looking ahead: where a search is too much.

Of the cells that no attribute alone forbids the one of the largest score is taken, raised by how
soon its rows are due: an item that serves several floors leaves places for the others.
"""

from __future__ import annotations

import numpy as np

from server.fairness.types import Float64, Int32
from server.jit import kernel

# What serving a floor at its last place is worth, in a score's usual leads: 1/4, doubled up to 128.
_LEAST_URGENCY = 0.25
_URGENCIES = 10
# They are tried by steps of three, from 2 on: few of them, if the budget is small, are far apart.
_STEP = 3
# A row that must not be taken: above every score and urgency; a floor counts for more than ceilings.
_FORBIDDEN = 1e6


@kernel
def _one_list(
    values: Float64,
    stock: Int32,
    rows: Int32,
    blocks: Int32,
    floors: Int32,
    ceilings: Int32,
    size: int,
    urgency: float,
    spread: float,
    path: Int32,
) -> int:
    """Fill `path` with cells; returns at how many places a row was taken that must not be."""
    n_cells = stock.shape[0]
    n_rows = floors.shape[0]
    n_attributes = rows.shape[1]
    counts = np.zeros(n_cells, np.int32)
    have = np.zeros(n_rows, np.int32)
    # due[r]: the first prefix that asks row r for more than it has; demand: what a prefix lacks.
    due = np.full(n_rows, size + 1, np.int32)
    demand = np.zeros((n_attributes, size + 1), np.int32)
    for a in range(n_attributes):
        for r in range(blocks[a], blocks[a + 1]):
            for k in range(size, 0, -1):
                demand[a, k] += floors[r, k]
                if floors[r, k] > 0:
                    due[r] = k
    worth = np.empty(n_rows)
    forbidden = _FORBIDDEN * spread
    lost = 0
    for t in range(1, size + 1):
        for a in range(n_attributes):
            # Where floors until k want every place until k, only rows due by then may be taken.
            tight = size + 1
            for k in range(size, t - 1, -1):
                if demand[a, k] > k - t:
                    tight = k
            for r in range(blocks[a], blocks[a + 1]):
                worth[r] = urgency / max(1, due[r] - t + 1) if due[r] <= size else 0.0
                if have[r] >= ceilings[r, t]:
                    worth[r] -= forbidden
                if tight <= size and due[r] > tight:
                    worth[r] -= forbidden * n_attributes
        best, most = -1, -np.inf
        for c in range(n_cells):
            if counts[c] < stock[c]:
                key = values[c, counts[c]]
                for a in range(n_attributes):
                    key += worth[rows[c, a]]
                if key > most:
                    best, most = c, key
        lost += most < values[best, counts[best]] - forbidden / 2
        path[t - 1] = best
        counts[best] += 1
        for a in range(n_attributes):
            r = rows[best, a]
            for k in range(due[r], size + 1):
                demand[a, k] -= floors[r, k] > have[r]
            have[r] += 1
            while due[r] <= size and floors[r, due[r]] <= have[r]:
                due[r] += 1
    return lost


@kernel
def quick_list(
    values: Float64,
    stock: Int32,
    rows: Int32,
    blocks: Int32,
    floors: Int32,
    ceilings: Int32,
    weights: Float64,
    size: int,
    budget: int,
) -> tuple[bool, Int32, float, int]:
    """The best of several such lists, from by score nearly alone to by what is due nearly alone.

    Returns:
        whether it keeps every bound (if none does, it is one that breaks them at the fewest
        places); its cells `[size]`; its utility; the steps taken.
    """
    n_cells = stock.shape[0]
    n_rows = floors.shape[0]
    # A score's usual lead: of the best over those that would fill the list.
    firsts = np.sort(values[:, 0])[::-1]
    lead = firsts[0] - firsts[min(size, n_cells) - 1]
    spread = 1.0
    for c in range(n_cells):
        spread = max(spread, np.abs(values[c, 0]), np.abs(values[c, stock[c] - 1]))
    if lead <= 0:
        lead = 1.0
    a_list = 2 * n_rows * size + size * (rows.shape[1] * (2 * size + n_cells) + n_rows)
    best = np.empty(size, np.int32)
    path = np.empty(size, np.int32)
    taken = np.empty(n_cells, np.int32)
    fewest, utility = size + 1, -np.inf
    work = 0
    for turn in range(1, _URGENCIES + 1):
        if turn > 1 and work + a_list > budget:
            break
        work += a_list
        urgency = _LEAST_URGENCY * 2.0 ** (turn * _STEP % _URGENCIES) * lead
        lost = _one_list(
            values, stock, rows, blocks, floors, ceilings, size, urgency, spread + lead, path
        )
        taken[:] = 0
        prefix, own = 0.0, 0.0
        for t in range(size):
            prefix += values[path[t], taken[path[t]]]
            taken[path[t]] += 1
            own += weights[t + 1] * prefix
        if lost < fewest or (lost == fewest and own > utility):
            best[:] = path
            fewest, utility = lost, own
    return fewest == 0, best, utility, work
