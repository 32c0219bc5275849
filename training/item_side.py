"""What lists do to items and their groups: coverage, concentration, exposure, receipts."""

from __future__ import annotations

from typing import Any

import numpy as np

from server.bundle import Bundle
from server.fairness import Status
from server.fairness.discount import discounts
from server.fairness.metrics import (
    ceiling_violations,
    coverage,
    exposure_shares,
    floor_violations,
    gini,
)
from server.features.types import Float64, Int32
from training.intervals import Estimate
from training.served import ServedLists


def item_side(lists: Int32, n_items: int, k: int) -> dict[str, Any]:
    """How much of the catalogue is shown, and how unevenly; lists `[users, k]`, -1 for no item."""
    shown = lists[lists >= 0]
    return {
        f"catalogue_coverage_at_{k}": Estimate(
            coverage(shown, n_items), None, None, len(lists)
        ).as_json(),
        "item_exposure_gini": Estimate(
            gini(_item_exposure(lists, n_items)), None, None, len(lists), "lower"
        ).as_json(),
    }


def _item_exposure(lists: Int32, n_items: int) -> Float64:
    """`[n_items]`: the sum of `1 / log2(rank + 1)` over the lists that an item is in."""
    weights = np.broadcast_to(discounts(lists.shape[1]), lists.shape)
    shown = lists >= 0
    total = np.zeros(n_items)
    np.add.at(total, lists[shown], weights[shown])
    return total


def policy_facts(bundle: Bundle, before: Int32, after: ServedLists) -> dict[str, Any]:
    """What the receipts say, and the exposure of the policy's groups before and after it."""
    compiled = bundle.policies[after.policy]
    statuses = [receipt.status for receipt in after.receipts]
    facts: dict[str, Any] = {
        "policy": after.policy,
        "version": compiled.policy.version,
        "digest": compiled.policy.digest,
        "kind": compiled.policy.kind,
        "group_table": compiled.policy.group_table,
        "lists": len(statuses),
        "met": statuses.count(Status.MET),
        "infeasible": statuses.count(Status.INFEASIBLE),
        "skipped": statuses.count(Status.SKIPPED),
        "utility_kept_mean": _mean([receipt.utility_kept for receipt in after.receipts]),
        "places_moved_mean": _mean([float(receipt.places_moved) for receipt in after.receipts]),
        **{
            name: estimate["value"]
            for name, estimate in item_side(
                after.items, len(bundle.items.ids), after.items.shape[1]
            ).items()
        },
        "groups": [],
    }
    table = bundle.groups.get(compiled.policy.group_table)
    if table is None:
        return facts
    codes = {
        "before": [table.codes[row[row >= 0]] for row in before],
        "after": [table.codes[row[row >= 0]] for row in after.items],
    }
    shares = {
        when: np.mean([exposure_shares(row, len(table.labels)) for row in rows], axis=0)
        for when, rows in codes.items()
        if rows
    }
    for when, rows in codes.items():
        facts[f"floor_violations_{when}"] = sum(
            floor_violations(row, compiled.floors) for row in rows
        )
        facts[f"ceiling_violations_{when}"] = sum(
            ceiling_violations(row, compiled.ceilings) for row in rows
        )
    facts["groups"] = [
        {
            "group": label,
            "share_before": float(shares["before"][code]),
            "share_after": float(shares["after"][code]),
        }
        for code, label in enumerate(table.labels)
        if shares
    ]
    return facts


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
