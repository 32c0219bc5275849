"""A policy and the labels of its group table -> integer floor and ceiling tables.

Among the first k places at least `floors[g, k]` and at most `ceilings[g, k]`
items belong to group g. All arithmetic is in integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np

from server.errors import PolicyRefused, listed
from server.fairness.policy import Policy
from server.fairness.types import Int32


@dataclass(frozen=True)
class CompiledPolicy:
    """A policy as tables.

    labels: the G groups, row by row; empty for kind "none".
    floors, ceilings: `[G, K + 1] int32`; column k speaks of the first k places. Non-decreasing
        in steps of at most one; column 0 is 0.
    """

    policy: Policy
    labels: tuple[str, ...]
    floors: Int32
    ceilings: Int32

    @property
    def max_count(self) -> int:
        """The longest list that the tables speak of."""
        return int(self.floors.shape[1]) - 1


def compile_policy(policy: Policy, labels: Sequence[str], max_count: int) -> CompiledPolicy:
    """The tables for lists of up to `max_count` places.

    Kind floors: floor(p k), no ceiling. Kind window: floor(p k) and ceil(p k); groups that the
    policy does not name have proportion 0, so they appear only where nothing else is left.
    Kind cap: at most c of each group among the first w; after place w there is no ceiling.

    Raises:
        PolicyRefused: the policy names a group that the table does not have.
    """
    if policy.kind == "none":
        empty = np.zeros((0, max_count + 1), np.int32)
        return CompiledPolicy(policy, (), empty, empty)
    rows = {label: row for row, label in enumerate(labels)}
    prefix = np.arange(max_count + 1, dtype=np.int64)
    floors = np.zeros((len(labels), max_count + 1), np.int32)
    ceilings = np.tile(prefix.astype(np.int32), (len(labels), 1))
    for group, _ in policy.shares:
        if group not in rows:
            raise PolicyRefused(
                policy.name,
                f"{policy.kind}.{group}",
                f"group table {policy.group_table!r} has no such group; it has: {listed(labels)}",
            )
    match policy.kind:
        case "floors":
            for group, share in policy.shares:
                floors[rows[group]] = prefix * share.numerator // share.denominator
        case "window":
            ceilings[:] = 0
            for group, share in policy.shares:
                floors[rows[group]] = prefix * share.numerator // share.denominator
                ceilings[rows[group]] = -(-prefix * share.numerator // share.denominator)
        case "cap":
            after = np.maximum(prefix - policy.within_first, 0)
            ceilings[:] = np.minimum(prefix, policy.at_most + after)
        case _:
            assert_never(policy.kind)
    return CompiledPolicy(policy, tuple(labels), floors, ceilings)
