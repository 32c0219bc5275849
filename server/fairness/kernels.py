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

TOO_SHORT = -2
"""The `bad[0]` of `arrange_head` when the list needs items that the order does not reach."""


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
def head_depth(supply: Int32, floors: Int32, ceilings: Int32, size: int) -> int:
    """How many of the best items a list of `size` is likely to need, if each group is spread evenly.

    A guess with room to spare: too low costs a second try with all items, too high some sorting.
    n where that is most of the items.
    """
    n = supply.sum()
    depth = 2 * size
    for g in range(supply.shape[0]):
        if floors[g, size] > 0 and supply[g] > 0:
            needed = floors[g, size] + 2.0 * np.sqrt(floors[g, size])
            depth = max(depth, int(needed * n / supply[g]) + 1)
    while depth < n:
        filled = 0
        for g in range(supply.shape[0]):
            filled += min(np.int64(ceilings[g, size]), supply[g] * depth // n)
        if filled >= size:
            break
        depth += depth // 2
    return n if depth > n // 2 else depth


@kernel
def _first_bad_prefix(
    all_groups: Int32, order: Int32, supply: Int32, floors: Int32, ceilings: Int32, size: int
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
    # missing[k - 1]: places of prefix k that the ceilings let nobody fill.
    missing = np.arange(1, size + 1, dtype=np.int32)
    for g in range(n_groups):
        if supply[g] > 0:
            most = np.int32(0)
            allowed = ceilings[g, 1 : size + 1]
            for k in range(size):
                missing[k] -= min(allowed[k], supply[g])
                most = max(most, missing[k])
            if most == 0:
                break  # mostly the first group: nothing bounds it
    for k in range(1, min(bad, size + 1)):
        if missing[k - 1] > 0:
            seen = np.zeros(n_groups, np.int32)
            for rank in range(order.shape[0]):
                g = all_groups[order[rank]]
                seen[g] += 1
                if seen[g] > ceilings[g, k]:
                    return k, g, ceilings[g, k], seen[g]  # at the latest at rank k
    if bad <= size:
        return bad, bad_group, floors[bad_group, bad], supply[bad_group]
    return 0, -1, 0, 0


@kernel
def _spend(spare: Int32, first: int, end: int) -> int:
    """Take one from each of `spare[first:end]`; the first that has nothing left, or -1."""
    part = spare[first:end]
    least = np.int32(1)
    for k in range(part.shape[0]):
        part[k] -= 1
        least = min(least, part[k])
    if least <= 0:
        for k in range(part.shape[0]):
            if part[k] <= 0:
                return first + k
    return -1


@kernel
def _first_full(spare: Int32, first: int) -> int:
    """The first prefix, from `first` on, in which no place is to spare; the length of `spare`: none."""
    while first < spare.shape[0] and spare[first] > 0:
        first += 1
    return first


@kernel
def supply_of(groups: Int32, n_groups: int) -> tuple[Int32, bool]:
    """The items of each group `[G] int32`, and whether all have a group that is a row."""
    supply = np.zeros(n_groups, np.int32)
    known = True
    for item in range(groups.shape[0]):
        if 0 <= groups[item] < n_groups:
            supply[groups[item]] += 1
        else:
            known = False
    return supply, known


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
    places that could not be filled otherwise. O(n + size (size + G)).

    Returns:
        places `[size]` in input positions, their ranks in `order` `[size]` from 1, reasons `[size]`,
        and the first bad prefix (`BAD_GROUP` first, then the group, when a group is no row).
    """
    supply, known = supply_of(all_groups, floors.shape[0])
    if not known:
        for rank in range(order.shape[0]):
            g = all_groups[order[rank]]
            if g < 0 or g >= floors.shape[0]:
                none = np.empty(0, np.int32)
                return none, none, np.empty(0, np.int8), (BAD_GROUP, g, 0, 0)
    return arrange_head(all_groups, order, supply, floors, ceilings, size, fixed)


@kernel
def arrange_head(
    all_groups: Int32,
    order: Int32,
    supply: Int32,
    floors: Int32,
    ceilings: Int32,
    size: int,
    fixed: Int32,
) -> tuple[Int32, Int32, Int8, tuple[int, int, int, int]]:
    """As `arrange`, of an order that may end early: `[d]`, size <= d <= n.

    supply `[G]`: the items of each group, all n of them. What is fixed needs the whole order. A list
    that needs more than the d best items has `TOO_SHORT` for its bad prefix.
    """
    n = order.shape[0]
    n_groups = floors.shape[0]
    places = np.empty(size, np.int32)
    ranks = np.empty(size, np.int32)
    reasons = np.empty(size, np.int8)
    have = np.zeros(n_groups, np.int32)
    bad = _first_bad_prefix(all_groups, order, supply, floors, ceilings, size)

    # spare[k]: places from here until k, less the items that floors still ask for until k.
    # deadline[g]: of the group's next item.
    spare = np.arange(size + 1, dtype=np.int32)
    deadline = np.full(n_groups, size + 1, np.int32)
    for g in range(n_groups):
        if floors[g, size] > 0 and supply[g] > 0:
            asked = floors[g, : size + 1]
            for k in range(size + 1):
                spare[k] -= min(asked[k], supply[g])
            deadline[g] = 1
            while asked[deadline[g]] == 0:
                deadline[g] += 1
    tight = _first_full(spare, 1)

    # What is left, best first, group by group: head[g] is the rank of the group's best item and
    # after[rank] that of the next one. Read from the order as far as places need them.
    head = np.full(n_groups, n, np.int32)
    last = np.empty(n_groups, np.int32)
    after = np.empty(n, np.int32)
    # The groups with an item that has been read and not been taken, by their best one.
    queue = np.empty(n_groups, np.int32)
    waiting = 0
    read = 0
    gone = np.zeros(n if fixed.shape[0] > 0 else 0, np.bool_)
    rank_of = np.empty(n if fixed.shape[0] > 0 else 0, np.int32)
    for rank in range(rank_of.shape[0]):
        rank_of[order[rank]] = rank

    passed = np.zeros(n_groups, np.int8)
    for t in range(1, size + 1):
        shown = t <= fixed.shape[0]
        end = rank_of[fixed[t - 1]] + 1 if shown else n
        at = 0
        while True:
            while at == waiting and read < end:
                g = all_groups[order[read]]
                after[read] = n
                if head[g] == n:
                    head[g] = read
                    queue[waiting] = g
                    waiting += 1
                else:
                    after[last[g]] = read
                last[g] = read
                read += 1
            if at == waiting:
                break
            g = queue[at]
            if shown:
                if head[g] >= end - 1:
                    break
            elif have[g] < ceilings[g, t] and (tight > size or deadline[g] <= tight):
                break
            at += 1
        if shown:
            here = end - 1
        else:
            if at == waiting:
                if read < supply.sum():
                    return places, ranks, reasons, (TOO_SHORT, -1, 0, 0)
                # Every group left is at its ceiling, so a ceiling yields to the best item. No floor
                # waits then: an unreleased item that must stand until `tight` has a place after t.
                at = 0
            here = head[queue[at]]
        for_floor = False
        for i in range(at):
            g = queue[i]
            full = have[g] >= ceilings[g, t]
            passed[g] = _LOWERED_FOR_CEILING if full else _LOWERED_FOR_FLOOR
            for_floor |= not full

        g = all_groups[order[here]]
        rank = here + 1
        places[t - 1] = order[here]
        ranks[t - 1] = rank
        if rank == t:
            reasons[t - 1] = _SCORE
        elif rank > t:
            reasons[t - 1] = _RAISED_FOR_FLOOR if for_floor else _RAISED_FOR_CEILING
        else:
            reasons[t - 1] = passed[g]

        if shown:
            gone[here] = True
        if head[g] == here:
            rest = after[here]
            while rest < n and gone.shape[0] > 0 and gone[rest]:
                rest = after[rest]
            head[g] = rest
            while at + 1 < waiting and head[queue[at + 1]] < rest:
                queue[at] = queue[at + 1]
                at += 1
            queue[at] = g
            if rest == n:
                waiting -= 1

        full_from = _spend(spare, t + 1, min(deadline[g], size + 1))
        if full_from > 0:
            tight = full_from
        elif tight <= t:
            tight = _first_full(spare, max(t + 1, deadline[g]))
        have[g] += 1
        while deadline[g] <= size and floors[g, deadline[g]] <= have[g]:
            deadline[g] += 1
    return places, ranks, reasons, bad


@kernel
def first_broken(
    members: Int32, places: Int32, floors: Int32, ceilings: Int32
) -> tuple[int, int, int, int]:
    """(prefix, row, bound, count) of the first bound that a list breaks, floors first; prefix 0: none.

    members `[A, n]`.
    """
    have = np.zeros(floors.shape[0], np.int32)
    for t in range(1, places.shape[0] + 1):
        for a in range(members.shape[0]):
            have[members[a, places[t - 1]]] += 1
        for r in range(have.shape[0]):
            if have[r] < floors[r, t]:
                return t, r, floors[r, t], have[r]
        for r in range(have.shape[0]):
            if have[r] > ceilings[r, t]:
                return t, r, ceilings[r, t], have[r]
    return 0, -1, 0, 0


@kernel
def lowest_score(scores: Float32) -> float:
    """The lowest score that is less than 0, or 0; NaN is no score."""
    lowest = np.float32(0.0)
    for item in range(scores.shape[0]):
        # What vectors of the processor do: NaN compares as false.
        lowest = scores[item] if scores[item] < lowest else lowest
    return np.float64(lowest)


@kernel
def gained(scores: Float32, places: Int32, discounts: Float64, lowest: float) -> float:
    """DCG of a list; all gains are moved up by the lowest score, where it is negative."""
    total = 0.0
    for t in range(places.shape[0]):
        total += discounts[t] * (scores[places[t]] - lowest)
    return total


@kernel
def exposed(
    members: Int32, places: Int32, discounts: Float64, n_groups: int
) -> tuple[Int32, Float64]:
    """The items of each group in a list and its share of exposure, `[G]`; members `[A, n]`."""
    size = places.shape[0]
    items = np.zeros(n_groups, np.int32)
    exposure = np.zeros(n_groups, np.float64)
    for a in range(members.shape[0]):
        for t in range(size):
            g = members[a, places[t]]
            items[g] += 1
            exposure[g] += discounts[t]
    return items, exposure / discounts[:size].sum()


@kernel
def places_moved(ranks: Int32) -> int:
    """How many items of a list are not at the place of their rank."""
    moved = 0
    for place in range(ranks.shape[0]):
        moved += ranks[place] != place + 1
    return moved


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


@kernel
def ready_to_sort(
    scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int
) -> tuple[Int64, Int32, int]:
    """The keys of all items, the supply of each group, and how many of the best keys to sort for a
    list of `size`; that is 0 where a group is no row of the tables."""
    supply, known = supply_of(groups, floors.shape[0])
    depth = head_depth(supply, floors, ceilings, size) if known else 0
    return score_keys(scores), supply, depth


@kernel
def head_by_score(keys: Int64, depth: int, tie_break: Int64) -> Int32:
    """The best items in score order as far as they are certain, at most `depth`; none where many
    are equal: that is the work of `score_order`.

    keys: the `depth` best in order, then the best of the rest. Of those that equal it, a tie-break
    may put others first.
    """
    head = depth
    if depth < keys.shape[0] and tie_break.shape[0] > 0:
        while head > 0 and keys[head - 1] >> 32 == keys[depth] >> 32:
            head -= 1
    order, settled = by_score(keys[:head], tie_break)
    return order if settled else order[:0]


@kernel
def _needs_more() -> tuple[
    Int32, Int32, Int8, tuple[int, int, int, int], float, float, float, int, Int32, Float64
]:
    """What `fair_list` returns where the order ends too early: nothing but `TOO_SHORT` is read."""
    none = np.empty(0, np.int32)
    bad = (TOO_SHORT, -1, 0, 0)
    return none, none, np.empty(0, np.int8), bad, 0.0, 0.0, 0.0, 0, none, np.empty(0)


@kernel
def fair_list(
    scores: Float32,
    groups: Int32,
    keys: Int64,
    depth: int,
    tie_break: Int64,
    supply: Int32,
    floors: Int32,
    ceilings: Int32,
    both: bool,
    discounts: Float64,
) -> tuple[Int32, Int32, Int8, tuple[int, int, int, int], float, float, float, int, Int32, Float64]:
    """All that one list needs, of the groups of one table, in one call: handing arrays over costs
    as much as some of the steps.

    keys: the `depth` best in order, then the others, of which the first is the best. both: whether
    there are floors and ceilings. discounts: `[size]`.

    Returns:
        what `arrange` does, where bad may be `TOO_SHORT`; the DCG of the list, of score order, and
        one that no list which keeps the bounds exceeds; how many items moved; what `exposed` does.
    """
    size = discounts.shape[0]
    n_groups = floors.shape[0]
    nothing = np.empty(0, np.int32)
    order = head_by_score(keys, depth, tie_break)
    if order.shape[0] < size:
        return _needs_more()
    places, ranks, reasons, bad = arrange_head(
        groups, order, supply, floors, ceilings, size, nothing
    )
    if bad[0] == TOO_SHORT:
        return _needs_more()
    lowest = lowest_score(scores)
    got = gained(scores, places, discounts, lowest)
    ideal = gained(scores, order[:size], discounts, lowest)
    best = got
    if both and bad[0] == 0:
        # Each of the two alone bounds what both together allow. Neither list reaches deeper into the
        # order: with one side alone the list is the best in every prefix, its last item too.
        free = np.zeros((n_groups, size + 1), np.int32)
        by_floors = arrange_head(
            groups, order, supply, floors, free + np.int32(size), size, nothing
        )
        by_ceilings = arrange_head(groups, order, supply, free, ceilings, size, nothing)
        best = gained(scores, by_floors[0], discounts, lowest)
        best = min(best, gained(scores, by_ceilings[0], discounts, lowest))
    items, shares = exposed(groups.reshape(1, groups.shape[0]), places, discounts, n_groups)
    return places, ranks, reasons, bad, got, ideal, best, places_moved(ranks), items, shares
