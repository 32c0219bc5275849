"""The fair stage as a compiled loop calls it: the one file here that knows the kernels' arguments.

`server.fairness.rerank` costs some microseconds of Python a list, too much for 10^8 lists; the
kernel that it calls is called here with the same arguments. `same_as_rerank` is the proof of that.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from bench.fairness.compiled import compiled
from server.fairness import CompiledPolicy, Status, kernels, rerank
from server.fairness.types import Float32, Int32, Int64

_NO_TIE_BREAK = np.empty(0, np.int64)
_NOTHING_FIXED = np.empty(0, np.int32)


@compiled
def fair_places(
    scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int
) -> tuple[Int32, int]:
    """(positions of the list `[size]`, the first bad prefix or 0), as `rerank` makes them."""
    keys = kernels.score_keys(scores)
    keys.sort()
    order, _ = kernels.by_score(keys, _NO_TIE_BREAK)
    found = kernels.arrange(groups, order, floors, ceilings, size, _NOTHING_FIXED)
    return found[0], found[3][0]


def with_tables(policy: CompiledPolicy, floors: Int32, ceilings: Int32) -> CompiledPolicy:
    """The policy with other tables, for bounds that no document can ask for."""
    labels = tuple(f"g{g}" for g in range(len(floors)))
    return dataclasses.replace(policy, labels=labels, floors=floors, ceilings=ceilings)


def same_as_rerank(scores: Float32, groups: Int32, count: int, policy: CompiledPolicy) -> bool:
    """Whether the compiled call gives the list and the verdict of `rerank`."""
    size = min(count, len(scores))
    places, bad = fair_places(scores, groups, policy.floors, policy.ceilings, size)
    fair = rerank(scores, groups, count, policy)
    told = 0 if fair.receipt.first_bad_prefix is None else fair.receipt.first_bad_prefix.prefix
    met = fair.receipt.status is Status.MET
    return places.tolist() == fair.order.tolist() and bad == told and met == (bad == 0)


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
        order, _ = kernels.by_score(keys[row, :depth], _NO_TIE_BREAK)
        found = kernels.arrange_head(
            groups[row], order, supply[row], floors, ceilings, size, _NOTHING_FIXED
        )
        if found[3][0] == kernels.TOO_SHORT:
            order, _ = kernels.by_score(np.sort(keys[row]), _NO_TIE_BREAK)
            found = kernels.arrange_head(
                groups[row], order, supply[row], floors, ceilings, size, _NOTHING_FIXED
            )
        places[row] = found[0]
    return places


def fair_batch(scores: Float32, groups: Int32, floors: Int32, ceilings: Int32, size: int) -> Int32:
    """The lists `[B, size]` of B requests `[B, n]` under one policy, without receipts."""
    keys, supply, depth = _ready(scores, groups, floors, ceilings, size)
    if depth < scores.shape[1]:
        keys.partition(depth, axis=1)
    keys[:, :depth].sort(axis=1)
    return _places_of(groups, keys, depth, supply, floors, ceilings, size)
