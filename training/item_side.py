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
            gini(item_exposure(lists, n_items)), None, None, len(lists), "lower"
        ).as_json(),
    }


def item_exposure(lists: Int32, n_items: int) -> Float64:
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
        "not_found": statuses.count(Status.NOT_FOUND),
        "utility_of_best_mean": _mean(
            [receipt.utility_of_best for receipt in after.receipts if receipt.utility_of_best > 0]
        ),
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
    if not compiled.labels:
        return facts
    places = {
        "before": [row[row >= 0] for row in before],
        "after": [row[row >= 0] for row in after.items],
    }
    for when in places:
        # A calibrated policy's bounds are each user's own: its receipts speak of them.
        none = None if compiled.calibrations else 0
        facts[f"floor_violations_{when}"] = facts[f"ceiling_violations_{when}"] = none
    for name, (first, end) in zip(compiled.policy.tables, compiled.blocks, strict=True):
        codes = bundle.groups[name].codes
        shares = {}
        for when, rows in places.items():
            groups = [codes[row] for row in rows]
            shares[when] = np.mean([exposure_shares(own, end - first) for own in groups], axis=0)
            if not compiled.calibrations:
                floors, ceilings = compiled.floors[first:end], compiled.ceilings[first:end]
                facts[f"floor_violations_{when}"] += sum(
                    floor_violations(own, floors) for own in groups
                )
                facts[f"ceiling_violations_{when}"] += sum(
                    ceiling_violations(own, ceilings) for own in groups
                )
        facts["groups"] += [
            {
                "group": label,
                "share_before": float(shares["before"][code]),
                "share_after": float(shares["after"][code]),
            }
            for code, label in enumerate(compiled.labels[first:end])
            if len(places["after"])
        ]
    gaps = [gap for receipt in after.receipts for gap in receipt.calibration]
    if gaps:
        facts["divergence_before_mean"] = _mean([gap.before for gap in gaps])
        facts["divergence_after_mean"] = _mean([gap.after for gap in gaps])
    return facts


def _mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None
