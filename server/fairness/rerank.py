"""Scores, groups and a compiled policy -> a fair list and its receipt.

Owns what is asked of the kernels, in which order, and what the receipt states. Pure: arrays in,
arrays out; the same input gives the same list. Knows neither items nor the wire.

Scores are finite: the service refuses others. Here NaN is ranked last, neither crashes nor hangs,
and makes `utility_kept` NaN if it comes into the list; only a policy of several tables, whose search
adds scores up, refuses what is not finite.

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
from server.fairness.bounded import Bounded, bounded_list, violation_of
from server.fairness.compile import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.policy_sections import Diverse
from server.fairness.receipt import as_scored, calibration_of, receipt_of, receipt_with
from server.fairness.types import (
    CalibrationGap,
    FairList,
    Float32,
    Int8,
    Int32,
    Int64,
    PrefixViolation,
    ReasonCode,
    Skip,
    Status,
    quickly,
)

_FLOAT32, _INT32, _INT64 = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.int64)
_NO_TIES = np.empty(0, np.int64)
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
    policy that evens out exposure; of equal sums the larger score comes first. vectors:
    `[n, d] float32` of length 1 or 0, for a policy that wants items to differ. fixed: `[m] int32`,
    positions of the candidates that take the first m <= count places, because they were shown on
    earlier pages: the list goes on from there.

    Where no list keeps the policy, the list still has its full length: floors are lowered to the
    supply and hold, ceilings yield only where a place could not be filled otherwise, and the
    receipt names the first prefix that no list of these candidates can keep.

    Raises:
        PolicyInfeasible: no list keeps the policy and it says "refuse".
        InvalidField: count, a group, a length or a position is outside the above, or a score is not
            finite under a policy of several tables.
    """
    n = len(scores)
    if not 1 <= count <= compiled.max_count:
        raise InvalidField.of("count", count, f"1 to {compiled.max_count}")
    if compiled.labels:
        _check_length("groups", groups, n)
    if tie_break is not None:
        _check_length("tie_break", tie_break, n)
    if boost is not None:
        _check_length("boost", boost, n)
    if n == 0:
        return as_scored(
            np.empty(0, np.int32), compiled, Skip.EMPTY_LIST, 0, _NOTHING_FIXED, scores
        )
    if compiled.calibrations and not compiled.targets:
        compiled = compiled.for_user({})
    fixed = _NOTHING_FIXED if fixed is None else _owned("fixed", fixed, _INT32)
    if len(fixed):
        _check_fixed(fixed, min(count, n), n)
    if vectors is not None and (vectors.ndim != 2 or len(vectors) != n):
        raise InvalidField.of("vectors", f"shape {vectors.shape}", f"({n}, d), one for each score")
    scores = _owned("scores", scores, _FLOAT32)
    ties = _NO_TIES if tie_break is None else _owned("tie_break", tie_break, _INT64)
    size = min(count, n)
    if compiled.policy.kind == "none":
        by_score = kernels.score_order(scores, ties)
        return as_scored(by_score, compiled, Skip.POLICY_NONE, size, fixed, scores)
    if compiled.one_table and boost is None and vectors is None and not len(fixed):
        own = groups if groups.ndim == 1 else _members(groups, compiled)[0]
        plain = _plain(scores, _owned("groups", own, _INT32), ties, compiled, size)
        if plain is not None:
            return plain
    members = _members(groups, compiled) if compiled.labels else _NO_MEMBERS
    by_score = kernels.score_order(scores, ties)
    order, values, raised = _shaped(scores, by_score, ties, compiled, size, boost, vectors)
    if len(compiled.starts) > 1:
        _check_finite("scores", scores)
        _check_finite("boost", values)
    found = bounded_list(values, members, order, compiled, size, fixed)
    if found.status is not Status.NOT_FOUND or not len(fixed):
        _check(found.violation, compiled, found.status)
    ranks, reasons = found.ranks, found.reasons
    if order is not by_score:
        ranks = kernels.ranks_among(by_score, found.places)
        reasons = _reasons(ranks, found, raised)
    return FairList(
        found.places,
        ranks,
        reasons,
        receipt_of(
            scores,
            by_score,
            members,
            compiled,
            found,
            ranks,
            shaped=order is not by_score,
            continued=len(fixed) > 0,
        ),
    )


def _plain(
    scores: Float32, groups: Int32, ties: Int64, compiled: CompiledPolicy, size: int
) -> FairList | None:
    """The list where nothing but scores and the groups of one table decides: most lists.

    The same list as by the steps of `rerank`, in fewer calls, and only as many items are sorted as
    it is likely to need. None: a group is no row.
    """
    floors, ceilings = compiled.floors, compiled.ceilings
    both = compiled.has_floors and compiled.has_ceilings
    worth = discounts(size, compiled.policy.discount)
    keys, supply, depth = kernels.ready_to_sort(scores, groups, floors, ceilings, size)
    if depth == 0:
        return None
    if depth < len(keys):
        keys.partition(depth)
        keys[:depth].sort()
    else:
        keys.sort()
    places, ranks, reasons, bad, got, ideal, best, moved, items, shares = kernels.fair_list(
        scores, groups, keys, depth, ties, supply, floors, ceilings, both, worth
    )
    if bad[0] == kernels.TOO_SHORT:
        # All of them, with equal scores settled: their positions in order are keys too.
        keys, depth, ties = kernels.score_order(scores, ties).astype(np.int64), len(keys), _NO_TIES
        places, ranks, reasons, bad, got, ideal, best, moved, items, shares = kernels.fair_list(
            scores, groups, keys, depth, ties, supply, floors, ceilings, both, worth
        )
    violation: PrefixViolation | None = None
    calibration: tuple[CalibrationGap, ...] = ()
    status = Status.MET
    if bad[0]:
        violation, status = violation_of(bad, compiled), Status.INFEASIBLE
        _check(violation, compiled)
    if compiled.targets:
        first = kernels.head_by_score(keys, depth, ties)[:size]
        calibration = calibration_of(first, groups[np.newaxis], compiled, places, worth)
    receipt = receipt_with(
        compiled, status, violation, (got, ideal, best), moved, items, shares, calibration
    )
    fields = {"order": places, "rank_by_score": ranks, "reasons": reasons, "receipt": receipt}
    return quickly(FairList, fields)


def warm_up() -> None:
    """Compile every kernel (or load it from the cache), for the types that `rerank` gives them."""
    scores, groups = np.ones(2, np.float32), np.zeros((1, 2), np.int32)
    order = kernels.score_order(scores, np.arange(2, dtype=np.int64))
    bounds, worth = np.array([[0, 1, 2]], np.int32), discounts(2)
    places = kernels.arrange(groups[0], order, bounds, bounds, 2, _NOTHING_FIXED)[0]
    kernels.first_broken(groups, places, bounds, bounds)
    kernels.gained(scores, places, worth, kernels.lowest_score(scores))
    kernels.exposed(groups, places, worth, 1)
    kernels.places_moved(kernels.ranks_among(order, places))
    keys, supply, depth = kernels.ready_to_sort(scores, groups[0], bounds, bounds, 2)
    kernels.head_by_score(keys, depth, _NO_TIES)
    ties = _NO_TIES
    kernels.fair_list(scores, groups[0], keys, depth, ties, supply, bounds, bounds, True, worth)
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
        values, raised = _owned("boost", scores + boost, _FLOAT32), ReasonCode.RAISED_FOR_EXPOSURE
        # A boost may be so large that sums no longer tell scores apart; the user still does.
        ranks = np.empty(len(scores), np.int64)
        ranks[by_score] = np.arange(len(scores))
        order = kernels.score_order(values, ranks)
    rule = compiled.policy.shaping("diverse")
    if vectors is not None and rule is not None:
        assert isinstance(rule.section, Diverse)
        pick = diversify.mmr_order if rule.section.method == "mmr" else diversify.dpp_order
        trade_off = float(Fraction(rule.section.trade_off))
        picked = pick(values, _owned("vectors", vectors, _FLOAT32), order, size, trade_off)
        order = np.concatenate([picked, order[~np.isin(order, picked)]])
        # The bounds are kept at the least cost in places of this order.
        values = np.empty(len(order), np.float32)
        values[order] = np.arange(len(order), 0, -1)
        raised = ReasonCode.RAISED_FOR_DIVERSITY
    return order, values, raised


def _members(groups: Int32, compiled: CompiledPolicy) -> Int32:
    """`[A, n] int32`, all of them rows of their table."""
    members = _owned("groups", groups if groups.ndim == 2 else groups[np.newaxis], _INT32)
    if len(members) != len(compiled.starts):
        raise InvalidField.of(
            "groups", f"groups of {len(members)} tables", f"of {listed(compiled.policy.tables)}"
        )
    return members


def _check_length(field: str, column: NDArray[Any], n: int) -> None:
    if column.shape[-1] != n:
        raise InvalidField.of(field, f"{column.shape[-1]} values", f"{n}, one for each score")


def _owned(field: str, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """The array as the kernels are compiled for it.

    A read-only, strided or wider one would compile them anew, for a second, in a request.

    Raises:
        InvalidField: whole numbers are asked for, and one is none or has too many digits.
    """
    if array.dtype == dtype and array.flags.carray:
        return array
    with np.errstate(invalid="ignore", over="ignore"):
        owned = np.array(array, dtype)
    if owned.dtype.kind == "i" and not np.array_equal(owned, array):
        other = array[owned != array].ravel()[0]
        raise InvalidField.of(field, other.item(), f"whole numbers of {dtype.itemsize * 8} bits")
    return owned


def _check_finite(field: str, column: Float32) -> None:
    finite = np.isfinite(column)
    if not finite.all():
        bad = int(finite.argmin())
        raise InvalidField.of(
            f"{field}[{bad}]", float(column[bad]), "a finite sum of score and boost"
        )


def _check_fixed(fixed: Int32, size: int, n: int) -> None:
    if len(fixed) > size:
        raise InvalidField.of(
            "fixed", f"{len(fixed)} positions", f"at most {size}, the list's places"
        )
    outside = fixed[(fixed < 0) | (fixed >= n)]
    if len(outside):
        raise InvalidField.of("fixed", int(outside[0]), f"0 to {n - 1}, positions of candidates")
    if len(np.unique(fixed)) < len(fixed):
        raise InvalidField.of("fixed", "a position twice", "each once")


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


def _check(
    violation: PrefixViolation | None, compiled: CompiledPolicy, status: Status = Status.INFEASIBLE
) -> None:
    if violation is not None and compiled.policy.on_infeasible == "refuse":
        raise PolicyInfeasible(_refusal(compiled, violation, status))


def _refusal(compiled: CompiledPolicy, bad: PrefixViolation, status: Status) -> str:
    """Of several tables the place is that of the list which breaks the least, as far as was found."""
    name = f"policy {compiled.policy.name!r}"
    verdict = "cannot be met" if status is Status.INFEASIBLE else "was not found to be kept"
    policy = f"{name} {verdict}: the first {bad.prefix} places"
    if len(compiled.starts) > 1:
        side = "need" if bad.available < bad.needed else "allow"
        told = f"{side} {bad.needed} of group {bad.group!r}, the best list has {bad.available}"
    elif bad.available < bad.needed:
        told = f"need {bad.needed} of group {bad.group!r}, these candidates give {bad.available}"
    else:
        told = (
            f"allow {bad.needed} of group {bad.group!r}, these candidates force {bad.available}, "
            "as the other groups have too few"
        )
    return f"{policy} {told}; bring more candidates, or another policy"
