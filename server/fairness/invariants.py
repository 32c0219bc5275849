"""What must hold of every fair list, as pure checks that tell what is broken in words.

For property tests and for `equipoise invariants` against a live server. Plain
Python over the definitions, independent of the kernels, so that a wrong kernel
cannot vouch for itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from server.fairness.compile import CompiledPolicy
from server.fairness.types import FairList, Status

TOLERANCE = 1e-4


def broken_bounds(
    groups: Sequence[int], floors: Sequence[Sequence[int]], ceilings: Sequence[Sequence[int]]
) -> list[tuple[int, int]]:
    """The (prefix, group) pairs outside their bounds, for the groups of a list in order.

    >>> broken_bounds([0, 0], [[0, 0, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]])
    [(2, 1)]
    """
    broken = []
    counts = [0] * len(floors)
    for prefix, group in enumerate(groups, start=1):
        counts[group] += 1
        for g, count in enumerate(counts):
            if not floors[g][prefix] <= count <= ceilings[g][prefix]:
                broken.append((prefix, g))
    return broken


def broken_order(scores: Sequence[float], groups: Sequence[int], order: Sequence[int]) -> list[int]:
    """Places (from 1) whose item scores higher than one of its group before it.

    >>> broken_order([.1, .9], [0, 0], [0, 1])
    [2]
    """
    lowest: dict[int, float] = {}
    broken = []
    for place, position in enumerate(order, start=1):
        group, score = groups[position], scores[position]
        if score > lowest.get(group, math.inf):
            broken.append(place)
        lowest[group] = score
    return broken


def utility_kept(scores: Sequence[float], order: Sequence[int]) -> float:
    """The receipt's ratio of DCGs, from its definition."""
    lowest = min(scores, default=0.0)
    gains = [score - lowest if lowest < 0 else score for score in scores]
    best = sorted(gains, reverse=True)[: len(order)]
    ideal = sum(gain / math.log2(place + 1) for place, gain in enumerate(best, start=1))
    got = sum(gains[p] / math.log2(place + 1) for place, p in enumerate(order, start=1))
    return got / ideal if ideal > 0 else 1.0


def check_list(
    scores: Sequence[float],
    groups: Sequence[int],
    count: int,
    compiled: CompiledPolicy,
    fair: FairList,
) -> list[str]:
    """What is broken of a list and its receipt; empty when all is well."""
    order = [int(position) for position in fair.order]
    n, receipt = len(scores), fair.receipt
    broken = []
    if len(set(order)) != len(order):
        broken.append("an item stands twice")
    if not all(0 <= position < n for position in order):
        return [*broken, "an item is no candidate"]
    if len(order) != min(count, n):
        broken.append(f"{len(order)} items, expected {min(count, n)}")
    by_score = bool(compiled.labels)
    own = groups if by_score else [0] * n
    broken += [
        f"place {place} scores higher than an item of its group before it"
        for place in broken_order(scores, own, order)
    ]
    moved = sum(int(rank) != place for place, rank in enumerate(fair.rank_by_score, start=1))
    if moved != receipt.places_moved:
        broken.append(f"the receipt says {receipt.places_moved} places moved, counted {moved}")
    if receipt.status is Status.SKIPPED:
        if order and moved:
            broken.append("a skipped stage moved items")
        return broken
    expected = utility_kept(scores, order)
    if not math.isclose(expected, receipt.utility_kept, abs_tol=TOLERANCE):
        broken.append(f"the receipt says utility kept {receipt.utility_kept}, computed {expected}")
    listed = [groups[position] for position in order]
    outside = broken_bounds(listed, compiled.floors.tolist(), compiled.ceilings.tolist())
    if receipt.status is Status.MET and outside:
        prefix, group = outside[0]
        broken.append(
            f"the receipt says met, but the first {prefix} places break group "
            f"{compiled.labels[group]!r}"
        )
    if receipt.status is Status.INFEASIBLE and not outside:
        broken.append("the receipt says infeasible, but the list keeps every bound")
    return broken
