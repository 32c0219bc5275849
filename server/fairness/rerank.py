"""Scores, groups and a compiled policy -> a fair list and its receipt.

Owns what is asked of the kernels and what the receipt states. Pure: arrays in,
arrays out; the same input gives the same list. Knows neither items nor the wire.

Scores are finite: that is the caller's business, and the service refuses others.
NaN is ranked last, neither crashes nor hangs, and makes `utility_kept` NaN if it
comes into the list.

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

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidField, PolicyInfeasible, listed
from server.fairness import kernels
from server.fairness.compile import CompiledPolicy
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

_NO_TIE_BREAK = np.empty(0, np.int64)


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

    Where no list keeps the policy, the list still has its full length: floors are lowered to the
    supply and hold, ceilings yield only where a place could not be filled otherwise, and the
    receipt names the first prefix that no list of these candidates can keep.

    Raises:
        PolicyInfeasible: no list keeps the policy and it says "refuse".
        InvalidField: count, a group or a length is outside the above.
    """
    n = len(scores)
    if not 1 <= count <= compiled.max_count:
        raise InvalidField.of("count", count, f"1 to {compiled.max_count}")
    grouped = compiled.policy.kind != "none"
    for field, column in (("groups", groups if grouped else None), ("tie_break", tie_break)):
        if column is not None and len(column) != n:
            raise InvalidField.of(field, f"{len(column)} values", f"{n}, one for each score")
    if n == 0:
        return _as_scored(np.empty(0, np.int32), compiled, Skip.EMPTY_LIST)
    scores = _owned(scores, np.float32)
    order = kernels.score_order(
        scores, _NO_TIE_BREAK if tie_break is None else _owned(tie_break, np.int64)
    )
    size = min(count, n)
    if not grouped:
        return _as_scored(order[:size].copy(), compiled, Skip.POLICY_NONE)
    places, rank_by_score, reasons, rows, items, shares, bad, moved, utility_kept = kernels.arrange(
        scores, _owned(groups, np.int32), order, compiled.floors, compiled.ceilings, size
    )
    if bad[0] == kernels.BAD_GROUP:
        raise InvalidField.of(
            "groups",
            bad[1],
            f"0 to {len(compiled.labels) - 1}, the rows of {listed(compiled.labels)}",
        )
    violation = PrefixViolation(bad[0], compiled.labels[bad[1]], bad[2], bad[3]) if bad[0] else None
    if violation is not None and compiled.policy.on_infeasible == "refuse":
        raise PolicyInfeasible(_refusal(compiled, violation))
    label = compiled.labels.__getitem__
    return FairList(
        places,
        rank_by_score,
        reasons,
        _receipt(
            compiled,
            Status.MET if violation is None else Status.INFEASIBLE,
            Skip.NOT_SKIPPED,
            violation,
            utility_kept,
            moved,
            tuple(map(GroupExposure, map(label, rows.tolist()), items.tolist(), shares.tolist())),
        ),
    )


def warm_up() -> None:
    """Compile every kernel (or load it from the cache), for the types that `rerank` gives them."""
    order = kernels.score_order(np.ones(2, np.float32), np.arange(2, dtype=np.int64))
    groups, bounds = np.zeros(2, np.int32), np.array([[0, 1, 2]], np.int32)
    kernels.arrange(np.ones(2, np.float32), groups, order, bounds, bounds, 2)


def _owned(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """The array as the kernels are compiled for it.

    A read-only, strided or wider one would compile them anew, for a second, in a request.
    """
    return array if array.dtype == dtype and array.flags.carray else np.array(array, dtype)


def _as_scored(order: Int32, compiled: CompiledPolicy, skip: Skip) -> FairList:
    return FairList(
        order,
        np.arange(1, len(order) + 1, dtype=np.int32),
        np.full(len(order), ReasonCode.SCORE, np.int8),
        _receipt(compiled, Status.SKIPPED, skip, None, 1.0, 0, ()),
    )


def _refusal(compiled: CompiledPolicy, bad: PrefixViolation) -> str:
    policy = f"policy {compiled.policy.name!r} cannot be met: the first {bad.prefix} places"
    if bad.available < bad.needed:
        told = f"need {bad.needed} of group {bad.group!r}, these candidates give {bad.available}"
    else:
        told = (
            f"allow {bad.needed} of group {bad.group!r}, these candidates force {bad.available}, "
            "as the other groups have too few"
        )
    return f"{policy} {told}; bring more candidates, or another policy"


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
