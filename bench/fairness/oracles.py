"""Independent, naive answers to what the kernels compute cleverly, compiled so that they can be many.

Written from the definitions: `floors[g, k] <= items of g among the first k <= ceilings[g, k]` for
every prefix k. Scores are whole numbers, so that sums are exact and equal means equal.
"""

from __future__ import annotations

import numpy as np

from bench.fairness.compiled import compiled
from server.fairness.types import Float32, Int32, Int64

NOTHING = -(2**62)
"""The sum of a list that does not exist."""


@compiled
def every_list(
    values: Int64, groups: Int32, floors: Int32, ceilings: Int32, size: int, best: Int64
) -> int:
    """Try every ordered choice of `size` items. Returns the longest prefix that can be kept.

    best `[size + 1]`: filled with the largest sum of the first k places among the lists of `size`
    that keep every bound, `NOTHING` where there is none.
    """
    n, n_groups = values.shape[0], floors.shape[0]
    best[:] = NOTHING
    listed = np.full(size + 1, -1, np.int64)
    used = np.zeros(n, np.bool_)
    counts = np.zeros(n_groups, np.int64)
    sums = np.zeros(size + 1, np.int64)
    longest = 0
    place = 1
    while place > 0:
        item = listed[place]
        if item >= 0:
            used[item] = False
            counts[groups[item]] -= 1
        item += 1
        while item < n and used[item]:
            item += 1
        if item == n:
            listed[place] = -1
            place -= 1
            continue
        listed[place] = item
        used[item] = True
        counts[groups[item]] += 1
        kept = True
        for g in range(n_groups):
            if counts[g] < floors[g, place] or counts[g] > ceilings[g, place]:
                kept = False
        if not kept:
            continue
        sums[place] = sums[place - 1] + values[item]
        longest = max(longest, place)
        if place < size:
            place += 1
        else:
            for k in range(size + 1):
                best[k] = max(best[k], sums[k])
    return longest


@compiled
def every_count(
    values: Int64, groups: Int32, floors: Int32, ceilings: Int32, size: int, best: Int64
) -> int:
    """As `every_list`, over all counts per group instead: of a group the best items come first.

    values `[n]`, highest first. Marks the counts that lists can reach place by place, then from the
    last place back those from which a list can be finished.
    """
    n, n_groups = values.shape[0], floors.shape[0]
    heads = np.zeros((n_groups, size + 1), np.int64)
    supply = np.zeros(n_groups, np.int64)
    for item in range(n):
        g = groups[item]
        if supply[g] < size:
            supply[g] += 1
            heads[g, supply[g]] = heads[g, supply[g] - 1] + values[item]
    stride = np.ones(n_groups + 1, np.int64)
    for g in range(n_groups):
        stride[g + 1] = stride[g] * (supply[g] + 1)
    n_states = stride[n_groups]
    reached = np.zeros(n_states, np.bool_)
    reached[0] = True
    total = np.zeros(n_states, np.int64)
    worth = np.zeros(n_states, np.int64)
    longest = 0
    for state in range(n_states):
        kept = True
        for g in range(n_groups):
            have = state // stride[g] % (supply[g] + 1)
            total[state] += have
            worth[state] += heads[g, have]
        k = total[state]
        if k > size:
            continue
        for g in range(n_groups):
            have = state // stride[g] % (supply[g] + 1)
            if have < floors[g, k] or have > ceilings[g, k]:
                kept = False
            # A state's predecessors have smaller numbers, so they are settled.
            if have > 0 and reached[state - stride[g]]:
                reached[state] = True
        reached[state] &= kept
        if reached[state]:
            longest = max(longest, k)
    best[:] = NOTHING
    finishes = np.zeros(n_states, np.bool_)
    for state in range(n_states - 1, -1, -1):
        k = total[state]
        if not reached[state] or k > size:
            continue
        if k == size:
            finishes[state] = True
        else:
            for g in range(n_groups):
                have = state // stride[g] % (supply[g] + 1)
                if have < supply[g] and finishes[state + stride[g]]:
                    finishes[state] = True
        if finishes[state]:
            best[k] = max(best[k], worth[state])
    return longest


@compiled
def backward(values: Int64, groups: Int32, floors: Int32, size: int) -> Int32:
    """Exact floors by the rule of Smith (1956) and Lawler (1973): positions `[size]`.

    values `[n]`, highest first. Choose the heads that the floors ask for and the best of the rest;
    then fill the places from the last to the first, each with the lowest-scored item whose group
    can spare it. A floor above its group's supply asks for the supply.
    """
    n, n_groups = values.shape[0], floors.shape[0]
    supply = np.zeros(n_groups, np.int64)
    for item in range(n):
        supply[groups[item]] += 1
    chosen = np.zeros(n, np.bool_)
    have = np.zeros(n_groups, np.int64)
    free = size
    for item in range(n):
        g = groups[item]
        if have[g] < min(floors[g, size], supply[g]):
            chosen[item] = True
            have[g] += 1
            free -= 1
    for item in range(n):
        if free > 0 and not chosen[item]:
            chosen[item] = True
            have[groups[item]] += 1
            free -= 1
    places = np.empty(size, np.int32)
    for place in range(size, 0, -1):
        for item in range(n - 1, -1, -1):
            g = groups[item]
            if chosen[item] and have[g] - 1 >= min(floors[g, place - 1], supply[g]):
                places[place - 1] = item
                chosen[item] = False
                have[g] -= 1
                break
    return places


@compiled
def can_be_kept(low: Int32, high: Int32, supply: Int64, size: int) -> bool:
    """Whether a list keeps sound bounds: the supply covers the floors and fills every prefix."""
    for g in range(low.shape[0]):
        if low[g, size] > supply[g]:
            return False
    for k in range(1, size + 1):
        room = 0
        for g in range(low.shape[0]):
            room += min(high[g, k], supply[g])
        if room < k:
            return False
    return True


@compiled
def outside_bounds(
    groups: Int32, places: Int32, floors: Int32, ceilings: Int32, supply: Int64
) -> int:
    """How many (prefix, group) pairs of the list are above a ceiling or below a floor.

    supply `[G]`: a floor above it counts as the supply; give large numbers to count every floor.
    """
    counts = np.zeros(floors.shape[0], np.int64)
    broken = 0
    for place in range(places.shape[0]):
        counts[groups[places[place]]] += 1
        for g in range(floors.shape[0]):
            low = min(floors[g, place + 1], supply[g])
            if counts[g] < low or counts[g] > ceilings[g, place + 1]:
                broken += 1
    return broken


@compiled
def _before(scores: Float32, tie_break: Int64, one: int, other: int) -> bool:
    """By score, highest first, then by tie-break, lowest first, then by position."""
    if scores[one] != scores[other]:
        return bool(scores[one] > scores[other])
    if tie_break[one] != tie_break[other]:
        return bool(tie_break[one] < tie_break[other])
    return one < other


@compiled
def out_of_order(
    scores: Float32, groups: Int32, tie_break: Int64, places: Int32, n_groups: int
) -> bool:
    """Whether the items of some group in the list are not its best, best first, each once.

    No bound tells items of one group apart, so that holds of every list, whatever its bounds, even where none can be kept.
    """
    last = np.full(n_groups, -1, np.int64)
    listed = np.zeros(n_groups, np.int64)
    for place in range(places.shape[0]):
        g = groups[places[place]]
        if last[g] >= 0 and not _before(scores, tie_break, last[g], places[place]):
            return True
        last[g] = places[place]
        listed[g] += 1
    for item in range(scores.shape[0]):
        g = groups[item]
        if last[g] >= 0 and not _before(scores, tie_break, last[g], item):
            listed[g] -= 1  # one of the listed, or a better one that was left out
    return bool(np.any(listed != 0))
