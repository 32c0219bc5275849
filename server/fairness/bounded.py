"""An order of candidates -> the best list of it that keeps a policy's bounds.

Owns the choice of the kernel: none where nothing is bounded, the exact one for the
groups of one table, a search with a bound for those of several.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.errors import InvalidField, listed
from server.fairness import kernels, overlap
from server.fairness.compile import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.types import (
    Float32,
    Int8,
    Int32,
    PrefixViolation,
    ReasonCode,
    Status,
)

BEAM_WIDTH = 32
"""Lists that the search for several tables keeps at each place. Wider: nearer to the optimum, and
slower in proportion."""

BUDGET = 20_000_000
"""Steps of that search, counted in its loops, each some nanoseconds. A shape that they are too few
for gets a list that is farther from the optimum, or none that is found to keep the bounds."""


@dataclass(frozen=True)
class Bounded:
    """A list that keeps the bounds, as far as it does.

    places: `[k] int32`, positions in the input. ranks: `[k] int32`, from 1, in the order that the
    list was made of. reasons: `[k] int8`, why a place is not the one in that order. bound: of the
    search for several tables, no list that keeps the bounds has a larger sum of discount x value.
    """

    places: Int32
    ranks: Int32
    reasons: Int8
    violation: PrefixViolation | None
    status: Status
    bound: float | None = None


def bounded_list(
    values: Float32,
    members: Int32,
    order: Int32,
    compiled: CompiledPolicy,
    size: int,
    fixed: Int32,
) -> Bounded:
    """The best list of `size` candidates.

    values `[n]`, what the order is by; members `[A, n]` rows; order `[n]` positions, best first;
    fixed `[m]`: positions that take the first places.

    Raises:
        InvalidField: a group is no row of the tables.
    """
    if not compiled.labels:
        rest = order[~np.isin(order, fixed)] if len(fixed) else order
        places = np.concatenate([fixed, rest])[:size]
        reasons = np.full(size, ReasonCode.SCORE, np.int8)
        ranks = kernels.ranks_among(order, places)
        reasons[ranks != np.arange(1, size + 1)] = ReasonCode.SHOWN_BEFORE
        return Bounded(places, ranks, reasons, None, Status.MET)
    if len(members) > 1:
        return _of_several_tables(values, members, order, compiled, size, fixed)
    places, ranks, reasons, bad = kernels.arrange(
        members[0], order, compiled.floors, compiled.ceilings, size, fixed
    )
    if len(fixed):
        reasons = _of_its_rules(reasons, compiled, continued=True)
    if bad[0] == kernels.BAD_GROUP:
        raise _bad_row(compiled, bad[1])
    if len(fixed) and not bad[0]:
        # What was shown stays, and may not suit what has changed since: no proof that no list does.
        bad = kernels.first_broken(members, places, compiled.floors, compiled.ceilings)
        if bad[0]:
            return Bounded(places, ranks, reasons, violation_of(bad, compiled), Status.NOT_FOUND)
    violation = violation_of(bad, compiled)
    status = Status.MET if violation is None else Status.INFEASIBLE
    return Bounded(places, ranks, reasons, violation, status)


def violation_of(
    bad: tuple[int, int, int, int], compiled: CompiledPolicy
) -> PrefixViolation | None:
    """The first bad prefix as a kernel tells it, with the group's label."""
    prefix, row, needed, available = bad
    return PrefixViolation(prefix, compiled.labels[row], needed, available) if prefix else None


def search(
    values: Float32, members: Int32, order: Int32, compiled: CompiledPolicy, size: int
) -> tuple[Int32, int, float]:
    """The list of several tables: places, verdict, and a bound on the sum of discount times value of
    any list that keeps the bounds.

    Raises:
        InvalidField: a group is no row of the tables.
    """
    blocks = np.array([*compiled.starts, len(compiled.labels)], np.int32)
    worth = discounts(size, compiled.policy.discount)
    places, _, verdict, _, bound, _ = overlap.arrange_overlapping(
        values,
        members,
        blocks,
        order,
        compiled.floors,
        compiled.ceilings,
        worth,
        size,
        BEAM_WIDTH,
        BUDGET,
    )
    if verdict == overlap.BAD_ROW:
        first, after = np.array(compiled.blocks).T[..., np.newaxis]
        raise _bad_row(compiled, int(members[(members < first) | (members >= after)][0]))
    return places, verdict, bound


def _of_several_tables(
    values: Float32,
    members: Int32,
    order: Int32,
    compiled: CompiledPolicy,
    size: int,
    fixed: Int32,
) -> Bounded:
    places, verdict, bound = search(values, members, order, compiled, size)
    if len(fixed) and not np.array_equal(places[: len(fixed)], fixed):
        # Something has changed since these were shown: search for the rest alone.
        places, verdict = _rest(values, members, order, compiled, size, fixed)
    bad = kernels.first_broken(members, places, compiled.floors, compiled.ceilings)
    violation = violation_of(bad, compiled)
    status = {overlap.KEPT: Status.MET, overlap.IMPOSSIBLE: Status.INFEASIBLE}.get(
        verdict, Status.NOT_FOUND
    )
    ranks = kernels.ranks_among(order, places)
    reasons = _reasons(members, order, places, ranks, compiled)
    reasons = _of_its_rules(reasons, compiled, continued=len(fixed) > 0)
    return Bounded(places, ranks, reasons, violation, status, bound)


def _rest(
    values: Float32,
    members: Int32,
    order: Int32,
    compiled: CompiledPolicy,
    size: int,
    fixed: Int32,
) -> tuple[Int32, int]:
    """The list after the places that are fixed, as a problem of its own: what they hold is taken
    from its bounds."""
    first = len(fixed)
    have = np.bincount(members[:, fixed].ravel(), minlength=len(compiled.labels))[:, np.newaxis]
    prefix = np.arange(size - first + 1)
    floors = np.clip(compiled.floors[:, first : size + 1] - have, 0, prefix)
    ceilings = np.clip(compiled.ceilings[:, first : size + 1] - have, 0, prefix)
    places, verdict = fixed, overlap.KEPT
    if size > first:
        blocks = np.array([*compiled.starts, len(compiled.labels)], np.int32)
        worth = discounts(size, compiled.policy.discount)[first:].copy()
        # The kernel numbers its items from 0 and takes all of them for supply: those left alone.
        left = order[~np.isin(order, fixed)]
        alike = np.zeros(len(left), np.float32)
        # By supply alone once more, where scores led the search away from the lists there are.
        for worths in (values[left], alike):
            rest, _, verdict, _, _, _ = overlap.arrange_overlapping(
                worths, np.ascontiguousarray(members[:, left]), blocks,
                np.arange(len(left), dtype=np.int32), floors.astype(np.int32),
                ceilings.astype(np.int32), worth, size - first, BEAM_WIDTH, BUDGET,
            )  # fmt: skip
            if worths is not alike or verdict == overlap.KEPT:
                places = np.concatenate([fixed, left[rest]])
            if verdict != overlap.NOT_FOUND:
                break
    broken = kernels.first_broken(members, places, compiled.floors, compiled.ceilings)
    kept = verdict == overlap.KEPT and broken[0] == 0
    return places, overlap.KEPT if kept else overlap.NOT_FOUND


def _of_its_rules(reasons: Int8, compiled: CompiledPolicy, *, continued: bool) -> Int8:
    """No reason names a bound that the policy lacks.

    What only places shown before can have moved says so; in a whole list of several tables it is
    the other bound, which the search kept in a way that no single place shows.
    """
    floor = (ReasonCode.RAISED_FOR_FLOOR, ReasonCode.LOWERED_FOR_FLOOR)
    ceiling = (ReasonCode.RAISED_FOR_CEILING, ReasonCode.LOWERED_FOR_CEILING)
    shown = (ReasonCode.SHOWN_BEFORE, ReasonCode.SHOWN_BEFORE)
    told = reasons.copy()
    for has, own, other in (
        (compiled.has_floors, floor, ceiling),
        (compiled.has_ceilings, ceiling, floor),
    ):
        for wrong, right in zip(own, shown if continued else other, strict=True):
            if not has:
                told[reasons == wrong] = right
    return told


def _bad_row(compiled: CompiledPolicy, row: int) -> InvalidField:
    return InvalidField.of(
        "groups", row, f"0 to {len(compiled.labels) - 1}, the rows of {listed(compiled.labels)}"
    )


def _reasons(
    members: Int32, order: Int32, places: Int32, ranks: Int32, compiled: CompiledPolicy
) -> Int8:
    """Why each item of a list of several tables is not at its rank.

    An item is raised for a floor where any of its groups has one; it is lowered for a ceiling
    where one of its groups was full at the place of its rank.
    """
    size = len(places)
    at = np.arange(1, size + 1)
    reasons = np.full(size, ReasonCode.SCORE, np.int8)
    asked = compiled.floors[:, size] > 0
    has_floor = asked[members[:, places]].any(axis=0)
    reasons[ranks > at] = ReasonCode.RAISED_FOR_CEILING
    reasons[(ranks > at) & has_floor] = ReasonCode.RAISED_FOR_FLOOR
    lowered = np.flatnonzero(ranks < at)
    if len(lowered):
        counts = np.zeros((len(compiled.labels), size + 1), np.int32)
        for own in members[:, places]:
            counts[own, at] += 1
        counts = counts.cumsum(axis=1)
        for place in lowered.tolist():
            rows, rank = members[:, places[place]], int(ranks[place])
            full = (counts[rows, rank - 1] >= compiled.ceilings[rows, rank]).any()
            reasons[place] = (
                ReasonCode.LOWERED_FOR_CEILING if full else ReasonCode.LOWERED_FOR_FLOOR
            )
    return reasons
