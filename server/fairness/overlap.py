"""The kernel for overlapping groups: score order to a list that keeps the bounds of several attributes.

Each item belongs to one group of every attribute, say a maker's size and a
department. All groups are rows of one pair of tables, attribute by attribute. One
attribute alone is `kernels.arrange`'s; several have no greedy rule, so this is a
beam search with a bound: it says how far the best list could be above its own, and
whether a broken bound was proven unkeepable or only not found to be kept. Example:

    places, (prefix, row), verdict, utility, bound, steps = arrange_overlapping(
        scores, members, blocks, order, floors, ceilings, discounts, 20, 32, 10**7)
    share = utility / bound  # 1.0: no list that keeps every bound has a larger DCG
"""

from __future__ import annotations

import numpy as np

from server.fairness.kernels import arrange
from server.fairness.overlap_prices import row_prices
from server.fairness.overlap_quick import quick_list
from server.fairness.overlap_search import narrowest, search
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
# Parts of the budget: at most one goes into prices, and one is kept for a list that breaks the least.
_PARTS = 4
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
    all_rows: Int32,
    supply: Int32,
    blocks: Int32,
    floors: Int32,
    ceilings: Int32,
    size: int,
    pairs: bool,
) -> bool:
    """Whether supply or one attribute alone proves that no list keeps the bounds.

    Floors must fit into their prefix, and ceilings leave room for it. Of two attributes, if asked for
    (`pairs`): a floor of one needs items that the ceilings of the other let in, and the items that
    its floors must take from one row of the other fit under that row's ceiling.
    """
    n_attributes = blocks.shape[0] - 1
    n_rows = floors.shape[0]
    own = np.zeros(n_rows, np.int32)
    for c in range(all_rows.shape[0]):
        for a in range(n_attributes):
            own[all_rows[c, a]] += supply[c]
    for k in range(1, size + 1):
        for a in range(n_attributes):
            asked = 0
            room = 0
            for r in range(blocks[a], blocks[a + 1]):
                asked += floors[r, k]
                room += min(ceilings[r, k], own[r])
            if asked > k or room < k:
                return True
    if not pairs:
        return False
    shared = np.zeros((n_rows, n_rows), np.int32)
    for c in range(all_rows.shape[0]):
        for a in range(n_attributes):
            for b in range(n_attributes):
                shared[all_rows[c, a], all_rows[c, b]] += supply[c]
    for k in range(1, size + 1):
        for a in range(n_attributes):
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
    budget: int,
) -> tuple[Int32, tuple[int, int], int, float, float, int]:
    """A list of large DCG that keeps the bounds of every row at every prefix.

    scores `[n]`, finite; members `[A, n]`, each item's row in every attribute; blocks `[A + 1]`,
    attribute a has the rows from `blocks[a]` to before `blocks[a + 1]`; order `[n]`, positions in
    score order; floors, ceilings `[R, >= size + 1]`; discounts `[size]`, not increasing, not
    negative; 1 <= size <= n.

    The score order, or the best list under the floors or the ceilings of one attribute alone
    (`kernels.arrange`), is the best there is where it keeps all other bounds too, and is returned.
    Otherwise the beam searches; it is wider where it found nothing, or may be far from the best.
    Its steps are counted: within `budget` it searches as far as it gets, and where that finds nothing
    or is too little for the shape, the list is one of `quick_list`.
    Where no list keeps the bounds: floors are lowered to the supply of their row, then as few are
    short as is found, over prefixes and rows, and after them as few ceilings are passed.

    Returns:
        places `[size]` in input positions; the first (prefix, row) that they break, (0, 0) if none;
        verdict (`KEPT`, `IMPOSSIBLE`, `NOT_FOUND`; `BAD_ROW` without a list); their utility, the sum
        of discount x score; and a bound on the utility of every list that keeps the bounds, floors
        lowered to supply, or of every list where that is out of reach. It equals the utility where
        the list is proven the best. Last the steps taken.
    """
    n = order.shape[0]
    n_attributes = members.shape[0]
    n_rows = floors.shape[0]
    places = order[:size].copy()
    cell, n_cells = _cells(members, blocks, order)
    if n_cells < 0:
        return places, (0, 0), BAD_ROW, 0.0, 0.0, 0

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
        return places, (0, 0), KEPT, ideal, ideal, 0

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
    work = 0
    bounded_above = False
    pairs = size * n_rows * n_rows <= budget // _PARTS
    hopeless = _forbidden(rows, supply, blocks, low, ceilings, size, pairs)
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
            bounded_above |= has_ceilings
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
            most = budget // _PARTS
            prices, work = row_prices(values, stock, rows, low, ceilings, size, most)

    strict = not hopeless
    width = max(1, beam_width // 8) if strict else beam_width
    narrow = narrowest(n_cells, n_rows, n_attributes, size, False)
    tried = False
    while utility < bound - rounding:
        left = budget - work if strict else max(budget - work, budget // _PARTS)
        # A list to begin with where the shape is too large, or one after all where none was found.
        if not tried and (narrow * beam_width > left or not (strict or hopeless)):
            tried = True
            most = left if narrow > left else budget // _PARTS
            found, listed, own, steps = quick_list(
                values, stock, rows, blocks, low, ceilings, weights, size, most
            )
            work += steps
            left -= steps
            if found and own > utility and _first_broken(rows, listed, low, ceilings)[0] == 0:
                path, utility = listed, own
                if not strict:
                    break
                continue
            if utility == -np.inf:
                path = listed
        if narrow > left:
            break
        if not strict:
            # The fewest broken bounds; prices have no say in that.
            prices[:] = 0.0
        careful = strict and bounded_above and width > beam_width and utility == -np.inf
        found, listed, own, dropped, n_dropped, steps = search(
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
            careful and narrowest(n_cells, n_rows, n_attributes, size, True) <= left,
            left,
        )
        work += steps
        if not strict:
            path = listed
            break
        if found and own > utility:
            path, utility = listed, own
        # Each list was dropped, or could not become more than an earlier one, or was looked at.
        bound = min(bound, max(utility, dropped))
        left = budget - work
        if utility > -np.inf:
            # No more than for twice as many starts: not worth it, there is a list.
            if 2 * steps > left:
                break
            if width < beam_width:
                width = beam_width
            elif width < beam_width * _WIDER and bound - utility > _FAR * (bound - lowest):
                width = beam_width * _WIDER
            else:
                break
        elif n_dropped == 0 or steps > left or width >= beam_width * _WIDER**_TIMES_WIDER:
            hopeless = n_dropped == 0
            strict = False
            width = beam_width
            if hopeless:
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
    if _first_broken(rows, path, low, ceilings)[0] > 0:
        bound = max(ideal, utility)
    prefix, row = _first_broken(rows, path, floors, ceilings)
    if prefix == 0:
        verdict = KEPT
    elif lowered or hopeless:
        verdict = IMPOSSIBLE
    else:
        verdict = NOT_FOUND
    return places, (prefix, row), verdict, utility, bound, work
