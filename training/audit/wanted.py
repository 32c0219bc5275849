"""The shares that a table's groups are measured against: in each list, and over all lists.

Owns where they come from. They are two questions. In each list: the user's own shares (a
calibrated policy), those of the policy's rule (floors, fa_ir, window) with what they leave over
given to the other groups by their items in the catalogue, the targets of evened-out exposure, and
else the catalogue's shares. Over all lists: the targets of evened-out exposure wherever the policy
evens out this table, whatever its floors ask of a single list, since they say what the exposure of
all lists together is to come to; else the mean of what each list is measured against.

Where nobody wants anything of a group, the catalogue's share is a yardstick and no target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.bundle import GroupTable
from server.fairness import CompiledPolicy
from server.features.types import Float64
from training.audit.collect import Collected

OWN = "the user's own"
RULE = "the policy's, then the catalogue"
EVENED = "the targets of the policy's amortised rule"
CATALOGUE = "the catalogue"


@dataclass(frozen=True)
class Wanted:
    """The shares that one table's groups are measured against.

    shares: `[G]` for each list. source: where they come from. over_all: `[G]`, for the exposure
    of all lists together, from over_all_source. targets: `[G]`, whether somebody wants
    `over_all` of the group; else it is the catalogue's, or what others' shares leave over.
    """

    shares: Sequence[Float64]
    source: str
    over_all: Float64
    over_all_source: str
    targets: NDArray[np.bool_]

    @property
    def in_lists(self) -> Float64:
        """`[G]`: the mean over lists of what each is measured against."""
        size = len(self.over_all)
        return np.mean(self.shares, axis=0) if len(self.shares) else np.zeros(size)


def catalogue_shares(table: GroupTable) -> Float64:
    """Each group's part of the catalogue's items, `[G]`."""
    items = table.sizes.items.astype(np.float64)
    return items / max(1.0, float(items.sum()))


def wanted_shares(collected: Collected, table: GroupTable) -> Wanted:
    """What the lists of `collected` are measured against in `table`."""
    shares, source, targets = _in_lists(collected, table)
    evened = collected.compiled.amortisation
    if evened is not None and evened.group_table == table.name:
        every = np.ones(len(table.labels), np.bool_)
        return Wanted(shares, source, evened.targets, EVENED, every)
    mean = np.mean(shares, axis=0) if shares else np.zeros(len(table.labels))
    return Wanted(shares, source, mean, source, targets)


def _in_lists(
    collected: Collected, table: GroupTable
) -> tuple[Sequence[Float64], str, NDArray[np.bool_]]:
    """The shares of each list, where they come from, and whose groups they are targets of."""
    compiled, lists = collected.compiled, len(collected.lists)
    catalogue, size = catalogue_shares(table), len(table.labels)
    for number, calibration in enumerate(compiled.calibrations):
        if calibration.group_table == table.name:
            own = [tables.targets[number] for tables in collected.own]
            shares = [one if one.any() else catalogue for one in own]
            return shares, OWN, np.ones(size, np.bool_)
    named = {label: float(share) for label, share in _rule_shares(compiled, table.name)}
    if named:
        targets = np.array([label in named for label in table.labels])
        return [_filled(named, table, catalogue)] * lists, RULE, targets
    evened = compiled.amortisation
    if evened is not None and evened.group_table == table.name:
        return [evened.targets] * lists, EVENED, np.ones(size, np.bool_)
    return [catalogue] * lists, CATALOGUE, np.zeros(size, np.bool_)


def _rule_shares(compiled: CompiledPolicy, table: str) -> Sequence[tuple[str, Any]]:
    """The shares of the table's first rule that names any."""
    return next(
        (
            rule.shares
            for rule in compiled.policy.bounds
            if rule.group_table == table and rule.shares
        ),
        (),
    )


def _filled(named: dict[str, float], table: GroupTable, catalogue: Float64) -> Float64:
    """The named shares; the others share what is left over by their items."""
    shares = np.array([named.get(label, 0.0) for label in table.labels])
    others = np.array([label not in named for label in table.labels])
    weights = np.where(others, catalogue, 0.0)
    if weights.sum() > 0:
        shares += (1.0 - shares.sum()) * weights / weights.sum()
    filled: Float64 = shares / shares.sum()
    return filled
