"""The kernel for overlapping groups: score order to a list that keeps the bounds of several attributes.

Each item belongs to one group of every attribute, say a maker's size and a
department. All groups are rows of one pair of tables, attribute by attribute. One
attribute alone is `kernels.arrange`'s; several have no greedy rule, so this is a
beam search with a bound: it says how far the best list could be above its own, and
whether a broken bound was proven unkeepable or only not found to be kept. Example:

    places, (prefix, row), verdict, utility, bound = arrange_overlapping(
        scores, members, blocks, order, floors, ceilings, discounts, 20, 32)
    share = utility / bound  # 1.0: no list that keeps every bound has a larger DCG
"""

from __future__ import annotations

import numpy as np

from server.fairness.kernels import arrange
from server.fairness.types import Float32, Float64, Int32
from server.jit import kernel

KEPT = 0
"""Every bound is kept at every prefix."""
IMPOSSIBLE = 1
"""No list keeps every bound: supply or one attribute alone forbids it, or every list was tried."""
NOT_FOUND = 2
"""The search found no list that keeps every bound, and no proof that there is none."""
BAD_ROW = -1
"""A member is outside its attribute's rows: there is no list."""

# Without a list that keeps the bounds the beam grows by this factor, so often; and once where the
# list may be so far from the best, as a share of the bound over the utility of the lowest score.
_WIDER = 8
_TIMES_WIDER = 2
_FAR = 0.02
# Sweeps of the prices over the rows: more hardly lower the bound.
_SWEEPS = 6
# A floor that is short weighs more than any number of ceilings that are passed.
_FLOOR_WEIGHT = 4096.0
# Of the utility: sums that differ by less are the same sum in another order.
_ROUNDING = 1e-12


@kernel
def _cells(members: Int32, blocks: Int32, order: Int32) -> tuple[Int32, int]:
    """The cell of each item in score order, numbered by first appearance, and how many cells.

    Items with the same row in every attribute are one cell. -1 cells when a row is no member's.
    """
    n = order.shape[0]
    cell = np.zeros(n, np.int32)
    n_cells = 1
    for a in range(members.shape[0]):
        width = blocks[a + 1] - blocks[a]
        number = np.full(n_cells * width, -1, np.int32)
        n_cells = 0
        for rank in range(n):
            group = members[a, order[rank]] - blocks[a]
            if group < 0 or group >= width:
                return cell, -1
            pair = cell[rank] * width + group
            if number[pair] < 0:
                number[pair] = n_cells
                n_cells += 1
            cell[rank] = number[pair]
    return cell, n_cells


@kernel
def _first_broken(rows: Int32, listed: Int32, floors: Int32, ceilings: Int32) -> tuple[int, int]:
    """(prefix, row) of the first bound that a list of cells breaks, or (0, 0)."""
    have = np.zeros(floors.shape[0], np.int32)
    for t in range(1, listed.shape[0] + 1):
        for a in range(rows.shape[1]):
            have[rows[listed[t - 1], a]] += 1
        for r in range(have.shape[0]):
            if have[r] < floors[r, t] or have[r] > ceilings[r, t]:
                return t, r
    return 0, 0


@kernel
def _forbidden(
    all_rows: Int32, supply: Int32, blocks: Int32, floors: Int32, ceilings: Int32, size: int
) -> bool:
    """Whether supply or one attribute alone proves that no list keeps the bounds.

    Floors must fit into their prefix, and ceilings leave room for it. Of two attributes: a floor of
    one needs items that the ceilings of the other let in, and the items that its floors must take
    from one row of the other fit under that row's ceiling.
    """
    n_attributes = blocks.shape[0] - 1
    n_rows = floors.shape[0]
    shared = np.zeros((n_rows, n_rows), np.int32)
    for c in range(all_rows.shape[0]):
        for a in range(n_attributes):
            for b in range(n_attributes):
                shared[all_rows[c, a], all_rows[c, b]] += supply[c]
    for k in range(1, size + 1):
        for a in range(n_attributes):
            asked = 0
            room = 0
            for r in range(blocks[a], blocks[a + 1]):
                asked += floors[r, k]
                room += min(ceilings[r, k], shared[r, r])
            if asked > k or room < k:
                return True
            for b in range(n_attributes):
                if b == a:
                    continue
                for r in range(blocks[a], blocks[a + 1]):
                    let_in = 0
                    forced = 0
                    for other in range(blocks[b], blocks[b + 1]):
                        let_in += min(ceilings[other, k], shared[r, other])
                        outside = shared[other, other] - shared[r, other]
                        forced += max(0, floors[other, k] - outside)
                    if let_in < floors[r, k] or forced > ceilings[r, k]:
                        return True
    return False


@kernel
def _best_under(
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


@kernel
def _prices(
    values: Float64, stock: Int32, rows: Int32, floors: Int32, ceilings: Int32, size: int
) -> Float64:
    """A price for each row and prefix, `[R, size + 1]`: what one item more of the row is worth there.

    Multipliers of a Lagrangian relaxation: with the bounds of prefix k as prices, the k items of the
    largest score + prices bound the sum of any k items that keep them. Each is set in turn to
    its best value with the others fixed, which never raises the bound. Any prices are valid; above
    0 they speak of the floor, below of the ceiling.
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
    for k in range(1, size + 1):
        prices[:, k] = prices[:, k - 1]
        for _ in range(_SWEEPS):
            _best_under(values, stock, credit, everywhere, 0, k, cells, own)
            have[:] = 0
            for j in range(k):
                for a in range(n_attributes):
                    have[rows[cells[j], a]] += 1
            settled = True
            for r in range(n_rows):
                low, high, price = floors[r, k], ceilings[r, k], prices[r, k]
                if (
                    low <= have[r] <= high
                    and (price <= 0 or have[r] == low)
                    and (price >= 0 or have[r] == high)
                ):
                    continue
                settled = False
                for c in range(n_cells):
                    mine[c] = 0
                    for a in range(n_attributes):
                        if rows[c, a] == r:
                            mine[c] = 1
                            credit[c] -= price
                n_own = _best_under(values, stock, credit, mine, 1, min(high + 1, k), cells, own)
                n_other = _best_under(
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
    return prices


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
def _search(
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
) -> tuple[bool, Int32, float, float, int]:
    """A beam over the places: the `width` most promising starts of a list, by what they can become.

    A start is worth the sums of its own prefixes and, of each prefix to come, the best that the
    prices let it reach. Strict: starts that one attribute alone shows to be dead are dropped, and
    so are those that cannot become more than `least`. Otherwise the fewest broken bounds come
    first. Careful: also those are dropped that lack items, a test that is slow. Of starts with the same
    items the best is kept.

    Returns:
        found, the cells `[size]`, utility, the most that a start could become that did not fit into
        the beam, how many did not.
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
        _best_under(values, stock, credit[:, k].copy(), everywhere, 0, k, top_cell[k], top_worth[k])
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
    for t in range(1, size + 1):
        m = 0
        seen[:] = -1
        for b in range(live):
            if careful:
                dead = False
                for k in range(t, size + 1):
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
                    for k in range(due[r, have[b, r]], size + 1):
                        demand[k] += floors[r, k] - have[b, r]
                for k in range(t, size + 1):
                    late = demand[k] - (k - t)
                    if late > 0:
                        for r in range(blocks[a], blocks[a + 1]):
                            short[r] += late - (k >= due[r, have[b, r]])
            # What each prefix can reach from here, and the last item that it takes for it.
            reach = 0.0
            for k in range(t, size + 1):
                paid[k] = prefix_sum[b] - constant[k]
            for r in range(n_rows):
                if have[b, r] > 0:
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
                            break
                reach += weights[k] * total
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
            return False, path, -np.inf, dropped, n_dropped
        kept = min(width, m)
        threshold = -np.inf
        spare = kept
        if m > width:
            threshold = np.partition(keys[:m], m - width)[m - width]
            for i in range(m):
                spare -= keys[i] > threshold
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
    return True, path, utility, dropped, n_dropped


@kernel
def arrange_overlapping(
    scores: Float32,
    members: Int32,
    blocks: Int32,
    order: Int32,
    floors: Int32,
    ceilings: Int32,
    discounts: Float64,
    size: int,
    beam_width: int,
) -> tuple[Int32, tuple[int, int], int, float, float]:
    """A list of large DCG that keeps the bounds of every row at every prefix.

    scores `[n]`, finite; members `[A, n]`, each item's row in every attribute; blocks `[A + 1]`,
    attribute a has the rows from `blocks[a]` to before `blocks[a + 1]`; order `[n]`, positions in
    score order; floors, ceilings `[R, >= size + 1]`; discounts `[size]`, not increasing, not
    negative; 1 <= size <= n.

    The score order, or the best list under the floors or the ceilings of one attribute alone
    (`kernels.arrange`), is the best there is where it keeps all other bounds too, and is returned.
    Otherwise the beam searches; it is wider where it found nothing, or may be far from the best.
    Where no list keeps the bounds: floors are lowered to the supply of their row, then as few are
    short as is found, over prefixes and rows, and after them as few ceilings are passed.

    Returns:
        places `[size]` in input positions; the first (prefix, row) that they break, (0, 0) if none;
        verdict (`KEPT`, `IMPOSSIBLE`, `NOT_FOUND`; `BAD_ROW` without a list); their utility, the sum
        of discount x score; and a bound on the utility of every list that keeps the bounds, floors
        lowered to supply, or of every list where that is out of reach. It equals the utility where
        the list is proven the best.
    """
    n = order.shape[0]
    n_attributes = members.shape[0]
    n_rows = floors.shape[0]
    places = order[:size].copy()
    cell, n_cells = _cells(members, blocks, order)
    if n_cells < 0:
        return places, (0, 0), BAD_ROW, 0.0, 0.0

    # The best `size` items of each cell; no list needs more.
    rows = np.empty((n_cells, n_attributes), np.int32)
    supply = np.zeros(n_cells, np.int32)
    items = np.empty((n_cells, size), np.int32)
    values = np.empty((n_cells, size))
    for rank in range(n):
        c = cell[rank]
        if supply[c] == 0:
            for a in range(n_attributes):
                rows[c, a] = members[a, order[rank]]
        if supply[c] < size:
            items[c, supply[c]] = order[rank]
            values[c, supply[c]] = scores[order[rank]]
        supply[c] += 1
    stock = np.minimum(supply, size).astype(np.int32)

    ideal = 0.0
    lowest = 0.0
    rounding = 0.0
    for t in range(size):
        lowest += discounts[t] * min(0.0, np.float64(scores[order[n - 1]]))
        ideal += discounts[t] * scores[order[t]]
        rounding += discounts[t] * np.abs(np.float64(scores[order[t]]))
    rounding *= _ROUNDING
    if _first_broken(rows, cell[:size], floors, ceilings)[0] == 0:
        return places, (0, 0), KEPT, ideal, ideal

    low = np.empty((n_rows, size + 1), np.int32)
    row_supply = np.zeros(n_rows, np.int32)
    for c in range(n_cells):
        for a in range(n_attributes):
            row_supply[rows[c, a]] += supply[c]
    lowered = False
    for r in range(n_rows):
        for k in range(size + 1):
            low[r, k] = min(floors[r, k], row_supply[r])
            lowered |= floors[r, k] > row_supply[r]

    weights = np.empty(size + 1)
    for k in range(1, size):
        weights[k] = discounts[k - 1] - discounts[k]
    weights[size] = discounts[size - 1]
    prices = np.zeros((n_rows, size + 1))

    path = cell[:size].copy()
    utility = -np.inf
    bound = ideal
    hopeless = _forbidden(rows, supply, blocks, low, ceilings, size)
    if not hopeless:
        # One attribute alone, its floors or its ceilings: the largest sum in every prefix.
        reach = np.zeros(size + 1)
        for k in range(1, size + 1):
            reach[k] = reach[k - 1] + scores[order[k - 1]]
        at = np.empty(n, np.int32)
        for rank in range(n):
            at[order[rank]] = cell[rank]
        free = np.empty((n_rows, size + 1), np.int32)
        for k in range(size + 1):
            free[:, k] = k
        none = np.zeros((n_rows, size + 1), np.int32)
        fixed = np.empty(0, np.int32)
        for a in range(n_attributes):
            first, end = blocks[a], blocks[a + 1]
            groups = members[a] - np.int32(first)
            has_floors, has_ceilings = False, False
            for r in range(first, end):
                for k in range(1, size + 1):
                    has_floors |= low[r, k] > 0
                    has_ceilings |= ceilings[r, k] < k
            for side in range(3):
                with_floors, with_ceilings = side != 1, side != 0
                if (with_floors and not has_floors) or (with_ceilings and not has_ceilings):
                    continue
                below = low[first:end] if with_floors else none[first:end]
                above = ceilings[first:end] if with_ceilings else free[first:end]
                alone = arrange(groups, order, below, above.copy(), size, fixed)[0]
                listed = at[alone]
                total, own = 0.0, 0.0
                for k in range(1, size + 1):
                    value = np.float64(scores[alone[k - 1]])
                    total += value
                    own += discounts[k - 1] * value
                    if side < 2:
                        reach[k] = min(reach[k], total)
                if own > utility and _first_broken(rows, listed, low, ceilings)[0] == 0:
                    path, utility = listed, own
        bound = 0.0
        for k in range(1, size + 1):
            bound += weights[k] * reach[k]
        bound = min(bound, ideal)
        if utility < bound - rounding:
            prices = _prices(values, stock, rows, low, ceilings, size)

    strict = not hopeless
    width = max(1, beam_width // 8) if strict else beam_width
    while utility < bound - rounding:
        found, listed, own, dropped, n_dropped = _search(
            values,
            stock,
            rows,
            blocks,
            low,
            ceilings,
            prices,
            weights,
            size,
            width,
            utility + rounding,
            strict,
            strict and width > beam_width and utility == -np.inf,
        )
        if not strict:
            path = listed
            break
        if found and own > utility:
            path, utility = listed, own
        # Each list was dropped, or could not become more than an earlier one, or was looked at.
        bound = min(bound, max(utility, dropped))
        if utility > -np.inf:
            if width < beam_width:
                width = beam_width
            elif width < beam_width * _WIDER and bound - utility > _FAR * (bound - lowest):
                width = beam_width * _WIDER
            else:
                break
        elif n_dropped == 0 or width >= beam_width * _WIDER**_TIMES_WIDER:
            # The fewest broken bounds; prices have no say in that.
            hopeless = n_dropped == 0
            strict = False
            width = beam_width
            prices[:] = 0.0
            bound = ideal
        else:
            width = beam_width if width < beam_width else width * _WIDER
    taken = np.zeros(n_cells, np.int32)
    utility = 0.0
    for t in range(size):
        c = path[t]
        places[t] = items[c, taken[c]]
        taken[c] += 1
        utility += discounts[t] * scores[places[t]]
    if bound < utility or bound - utility <= rounding:
        bound = utility
    prefix, row = _first_broken(rows, path, floors, ceilings)
    if prefix == 0:
        verdict = KEPT
    elif lowered or hopeless:
        verdict = IMPOSSIBLE
    else:
        verdict = NOT_FOUND
    return places, (prefix, row), verdict, utility, bound
