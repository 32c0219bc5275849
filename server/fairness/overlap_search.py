"""The beam over places for overlapping groups: lists that keep the bounds, the best starts first.

Starts with the same items are one; those that cannot be finished are dropped, by the deadlines of
each attribute; the others are ranked by what they could still reach at the prices of
`overlap_prices`. What is dropped for want of width is remembered as a bound.
"""

from __future__ import annotations

import numpy as np

from server.fairness.overlap_prices import best_under
from server.fairness.types import Float64, Int32
from server.jit import kernel

# A floor that is short weighs more than any number of ceilings that are passed.
_FLOOR_WEIGHT = 4096.0
# Slots of a table that are emptied in a step.
_CLEARED = 8


@kernel
def _dead(
    counts: Int32,
    have: Int32,
    stock: Int32,
    rows: Int32,
    blocks: Int32,
    floors: Int32,
    ceilings: Int32,
    placed: int,
    k: int,
    shared: Int32,
) -> bool:
    """Whether a start of a list cannot be continued to prefix k, for want of items.

    What is left of a cell is what its rows' ceilings let in. Under the ceilings of each attribute it
    must fill the places until k, and leave the floors of the other attributes enough items.
    """
    n_attributes = rows.shape[1]
    shared[:] = 0
    for c in range(stock.shape[0]):
        left = stock[c] - counts[c]
        for a in range(n_attributes):
            left = min(left, max(0, ceilings[rows[c, a], k] - have[rows[c, a]]))
        if left > 0:
            for a in range(n_attributes):
                for b in range(n_attributes):
                    shared[rows[c, a], rows[c, b]] += left
    for b in range(n_attributes):
        places = k - placed
        for other in range(blocks[b], blocks[b + 1]):
            places -= min(ceilings[other, k] - have[other], shared[other, other])
        if places > 0:
            return True
        for r in range(shared.shape[0]):
            needed = floors[r, k] - have[r]
            if needed > 0:
                for other in range(blocks[b], blocks[b + 1]):
                    needed -= min(ceilings[other, k] - have[other], shared[r, other])
                if needed > 0:
                    return True
    return False


@kernel
def narrowest(n_cells: int, n_rows: int, n_attributes: int, size: int, careful: bool) -> int:
    """The steps of a beam of one start, at most: what no narrowing saves."""
    a_place = n_cells + size + 2 * n_rows
    if careful:
        a_place += (n_cells * n_attributes * n_attributes + n_rows * n_rows) // 2
    return size * (n_cells * (2 * n_attributes + 1) + size) + size * size // 2 * a_place


@kernel
def search(
    values: Float64,
    stock: Int32,
    rows: Int32,
    blocks: Int32,
    floors: Int32,
    ceilings: Int32,
    prices: Float64,
    weights: Float64,
    size: int,
    width: int,
    least: float,
    strict: bool,
    careful: bool,
    budget: int,
) -> tuple[bool, Int32, float, float, int, int]:
    """A beam over the places: the `width` most promising starts of a list, by what they can become.

    A start is worth the sums of its own prefixes and, of each prefix to come, the best that the
    prices let it reach. Strict: starts that one attribute alone shows to be dead are dropped, and
    so are those that cannot become more than `least`. Otherwise the fewest broken bounds come
    first. Careful: also those are dropped that lack items, a test that is slow. Of starts with the same
    items the best is kept.

    The beam narrows, to one start at least, where it would take more than `budget` steps of its
    loops. They are counted, not timed: the same input gives the same list on every machine.

    Returns:
        found, the cells `[size]`, utility, the most that a start could become that did not fit into
        the beam, how many did not, and the steps taken.
    """
    n_cells = stock.shape[0]
    n_rows = floors.shape[0]
    n_attributes = rows.shape[1]

    # What each prefix takes under its prices, best first; and the constant of its bound.
    credit = np.zeros((n_cells, size + 1))
    top_cell = np.empty((size + 1, size + 1), np.int32)
    top_index = np.empty((size + 1, size + 1), np.int32)
    top_worth = np.empty((size + 1, size + 1))
    constant = np.zeros(size + 1)
    everywhere = np.zeros(n_cells, np.int32)
    taken = np.empty(n_cells, np.int32)
    for k in range(1, size + 1):
        for r in range(n_rows):
            price = prices[r, k]
            constant[k] += price * (floors[r, k] if price > 0 else ceilings[r, k])
        for c in range(n_cells):
            for a in range(n_attributes):
                credit[c, k] += prices[rows[c, a], k]
        best_under(values, stock, credit[:, k].copy(), everywhere, 0, k, top_cell[k], top_worth[k])
        taken[:] = 0
        for j in range(k):
            top_index[k, j] = taken[top_cell[k, j]]
            taken[top_cell[k, j]] += 1

    # due[r, h]: the first prefix that asks row r for more than h items.
    due = np.full((n_rows, size + 1), size + 1, np.int32)
    for r in range(n_rows):
        for k in range(size, 0, -1):
            for h in range(floors[r, k]):
                due[r, h] = k
    # A broken bound outweighs every utility.
    spread = 0.0
    for c in range(n_cells):
        spread = max(spread, np.abs(values[c, 0]), np.abs(values[c, stock[c] - 1]))
    penalty = 0.0
    for k in range(1, size + 1):
        penalty += 4.0 * weights[k] * k * spread
    penalty += 1.0

    # More starts than that would not fit into the budget at all.
    width = min(width, max(1, budget // (size * n_cells)))
    slots = 4
    while slots < 2 * width * n_cells:
        slots *= 2
    seen = np.empty(slots, np.int32)
    mark = np.empty(n_cells, np.uint64)
    for c in range(n_cells):
        x = np.uint64(c + 1) * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mark[c] = x ^ (x >> np.uint64(31))

    most = width * n_cells
    keys = np.empty(most)
    sums_to = np.empty(most)
    hashes = np.empty(most, np.uint64)
    parents = np.empty(most, np.int32)
    picks = np.empty(most, np.int32)

    counts = np.zeros((width, n_cells), np.int32)
    have = np.zeros((width, n_rows), np.int32)
    prefix_sum = np.zeros(width)
    so_far = np.zeros(width)
    broken = np.zeros(width)
    hashed = np.zeros(width, np.uint64)
    next_counts, next_have = np.empty_like(counts), np.empty_like(have)
    next_sum, next_far = np.empty_like(prefix_sum), np.empty_like(so_far)
    next_broken, next_hashed = np.empty_like(broken), np.empty_like(hashed)
    trace_parent = np.empty((size + 1, width), np.int32)
    trace_cell = np.empty((size + 1, width), np.int32)

    demand = np.empty(size + 2, np.int32)
    short = np.empty(n_rows)
    over = np.empty(n_rows)
    limit = np.empty(size + 1)
    paid = np.empty(size + 1)
    path = np.empty(size, np.int32)
    dropped, n_dropped = -np.inf, 0
    shared = np.zeros((n_rows, n_rows), np.int32)
    live = 1
    work = size * (n_cells * (n_attributes + 1) + size)
    for t in range(1, size + 1):
        m = 0
        before = work
        work += slots // _CLEARED
        seen[:] = -1
        for b in range(live):
            if careful:
                dead = False
                for k in range(t, size + 1):
                    work += (n_cells * n_attributes * n_attributes + n_rows * n_rows) // 2
                    if _dead(
                        counts[b],
                        have[b],
                        stock,
                        rows,
                        blocks,
                        floors,
                        ceilings,
                        t - 1,
                        k,
                        shared,
                    ):
                        dead = True
                        break
                if dead:
                    continue
            # What breaks if a row is taken now: the floors of its attribute that no longer fit
            # into the places left (Hall, as in `kernels.arrange`), and its own ceiling.
            passed = 0.0
            for r in range(n_rows):
                passed += max(0, have[b, r] - ceilings[r, t])
                over[r] = have[b, r] >= ceilings[r, t]
            for a in range(n_attributes):
                for k in range(t, size + 1):
                    demand[k] = 0
                for r in range(blocks[a], blocks[a + 1]):
                    short[r] = 0.0
                    work += size - due[r, have[b, r]] + 2
                    for k in range(due[r, have[b, r]], size + 1):
                        demand[k] += floors[r, k] - have[b, r]
                for k in range(t, size + 1):
                    late = demand[k] - (k - t)
                    if late > 0:
                        work += blocks[a + 1] - blocks[a]
                        for r in range(blocks[a], blocks[a + 1]):
                            short[r] += late - (k >= due[r, have[b, r]])
            # What each prefix can reach from here, and the last item that it takes for it.
            reach = 0.0
            for k in range(t, size + 1):
                paid[k] = prefix_sum[b] - constant[k]
            for r in range(n_rows):
                if have[b, r] > 0:
                    work += size - t
                    for k in range(t, size + 1):
                        paid[k] += have[b, r] * prices[r, k]
            for k in range(t + 1, size + 1):
                left = k - t + 1
                total = paid[k]
                for j in range(k):
                    if top_index[k, j] >= counts[b, top_cell[k, j]]:
                        total += top_worth[k, j]
                        left -= 1
                        if left == 0:
                            limit[k] = top_worth[k, j]
                            work += j
                            break
                reach += weights[k] * total
            work += n_cells * n_attributes
            for c in range(n_cells):
                if counts[b, c] == stock[c]:
                    continue
                lost_floors, lost_ceilings = 0.0, passed
                for a in range(n_attributes):
                    lost_floors += short[rows[c, a]]
                    lost_ceilings += over[rows[c, a]]
                if strict and lost_floors + lost_ceilings > 0:
                    continue
                value = values[c, counts[b, c]]
                far = so_far[b] + weights[t] * (prefix_sum[b] + value)
                key = far + reach
                # The last prefix first: it weighs the most, and many starts end there.
                for k in range(size, t, -1):
                    work += 1
                    gap = limit[k] - value - credit[c, k]
                    if gap > 0:
                        key -= weights[k] * gap
                        if key <= least:
                            break
                if strict:
                    if key <= least:
                        continue
                else:
                    key -= penalty * (broken[b] + _FLOOR_WEIGHT * lost_floors + lost_ceilings)
                together = hashed[b] + mark[c]
                slot = np.int64(together & np.uint64(slots - 1))
                place = m
                while seen[slot] >= 0:
                    rival = seen[slot]
                    if hashes[rival] == together:
                        p, q = parents[rival], picks[rival]
                        same = True
                        work += n_cells
                        for d in range(n_cells):
                            if counts[p, d] + (q == d) != counts[b, d] + (c == d):
                                same = False
                                break
                        if same:
                            place = rival
                            break
                    slot = (slot + 1) & (slots - 1)
                if place == m:
                    seen[slot] = m
                    m += 1
                elif key <= keys[place]:
                    continue
                keys[place], sums_to[place], hashes[place] = key, far, together
                parents[place], picks[place] = b, c
        if m == 0:
            return False, path, -np.inf, dropped, n_dropped, work
        kept = min(width, m)
        if t < size:
            # Each place to come may take an even part of what is left, at this one's steps a start.
            part = (budget - work) // (size - t)
            kept = min(kept, max(1, part * live // (work - before)))
        threshold = -np.inf
        spare = kept
        if m > kept:
            threshold = np.partition(keys[:m], m - kept)[m - kept]
            for i in range(m):
                spare -= keys[i] > threshold
        work += kept * (n_cells + n_rows)
        live = 0
        for i in range(m):
            if keys[i] == threshold:
                fits = spare > 0
                spare -= 1
            else:
                fits = keys[i] > threshold
            if not fits:
                dropped = max(dropped, keys[i])
                n_dropped += 1
                continue
            b, c = parents[i], picks[i]
            for d in range(n_cells):
                next_counts[live, d] = counts[b, d]
            next_counts[live, c] += 1
            for r in range(n_rows):
                next_have[live, r] = have[b, r]
            for a in range(n_attributes):
                next_have[live, rows[c, a]] += 1
            next_sum[live] = prefix_sum[b] + values[c, counts[b, c]]
            next_far[live] = sums_to[i]
            next_hashed[live] = hashes[i]
            next_broken[live] = broken[b]
            if not strict:
                for r in range(n_rows):
                    next_broken[live] += _FLOOR_WEIGHT * max(0, floors[r, t] - next_have[live, r])
                    next_broken[live] += max(0, next_have[live, r] - ceilings[r, t])
            trace_parent[t, live] = b
            trace_cell[t, live] = c
            live += 1
        counts, next_counts = next_counts, counts
        have, next_have = next_have, have
        prefix_sum, next_sum = next_sum, prefix_sum
        so_far, next_far = next_far, so_far
        broken, next_broken = next_broken, broken
        hashed, next_hashed = next_hashed, hashed
    best = 0
    for b in range(1, live):
        if so_far[b] - penalty * broken[b] > so_far[best] - penalty * broken[best]:
            best = b
    utility = so_far[best]
    for t in range(size, 0, -1):
        path[t - 1] = trace_cell[t, best]
        best = trace_parent[t, best]
    return True, path, utility, dropped, n_dropped, work
