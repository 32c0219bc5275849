"""The audit of a bundle's policies on held-out purchases: item side, user side, trade-off.

Owns the document's schema and the order of the work. Lists come from the served path.

    document = audit(bundle, prepared, Protocol())
    write_audit(document, Path("out/audit"))

`audit.json` (schema_version 1):

    kind            "audit"
    bundle_id, model_digest, dataset, protocol, intervals, made_unix_ms
    definitions     name -> what the number is, in words
    cells           every cell of users: {cell, labels, users, targets, status}; status is "measured"
                    or why there are no numbers: "too few (n=7)", "empty (n=0)", "bought nothing (n=..)";
                    targets is null in a cell of fewer than protocol.min_users users
    policies        name -> {policy, version, digest, kind, group_tables, lists, statuses,
                    utility_kept_mean, ndcg_kept (estimate: NDCG with / without the policy),
                    regret {against, lists, lists_without_one, mean, p99, max, reasons},
                    items {before, after: {catalogue_coverage, item_exposure_gini, ee_d, ee_r, ee_loss}},
                    tables [{group_table, wanted_shares_from {in_each_list, over_all_lists},
                    before, after: {lists_below_a_floor,
                    floor_violations, ..., ndkl_mean, awrf_mean, ee_d, ee_r, ee_loss, reasons},
                    groups [{group, wanted_share, wanted_share_in_lists, has_target,
                    exposure_share_before, ...}]}],
                    users {overall metric -> estimate, worst metric -> {cell, + its estimate},
                    cells cell -> metric -> estimate}}
    tradeoff        null, or as `training.audit.tradeoff` says

An estimate of a cell is {value, low, high, at_least, n_users, gap, gap_low, gap_high}, with
simultaneous intervals; `training.audit.user_side` defines them. No number is NaN or infinite:
null means that nothing could be measured, and "reason" or "reasons" beside it says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from server.bundle import Bundle
from server.engine.engine import Engine
from server.errors import Refused, listed
from server.features.types import Int32
from training.audit.cells import cells_of
from training.audit.collect import Collected, Relevance, collect
from training.audit.item_side import SMOOTHING, facts_of
from training.audit.tradeoff import tradeoff
from training.audit.user_side import Cells
from training.data.prepare import Prepared
from training.evaluate import made_of
from training.intervals import Resampler
from training.metrics import PerUser, hits, ndcg, recall
from training.served import plain_policy, refuse_a_bundle_that_has_seen
from training.task import OnStep, Task, places_in_data, task_of
from training.user_groups import MIN_USERS, groups_of

DEFINITIONS = {
    "before": "the plain policy's lists for the same users; after: the policy's",
    "floor_violations": "(group, prefix) pairs below their floor, over all lists: InfeasibleCount",
    "infeasible_index_mean": "prefixes of a list with a group below its floor, mean over lists",
    "min_skew_mean": "log of share in the list over wanted share, of the lowest group, smoothed; mean "
    "over lists. max_skew_mean: of the highest",
    "smoothing": f"as if every list had {SMOOTHING:g} more places for each group of the table, shared as "
    "wanted: a list in the wanted proportions has skew 0. Where a table has more groups than a list has "
    "places, they weigh more than the list's own, and skews say little",
    "lists_with_a_wanted_group_absent": "lists whose unsmoothed MinSkew is minus infinity",
    "ndkl_mean": "NDKL to the wanted shares, mean over the lists for which it is finite",
    "awrf_mean": "1 - Jensen-Shannon divergence (bits) of a list's exposure from the wanted shares, "
    "mean over lists; awrf_of_all_lists: of the mean exposure from the shares wanted over all lists",
    "wanted_shares_from": "in_each_list: what floors, skews, NDKL and AWRF of a list are measured "
    "against; over_all_lists: what awrf_of_all_lists is. They differ where a policy evens out the "
    "exposure of a table over all lists and bounds it in each list too",
    "wanted_share": "over all lists: the targets of the policy's amortised rule where it evens out this "
    "table, else the mean of wanted_share_in_lists",
    "has_target": "whether the policy or the user's own shares want wanted_share of the group; if not, "
    "it is the catalogue's part, or of what the policy's shares leave over: a yardstick and no target",
    "ee_d": "sum of squares of expected exposure, each list's exposure adding up to 1: lists are "
    "samples of one stochastic policy. Of items: over the bundle's; of a table: over its groups",
    "ee_r": "expected exposure times deserved exposure, summed; deserved: of each user the items "
    "bought after the cut share the top places equally and all others the rest, mean over users",
    "ee_loss": "squared distance of the two: ee_d - 2 ee_r + sum of squares of deserved exposure",
    "exposure_share": "share of the sum of 1 / log2(rank + 1), mean over lists; attention_share: of "
    "0.8^(rank - 1)",
    "regret": "1 - DCG of model scores over that of the best list of the same candidates which keeps "
    "the bounds: exact by assignment for one group table, a bound from above for several",
    "roc_auc": "how likely a candidate that was bought scores above one that was not, per user; "
    "candidates alone, so items that were never candidates do not count",
}


@dataclass(frozen=True)
class Protocol:
    """How to audit. The defaults are those that published numbers of this project use."""

    on: str = "test"
    """"test", or "validation" while something is still being tuned."""
    policies: tuple[str, ...] = ()
    """Policies to audit; none named: all of the bundle's."""
    k: int = 20
    """Length of a list."""
    min_users: int = MIN_USERS
    """The k-anonymity floor: of fewer users in a cell nothing is told but their number."""
    resamples: int = 2000
    """Bootstrap resamples: more is a steadier interval."""
    confidence: float = 0.95
    """How sure simultaneous intervals are to hold for all cells together."""
    seed: int = 20
    """Seed of the bootstrap and of the users drawn for the trade-off."""
    user_attributes: tuple[str, ...] | None = None
    """User attributes whose groups are reported; None: all that the data has."""
    tradeoff_users: int = 0
    """Users on whom every kind of policy is swept over its parameter; 0: no trade-off."""


def audit(
    bundle: Bundle,
    prepared: Prepared,
    protocol: Protocol,
    on_step: OnStep = lambda what, done, total: None,
) -> dict[str, Any]:
    """The document of `bundle` on the held-out part of `prepared`.

    Raises:
        Refused: as `training.evaluate.evaluate`; or the bundle has no such policy.
    """
    engine = Engine(bundle)
    task = task_of(prepared, protocol.on)
    refuse_a_bundle_that_has_seen(engine, task.cut_ms)
    plain = plain_policy(engine)
    to_data = places_in_data(bundle, prepared.dataset)
    chosen = _chosen(bundle, protocol.policies)
    users, k = task.targets.users, protocol.k
    relevance = Relevance.of(bundle, task)
    groups = groups_of(prepared.dataset, users, protocol.user_attributes)
    sample = Resampler(
        len(users), resamples=protocol.resamples, confidence=protocol.confidence, seed=protocol.seed
    )
    cells = Cells(
        cells_of(groups, np.diff(task.targets.ptr), protocol.min_users),
        sample,
        protocol.min_users,
    )

    def lists_of(name: str) -> Collected:
        told = partial(_told, on_step, f"policy {name}", len(users))
        return collect(bundle, task, relevance, name, k=k, on_users=told)

    before = lists_of(plain)
    plainly = per_user_of(task, to_data, before, k)
    policies = {}
    for name in chosen:
        after = before if name == plain else lists_of(name)
        measured = per_user_of(task, to_data, after, k)
        kept = sample.ratio(measured[f"ndcg_at_{k}"], plainly[f"ndcg_at_{k}"])
        policies[name] = {
            **facts_of(bundle, before.lists, after, relevance),
            "ndcg_kept": kept.as_json(),
            "users": cells.facts(measured),
        }
    swept = None
    if protocol.tradeoff_users:
        rng = np.random.default_rng(protocol.seed)
        size = min(protocol.tradeoff_users, len(users))
        drawn = np.sort(rng.choice(len(users), size, replace=False)).astype(np.int32)
        swept = tradeoff(
            bundle, task, to_data, drawn, k=k, resamples=protocol.resamples,
            confidence=protocol.confidence, seed=protocol.seed, on_step=on_step,
        )  # fmt: skip
    return {
        "kind": "audit",
        "schema_version": 1,
        **made_of(bundle, prepared),
        "protocol": {
            "split": prepared.split.protocol,
            "on": protocol.on,
            "history_until_unix_ms": task.cut_ms,
            "targets_until_unix_ms": task.until_ms,
            "k": k,
            "n_users": len(users),
            "before": plain,
            "default_policy": bundle.manifest.default_policy,
            "served_path": True,
            "user_attributes": list(groups),
            "min_users": protocol.min_users,
            "skew_smoothing": SMOOTHING,
            "targets": len(task.targets.items),
            "targets_unknown_to_bundle": relevance.unknown,
            "exposure_over_time": "each policy starts from an empty ledger; users in order of their id",
        },
        "intervals": {
            "confidence": protocol.confidence,
            "resamples": protocol.resamples,
            "seed": protocol.seed,
            "unit": "user",
            "method": "overall: percentile bootstrap; cells: simultaneous over the measured cells of "
            "one metric and policy, bootstrap of the max-type statistic",
        },
        "definitions": DEFINITIONS,
        "cells": cells.as_json(),
        "policies": policies,
        "tradeoff": swept,
    }


def per_user_of(task: Task, to_data: Int32, lists: Collected, k: int) -> PerUser:
    """The user side's metrics, first basket first; lists in bundle places."""
    values: PerUser = {}
    targets = task.targets
    for prefix, ptr, items, auc in (
        ("first_basket_", targets.first_ptr, targets.first_items, lists.first_auc),
        ("", targets.ptr, targets.items, lists.auc),
    ):
        found = hits(to_data[lists.lists], ptr, items)
        values[f"{prefix}ndcg_at_{k}"] = ndcg(found, np.diff(ptr))
        values[f"{prefix}recall_at_{k}"] = recall(found, np.diff(ptr))
        values[f"{prefix}roc_auc"] = auc
    return values


def _chosen(bundle: Bundle, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in bundle.policies:
            raise Refused(
                f"--policy: bundle {bundle.manifest.bundle_id} has no policy {name!r}; it has: "
                f"{listed(bundle.policies)}"
            )
    return list(dict.fromkeys(names)) or list(bundle.policies)


def _told(on_step: OnStep, what: str, total: int, done: int) -> None:
    on_step(what, done, total)
