"""Scores, groups and a compiled policy -> a fair list and its receipt.

Owns the choice of kernel, the infeasibility certificate, reason codes and what
the receipt states. Pure: arrays in, arrays out; the same input gives the same
list. Scores must be finite; NaN is ranked last, and nothing is promised of it.

>>> from server.fairness import compile_policy, parse_policy
>>> policy = parse_policy('''
... name = "half"
... version = "1"
... kind = "floors"
... group_table = "size"
... reason = "Half of every list for small makers."
... floors = {small = "1/2"}
... ''', "example")
>>> compiled = compile_policy(policy, ["large", "small"], 10)
>>> fair = rerank(np.float32([.9, .8, .7, .1]), np.int32([0, 0, 0, 1]), 2, compiled)
>>> fair.order.tolist(), fair.rank_by_score.tolist(), fair.receipt.status.name
([0, 3], [1, 4], 'MET')
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.errors import PolicyInfeasible
from server.fairness import kernels
from server.fairness.compile import CompiledPolicy
from server.fairness.metrics import discounts
from server.fairness.types import (
    FairList,
    Float32,
    GroupExposure,
    Int32,
    Int64,
    PrefixViolation,
    ReasonCode,
    Receipt,
    Skip,
    Status,
)

_NO_VIOLATION = (0, -1, 0, 0)


def rerank(
    scores: Float32,
    groups: Int32,
    count: int,
    compiled: CompiledPolicy,
    tie_break: Int64 | None = None,
) -> FairList:
    """A list of `min(count, n)` of n candidates that keeps the policy, as far as any list can.

    scores: `[n] float32`, higher is better. groups: `[n] int32`, rows of `compiled.labels`
    (ignored for kind "none"). tie_break: `[n] int64`, lower first among equal scores; the position
    in the input when None. count: 1 to `compiled.max_count`.

    Raises:
        PolicyInfeasible: no list keeps the policy and it says "refuse".
    """
    n = len(scores)
    size = min(count, n)
    by_score = (
        np.argsort(-scores, kind="stable")
        if tie_break is None
        else np.lexsort((tie_break, -scores))
    )
    if n == 0 or compiled.policy.kind == "none":
        skip = Skip.EMPTY_LIST if n == 0 else Skip.POLICY_NONE
        places = np.arange(size, dtype=np.int32)
        receipt = _receipt(compiled, Status.SKIPPED, skip, None, 1.0, 0, ())
        return FairList(
            by_score[:size].astype(np.int32),
            places + np.int32(1),
            np.full(size, ReasonCode.SCORE, np.int8),
            receipt,
        )
    ordered_groups = groups[by_score].astype(np.int32)
    violation = kernels.first_bad_prefix(ordered_groups, compiled.floors, compiled.ceilings, size)
    bad = None if violation == _NO_VIOLATION else _violation(violation, compiled)
    if bad is not None and compiled.policy.on_infeasible == "refuse":
        raise PolicyInfeasible(
            f"policy {compiled.policy.name!r} cannot be met: the first {bad.prefix} places need "
            f"{bad.needed} of group {bad.group!r}, these candidates give {bad.available}; "
            "bring more candidates, or another policy"
        )
    places = _places(ordered_groups, size, compiled, feasible=bad is None)
    listed_groups = ordered_groups[places]
    rank_by_score = places + np.int32(1)
    moved = int(np.count_nonzero(rank_by_score != np.arange(1, size + 1)))
    receipt = _receipt(
        compiled,
        Status.MET if bad is None else Status.INFEASIBLE,
        Skip.NOT_SKIPPED,
        bad,
        _utility_kept(scores[by_score], places),
        moved,
        _exposure(listed_groups, compiled.labels),
    )
    return FairList(
        by_score[places].astype(np.int32),
        rank_by_score,
        _reasons(rank_by_score, listed_groups, compiled),
        receipt,
    )


def _places(groups: Int32, size: int, compiled: CompiledPolicy, *, feasible: bool) -> Int32:
    places: Int32
    if compiled.policy.kind == "floors":
        places = kernels.exact_floors(groups, compiled.floors, size)
    elif compiled.policy.kind == "cap":
        places = kernels.greedy_ceilings(groups, compiled.ceilings, size)
    else:
        places = kernels.forward_window(groups, compiled.floors, compiled.ceilings, size, feasible)
    return places


def _violation(found: tuple[int, int, int, int], compiled: CompiledPolicy) -> PrefixViolation:
    prefix, group, needed, available = found
    return PrefixViolation(int(prefix), compiled.labels[group], int(needed), int(available))


def _utility_kept(scores: Float32, places: Int32) -> float:
    """DCG of the list over DCG of the score order, both of the same length.

    `scores` in score order. Where one is negative, all gains are moved up by the lowest score of
    all candidates. 1 when the score order has no gain.
    """
    gains = scores.astype(np.float64)
    if gains[-1] < 0:
        gains = gains - gains[-1]
    weights = discounts(len(places))
    ideal = float(gains[: len(places)] @ weights)
    return float(gains[places] @ weights) / ideal if ideal > 0 else 1.0


def _exposure(groups: Int32, labels: tuple[str, ...]) -> tuple[GroupExposure, ...]:
    weights = discounts(len(groups))
    items = np.bincount(groups, minlength=len(labels))
    shares = np.bincount(groups, weights=weights, minlength=len(labels)) / weights.sum()
    return tuple(
        GroupExposure(labels[g], int(items[g]), float(shares[g]))
        for g in np.flatnonzero(items).tolist()
    )


def _reasons(rank_by_score: Int32, groups: Int32, compiled: CompiledPolicy) -> NDArray[np.int8]:
    """Why each place holds what it holds.

    The j-th item of its group was held back by a ceiling if the ceiling at its place by score
    allows fewer than j; it was raised for a floor if the floors of the list ask for j.
    """
    size = len(groups)
    have = [0] * len(compiled.labels)
    reasons = np.full(size, ReasonCode.SCORE, np.int8)
    columns = zip(rank_by_score.tolist(), groups.tolist(), strict=True)
    for place, (rank, group) in enumerate(columns, start=1):
        have[group] += 1
        if rank < place:
            full = have[group] > compiled.ceilings[group, rank]
            reasons[place - 1] = (
                ReasonCode.LOWERED_FOR_CEILING if full else ReasonCode.LOWERED_FOR_FLOOR
            )
        elif rank > place:
            asked = have[group] <= compiled.floors[group, size]
            reasons[place - 1] = (
                ReasonCode.RAISED_FOR_FLOOR if asked else ReasonCode.RAISED_FOR_CEILING
            )
    return reasons


def _receipt(
    compiled: CompiledPolicy,
    status: Status,
    skip: Skip,
    bad: PrefixViolation | None,
    utility_kept: float,
    moved: int,
    exposure: tuple[GroupExposure, ...],
) -> Receipt:
    policy = compiled.policy
    return Receipt(
        policy=policy.name,
        policy_version=policy.version,
        policy_digest=policy.digest,
        group_table=policy.group_table,
        status=status,
        skip_reason=skip,
        first_bad_prefix=bad,
        utility_kept=utility_kept,
        places_moved=moved,
        exposure=exposure,
    )
