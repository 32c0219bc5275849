"""What a policy does to items and their groups: bounds, skew, divergence, exposure, regret.

Owns the item side of the audit's document, each number before (the plain policy's list) and
after. Formulae are in `server.fairness.metrics`; what shares groups are measured against, in
`training.audit.wanted`. A table whose exposure the policy evens out is measured too where
nothing bounds it.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from training.audit.wanted import Wanted, catalogue_shares, wanted_shares

SMOOTHING = 1.0
"""Places added per group before a skew is taken, shared as wanted: an absent group has a skew."""

Block = dict[str, Any]
"""Names to numbers, null where nothing could be measured; "reasons" says why."""


def summed(table: GroupTable, per_item: Float64) -> Float64:
    """Values of items `[n_items]` added up by group, `[G]`."""
    total = np.bincount(table.codes, weights=per_item, minlength=len(table.labels))
    return total.astype(np.float64)


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
            _table(bundle.groups[name], before, collected, deserved)
            for name in _tables(collected.compiled)
        ],
    }


def _tables(compiled: CompiledPolicy) -> list[str]:
    """The tables of the policy's bounds, and the one whose exposure it evens out."""
    evened = compiled.amortisation
    own = () if evened is None else (evened.group_table,)
    return list(dict.fromkeys((*compiled.policy.tables, *own)))


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
    table: GroupTable, before: Int32, collected: Collected, deserved: Float64
) -> dict[str, Any]:
    wanted = wanted_shares(collected, table)
    bounds = _bounds(table, collected, before.shape[1])
    measured = {
        when: _lists(table, lists, bounds, wanted, deserved)
        for when, lists in (("before", before), ("after", collected.lists))
    }
    catalogue, in_lists = catalogue_shares(table), wanted.in_lists
    due = summed(table, deserved)
    groups = {when: block.pop("groups") for when, block in measured.items()}
    return {
        "group_table": table.name,
        "wanted_shares_from": {
            "in_each_list": wanted.source,
            "over_all_lists": wanted.over_all_source,
        },
        **measured,
        "groups": [
            {
                "group": label,
                "catalogue_items": int(table.sizes.items[row]),
                "catalogue_share": float(catalogue[row]),
                "wanted_share": float(wanted.over_all[row]),
                "wanted_share_in_lists": float(in_lists[row]),
                "has_target": bool(wanted.targets[row]),
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


def _bounds(table: GroupTable, collected: Collected, k: int) -> list[tuple[Int32, Int32]]:
    """Floors and ceilings of every list; none where the table's exposure is only evened out."""
    compiled = collected.compiled
    if table.name not in compiled.policy.tables:
        every = np.tile(np.arange(k + 1, dtype=np.int32), (len(table.labels), 1))
        return [(np.zeros_like(every), every)] * len(collected.own)
    first, end = compiled.blocks[compiled.policy.tables.index(table.name)]
    return [(own.floors[first:end], own.ceilings[first:end]) for own in collected.own]


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
    overall = awrf(exposure, wanted.over_all)
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
