"""The kernels: candidates in score order in, places out. Compiled, without the GIL.

All of them take `groups [n] int32`, the groups of the candidates in score order
(best first), and give `[k] int32` positions in that order. Ties were broken by
whoever sorted. They never fail: what cannot be met is told by the certificate.
"""

from __future__ import annotations

import numpy as np

from server.fairness.types import Int32
from server.jit import kernel


@kernel
def exact_floors(groups: Int32, floors: Int32, count: int) -> Int32:
    """The list whose every prefix sum of scores is the largest among those that keep the floors.

    Backward scheduling (Smith 1956; Lawler 1973): take the heads that the floors ask for and the
    best of the rest; then for t = count..1 put at t the worst tail of a group that can spare it.
    Floors above a group's supply are lowered to it. O(count G + n).
    """
    n = groups.shape[0]
    n_groups = floors.shape[0]
    supply = np.zeros(n_groups, np.int32)
    for position in range(n):
        supply[groups[position]] += 1
    need = np.empty(n_groups, np.int32)
    reserved = 0
    for g in range(n_groups):
        need[g] = min(floors[g, count], supply[g])
        reserved += need[g]
    taken = np.zeros(n_groups, np.int32)
    chosen = np.empty(count, np.int32)
    free = count - reserved
    size = 0
    # One pass in score order: heads that are needed, and the best of the rest.
    for position in range(n):
        g = groups[position]
        if taken[g] < need[g]:
            taken[g] += 1
        elif free > 0:
            free -= 1
        else:
            continue
        chosen[size] = position
        size += 1
        if size == count:
            break
    # Tails per group, as linked lists over `chosen` (which is in score order).
    tail = np.full(n_groups, -1, np.int32)
    before = np.empty(size, np.int32)
    left = np.zeros(n_groups, np.int32)
    for slot in range(size):
        g = groups[chosen[slot]]
        before[slot] = tail[g]
        tail[g] = slot
        left[g] += 1
    places = np.empty(size, np.int32)
    for t in range(size, 0, -1):
        worst = -1
        worst_group = -1
        for g in range(n_groups):
            if tail[g] > worst and left[g] - 1 >= min(floors[g, t - 1], supply[g]):
                worst = tail[g]
                worst_group = g
        places[t - 1] = chosen[worst]
        tail[worst_group] = before[worst]
        left[worst_group] -= 1
    return places


@kernel
def greedy_ceilings(groups: Int32, ceilings: Int32, count: int) -> Int32:
    """At each place the best item whose group is below its ceiling there.

    With ceilings alone an item once released stays so, and the best released item first gives the
    largest sum of scores in every prefix. Where all that is left is over its ceiling, the best of
    it is taken.
    """
    n = groups.shape[0]
    size = min(count, n)
    used = np.zeros(n, np.bool_)
    have = np.zeros(ceilings.shape[0], np.int32)
    places = np.empty(size, np.int32)
    first = 0
    for t in range(1, size + 1):
        while used[first]:
            first += 1
        pick = first
        for position in range(first, n):
            if not used[position] and have[groups[position]] < ceilings[groups[position], t]:
                pick = position
                break
        used[pick] = True
        have[groups[pick]] += 1
        places[t - 1] = pick
    return places


@kernel
def _edf_choice(
    have: Int32, supply: Int32, floors: Int32, ceilings: Int32, t: int, last: int
) -> int:
    """The group to serve at place t: released there, its next deadline the earliest; else -1."""
    best = -1
    best_deadline = 0
    for g in range(have.shape[0]):
        if have[g] >= supply[g] or have[g] >= ceilings[g, t]:
            continue
        # The first prefix whose floor the group would break without another item.
        low, high = t, last + 1
        while low < high:
            middle = (low + high) // 2
            if floors[g, middle] > have[g]:
                high = middle
            else:
                low = middle + 1
        if best < 0 or low < best_deadline:
            best = g
            best_deadline = low
    return best


@kernel
def first_bad_prefix(
    groups: Int32, floors: Int32, ceilings: Int32, count: int
) -> tuple[int, int, int, int]:
    """The first prefix that no list of these candidates can keep: (prefix, group, needed, available).

    (0, -1, 0, 0) when every prefix can be kept. Places are slots, the j-th item of a group is a
    unit job released at min{k: ceilings >= j} with deadline min{k: floors >= j}; earliest
    deadline first meets every deadline that can be met and idles only where every schedule does.
    """
    n = groups.shape[0]
    size = min(count, n)
    n_groups = floors.shape[0]
    supply = np.zeros(n_groups, np.int32)
    for position in range(n):
        supply[groups[position]] += 1
    have = np.zeros(n_groups, np.int32)
    for t in range(1, size + 1):
        g = _edf_choice(have, supply, floors, ceilings, t, size)
        if g < 0:
            # All that is left is over a ceiling: the best item left is the one too many.
            skip = have.copy()
            for position in range(n):
                g = groups[position]
                if skip[g] > 0:
                    skip[g] -= 1
                else:
                    return t, g, ceilings[g, t], have[g] + 1
        have[g] += 1
        for h in range(n_groups):
            if have[h] < floors[h, t]:
                return t, h, floors[h, t], have[h]
    return 0, -1, 0, 0


@kernel
def _can_finish(
    have: Int32, supply: Int32, floors: Int32, ceilings: Int32, t: int, last: int
) -> bool:
    """Whether places t..last can keep every bound, starting from `have`."""
    counts = have.copy()
    for place in range(t, last + 1):
        g = _edf_choice(counts, supply, floors, ceilings, place, last)
        if g < 0:
            return False
        counts[g] += 1
        for h in range(counts.shape[0]):
            if counts[h] < floors[h, place]:
                return False
    return True


@kernel
def forward_window(
    groups: Int32, floors: Int32, ceilings: Int32, count: int, feasible: bool
) -> Int32:
    """At each place the best head that leaves a list which keeps all bounds.

    Keeps floors and ceilings at every prefix whenever any list does (the completion is tested by
    earliest deadline first, the windows of Geyik et al., KDD 2019, section 4). It is greedy: DCG is
    not always the optimum. Where no list keeps the bounds, groups go by earliest deadline, and the
    best item left is taken where every group is at its ceiling.
    """
    n = groups.shape[0]
    size = min(count, n)
    n_groups = floors.shape[0]
    supply = np.zeros(n_groups, np.int32)
    for position in range(n):
        supply[groups[position]] += 1
    # The next unused position of each group, through a linked list in score order.
    following = np.full(n, n, np.int32)
    head = np.full(n_groups, n, np.int32)
    for position in range(n - 1, -1, -1):
        g = groups[position]
        following[position] = head[g]
        head[g] = position
    have = np.zeros(n_groups, np.int32)
    places = np.empty(size, np.int32)
    tried = np.zeros(n_groups, np.bool_)
    for t in range(1, size + 1):
        pick = -1
        if feasible:
            tried[:] = False
            while pick < 0:
                best = -1
                for g in range(n_groups):
                    if (
                        not tried[g]
                        and head[g] < n
                        and have[g] < ceilings[g, t]
                        and (best < 0 or head[g] < head[best])
                    ):
                        best = g
                if best < 0:
                    break
                tried[best] = True
                have[best] += 1
                kept = True
                for h in range(n_groups):
                    if have[h] < floors[h, t]:
                        kept = False
                        break
                if kept and _can_finish(have, supply, floors, ceilings, t + 1, size):
                    pick = best
                have[best] -= 1
        if pick < 0:
            pick = _edf_choice(have, supply, floors, ceilings, t, size)
        if pick < 0:
            for g in range(n_groups):
                if head[g] < n and (pick < 0 or head[g] < head[pick]):
                    pick = g
        places[t - 1] = head[pick]
        head[pick] = following[head[pick]]
        have[pick] += 1
    return places
