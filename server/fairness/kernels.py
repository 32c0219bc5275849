"""The kernels: scores to score order, an order to a list that keeps its bounds, a list to measures.

Compiled, without the GIL. They know integer tables only, no policy kind: a kind
with other floors or ceilings needs no new kernel. Ids, labels and words are left
to `server.fairness.rerank`.
"""

from __future__ import annotations

import numpy as np

from server.fairness.types import Float32, Float64, Int8, Int32, Int64, ReasonCode
from server.jit import kernel

# Plain integers, since compiled code knows no enums.
_SCORE = int(ReasonCode.SCORE)
_RAISED_FOR_FLOOR = int(ReasonCode.RAISED_FOR_FLOOR)
_LOWERED_FOR_FLOOR = int(ReasonCode.LOWERED_FOR_FLOOR)
_RAISED_FOR_CEILING = int(ReasonCode.RAISED_FOR_CEILING)
_LOWERED_FOR_CEILING = int(ReasonCode.LOWERED_FOR_CEILING)

_MANY_TIES = 32

BAD_GROUP = -1
"""The `bad[0]` of `arrange` when a group is no row of the tables."""


@kernel
def score_keys(scores: Float32) -> Int64:
    """`[n] int64` that sort by score, highest first, then by position; the position is in the low half.

    Sorting integers costs a third of an argsort of the scores. 0.0 and -0.0 are equal; NaN is last.
    """
    n = scores.shape[0]
    bits = scores.view(np.int32)
    keys = np.empty(n, np.int64)
    for position in range(n):
        b = np.int64(bits[position])
        if np.isnan(scores[position]):
            high = np.int64(2**31 - 1)
        elif b >= 0:
            high = -1 - b
        elif scores[position] == 0:
            high = np.int64(-1)
        else:
            high = b + 2**31
        keys[position] = high * 2**32 + position
    return keys


@kernel
def by_score(keys: Int64, tie_break: Int64) -> tuple[Int32, bool]:
    """Sorted keys -> `[n] int32`, positions in score order, equal scores by `tie_break` if not empty.

    Few scores are equal, so each item is moved up among its equals. Where many are, the answer is
    (unfinished, False): that is another sort's work.
    """
    n = keys.shape[0]
    order = np.empty(n, np.int32)
    for rank in range(n):
        position = keys[rank] & 0xFFFFFFFF
        place = rank
        if tie_break.shape[0] > 0:
            while (
                place > 0
                and keys[place - 1] >> 32 == keys[rank] >> 32
                and tie_break[order[place - 1]] > tie_break[position]
            ):
                order[place] = order[place - 1]
                place -= 1
            if rank - place > _MANY_TIES:
                return order, False
        order[place] = position
    return order, True


@kernel
def _first_bad_prefix(
    groups: Int32, supply: Int32, floors: Int32, ceilings: Int32, size: int
) -> tuple[int, int, int, int]:
    """(prefix, group, needed, available) of the first prefix that no list can keep; prefix 0: none.

    The tables themselves are sound (see `CompiledPolicy`), so only supply can be short: a floor
    above its group's supply, or a prefix with more places than the ceilings let the supply fill.
    A floor is told before a ceiling; of several groups that with the lowest row (floor), or that of
    the best item that is one too many (ceiling).
    """
    n_groups = floors.shape[0]
    bad = size + 1
    bad_group = -1
    for g in range(n_groups):
        if floors[g, size] > supply[g]:
            k = 1
            while floors[g, k] <= supply[g]:
                k += 1
            if k < bad:
                bad, bad_group = k, g
    room = np.zeros(size + 1, np.int32)
    for g in range(n_groups):
        if supply[g] > 0:
            for k in range(1, size + 1):
                room[k] += min(ceilings[g, k], supply[g])
    for k in range(1, min(bad, size + 1)):
        if room[k] < k:
            seen = np.zeros(n_groups, np.int32)
            for rank in range(groups.shape[0]):
                g = groups[rank]
                seen[g] += 1
                if seen[g] > ceilings[g, k]:
                    return k, g, ceilings[g, k], seen[g]
    if bad <= size:
        return bad, bad_group, floors[bad_group, bad], supply[bad_group]
    return 0, -1, 0, 0


@kernel
def _first_tight_prefix(demand: Int32, t: int, size: int) -> int:
    """The first prefix whose free places from t on are all asked for; size + 1 when there is none."""
    for k in range(t, size + 1):
        if demand[k] >= k - t + 1:
            return k
    return size + 1


@kernel
def arrange(
    all_groups: Int32, order: Int32, floors: Int32, ceilings: Int32, size: int, fixed: Int32
) -> tuple[Int32, Int32, Int8, tuple[int, int, int, int]]:
    """At each place the best item that leaves a list which keeps every bound.

    all_groups `[n]` in input order; order `[n]`, positions, best first; floors, ceilings
    `[G, >= size + 1]`; 1 <= size <= n; fixed `[m]`, positions that take the first m <= size places.

    A list can be finished from place t on iff, for every prefix k >= t, the items that floors still
    ask for until k fit into the places until k (Hall's condition for unit jobs with deadlines; the
    ceilings' side of it holds because the tables are sound). So an item may be taken iff its group
    is below its ceiling and has its next deadline no later than the first tight prefix.

    With floors alone, or ceilings alone, the list has the largest sum of scores in every prefix
    among all lists that keep the bounds; with both it keeps them, and DCG is not always the optimum.
    Where supply is short: floors are lowered to the supply, and hold; a ceiling yields only at
    places that could not be filled otherwise. O(n + size (size + G)), plus what is passed over.

    Returns:
        places `[size]` in input positions, their ranks in `order` `[size]` from 1, reasons `[size]`,
        and the first bad prefix (`BAD_GROUP` first, then the group, when a group is no row).
    """
    n = order.shape[0]
    n_groups = floors.shape[0]
    places = np.empty(size, np.int32)
    ranks = np.empty(size, np.int32)
    reasons = np.empty(size, np.int8)
    have = np.zeros(n_groups, np.int32)

    supply = np.zeros(n_groups, np.int32)
    groups = np.empty(n, np.int32)
    # What is left, best first, as a linked list. A group's items beyond its first `size` are
    # never needed: left out, so that one large group that is full is passed over quickly.
    after = np.empty(n + 1, np.int32)
    last = 0
    wanted = np.zeros(n if fixed.shape[0] > 0 else 0, np.bool_)
    for t in range(fixed.shape[0]):
        wanted[fixed[t]] = True
    for rank in range(n):
        g = all_groups[order[rank]]
        if g < 0 or g >= n_groups:
            return places, ranks, reasons, (BAD_GROUP, g, 0, 0)
        groups[rank] = g
        supply[g] += 1
        if supply[g] <= size or (fixed.shape[0] > 0 and wanted[order[rank]]):
            after[last] = rank + 1  # entry 0 is the head; entry i is rank i - 1
            last = rank + 1
    after[last] = 0
    bad = _first_bad_prefix(groups, supply, floors, ceilings, size)

    # demand[k]: items that floors still ask for until k. deadline[g]: of the group's next item.
    demand = np.zeros(size + 1, np.int32)
    deadline = np.full(n_groups, size + 1, np.int32)
    for g in range(n_groups):
        if floors[g, size] > 0 and supply[g] > 0:
            for k in range(1, size + 1):
                demand[k] += min(floors[g, k], supply[g])
                if floors[g, k] > 0 and deadline[g] > k:
                    deadline[g] = k

    passed = np.zeros(n_groups, np.int8)
    for t in range(1, size + 1):
        tight = _first_tight_prefix(demand, t, size)
        previous, here = 0, after[0]
        while here != 0:
            g = groups[here - 1]
            if t <= fixed.shape[0]:
                if order[here - 1] == fixed[t - 1]:
                    break
            elif have[g] < ceilings[g, t] and (tight > size or deadline[g] <= tight):
                break
            previous, here = here, after[here]
        if here == 0:
            # Every group left is at its ceiling, so a ceiling yields to the best item. No floor
            # waits then: an unreleased item that must stand until `tight` has a place after t.
            previous = 0
            here = after[0]
        for_floor = False
        better = after[0]
        while better != here:
            g = groups[better - 1]
            full = have[g] >= ceilings[g, t]
            passed[g] = _LOWERED_FOR_CEILING if full else _LOWERED_FOR_FLOOR
            for_floor |= not full
            better = after[better]
        after[previous] = after[here]

        rank = here  # from 1
        g = groups[rank - 1]
        places[t - 1] = order[rank - 1]
        ranks[t - 1] = rank
        if rank == t:
            reasons[t - 1] = _SCORE
        elif rank > t:
            reasons[t - 1] = _RAISED_FOR_FLOOR if for_floor else _RAISED_FOR_CEILING
        else:
            reasons[t - 1] = passed[g]
        have[g] += 1
        if deadline[g] <= size:
            for k in range(deadline[g], size + 1):
                demand[k] -= 1
            while deadline[g] <= size and floors[g, deadline[g]] <= have[g]:
                deadline[g] += 1
    return places, ranks, reasons, bad


@kernel
def gained(scores: Float32, by_score: Int32, places: Int32, discounts: Float64) -> float:
    """DCG of a list; where a score is negative, all gains are moved up by the lowest score."""
    lowest = 0.0
    for rank in range(by_score.shape[0] - 1, -1, -1):
        if not np.isnan(scores[by_score[rank]]):
            lowest = min(0.0, np.float64(scores[by_score[rank]]))
            break
    total = 0.0
    for t in range(places.shape[0]):
        total += discounts[t] * (scores[places[t]] - lowest)
    return total


@kernel
def exposed(
    members: Int32, places: Int32, discounts: Float64, n_groups: int
) -> tuple[Int32, Int32, Float64]:
    """The groups listed, the items of each, and its share of exposure; members `[A, n]`."""
    size = places.shape[0]
    items = np.zeros(n_groups, np.int32)
    exposure = np.zeros(n_groups, np.float64)
    for a in range(members.shape[0]):
        for t in range(size):
            g = members[a, places[t]]
            items[g] += 1
            exposure[g] += discounts[t]
    listed = np.flatnonzero(items).astype(np.int32)
    return listed, items[listed], exposure[listed] / discounts[:size].sum()


@kernel
def ranks_among(order: Int32, places: Int32) -> Int32:
    """The rank in `order`, from 1, of each of `places`."""
    rank_of = np.empty(order.shape[0], np.int32)
    for rank in range(order.shape[0]):
        rank_of[order[rank]] = rank + 1
    return rank_of[places]


def score_order(scores: Float32, tie_break: Int64) -> Int32:
    """Positions in score order, `[n] int32`; ties by `tie_break [n] int64` if not empty, then by position."""
    keys = score_keys(scores)
    keys.sort()
    order, settled = by_score(keys, tie_break)
    if not settled:
        order = np.lexsort((tie_break, score_keys(scores) >> 32)).astype(np.int32)
    return order
