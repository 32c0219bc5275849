"""Prices of the bounds of overlapping groups: what one item more of a row is worth at each prefix.

A price for each row and prefix makes the bounds part of the objective: what is left is to
take, at each prefix, the items of the largest value and credit, and that sum is never less
than the utility of a list that keeps the bounds (Lagrangian relaxation; Fisher, Management
Science 1981). The beam search of `overlap_search` ranks its starts by it.
"""

from __future__ import annotations

import numpy as np

from server.fairness.types import Float64, Int32
from server.jit import kernel

# Sweeps of the prices over the rows: more hardly lower the bound.
_SWEEPS = 6
# Of so many cells it is faster to look at all than to keep a heap.
_LOOKED_THROUGH = 48
# Steps of an item that `best_under` draws from its heap.
_DRAWN = 24


@kernel
def _sink(heap: Int32, head: Float64, at: int, length: int) -> None:
    """Restore the heap below a place: the largest head first, of equal ones the first cell."""
    cell = heap[at]
    while 2 * at + 1 < length:
        child = 2 * at + 1
        if child + 1 < length:
            one, two = heap[child], heap[child + 1]
            if head[two] > head[one] or (head[two] == head[one] and two < one):
                child += 1
        one = heap[child]
        if head[cell] > head[one] or (head[cell] == head[one] and cell < one):
            break
        heap[at] = one
        at = child
    heap[at] = cell


@kernel
def best_under(
    values: Float64,
    stock: Int32,
    credit: Float64,
    mine: Int32,
    want: int,
    k: int,
    cells: Int32,
    worth: Float64,
) -> int:
    """The k items of the largest value + credit, of the cells where `mine` is `want`; how many."""
    n_cells = stock.shape[0]
    taken = np.zeros(n_cells, np.int32)
    if n_cells <= _LOOKED_THROUGH:
        head = np.full(n_cells, -np.inf)
        for c in range(n_cells):
            if mine[c] == want:
                head[c] = values[c, 0] + credit[c]
        for j in range(k):
            best = 0
            for c in range(1, n_cells):
                if head[c] > head[best]:
                    best = c
            if head[best] == -np.inf:
                return j
            cells[j] = best
            worth[j] = head[best]
            taken[best] += 1
            if taken[best] < stock[best]:
                head[best] = values[best, taken[best]] + credit[best]
            else:
                head[best] = -np.inf
        return k
    head = np.empty(n_cells)
    heap = np.empty(n_cells, np.int32)
    length = 0
    for c in range(n_cells):
        if mine[c] == want:
            head[c] = values[c, 0] + credit[c]
            heap[length] = c
            length += 1
    for at in range(length // 2 - 1, -1, -1):
        _sink(heap, head, at, length)
    for j in range(k):
        if length == 0:
            return j
        best = heap[0]
        cells[j] = best
        worth[j] = head[best]
        taken[best] += 1
        if taken[best] < stock[best]:
            head[best] = values[best, taken[best]] + credit[best]
        else:
            length -= 1
            heap[0] = heap[length]
        if length > 0:
            _sink(heap, head, 0, length)
    return k


@kernel
def row_prices(
    values: Float64,
    stock: Int32,
    rows: Int32,
    floors: Int32,
    ceilings: Int32,
    size: int,
    budget: int,
) -> tuple[Float64, int]:
    """A price for each row and prefix, `[R, size + 1]`: what one item more of the row is worth there.

    Multipliers of a Lagrangian relaxation: with the bounds of prefix k as prices, the k items of the
    largest score + prices bound the sum of any k items that keep them. Each is set in turn to
    its best value with the others fixed, which never raises the bound. Any prices are valid; above
    0 they speak of the floor, below of the ceiling. Where the budget of steps ends, the prefixes
    that are left take the last prices.

    Returns:
        the prices, and the steps that they took.
    """
    n_cells = stock.shape[0]
    n_rows = floors.shape[0]
    n_attributes = rows.shape[1]
    prices = np.zeros((n_rows, size + 1))
    credit = np.zeros(n_cells)
    everywhere = np.zeros(n_cells, np.int32)
    mine = np.empty(n_cells, np.int32)
    cells = np.empty(size + 1, np.int32)
    own = np.empty(size + 1)
    other = np.empty(size + 1)
    have = np.empty(n_rows, np.int32)
    work = 0
    for k in range(1, size + 1):
        if work >= budget:
            for r in range(n_rows):
                prices[r, k:] = prices[r, k - 1]
            break
        prices[:, k] = prices[:, k - 1]
        for _ in range(_SWEEPS):
            if work >= budget:
                break
            work += n_cells + n_rows + _DRAWN * k
            best_under(values, stock, credit, everywhere, 0, k, cells, own)
            have[:] = 0
            for j in range(k):
                for a in range(n_attributes):
                    have[rows[cells[j], a]] += 1
            settled = True
            for r in range(n_rows):
                if work >= budget:
                    break
                low, high, price = floors[r, k], ceilings[r, k], prices[r, k]
                if (
                    low <= have[r] <= high
                    and (price <= 0 or have[r] == low)
                    and (price >= 0 or have[r] == high)
                ):
                    continue
                settled = False
                work += 2 * n_cells * n_attributes + 2 * _DRAWN * k
                for c in range(n_cells):
                    mine[c] = 0
                    for a in range(n_attributes):
                        if rows[c, a] == r:
                            mine[c] = 1
                            credit[c] -= price
                n_own = best_under(values, stock, credit, mine, 1, min(high + 1, k), cells, own)
                n_other = best_under(
                    values, stock, credit, mine, 0, min(k - low + 1, k), cells, other
                )
                # Where the bound is the same over an interval, its middle: an end would leave the
                # other rows no room, and the prices would stall.
                price = 0.0
                if low > 0 and n_own >= low and n_other > k - low:
                    price = max(price, other[k - low] - own[low - 1])
                    if price > 0 and low < n_own and low < k:
                        price += (other[k - low - 1] - own[low] - price) / 2
                if high < n_own and n_other >= k - high:
                    price = min(price, other[k - high - 1] - own[high])
                    if price < 0 and high > 0 and n_other > k - high:
                        price -= (price - other[k - high] + own[high - 1]) / 2
                prices[r, k] = price
                for c in range(n_cells):
                    if mine[c] == 1:
                        credit[c] += price
            if settled:
                break
    return prices, work
