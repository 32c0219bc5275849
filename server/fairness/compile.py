"""A policy and the labels of its group tables -> integer floor and ceiling tables.

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

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from server.errors import PolicyRefused, listed, near_miss
from server.fairness.calibrate import Calibration
from server.fairness.policy import Policy, Rule
from server.fairness.policy_sections import Amortised, Calibrated
from server.fairness.tables import Bounds, clash, combined, rule_bounds
from server.fairness.types import Int32


@dataclass(frozen=True)
class TableGroups:
    """The groups of one table: its labels, and the catalogue's items in each, `[G]`."""

    labels: tuple[str, ...]
    items: NDArray[np.int64]

    @staticmethod
    def of(labels: Sequence[str]) -> TableGroups:
        """Groups of which each is taken to have as many items as the others."""
        return TableGroups(tuple(labels), np.ones(len(labels), np.int64))


@dataclass(frozen=True)
class Amortisation:
    """Which table's exposure is evened out over all lists, and towards what.

    targets: `[G] float64`, the wanted share of each group, sum 1; 0 of groups without items.
    """

    group_table: str
    labels: tuple[str, ...]
    targets: NDArray[np.float64]
    rule: Amortised


@dataclass(frozen=True)
class CompiledPolicy:
    """A policy as tables.

    labels: the R groups, row by row; empty for kind "none". Of several group tables the rows of
    one follow those of the other, as "table:label".
    floors, ceilings: `[R, K + 1] int32`; column k speaks of the first k places, column 0 is 0.
    starts: the first row of each table of `policy.tables`.
    targets: once made for a user: the shares `[G] float64` that each calibration aims at.

    The kernels rely on the tables being sound, which `compile_tables` sees to: non-decreasing,
    `floors <= ceilings`, and in each group table for all prefixes a <= b the items that must stand
    after a and until b fit there: `sum_g max(0, floors[g, b] - ceilings[g, a]) <= b - a` (with
    a = 0: the floors add up to at most b). `server.fairness.invariants.broken_tables` checks it.
    Ceilings need not leave room for every place: three groups capped at 3 make 9 items, and a
    longer list is infeasible.
    """

    policy: Policy
    labels: tuple[str, ...]
    floors: Int32
    ceilings: Int32
    starts: tuple[int, ...] = (0,)
    calibrations: tuple[Calibration, ...] = ()
    amortisation: Amortisation | None = None
    targets: tuple[NDArray[np.float64], ...] = ()

    @cached_property
    def max_count(self) -> int:
        """The longest list that the tables speak of."""
        return int(self.floors.shape[1]) - 1

    @cached_property
    def one_table(self) -> bool:
        """Whether the groups of one table are bounded."""
        return len(self.starts) == 1 and bool(self.labels)

    @cached_property
    def has_ceilings(self) -> bool:
        """Whether any ceiling is below what its prefix holds anyway."""
        return bool((self.ceilings < np.arange(self.max_count + 1)).any())

    @cached_property
    def has_floors(self) -> bool:
        """Whether any floor asks for anything."""
        return bool(self.floors.any())

    @cached_property
    def named(self) -> dict[str, str]:
        """The fields of a receipt that say whose it is."""
        policy = self.policy
        return {
            "policy": policy.name,
            "policy_version": policy.version,
            "policy_digest": policy.digest,
            "group_table": policy.group_table,
            "discount": policy.discount,
        }

    @cached_property
    def unbounded(self) -> tuple[Int32, Int32]:
        """Floors and ceilings of the same form that bound nothing."""
        return combined([], len(self.labels), self.max_count)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(first row, row after the last) of each table."""
        return list(zip(self.starts, [*self.starts[1:], len(self.labels)], strict=True))

    def for_user(self, bought: Mapping[str, NDArray[np.int64]]) -> CompiledPolicy:
        """The tables of one user; `bought`: by group table, `[G]` how often he bought of each group.

        A policy that is not calibrated is the same for all. Of a table that is not in `bought`
        nothing is known.
        """
        if not self.calibrations:
            return self
        floors, ceilings = self.floors.copy(), self.ceilings.copy()
        targets = []
        for part in self.calibrations:
            own = bought.get(part.group_table, np.zeros(len(part.items), np.int64))
            block = slice(part.start, part.start + len(part.items))
            floors[block], ceilings[block] = part.bounds(own, self.max_count)
            numerators, denominator = part.target(own)
            targets.append(numerators / denominator)
        return dataclasses.replace(self, floors=floors, ceilings=ceilings, targets=tuple(targets))


def shortage(compiled: CompiledPolicy, supply: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How many more candidates of each group could help a list of `count` to keep the bounds.

    supply: `[R]`, candidates of each group. Returns `[R]`, all 0 where the supply suffices.
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
        for first, end in compiled.blocks:
            have = supply[first:end] + short[first:end]
            ceilings = compiled.ceilings[first:end, : count + 1]
            room = np.minimum(ceilings, have[:, np.newaxis]).sum(axis=0)
            missing = int((np.arange(count + 1) - room).max())
            if missing > 0:
                short[first:end] += np.clip(ceilings[:, count] - have, 0, missing)
    return short


def compile_policy(policy: Policy, labels: Sequence[str], max_count: int = 200) -> CompiledPolicy:
    """The tables of a policy of one group table, whose groups have as many items each.

    Raises:
        PolicyRefused: as `compile_tables`.
    """
    groups = TableGroups.of(labels)
    return compile_tables(policy, {rule.group_table: groups for rule in policy.rules}, max_count)


def compile_tables(
    policy: Policy, tables: Mapping[str, TableGroups], max_count: int = 200
) -> CompiledPolicy:
    """The tables for lists of up to `max_count` places; what each kind means is in `rule_bounds`.

    Of several rules of one group table the highest floor and the lowest ceiling count.

    Raises:
        PolicyRefused: a table or a group that is not there, a rule that no list can keep, or two
            rules that clash, both by name.
    """
    for rule in policy.rules:
        if rule.group_table and rule.group_table not in tables:
            # An intersection names each table in the path of its section.
            named = policy.kind == "intersection"
            raise PolicyRefused(
                policy.name,
                rule.path if named else rule.path.removesuffix(rule.kind) + "group_table",
                f"{'no such group table' if named else f'got {rule.group_table!r}'}; "
                f"{near_miss(rule.group_table, tables)}the data has {listed(tables)} "
                "(of items: attributes of users bound no list)",
            )
    labels: list[str] = []
    parts: list[Bounds] = []
    starts, calibrations = [], []
    several = len(policy.tables) > 1
    for table in policy.tables:
        groups = tables[table]
        start = len(labels)
        starts.append(start)
        labels += [f"{table}:{label}" for label in groups.labels] if several else groups.labels
        rules = [rule for rule in policy.bounds if rule.group_table == table]
        calibrations += [
            Calibration.of(rule.section, table, start, groups.items)
            for rule in rules
            if isinstance(rule.section, Calibrated)
        ]
        parts.append(_sound_bounds(policy, table, rules, groups, max_count))
    empty = np.zeros((0, max_count + 1), np.int32)
    return CompiledPolicy(
        policy,
        tuple(labels),
        np.concatenate([empty, *(floors for floors, _ in parts)]),
        np.concatenate([empty, *(ceilings for _, ceilings in parts)]),
        tuple(starts) or (0,),
        tuple(calibrations),
        _amortisation(policy, tables),
    )


def _sound_bounds(
    policy: Policy, table: str, rules: Sequence[Rule], groups: TableGroups, max_count: int
) -> Bounds:
    """The rules of one table together.

    Raises:
        PolicyRefused: as `compile_tables`.
    """
    parts = [rule_bounds(policy.name, rule, groups.labels, max_count) for rule in rules]
    if len(parts) < 2:
        return combined(parts, len(groups.labels), max_count)
    for second, rule in enumerate(rules):
        for first in range(second):
            told = clash(*combined([parts[first], parts[second]], 0, 0), groups.labels)
            if told:
                raise PolicyRefused(
                    policy.name, rule.path, f"clashes with {rules[first].path}: {told}"
                )
    together = combined(parts, len(groups.labels), max_count)
    told = clash(*together, groups.labels)
    if told:
        paths = ", ".join(rule.path for rule in rules)
        raise PolicyRefused(policy.name, "stack", f"{paths} cannot be kept together: {told}")
    return together


def _amortisation(policy: Policy, tables: Mapping[str, TableGroups]) -> Amortisation | None:
    rule = policy.shaping("amortised")
    if rule is None:
        return None
    assert isinstance(rule.section, Amortised)
    groups = tables[rule.group_table]
    # A group without items is out of it: it can get no exposure, would hold the lowest share for
    # ever, and an item that a caller puts into it would be raised without bound.
    wanted = groups.items if rule.section.targets == "catalogue" else groups.items > 0
    weights = np.asarray(wanted, np.float64)
    targets = weights / max(weights.sum(), 1.0)
    return Amortisation(rule.group_table, groups.labels, targets, rule.section)
