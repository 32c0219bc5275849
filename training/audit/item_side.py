"""What a policy does to items and their groups: bounds, skew, divergence, exposure, regret.

Owns the item side of the audit's document, each number before (the plain policy's list) and
after. Formulae are in `server.fairness.metrics`. The wanted shares of groups are, in this order:
the user's own (a calibrated policy), those of the policy's rule (floors, fa_ir, window) with
what they leave over given to the other groups by their items in the catalogue, the targets of
evened-out exposure, and else the catalogue's shares.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from server.bundle import Bundle, GroupTable
from server.fairness import CompiledPolicy
from server.fairness.discount import discounts
from server.fairness.metrics import (
    awrf,
    ceiling_violations,
    coverage,
    expected_exposure,
    exposure_disparity,
    exposure_relevance,
    exposure_shares,
    floor_violations,
    gini,
    infeasible_index,
    max_skew,
    min_skew,
    ndkl,
    target_exposure,
)
from server.features.types import Float64, Int32
from training.audit.collect import Collected, Relevance

SMOOTHING = 1.0
"""Places added per group before a skew is taken, shared as wanted: an absent group has a skew."""

Block = dict[str, Any]
"""Names to numbers, null where nothing could be measured; "reasons" says why."""


@dataclass(frozen=True)
class Wanted:
    """The shares that one table's groups should have, `[G]` for each list."""

    shares: Sequence[Float64]
    source: str


def catalogue_shares(table: GroupTable) -> Float64:
    """Each group's part of the catalogue's items, `[G]`."""
    items = table.sizes.items.astype(np.float64)
    return items / max(1.0, float(items.sum()))


def summed(table: GroupTable, per_item: Float64) -> Float64:
    """Values of items `[n_items]` added up by group, `[G]`."""
    total = np.bincount(table.codes, weights=per_item, minlength=len(table.labels))
    return total.astype(np.float64)


def wanted_shares(collected: Collected, table: GroupTable, place: int) -> Wanted:
    """The wanted shares of `table`, the policy's `place`-th."""
    compiled, lists = collected.compiled, len(collected.lists)
    catalogue = catalogue_shares(table)
    for number, calibration in enumerate(compiled.calibrations):
        if calibration.start == compiled.starts[place]:
            own = [tables.targets[number] for tables in collected.own]
            return Wanted(
                [shares if shares.any() else catalogue for shares in own], "the user's own"
            )
    named = {label: float(share) for label, share in _rule_shares(compiled, table.name)}
    if named:
        return Wanted(
            [_filled(named, table, catalogue)] * lists, "the policy's, then the catalogue"
        )
    evened = compiled.amortisation
    if evened is not None and evened.group_table == table.name:
        return Wanted([evened.targets] * lists, "the policy's targets over all lists")
    return Wanted([catalogue] * lists, "the catalogue")


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


def facts_of(
    bundle: Bundle, before: Int32, collected: Collected, relevance: Relevance
) -> dict[str, Any]:
    """The item side of one policy; `before [T, k]` are the plain policy's lists."""
    policy = collected.compiled.policy
    k, n_items = before.shape[1], len(bundle.items.ids)
    deserved = target_exposure(relevance.ptr, relevance.items, n_items, k)
    return {
        "policy": policy.name,
        "version": policy.version,
        "digest": policy.digest,
        "kind": policy.kind,
        "group_tables": list(policy.tables),
        "lists": len(collected.lists),
        "statuses": collected.statuses,
        "utility_kept_mean": float(np.mean([r.utility_kept for r in collected.receipts])),
        "regret": _regret(collected),
        "items": {
            when: _items(lists, n_items, deserved)
            for when, lists in (("before", before), ("after", collected.lists))
        },
        "tables": [
            _table(bundle.groups[name], place, before, collected, deserved)
            for place, name in enumerate(policy.tables)
        ],
    }


def _regret(collected: Collected) -> Block:
    values = collected.regret[np.isfinite(collected.regret)]
    found: Block = {
        "against": "exact optimum" if collected.exact else "receipt's bound",
        "lists": len(values),
        "lists_without_one": int(len(collected.regret) - len(values)),
        "mean": None,
        "p99": None,
        "max": None,
        "reasons": {},
    }
    if not len(values):
        why = "no list of these candidates keeps the bounds"
        return found | {"reasons": dict.fromkeys(("mean", "p99", "max"), why)}
    return found | {
        "mean": float(values.mean()),
        "p99": float(np.quantile(values, 0.99)),
        "max": float(values.max()),
    }


def _items(lists: Int32, n_items: int, deserved: Float64) -> Block:
    exposure = expected_exposure(lists, n_items)
    return {
        "catalogue_coverage": coverage(lists[lists >= 0], n_items),
        "item_exposure_gini": gini(exposure),
        **_expected(exposure, deserved),
    }


def _expected(exposure: Float64, deserved: Float64) -> Block:
    disparity = exposure_disparity(exposure)
    relevance = exposure_relevance(exposure, deserved)
    return {
        "ee_d": disparity,
        "ee_r": relevance,
        "ee_loss": disparity - 2 * relevance + exposure_disparity(deserved),
    }


def _table(
    table: GroupTable, place: int, before: Int32, collected: Collected, deserved: Float64
) -> dict[str, Any]:
    wanted = wanted_shares(collected, table, place)
    size = len(table.labels)
    first, end = collected.compiled.blocks[place]
    bounds = [(own.floors[first:end], own.ceilings[first:end]) for own in collected.own]
    measured = {
        when: _lists(table, lists, bounds, wanted, deserved)
        for when, lists in (("before", before), ("after", collected.lists))
    }
    mean_wanted = np.mean(wanted.shares, axis=0) if wanted.shares else np.zeros(size)
    catalogue = catalogue_shares(table)
    due = summed(table, deserved)
    groups = {when: block.pop("groups") for when, block in measured.items()}
    return {
        "group_table": table.name,
        "wanted_shares_from": wanted.source,
        **measured,
        "groups": [
            {
                "group": label,
                "catalogue_items": int(table.sizes.items[row]),
                "catalogue_share": float(catalogue[row]),
                "wanted_share": float(mean_wanted[row]),
                "deserved_exposure": float(due[row]),
                **{
                    f"{name}_{when}": float(values[row])
                    for when, columns in groups.items()
                    for name, values in columns.items()
                },
            }
            for row, label in enumerate(table.labels)
        ],
    }


def _lists(
    table: GroupTable,
    lists: Int32,
    bounds: Sequence[tuple[Int32, Int32]],
    wanted: Wanted,
    deserved: Float64,
) -> Block:
    """What the lists do to one table's groups; "groups" are columns `[G]`."""
    size = len(table.labels)
    rows = [table.codes[own[own >= 0]] for own in lists]
    pairs = zip(rows, bounds, wanted.shares, strict=True)
    columns: dict[str, list[float]] = {name: [] for name in _PER_LIST}
    absent = 0
    for own, (floors, ceilings), shares in pairs:
        values = (
            floor_violations(own, floors),
            ceiling_violations(own, ceilings),
            infeasible_index(own, floors),
            min_skew(own, shares, SMOOTHING),
            max_skew(own, shares, SMOOTHING),
            ndkl(own, shares),
            awrf(exposure_shares(own, size), shares),
        )
        for name, value in zip(_PER_LIST, values, strict=True):
            columns[name].append(float(value))
        absent += bool((np.bincount(own, minlength=size)[shares > 0] == 0).any())
    per_list = {name: np.array(values) for name, values in columns.items()}
    exposure = _mean_shares(rows, size, "log2")
    mean_wanted = np.mean(wanted.shares, axis=0) if wanted.shares else np.zeros(size)
    found: Block = {
        "lists_below_a_floor": int((per_list["floor"] > 0).sum()),
        "floor_violations": int(per_list["floor"].sum()),
        "lists_above_a_ceiling": int((per_list["ceiling"] > 0).sum()),
        "ceiling_violations": int(per_list["ceiling"].sum()),
        "infeasible_index_mean": None,
        "min_skew_mean": None,
        "max_skew_mean": None,
        "lists_with_a_wanted_group_absent": absent,
        "ndkl_mean": None,
        "lists_with_infinite_ndkl": int(np.isinf(per_list["ndkl"]).sum()),
        "awrf_mean": None,
        "awrf_of_all_lists": None,
        **_expected(exposure, summed(table, deserved)),
        "reasons": {},
        "groups": {
            "exposure_share": exposure,
            "attention_share": _mean_shares(rows, size, "top_heavy"),
            "items_per_list": np.bincount(np.concatenate([[], *rows]).astype(int), minlength=size)
            / max(1, len(rows)),
        },
    }
    for name, column, why in (
        ("infeasible_index_mean", "infeasible", "no list"),
        ("min_skew_mean", "min_skew", "every list is empty"),
        ("max_skew_mean", "max_skew", "every list is empty"),
        ("ndkl_mean", "ndkl", "every list shows a group of wanted share 0"),
        ("awrf_mean", "awrf", "every list is empty"),
    ):
        known = per_list[column][np.isfinite(per_list[column])]
        if len(known):
            found[name] = float(known.mean())
        else:
            found["reasons"][name] = why
    overall = awrf(exposure, mean_wanted)
    if np.isfinite(overall):
        found["awrf_of_all_lists"] = overall
    else:
        found["reasons"]["awrf_of_all_lists"] = "every list is empty"
    return found


_PER_LIST = ("floor", "ceiling", "infeasible", "min_skew", "max_skew", "ndkl", "awrf")


def _mean_shares(rows: Sequence[Int32], size: int, discount: Any) -> Float64:
    """`[G]`: the groups' shares of a list's exposure, mean over the lists that are not empty."""
    total, lists = np.zeros(size), 0
    for own in rows:
        if len(own):
            weights = discounts(len(own), discount)
            total += np.bincount(own, weights=weights, minlength=size) / weights.sum()
            lists += 1
    return total / max(1, lists)
