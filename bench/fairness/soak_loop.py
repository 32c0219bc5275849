"""Lists by the million: a compiled loop over what the server does for a policy of one table.

Requests are drawn as `bench.fairness.draw` tells, with ties among scores and the tie-break that the
server always has, and go through `served_places`. Judged without the kernels: the bounds, whether a
list could keep them, and that of each group the best come first.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bench.fairness.compiled import compiled
from bench.fairness.draw import BOTH, draw_bounds, draw_candidates, draw_ties
from bench.fairness.kernel import served_places, two_sided
from bench.fairness.oracles import can_be_kept, out_of_order, outside_bounds
from server.fairness.types import Float64, Int32, Int64

# Lists under one table: drawing a table costs more than a list.
LISTS_PER_TABLE = 8
# Candidates for each place, at most: in most lists few, so that supply is often short, and in one of
# MANY so many that the server sorts a part of them alone.
FEW_EACH, MANY_EACH, MANY = 4, 10, 8


class Found(NamedTuple):
    """Of a chunk. infeasible: no list could keep the bounds; example: the first wrong list or -1.

    partly: only a part of the order was sorted at first; retried: of these, how often that was too
    little. groups, candidates, places: the most that were drawn.
    """

    infeasible: int = 0
    wrong: int = 0
    example: int = -1
    partly: int = 0
    retried: int = 0
    groups: int = 0
    candidates: int = 0
    places: int = 0


@compiled
def soak_chunk(
    seed: int, lists: int, floors: Int32, ceilings: Int32, sizes: Int64, worth: Float64
) -> Found:
    """So many lists. floors, ceilings, sizes: a `Pool` of policies; worth: of its `K` places."""
    np.random.seed(seed)
    infeasible, wrong, example, partly, retried = 0, 0, -1, 0, 0
    most_groups, most_candidates, most_places = 0, 0, 0
    n_groups, longest, both = 0, 0, False
    low, high = np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int32)
    for number in range(lists):
        if number % LISTS_PER_TABLE == 0:
            if number // LISTS_PER_TABLE % 2:
                policy = np.random.randint(0, sizes.shape[0])
                n_groups, longest = sizes[policy], floors.shape[2] - 1
                low, high = floors[policy, :n_groups].copy(), ceilings[policy, :n_groups].copy()
            else:
                n_groups = np.random.randint(1, floors.shape[1] + 1)
                longest = np.random.randint(1, floors.shape[2])
                low, high, _ = draw_bounds(np.random.randint(0, BOTH + 1), n_groups, longest)
            both = two_sided(low, high)
            most_groups = max(most_groups, n_groups)
        each = FEW_EACH if np.random.randint(0, MANY) else MANY_EACH
        n = np.random.randint(1, each * longest + 1)
        size = min(np.random.randint(1, longest + 1), n)
        _, scores, groups = draw_candidates(n, n_groups)
        ties = draw_ties(n)
        places, bad, depth, again = served_places(
            scores, groups, ties, low, high, both, worth[:size], 0
        )
        partly += depth < n
        retried += again
        most_candidates, most_places = max(most_candidates, n), max(most_places, size)
        supply = np.bincount(groups, minlength=n_groups)
        broken = places.shape[0] != size
        if not broken:
            broken = out_of_order(scores, groups, ties, places, n_groups)
        if can_be_kept(low, high, supply, size):
            broken |= bad != 0 or outside_bounds(groups, places, low, high, supply) > 0
        else:
            # Floors hold as far as the supply goes; ceilings may yield.
            infeasible += 1
            free = np.full(low.shape, n, np.int32)
            broken |= bad <= 0 or outside_bounds(groups, places, low, free, supply) > 0
        wrong += broken
        if broken and example < 0:
            example = number
    return Found(
        infeasible, wrong, example, partly, retried, most_groups, most_candidates, most_places
    )
