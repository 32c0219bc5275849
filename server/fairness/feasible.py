"""Whether a whole catalogue can keep a policy: asked before it ships, not of each list."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from server.fairness.compile import CompiledPolicy
from server.fairness.policy_sections import Amortised, Calibrated, Cap, Diverse, FairIr
from server.fairness.rerank import rerank
from server.fairness.tables import rule_bounds
from server.fairness.types import Int32, Int64, PrefixViolation, Status


class PrefixDemand(NamedTuple):
    """What the first `prefix` places must and may hold of a group."""

    prefix: int
    least: int
    most: int


@dataclass(frozen=True)
class GroupDemand:
    """One group: its items in the catalogue, and its demands; the last is that of the whole list."""

    group: str
    items: int
    demands: tuple[PrefixDemand, ...]


@dataclass(frozen=True)
class CatalogueCheck:
    """What came of a check.

    bad: where the best list breaks the policy, None where one keeps it; proven: no list keeps it.
    room: how many of the first `bad.prefix` places the ceilings of its table let the catalogue fill,
    where that is too few; else None.
    idle: rules that bound no list of that length, each with its reason.
    shut_out: groups that no list may hold.
    unchecked: calibrated rules that bound no list of a user of whom nothing is known: without
    smoothing he has no shares.
    """

    bad: PrefixViolation | None
    proven: bool
    idle: tuple[str, ...]
    groups: tuple[GroupDemand, ...]
    shut_out: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    room: int | None = None

    @property
    def met(self) -> bool:
        """Whether a list keeps every bound."""
        return self.bad is None


def where(bad: PrefixViolation, room: int | None) -> str:
    """Where the best list breaks the policy, in words.

    >>> where(PrefixViolation(prefix=20, group="DAIRY", needed=3, available=8), room=15)
    "the first 20 places may have 3 of group 'DAIRY', the best list has 8; all groups together may fill only 15 of them"
    """
    asked = "want" if bad.available < bad.needed else "may have"
    full = f"; all groups together may fill only {room} of them" if room is not None else ""
    return (
        f"the first {bad.prefix} places {asked} {bad.needed} of group {bad.group!r}, "
        f"the best list has {bad.available}{full}"
    )


def check_on_catalogue(compiled: CompiledPolicy, rows: Int32, count: int) -> CatalogueCheck:
    """Check lists of up to `count` places; rows `[A, n_items]`, the groups of every item."""
    n_items = rows.shape[1]
    serving = replace(compiled, policy=replace(compiled.policy, on_infeasible="serve"))
    fair = rerank(np.zeros(n_items, np.float32), rows, count, serving)
    size = len(fair.order)
    if serving.calibrations:
        serving = serving.for_user({})
    supply = np.bincount(rows.ravel(), minlength=len(compiled.labels))
    bad = fair.receipt.first_bad_prefix
    prefixes = _telling_prefixes(compiled, size)
    return CatalogueCheck(
        bad=bad,
        proven=fair.receipt.status is Status.INFEASIBLE,
        room=None if bad is None else _room(serving, supply, bad),
        idle=tuple(_idle(compiled, size)),
        shut_out=tuple(
            f"{rule.path}.{group}"
            for rule in compiled.policy.bounds
            for group, share in rule.shares
            if rule.kind == "window" and share == 0
        ),
        unchecked=tuple(
            rule.path
            for rule in compiled.policy.bounds
            if isinstance(rule.section, Calibrated) and rule.section.smoothing == 0
        ),
        groups=tuple(
            GroupDemand(
                label,
                int(supply[row]),
                tuple(
                    PrefixDemand(k, int(serving.floors[row, k]), int(serving.ceilings[row, k]))
                    for k in prefixes
                ),
            )
            for row, label in enumerate(compiled.labels)
        ),
    )


def _telling_prefixes(compiled: CompiledPolicy, size: int) -> list[int]:
    """The prefixes at which rules change what they ask for, and the whole list."""
    sections = (rule.section for rule in compiled.policy.bounds)
    ends = (section.within_first for section in sections if isinstance(section, Cap | FairIr))
    return sorted({size, *(end for end in ends if end < size)})


def _room(compiled: CompiledPolicy, supply: Int64, bad: PrefixViolation) -> int | None:
    row = compiled.labels.index(bad.group)
    first, end = next(block for block in compiled.blocks if block[0] <= row < block[1])
    room = int(np.minimum(supply, compiled.ceilings[:, bad.prefix])[first:end].sum())
    return room if room < bad.prefix else None


def _idle(compiled: CompiledPolicy, size: int) -> list[str]:
    """Rules that allow every list of up to `size` places: they look fair and do nothing."""
    found = []
    prefix = np.arange(size + 1)
    for rule in compiled.policy.rules:
        if isinstance(rule.section, Amortised) and Fraction(rule.section.strength) == 0:
            found.append(f"{rule.path}.strength: 0 adds nothing to any score")
        if isinstance(rule.section, Diverse) and Fraction(rule.section.trade_off) == 0:
            found.append(f"{rule.path}.trade_off: 0 is plain score order")
    for rule in compiled.policy.bounds:
        if rule.kind == "calibrated":
            continue
        start = compiled.starts[compiled.policy.tables.index(rule.group_table)]
        end = next((first for first in compiled.starts if first > start), len(compiled.labels))
        several = len(compiled.policy.tables) > 1
        labels = [
            label.partition(":")[2] if several else label for label in compiled.labels[start:end]
        ]
        floors, ceilings = rule_bounds(compiled.policy.name, rule, labels, size)
        for row, (group, share) in (
            (labels.index(group), (group, share)) for group, share in rule.shares
        ):
            if not floors[row].any() and (ceilings[row] >= prefix).all():
                why = (
                    "chance alone explains a list without any of it; raise alpha, the share or "
                    "within_first"
                    if rule.kind == "fa_ir"
                    else f"{share} of {size} places is less than one"
                )
                found.append(f"{rule.path}.{group}: {why}")
        if isinstance(rule.section, Cap) and (ceilings >= prefix).all():
            found.append(
                f"{rule.path}: {rule.section.at_most} is no less than a list of {size} holds"
            )
    return found
