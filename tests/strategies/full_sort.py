"""The fair stage as it was before it was made fast: all candidates sorted, one walk for each place.

Plain Python, step by step what the kernels did; an oracle for everything that is told of a list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.fairness import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.types import ReasonCode

Bad = tuple[int, int, int, int]


@dataclass(frozen=True)
class Told:
    """A list, and what its receipt says."""

    order: list[int]
    ranks: list[int]
    reasons: list[int]
    bad: Bad
    utilities: tuple[float, float, float]
    exposure: list[tuple[str, int, float]]


def sorted_fully(scores: NDArray[np.float32], tie_break: NDArray[np.int64] | None) -> list[int]:
    """Positions, best first; NaN last, equal scores by tie-break, then by position."""
    ties = [0] * len(scores) if tie_break is None else tie_break.tolist()
    return sorted(
        range(len(scores)),
        key=lambda p: (
            math.isnan(scores[p]), 0 if math.isnan(scores[p]) else -float(scores[p]), ties[p], p,
        ),
    )  # fmt: skip


def first_bad_prefix(
    groups: list[int],
    supply: list[int],
    floors: list[list[int]],
    ceilings: list[list[int]],
    size: int,
) -> Bad:
    """(prefix, group, needed, available); groups in score order."""
    bad, bad_group = size + 1, -1
    for g in range(len(floors)):
        for k in range(1, size + 1):
            if floors[g][k] > supply[g]:
                if k < bad:
                    bad, bad_group = k, g
                break
    for k in range(1, min(bad, size + 1)):
        if sum(map(min, (row[k] for row in ceilings), supply)) < k:
            seen = [0] * len(floors)
            for g in groups:
                seen[g] += 1
                if seen[g] > ceilings[g][k]:
                    return k, g, ceilings[g][k], seen[g]
    if bad <= size:
        return bad, bad_group, floors[bad_group][bad], supply[bad_group]
    return 0, -1, 0, 0


def walked(
    all_groups: list[int],
    order: list[int],
    floors: list[list[int]],
    ceilings: list[list[int]],
    size: int,
    fixed: list[int],
) -> tuple[list[int], list[int], list[int], Bad]:
    """(places, ranks, reasons, first bad prefix): at each place a walk over all that is left."""
    n_groups = len(floors)
    groups = [all_groups[position] for position in order]
    supply = [groups.count(g) for g in range(n_groups)]
    bad = first_bad_prefix(groups, supply, floors, ceilings, size)
    demand = [sum(min(floors[g][k], supply[g]) for g in range(n_groups)) for k in range(size + 1)]
    deadline = [
        next((k for k in range(1, size + 1) if floors[g][k] > 0 and supply[g] > 0), size + 1)
        for g in range(n_groups)
    ]
    have, passed = [0] * n_groups, [0] * n_groups
    left = list(range(len(order)))
    places, ranks, reasons = [], [], []
    for t in range(1, size + 1):
        tight = next((k for k in range(t, size + 1) if demand[k] >= k - t + 1), size + 1)
        if t <= len(fixed):
            here = order.index(fixed[t - 1])
        else:
            may = (
                rank
                for rank in left
                if have[groups[rank]] < ceilings[groups[rank]][t]
                and (tight > size or deadline[groups[rank]] <= tight)
            )
            here = next(may, left[0])
        for_floor = False
        for better in left:
            if better == here:
                break
            full = have[groups[better]] >= ceilings[groups[better]][t]
            passed[groups[better]] = (
                ReasonCode.LOWERED_FOR_CEILING if full else ReasonCode.LOWERED_FOR_FLOOR
            )
            for_floor |= not full
        left.remove(here)
        g, rank = groups[here], here + 1
        places.append(order[here])
        ranks.append(rank)
        if rank == t:
            reasons.append(int(ReasonCode.SCORE))
        elif rank > t:
            raised = ReasonCode.RAISED_FOR_FLOOR if for_floor else ReasonCode.RAISED_FOR_CEILING
            reasons.append(int(raised))
        else:
            reasons.append(int(passed[g]))
        have[g] += 1
        for k in range(deadline[g], size + 1):
            demand[k] -= 1
        while deadline[g] <= size and floors[g][deadline[g]] <= have[g]:
            deadline[g] += 1
    return places, ranks, reasons, bad


def dcg(scores: NDArray[np.float32], places: list[int], worth: NDArray[np.float64]) -> float:
    """All gains moved up by the lowest score, where it is negative; added up from the first place."""
    lowest = min([0.0, *(float(score) for score in scores if not math.isnan(score))])
    total = 0.0
    with np.errstate(invalid="ignore"):
        for place, position in enumerate(places):
            total += float(worth[place] * (np.float64(scores[position]) - lowest))
    return total


def fair_by_full_sort(
    scores: NDArray[np.float32],
    groups: NDArray[np.int32],
    count: int,
    policy: CompiledPolicy,
    tie_break: NDArray[np.int64] | None,
    fixed: list[int] | None = None,
) -> Told:
    """Everything of one list under the groups of one table."""
    size = min(count, len(scores))
    worth = discounts(size, policy.policy.discount)
    order, own = sorted_fully(scores, tie_break), groups.tolist()
    floors, ceilings = policy.floors.tolist(), policy.ceilings.tolist()
    places, ranks, reasons, bad = walked(own, order, floors, ceilings, size, fixed or [])
    if fixed:
        # A bound that the policy lacks moved nothing: what was shown before did.
        floor = {ReasonCode.RAISED_FOR_FLOOR, ReasonCode.LOWERED_FOR_FLOOR}
        ceiling = {ReasonCode.RAISED_FOR_CEILING, ReasonCode.LOWERED_FOR_CEILING}
        lacks = set() if policy.has_floors else floor
        lacks = lacks | (set() if policy.has_ceilings else ceiling)
        reasons = [int(ReasonCode.SHOWN_BEFORE) if one in lacks else one for one in reasons]
    got = best = dcg(scores, places, worth)
    if policy.has_floors and policy.has_ceilings and bad[0] == 0:
        low, high = (table.tolist() for table in policy.unbounded)
        best = min(
            dcg(scores, walked(own, order, *sides, size, [])[0], worth)
            for sides in ((floors, high), (low, ceilings))
        )
    shares = np.zeros(len(policy.labels))
    for place, position in enumerate(places):
        shares[own[position]] += worth[place]
    total = 0.0
    for weight in worth.tolist():
        total += weight
    listed = [own[position] for position in places]
    exposure = [
        (label, listed.count(g), float(shares[g] / total))
        for g, label in enumerate(policy.labels)
        if g in listed
    ]
    return Told(
        places, ranks, reasons, bad, (got, dcg(scores, order[:size], worth), best), exposure
    )
