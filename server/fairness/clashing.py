"""Which rules of a policy make it impossible on a catalogue: one, two, or more of them together.

Rules that clash whatever is in the catalogue are refused by `compile_tables`; these are those that
only its supply sets against each other, over several tables too. Knows no bundle and no words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from server.fairness.compile import CompiledPolicy, TableGroups, compile_tables
from server.fairness.feasible import CatalogueCheck, check_on_catalogue
from server.fairness.policy import Rule
from server.fairness.types import Int32, PrefixViolation


@dataclass(frozen=True)
class Clash:
    """Rules that no list of the catalogue keeps together; that is proven.

    rules: their paths, in the order of the policy; none where nothing is proven.
    bad: where a list breaks them. It is the first prefix that no list can keep where they bound one
    table; of several tables, where the list that breaks the least breaks first. room: see
    `CatalogueCheck`.
    unproven_pairs: two of them (or, without any, of all rules) for which neither a list nor a proof
    that there is none was found.
    """

    rules: tuple[str, ...]
    bad: PrefixViolation | None
    unproven_pairs: tuple[tuple[str, str], ...] = ()
    room: int | None = None


def clashing_rules(
    compiled: CompiledPolicy,
    tables: Mapping[str, TableGroups],
    rows: Int32,
    count: int,
    whole: CatalogueCheck,
) -> Clash | None:
    """The first rule that cannot be kept alone, else the first two that cannot be kept together, else
    as many as it takes, as far as that is proven.

    compiled, rows, count: as `check_on_catalogue` takes them, and `whole` what it found; tables: as
    the policy was compiled with. Two rules come in the order in which the stack, read rule by rule,
    becomes impossible. None: the policy can be met, or bounds by one rule alone.
    """
    bounds = compiled.policy.bounds
    if whole.met or len(bounds) < 2:
        return None

    def checked(*rules: Rule) -> CatalogueCheck:
        if rules == bounds:
            return whole
        return _check_of(rules, compiled, tables, rows, count)

    for rule in bounds:
        alone = checked(rule)
        if alone.proven:
            return Clash((rule.path,), alone.bad, room=alone.room)
    unproven = []
    for place, second in enumerate(bounds):
        for first in bounds[:place]:
            both = checked(first, second)
            if both.proven:
                return Clash((first.path, second.path), both.bad, room=both.room)
            if not both.met:
                unproven.append((first.path, second.path))
    rules, found = bounds, whole
    for rule in reversed(bounds):
        fewer = tuple(other for other in rules if other != rule)
        if len(fewer) > 2 and (without := checked(*fewer)).proven:
            rules, found = fewer, without
    if not found.proven:
        return Clash((), None, tuple(unproven))
    paths = tuple(rule.path for rule in rules)
    pairs = tuple(pair for pair in unproven if set(pair) <= set(paths))
    return Clash(paths, found.bad, pairs, found.room)


def _check_of(
    rules: Sequence[Rule],
    compiled: CompiledPolicy,
    tables: Mapping[str, TableGroups],
    rows: Int32,
    count: int,
) -> CatalogueCheck:
    """What comes of a policy that has these rules alone; groups are named as in the whole one."""
    policy = replace(compiled.policy, rules=tuple(rules))
    own = compile_tables(policy, tables, compiled.max_count)
    places = [compiled.policy.tables.index(table) for table in policy.tables]
    moved = np.array(own.starts) - np.array(compiled.starts)[places]
    found = check_on_catalogue(own, (rows[places] + moved[:, np.newaxis]).astype(np.int32), count)
    if found.bad is None or len(places) > 1:
        return found
    row = compiled.starts[places[0]] + own.labels.index(found.bad.group)
    return replace(found, bad=replace(found.bad, group=compiled.labels[row]))
