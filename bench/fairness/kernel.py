"""The fair stage as a compiled loop calls it: the one file here that knows the kernels' arguments.

`server.fairness.rerank` costs some microseconds of Python a list, too much for 10^8 lists. What it
does of scores and the groups of one table (`rerank._plain`) is done here by the same kernels in the
same order. `same_as_rerank` is the proof of that.

Two steps are not kernels there, and are others here, to the same end. numpy's partition is numba's:
keys are all different, so the best `depth` of them and the best of the rest are the same, and no more
is read. `np.lexsort`, of many equal scores, is two stable sorts.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.fairness.compiled import compiled
from server.fairness import CompiledPolicy, Status, kernels, rerank
from server.fairness.discount import discounts
from server.fairness.types import Float32, Float64, Int32, Int64

NO_TIE_BREAK = np.empty(0, np.int64)
_NOTHING_FIXED = np.empty(0, np.int32)


@compiled
def whole_order(scores: Float32, tie_break: Int64) -> Int32:
    """As `kernels.score_order`."""
    keys = kernels.score_keys(scores)
    keys.sort()
    order, settled = kernels.by_score(keys, tie_break)
    if not settled:
        by_tie = np.argsort(tie_break, kind="mergesort")
        high = kernels.score_keys(scores)[by_tie] >> 32
        order = by_tie[np.argsort(high, kind="mergesort")].astype(np.int32)
    return order


@compiled
def fair_places(
    scores: Float32, groups: Int32, tie_break: Int64, floors: Int32, ceilings: Int32, size: int
) -> tuple[Int32, int]:
    """(positions of the list `[size]`, the first bad prefix or 0) of the whole order, sorted at once:
    what a list made of a part of it must be."""
    order = whole_order(scores, tie_break)
    found = kernels.arrange(groups, order, floors, ceilings, size, _NOTHING_FIXED)
    return found[0], found[3][0]


@compiled
def two_sided(floors: Int32, ceilings: Int32) -> bool:
    """As `CompiledPolicy.has_floors and has_ceilings`."""
    asks, limits = False, False
    for g in range(floors.shape[0]):
        for k in range(floors.shape[1]):
            asks |= floors[g, k] > 0
            limits |= ceilings[g, k] < k
    return asks and limits


@compiled
def served_places(
    scores: Float32,
    groups: Int32,
    tie_break: Int64,
    floors: Int32,
    ceilings: Int32,
    both: bool,
    worth: Float64,
    first: int = 0,
) -> tuple[Int32, int, int, bool]:
    """(positions `[size]`, the first bad prefix or 0, how many of the best were sorted, whether that
    was too few), as the server makes a list of one table; every group is a row of it.

    worth: `[size]`, of the places. first: sort so many at first, from `size` to n, where the server would guess
    another number; 0: its guess.
    """
    size, n = worth.shape[0], scores.shape[0]
    keys, supply, depth = kernels.ready_to_sort(scores, groups, floors, ceilings, size)
    if first > 0:
        depth = first
    if depth < n:
        keys = np.partition(keys, depth)
        keys[:depth].sort()
    else:
        keys.sort()
    found = kernels.fair_list(
        scores, groups, keys, depth, tie_break, supply, floors, ceilings, both, worth
    )
    again = found[3][0] == kernels.TOO_SHORT
    if again:
        keys = whole_order(scores, tie_break).astype(np.int64)
        found = kernels.fair_list(
            scores, groups, keys, n, NO_TIE_BREAK, supply, floors, ceilings, both, worth
        )
    return found[0], found[3][0], depth, again


def with_tables(policy: CompiledPolicy, floors: Int32, ceilings: Int32) -> CompiledPolicy:
    """The policy with other tables, for bounds that no document can ask for."""
    labels = tuple(f"g{g}" for g in range(len(floors)))
    return dataclasses.replace(policy, labels=labels, floors=floors, ceilings=ceilings)


def same_as_rerank(
    scores: Float32,
    groups: Int32,
    count: int,
    policy: CompiledPolicy,
    tie_break: Int64 | None = None,
) -> bool:
    """Whether the compiled calls give the list and the verdict of `rerank`, both of a part of the
    order and of the whole."""
    size = min(count, len(scores))
    bounds, ties = (
        (policy.floors, policy.ceilings),
        NO_TIE_BREAK if tie_break is None else tie_break,
    )
    both, worth = policy.has_floors and policy.has_ceilings, discounts(size)
    places, bad, *_ = served_places(scores, groups, ties, *bounds, both, worth)
    whole, same_bad = fair_places(scores, groups, ties, *bounds, size)
    fair = rerank(scores, groups, count, policy, tie_break)
    told = 0 if fair.receipt.first_bad_prefix is None else fair.receipt.first_bad_prefix.prefix
    met = fair.receipt.status is Status.MET
    same = places.tolist() == whole.tolist() == fair.order.tolist()
    return same and bad == same_bad == told and met == (bad == 0) and both == two_sided(*bounds)


@compiled
def _ready(
    scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int
) -> tuple[Int64, Int32, int]:
    keys = np.empty(scores.shape, np.int64)
    supply = np.empty((scores.shape[0], floors.shape[0]), np.int32)
    depth = size
    for row in range(scores.shape[0]):
        keys[row], supply[row], own = kernels.ready_to_sort(
            scores[row], groups[row], floors, ceilings, size
        )
        depth = max(depth, own)
    return keys, supply, depth


@compiled
def _places_of(
    groups: Int32, keys: Int64, depth: int, supply: Int32, floors: Int32, ceilings: Int32, size: int
) -> Int32:
    places = np.empty((groups.shape[0], size), np.int32)
    for row in range(groups.shape[0]):
        order, _ = kernels.by_score(keys[row, :depth], NO_TIE_BREAK)
        found = kernels.arrange_head(
            groups[row], order, supply[row], floors, ceilings, size, _NOTHING_FIXED
        )
        if found[3][0] == kernels.TOO_SHORT:
            order, _ = kernels.by_score(np.sort(keys[row]), NO_TIE_BREAK)
            found = kernels.arrange_head(
                groups[row], order, supply[row], floors, ceilings, size, _NOTHING_FIXED
            )
        places[row] = found[0]
    return places


def fair_batch(scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int) -> Int32:
    """The lists `[B, size]` of B requests `[B, n]` under one policy, without receipts. No code of the
    server calls this: it tells what a batched stage could cost."""
    keys, supply, depth = _ready(scores, groups, floors, ceilings, size)
    if depth < scores.shape[1]:
        keys.partition(depth, axis=1)
    keys[:, :depth].sort(axis=1)
    return _places_of(groups, keys, depth, supply, floors, ceilings, size)
