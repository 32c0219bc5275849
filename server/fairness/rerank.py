"""Scores, groups and a compiled policy -> a fair list and its receipt.

Owns what is asked of the kernels, in which order, and what the receipt states. Pure: arrays in,
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

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidField, PolicyInfeasible, listed
from server.fairness import amortise, diversify, kernels
from server.fairness.bounded import Bounded, bounded_list
from server.fairness.compile import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.policy import Diverse
from server.fairness.receipt import as_scored, receipt_of
from server.fairness.types import (
    FairList,
    Float32,
    Int8,
    Int32,
    Int64,
    PrefixViolation,
    ReasonCode,
    Skip,
)

_NO_TIE_BREAK = np.empty(0, np.int64)
_NOTHING_FIXED = np.empty(0, np.int32)
_NO_MEMBERS = np.empty((0, 0), np.int32)


def rerank(
    scores: Float32,
    groups: Int32,
    count: int,
    compiled: CompiledPolicy,
    tie_break: Int64 | None = None,
    *,
    boost: Float32 | None = None,
    vectors: Float32 | None = None,
    fixed: Int32 | None = None,
) -> FairList:
    """A list of `min(count, n)` of n candidates that keeps the policy, as far as any list can.

    scores: `[n] float32`, higher is better. groups: `[n] int32`, rows of `compiled.labels`, or
    `[A, n]` for a policy of A group tables (ignored where the policy has none). tie_break:
    `[n] int64`, lower first among equal scores; the position in the input when None. count: 1 to
    `compiled.max_count`. boost: `[n] float32`, added to the scores for the order alone, for a
    policy that evens out exposure. vectors: `[n, d] float32` of length 1 or 0, for a policy that
    wants items to differ. fixed: `[m] int32`, positions of the candidates that take the
    first m <= count places, because they were shown on earlier pages: the list goes on from there.

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
    columns = {
        "groups": groups if compiled.labels else None,
        "tie_break": tie_break,
        "boost": boost,
    }
    for field, column in columns.items():
        if column is not None and column.shape[-1] != n:
            raise InvalidField.of(field, f"{column.shape[-1]} values", f"{n}, one for each score")
    if n == 0:
        return as_scored(np.empty(0, np.int32), compiled, Skip.EMPTY_LIST, 0, _NOTHING_FIXED)
    if compiled.calibrations and not compiled.targets:
        compiled = compiled.for_user({})
    fixed = _NOTHING_FIXED if fixed is None else _owned(fixed, np.int32)
    scores = _owned(scores, np.float32)
    ties = _NO_TIE_BREAK if tie_break is None else _owned(tie_break, np.int64)
    by_score = kernels.score_order(scores, ties)
    size = min(count, n)
    if compiled.policy.kind == "none":
        return as_scored(by_score, compiled, Skip.POLICY_NONE, size, fixed)
    members = _members(groups, compiled) if compiled.labels else _NO_MEMBERS
    order, values, raised = _shaped(scores, by_score, ties, compiled, size, boost, vectors)
    found = bounded_list(values, members, order, compiled, size, fixed)
    if found.violation is not None and compiled.policy.on_infeasible == "refuse":
        raise PolicyInfeasible(_refusal(compiled, found.violation))
    ranks, reasons = found.ranks, found.reasons
    if order is not by_score:
        ranks = kernels.ranks_among(by_score, found.places)
        reasons = _reasons(ranks, found, raised)
    return FairList(
        found.places,
        ranks,
        reasons,
        receipt_of(scores, by_score, members, compiled, found, ranks, shaped=order is not by_score),
    )


def warm_up() -> None:
    """Compile every kernel (or load it from the cache), for the types that `rerank` gives them."""
    scores, groups = np.ones(2, np.float32), np.zeros((1, 2), np.int32)
    order = kernels.score_order(scores, np.arange(2, dtype=np.int64))
    bounds, worth = np.array([[0, 1, 2]], np.int32), discounts(2)
    places = kernels.arrange(groups[0], order, bounds, bounds, 2, _NOTHING_FIXED)[0]
    kernels.gained(scores, order, places, worth)
    kernels.exposed(groups, places, worth, 1)
    kernels.ranks_among(order, places)
    amortise.warm_up()
    diversify.warm_up()


def _shaped(
    scores: Float32,
    by_score: Int32,
    ties: Int64,
    compiled: CompiledPolicy,
    size: int,
    boost: Float32 | None,
    vectors: Float32 | None,
) -> tuple[Int32, Float32, ReasonCode]:
    """The order that the list is made of, what it is by, and why an item is raised in it."""
    order, values, raised = by_score, scores, ReasonCode.SCORE
    if boost is not None and compiled.amortisation is not None:
        values, raised = _owned(scores + boost, np.float32), ReasonCode.RAISED_FOR_EXPOSURE
        order = kernels.score_order(values, ties)
    rule = compiled.policy.shaping("diverse")
    if vectors is not None and rule is not None:
        assert isinstance(rule.section, Diverse)
        pick = diversify.mmr_order if rule.section.method == "mmr" else diversify.dpp_order
        trade_off = float(Fraction(rule.section.trade_off))
        picked = pick(values, _owned(vectors, np.float32), order, size, trade_off)
        order = np.concatenate([picked, order[~np.isin(order, picked)]])
        # The bounds are kept at the least cost in places of this order.
        values = np.empty(len(order), np.float32)
        values[order] = np.arange(len(order), 0, -1)
        raised = ReasonCode.RAISED_FOR_DIVERSITY
    return order, values, raised


def _members(groups: Int32, compiled: CompiledPolicy) -> Int32:
    """`[A, n] int32`, all of them rows of their table."""
    members = _owned(groups if groups.ndim == 2 else groups[np.newaxis], np.int32)
    if len(members) != len(compiled.blocks):
        raise InvalidField.of(
            "groups", f"groups of {len(members)} tables", f"of {listed(compiled.policy.tables)}"
        )
    return members


def _owned(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """The array as the kernels are compiled for it.

    A read-only, strided or wider one would compile them anew, for a second, in a request.
    """
    return array if array.dtype == dtype and array.flags.carray else np.array(array, dtype)


def _reasons(ranks: Int32, found: Bounded, raised: ReasonCode) -> Int8:
    """Reasons by where an item stands against its score: the bounds' where they moved it that way,
    otherwise `raised`, or the one after it, "lowered", of what shaped the order."""
    places = np.arange(1, len(ranks) + 1)
    up, down = ranks > places, ranks < places
    bounds_up, bounds_down = found.ranks > places, found.ranks < places
    reasons = np.full(len(ranks), ReasonCode.SCORE, np.int8)
    reasons[up] = raised
    reasons[down] = raised + 1
    own = (up & bounds_up) | (down & bounds_down)
    reasons[own] = found.reasons[own]
    return reasons


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
