"""What must hold of every fair list, as pure checks that tell in words what is broken.

For property tests and for `equipoise invariants` against a live server. Plain
Python over the definitions, sharing nothing with the kernels, so that a wrong
kernel cannot vouch for itself. An empty answer means that all is well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from server.fairness.compile import CompiledPolicy
from server.fairness.types import FairList, PrefixViolation, ReasonCode, Status

TOLERANCE = 1e-4

Table = Sequence[Sequence[int]]

_RAISED = {ReasonCode.RAISED_FOR_FLOOR, ReasonCode.RAISED_FOR_CEILING}
_LOWERED = {ReasonCode.LOWERED_FOR_FLOOR, ReasonCode.LOWERED_FOR_CEILING}


def broken_tables(floors: Table, ceilings: Table) -> list[str]:
    """What makes tables unsound, that is: no list of any supply could keep them, or steps go back.

    >>> broken_tables([[0, 1, 1], [0, 1, 1]], [[0, 1, 2], [0, 1, 2]])
    ['after place 0 and until 1 the floors ask for 2 items']
    """
    broken = []
    size = len(floors[0]) if floors else 0
    for g, (low, high) in enumerate(zip(floors, ceilings, strict=True)):
        if any(row[0] != 0 or list(row) != sorted(row) for row in (low, high)):
            broken.append(f"row {g} decreases, or does not start at 0")
        if any(a > b for a, b in zip(low, high, strict=True)):
            broken.append(f"row {g} has a floor above its ceiling")
    for start in range(size):
        for end in range(start + 1, size):
            asked = sum(
                max(0, low[end] - high[start]) for low, high in zip(floors, ceilings, strict=True)
            )
            if asked > end - start:
                broken.append(
                    f"after place {start} and until {end} the floors ask for {asked} items"
                )
    return broken


def broken_bounds(groups: Sequence[int], floors: Table, ceilings: Table) -> list[tuple[int, int]]:
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


def passed_over(
    scores: Sequence[float], groups: Sequence[int], order: Sequence[int]
) -> list[tuple[int, int]]:
    """(left out, listed) pairs of one group in which the one that was left out scores higher.

    >>> passed_over([.9, .1], [0, 0], [1])
    [(0, 1)]
    """
    worst: dict[int, int] = {}
    for position in order:
        group = groups[position]
        if group not in worst or scores[position] < scores[worst[group]]:
            worst[group] = position
    listed = set(order)
    return [
        (position, worst[group])
        for position, group in enumerate(groups)
        if position not in listed and group in worst and scores[position] > scores[worst[group]]
    ]


def utility_kept(scores: Sequence[float], order: Sequence[int]) -> float:
    """The receipt's ratio of DCGs, from its definition.

    >>> utility_kept([0, 1], [1, 0]), round(utility_kept([0, 1], [0, 1]), 3)
    (1.0, 0.631)
    """
    lowest = min(scores, default=0.0)
    gains = [score - lowest if lowest < 0 else score for score in scores]
    best = sorted(gains, reverse=True)[: len(order)]
    ideal = sum(gain / math.log2(place + 1) for place, gain in enumerate(best, start=1))
    got = sum(gains[p] / math.log2(place + 1) for place, p in enumerate(order, start=1))
    return got / ideal if ideal > 0 else 1.0


def exposure(groups: Sequence[int]) -> dict[int, tuple[int, float]]:
    """Items and share of exposure of each group in a list.

    >>> exposure([1, 1])
    {1: (2, 1.0)}
    """
    whole = sum(1 / math.log2(place + 1) for place in range(1, len(groups) + 1))
    found: dict[int, tuple[int, float]] = {}
    for place, group in enumerate(groups, start=1):
        items, share = found.get(group, (0, 0.0))
        found[group] = items + 1, share + 1 / math.log2(place + 1) / whole
    return found


def check_list(
    scores: Sequence[float],
    groups: Sequence[int],
    count: int,
    compiled: CompiledPolicy,
    fair: FairList,
) -> list[str]:
    """What is broken of a list and its receipt.

    scores, groups `[n]`: the candidates as they were given, finite; count: as it was asked for.
    Ties may have been broken in any way.
    """
    order = [int(position) for position in fair.order]
    n, receipt = len(scores), fair.receipt
    broken = []
    if len(set(order)) != len(order):
        broken.append("an item stands twice")
    if not all(0 <= position < n for position in order):
        return [*broken, "an item is no candidate"]
    if len(order) != min(count, n):
        broken.append(f"{len(order)} items, expected {min(count, n)}")
    own = groups if compiled.labels else [0] * n
    broken += [
        f"place {place} scores higher than an item of its group before it"
        for place in broken_order(scores, own, order)
    ]
    broken += [
        f"candidate {better} was left out for {worse}, of the same group and lower score"
        for better, worse in passed_over(scores, own, order)
    ]
    broken += _broken_ranks(scores, order, fair)
    named = (receipt.policy, receipt.policy_version, receipt.policy_digest, receipt.group_table)
    policy = compiled.policy
    if named != (policy.name, policy.version, policy.digest, policy.group_table):
        broken.append(f"the receipt names policy {named}")
    if receipt.status is Status.SKIPPED:
        if order and receipt.places_moved:
            broken.append("a skipped stage moved items")
        return broken
    return broken + _broken_receipt(scores, groups, order, compiled, fair)


def _broken_ranks(scores: Sequence[float], order: Sequence[int], fair: FairList) -> list[str]:
    broken = []
    ranks = [int(rank) for rank in fair.rank_by_score]
    if not len(ranks) == len(fair.reasons) == len(order):
        return [f"{len(order)} items, {len(ranks)} ranks by score, {len(fair.reasons)} reasons"]
    moved = sum(rank != place for place, rank in enumerate(ranks, start=1))
    if moved != fair.receipt.places_moved:
        broken.append(f"the receipt says {fair.receipt.places_moved} places moved, counted {moved}")
    if len(set(ranks)) != len(ranks):
        broken.append("two items have one rank by score")
    columns = zip(order, ranks, map(int, fair.reasons), strict=True)
    for place, (position, rank, reason) in enumerate(columns, start=1):
        higher = sum(score > scores[position] for score in scores)
        equal = sum(score == scores[position] for score in scores)
        if not higher < rank <= higher + equal:
            broken.append(
                f"place {place} says rank by score {rank}, counted {higher + 1} to {higher + equal}"
            )
        allowed = {ReasonCode.SCORE} if rank == place else _RAISED if rank > place else _LOWERED
        if reason not in allowed:
            broken.append(f"place {place}, rank by score {rank}, gives reason {reason}")
    return broken


def _broken_receipt(
    scores: Sequence[float],
    groups: Sequence[int],
    order: Sequence[int],
    compiled: CompiledPolicy,
    fair: FairList,
) -> list[str]:
    broken = []
    receipt, labels = fair.receipt, compiled.labels
    expected = utility_kept(scores, order)
    if not math.isclose(expected, receipt.utility_kept, abs_tol=TOLERANCE):
        broken.append(f"the receipt says utility kept {receipt.utility_kept}, computed {expected}")
    listed = [groups[position] for position in order]
    told = {part.group: (part.items, part.exposure_share) for part in receipt.exposure}
    counted = {labels[g]: part for g, part in exposure(listed).items()}
    if told.keys() != counted.keys() or any(
        items != counted[group][0] or not math.isclose(share, counted[group][1], abs_tol=TOLERANCE)
        for group, (items, share) in told.items()
    ):
        broken.append(f"the receipt says exposure {told}, counted {counted}")
    floors, ceilings = compiled.floors.tolist(), compiled.ceilings.tolist()
    outside = broken_bounds(listed, floors, ceilings)
    if receipt.status is Status.MET and outside:
        prefix, group = outside[0]
        broken.append(
            f"the receipt says met, but the first {prefix} places break group {labels[group]!r}"
        )
    if receipt.status is Status.INFEASIBLE:
        if not outside:
            broken.append("the receipt says infeasible, but the list keeps every bound")
        supply = [list(groups).count(g) for g in range(len(labels))]
        lowered = [[min(k, supply[g]) for k in row] for g, row in enumerate(floors)]
        free = [[len(order)] * len(row) for row in floors]
        broken += [
            f"the first {prefix} places break group {labels[g]!r}, though supply allows its floor"
            for prefix, g in broken_bounds(listed, lowered, free)
        ]
        broken += broken_certificate(supply, compiled, receipt.first_bad_prefix)
    return broken


def broken_certificate(
    supply: Sequence[int], compiled: CompiledPolicy, bad: PrefixViolation | None
) -> list[str]:
    """Why the first bad prefix of a receipt is no proof that the policy cannot be met.

    supply: candidates of each group. A proof is a floor above its group's supply, or a prefix that
    the ceilings and the supply do not fill; and no prefix before it may be as bad.
    """
    if bad is None:
        return ["the receipt says infeasible without a first bad prefix"]
    if bad.group not in compiled.labels or not 1 <= bad.prefix <= compiled.max_count:
        return [f"the first bad prefix {bad} names no group or prefix of the policy"]
    g = compiled.labels.index(bad.group)
    floors: Table = compiled.floors.tolist()
    ceilings: Table = compiled.ceilings.tolist()

    def short(prefix: int) -> bool:
        return any(floors[h][prefix] > have for h, have in enumerate(supply))

    def unfilled(prefix: int) -> bool:
        room = [min(ceilings[h][prefix], have) for h, have in enumerate(supply)]
        return sum(room) < prefix

    floor = (floors[g][bad.prefix], supply[g])
    ceiling = (ceilings[g][bad.prefix], ceilings[g][bad.prefix] + 1)
    proven = (bad.needed > bad.available and (bad.needed, bad.available) == floor) or (
        unfilled(bad.prefix)
        and (bad.needed, bad.available) == ceiling
        and supply[g] >= bad.available
    )
    broken = [] if proven else [f"the first bad prefix {bad} is no proof"]
    earlier = [k for k in range(1, bad.prefix) if short(k) or unfilled(k)]
    if earlier:
        broken.append(f"prefix {earlier[0]} is bad before the first bad prefix {bad.prefix}")
    return broken


def check_same(
    first: FairList, second: FairList, positions: Sequence[int] | None = None
) -> list[str]:
    """What differs between two lists that must be one: asked twice, or with candidates shuffled.

    positions: where each candidate of the second input stood in the first; the same when None.
    For shuffled candidates ties must have been broken by something that went along (item ids).
    """
    one = [int(position) for position in first.order]
    two = [int(p) if positions is None else positions[int(p)] for p in second.order]
    broken = []
    if one != two:
        place = next((k for k, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), -1)
        broken.append(f"the lists differ from place {place + 1} on: {one} and {two}")
    if first.reasons.tolist() != second.reasons.tolist():
        broken.append("the reasons differ")
    if first.receipt != second.receipt:
        broken.append(f"the receipts differ: {first.receipt} and {second.receipt}")
    return broken
