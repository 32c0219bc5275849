"""A policy and the labels of its group table -> integer floor and ceiling tables.

Among the first k places at least `floors[g, k]` and at most `ceilings[g, k]`
items belong to group g. All arithmetic is in integers. Knows no items and no list.

>>> from server.fairness import parse_policy
>>> policy = parse_policy('''
... name = "small-makers"
... version = "1"
... kind = "floors"
... group_table = "maker_size"
... reason = "Small makers must be seen."
... floors = {small = "2/5"}
... ''', "example")
>>> compile_policy(policy, ["large", "small"], 6).floors.tolist()
[[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 2, 2]]
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from server.errors import PolicyRefused, listed
from server.fairness.fair_ir import fair_ir_floors
from server.fairness.policy import Policy
from server.fairness.types import Int32


@dataclass(frozen=True)
class CompiledPolicy:
    """A policy as tables.

    labels: the G groups, row by row; empty for kind "none".
    floors, ceilings: `[G, K + 1] int32`; column k speaks of the first k places, column 0 is 0.

    The kernels rely on the tables being sound, which every kind is: non-decreasing,
    `floors <= ceilings`, and for all prefixes a <= b the items that must stand after a and until b
    fit there: `sum_g max(0, floors[g, b] - ceilings[g, a]) <= b - a` (with a = 0: the floors add up
    to at most b). `server.fairness.invariants.broken_tables` checks it. Ceilings need not leave
    room for every place: three groups capped at 3 make 9 items, and a longer list is infeasible.
    """

    policy: Policy
    labels: tuple[str, ...]
    floors: Int32
    ceilings: Int32

    @property
    def max_count(self) -> int:
        """The longest list that the tables speak of."""
        return int(self.floors.shape[1]) - 1

    @cached_property
    def has_ceilings(self) -> bool:
        """Whether any ceiling is below what its prefix holds anyway."""
        return bool((self.ceilings < np.arange(self.max_count + 1)).any())


def shortage(compiled: CompiledPolicy, supply: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How many more candidates of each group could help a list of `count` to keep the bounds.

    supply: `[G]`, candidates of each group. Returns `[G]`, all 0 where the supply suffices.
    A floor needs its own group; where ceilings leave places empty, any group below its ceiling
    can fill them.

    >>> from server.fairness import parse_policy
    >>> policy = parse_policy('''
    ... name = "halves"
    ... version = "1"
    ... kind = "window"
    ... group_table = "side"
    ... reason = "Half of each side."
    ... window = {a = "1/2", b = "1/2"}
    ... ''', "example")
    >>> shortage(compile_policy(policy, ["a", "b"], 10), np.array([9, 3]), 10).tolist()
    [0, 2]
    """
    short: NDArray[np.int64] = np.maximum(compiled.floors[:, count] - supply, 0).astype(np.int64)
    if compiled.has_ceilings:
        have = supply + short
        ceilings = compiled.ceilings[:, : count + 1]
        room = np.minimum(ceilings, have[:, np.newaxis]).sum(axis=0)
        missing = int((np.arange(count + 1) - room).max())
        if missing > 0:
            short += np.clip(ceilings[:, count] - have, 0, missing)
    return short


def compile_policy(policy: Policy, labels: Sequence[str], max_count: int = 200) -> CompiledPolicy:
    """The tables for lists of up to `max_count` places.

    Kind floors: floor(p k), no ceiling.
    Kind fa_ir: FA*IR's floors for the first w places, and no more floors after them. Of G groups each
    gets alpha / G, so that by the union bound a fair list fails anywhere with at most alpha.
    Kind window: floor(p k) and ceil(p k). Groups that the policy does not name share what is left
    over 1 without bounds of their own; where nothing is left over, their ceiling is 0 and they are
    listed only where nothing else is left.
    Kind cap: at most c of each group among the first w; after place w there is no ceiling.

    Raises:
        PolicyRefused: the policy names a group that the table does not have, or its window leaves
            something over and there is no other group to take it, or its floors together ask for
            more than a prefix holds.
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
            near = difflib.get_close_matches(group, rows, n=1)
            raise PolicyRefused(
                policy.name,
                f"{policy.kind}.{group}",
                f"group table {policy.group_table!r} has no such group"
                f"{f'; did you mean {near[0]!r}?' if near else ''}; it has: {listed(labels)}",
            )
    match policy.kind:
        case "floors":
            for group, share in policy.shares:
                floors[rows[group]] = prefix * share.numerator // share.denominator
        case "fa_ir":
            first = min(policy.within_first, max_count)
            for group, share in policy.shares:
                own = fair_ir_floors(
                    policy.within_first,
                    share,
                    policy.alpha / len(policy.shares),
                    adjusted=policy.adjusted,
                )
                floors[rows[group], : first + 1] = own[: first + 1]
                floors[rows[group], first + 1 :] = own[first]
            crowded = np.flatnonzero(floors.sum(axis=0) > prefix)
            if len(crowded):
                k = int(crowded[0])
                raise PolicyRefused(
                    policy.name,
                    "fa_ir.shares",
                    f"the floors of the first {k} places add up to {floors[:, k].sum()}; "
                    "lower alpha or the shares",
                )
        case "window":
            left_over = 1 - sum(share for _, share in policy.shares)
            if left_over == 0:
                ceilings[:] = 0
            elif len(policy.shares) == len(labels):
                raise PolicyRefused(
                    policy.name,
                    "window",
                    f"the proportions leave {left_over} over, and group table "
                    f"{policy.group_table!r} has no other group to take it; make them add up to 1",
                )
            for group, share in policy.shares:
                floors[rows[group]] = prefix * share.numerator // share.denominator
                ceilings[rows[group]] = -(-prefix * share.numerator // share.denominator)
        case "cap":
            ceilings[:] = np.where(
                prefix <= policy.within_first, np.minimum(prefix, policy.at_most), prefix
            )
        case _:
            assert_never(policy.kind)
    return CompiledPolicy(policy, tuple(labels), floors, ceilings)
