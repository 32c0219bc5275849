"""An order of candidates -> the best list of it that keeps a policy's bounds.

Owns the choice of the kernel: none where nothing is bounded, the exact one for the
groups of one table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.errors import InvalidField, listed
from server.fairness import kernels
from server.fairness.compile import CompiledPolicy
from server.fairness.types import Int8, Int32, PrefixViolation, ReasonCode, Status


@dataclass(frozen=True)
class Bounded:
    """A list that keeps the bounds, as far as it does.

    places: `[k] int32`, positions in the input. ranks: `[k] int32`, from 1, in the order that the
    list was made of. reasons: `[k] int8`, why a place is not the one in that order.
    """

    places: Int32
    ranks: Int32
    reasons: Int8
    violation: PrefixViolation | None
    status: Status


def bounded_list(
    members: Int32, order: Int32, compiled: CompiledPolicy, size: int, fixed: Int32
) -> Bounded:
    """The best list of `size` candidates; members `[A, n]`, order `[n]` positions, best first.

    fixed `[m]`: positions that take the first places.

    Raises:
        InvalidField: a group is no row of the tables.
    """
    if not compiled.labels:
        rest = order[~np.isin(order, fixed)] if len(fixed) else order
        places = np.concatenate([fixed, rest])[:size]
        return Bounded(
            places,
            kernels.ranks_among(order, places),
            np.full(size, ReasonCode.SCORE, np.int8),
            None,
            Status.MET,
        )
    places, ranks, reasons, bad = kernels.arrange(
        members[0], order, compiled.floors, compiled.ceilings, size, fixed
    )
    if bad[0] == kernels.BAD_GROUP:
        raise InvalidField.of(
            "groups",
            bad[1],
            f"0 to {len(compiled.labels) - 1}, the rows of {listed(compiled.labels)}",
        )
    if len(fixed) and not bad[0]:
        # What was shown stays; the supply may have changed since.
        bad = _first_broken(members[0][places], compiled)
    violation = PrefixViolation(bad[0], compiled.labels[bad[1]], bad[2], bad[3]) if bad[0] else None
    status = Status.MET if violation is None else Status.INFEASIBLE
    return Bounded(places, ranks, reasons, violation, status)


def _first_broken(rows: Int32, compiled: CompiledPolicy) -> tuple[int, int, int, int]:
    """(prefix, row, bound, count) of the first bound that a list of these rows breaks; prefix 0:
    none."""
    have = np.zeros(len(compiled.labels), np.int32)
    for prefix, row in enumerate(rows.tolist(), start=1):
        have[row] += 1
        floors, ceilings = compiled.floors[:, prefix], compiled.ceilings[:, prefix]
        for bad, bound in ((have < floors, floors), (have > ceilings, ceilings)):
            if bad.any():
                broken = int(np.flatnonzero(bad)[0])
                return prefix, broken, int(bound[broken]), int(have[broken])
    return 0, -1, 0, 0
