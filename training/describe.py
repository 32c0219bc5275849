"""What prepared data is like, before minutes are spent on it: counts, cuts, groups, warnings.

Owns what is counted and when a warning is due. Must not train anything, or know how it is printed.

    facts = describe(prepared)      # plain JSON
    facts["cuts"], facts["warnings"]
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import Refused
from server.features.types import DAY_MS, Int64
from training.data.dataset import Dataset
from training.data.groups import fell_on
from training.data.prepare import Prepared
from training.data.schema import BOUGHT, UNKNOWN
from training.data.split import targets_between

QUANTILES = {"min": 0.0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "99 %": 0.99, "max": 1.0}

GIANT_SHARE, GIANT_TIMES = 0.05, 10
"""One user is told of from this share of all events on, if it is so many times the median."""
ONCE_SHARE = 0.3
DROPPED_SHARE = 0.1
ADDED_UP_SHARE = 0.05
ONE_INSTANT_SHARE = 0.2
STRAGGLERS_SHARE, STRAGGLERS_AFTER_DAYS = 0.01, 7
CONSTANT_SHARE = 0.99
UNKNOWN_SHARE = 0.5
FEW_USERS = 200
RARELY_AGAIN = 0.05
LISTED = 5
LEAST_EVENTS = 3
"""Of a user whose last two events are held out."""


def describe(
    prepared: Prepared, policies: Path | None = None, default_policy: str | None = None
) -> dict[str, Any]:
    """Everything that `equipoise train --dry-run` tells, as plain JSON.

    policies, default_policy: as for `training.choose_policies`.
    """
    data, cleaning, split = prepared.dataset, prepared.cleaning, prepared.split
    per_user = np.diff(data.user_ptr)
    per_item = np.bincount(data.items, minlength=data.n_items)
    pairs, again = _pairs(data)
    baskets = int(data.baskets[-1]) + 1 if data.n_events else 0
    kinds = prepared.tables.interactions["kind"].value_counts().sort("kind")
    in_order = split.protocol.startswith("leave-one-out")
    facts: dict[str, Any] = {
        "source": data.source,
        "protocol": split.protocol,
        "rows_in": cleaning.rows_in,
        "dropped": [{"reason": why, "rows": rows} for why, rows in cleaning.dropped],
        "rows_out": cleaning.rows_out,
        "kinds": {str(kind): int(rows) for kind, rows in kinds.iter_rows()},
        "users": data.n_users,
        "items": data.n_items,
        "events": data.n_events,
        "baskets": baskets,
        "density": pairs / (data.n_users * data.n_items),
        "repeat_share": again / data.n_events,
        "time": None if in_order else _times(data),
        "quantiles": {
            "events per user": _quantiles(per_user),
            "events per item": _quantiles(per_item),
            "items per basket": _quantiles(np.bincount(data.baskets)),
            "history at the test": _quantiles(
                np.diff(data.until(split.validation_until_ms).user_ptr)
            ),
        },
        "cuts": _cuts(prepared),
        "users_of_three_events": int((per_user >= LEAST_EVENTS).sum()),
        "groups": [
            asdict(group) | {"lost_share": group.lost_share, "share_of_rows": share}
            for group, share in zip(cleaning.groups, _shares(prepared), strict=True)
        ],
        "attributes": [*_attributes(data.user_attributes), *_attributes(data.item_attributes)],
        "policies": _policies(data.until(split.validation_until_ms), policies, default_policy),
        "notes": list(prepared.tables.notes),
    }
    facts["warnings"] = _warnings(prepared, facts, per_user, per_item)
    return facts


def _pairs(data: Dataset) -> tuple[int, int]:
    """How many different pairs of user and item there are, and how many events are of a pair that the
    user bought in an earlier basket."""
    key = data.event_users.astype(np.int64) * data.n_items + data.items
    pairs = _distinct(key)
    return pairs, _distinct(data.baskets * data.n_items + data.items) - pairs


def _distinct(key: Int64) -> int:
    """How many different values there are; to sort numbers is far faster than np.unique's hashing."""
    ordered = np.sort(key)
    return int((ordered[1:] != ordered[:-1]).sum()) + 1


def _quantiles(counts: NDArray[Any]) -> dict[str, float]:
    if not len(counts):
        return {}
    values = np.quantile(counts, list(QUANTILES.values()), method="inverted_cdf")
    return {name: float(value) for name, value in zip(QUANTILES, values, strict=True)}


def _times(data: Dataset) -> dict[str, Any]:
    first, last = int(data.times_ms.min()), data.last_ms
    days, counts = np.unique(data.times_ms // DAY_MS, return_counts=True)
    gaps = np.diff(days)
    late = counts[::-1].cumsum()[::-1][1:] <= max(1.0, STRAGGLERS_SHARE * data.n_events)
    wide = (gaps > STRAGGLERS_AFTER_DAYS) & late
    at = int(np.argmax(wide)) if wide.any() else None
    instants, times = np.unique(data.times_ms, return_counts=True)
    return {
        "first": _moment(first),
        "last": _moment(last),
        "days": (last - first) / DAY_MS,
        "days_with_events": len(days),
        "largest_gap_days": int(gaps.max()) if len(gaps) else 0,
        "only_days": bool((instants % DAY_MS == 0).all()),
        "commonest_instant": _moment(int(instants[times.argmax()])),
        "commonest_instant_share": float(times.max() / data.n_events),
        "stragglers": None
        if at is None
        else {
            "events": int(counts[at + 1 :].sum()),
            "after": _moment(int(days[at]) * DAY_MS)[:10],
            "gap_days": int(gaps[at]),
        },
    }


def _cuts(prepared: Prepared) -> list[dict[str, Any]]:
    """The windows, and in how many users' lists there is something to find."""
    data, split = prepared.dataset, prepared.split
    in_order = split.protocol.startswith("leave-one-out")
    train = data.until(split.train_until_ms)
    told: list[dict[str, Any]] = [
        {
            "part": "train",
            "after": None,
            "until": None if in_order else _moment(split.train_until_ms),
            "events": train.n_events,
            "users": int((np.diff(train.user_ptr) > 0).sum()),
        }
    ]
    for part, after, until in (
        ("validation", split.train_until_ms, split.validation_until_ms),
        ("test", split.validation_until_ms, split.test_until_ms),
    ):
        window = data.between(after, until)
        active = np.diff(window.user_ptr) > 0
        targets = targets_between(data, after, until)
        known_items = np.bincount(data.until(after).items, minlength=data.n_items) > 0
        told.append(
            {
                "part": part,
                "after": None if in_order else _moment(after),
                "until": None if in_order else _moment(until),
                "events": window.n_events,
                "users": int(active.sum()),
                "users_with_targets": len(targets),
                "users_without_history": int(active.sum()) - len(targets),
                "targets": len(targets.items),
                "targets_of_new_items": int((~known_items[targets.items]).sum()),
            }
        )
    return told


def _shares(prepared: Prepared) -> list[float]:
    total: Counter[tuple[str, str]] = Counter()
    for group in prepared.cleaning.groups:
        total[group.side, group.attribute] += group.rows_out
    return [
        group.rows_out / max(1, total[group.side, group.attribute])
        for group in prepared.cleaning.groups
    ]


def _attributes(attributes: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    told = []
    for name, values in attributes.items():
        if name == "name" or not values:
            continue
        labels = Counter(values)
        label, count = labels.most_common(1)[0]
        told.append(
            {
                "attribute": name,
                "labels": len(labels),
                "unknown_share": labels[UNKNOWN] / len(values),
                "commonest": label,
                "commonest_share": count / len(values),
            }
        )
    return told


def _policies(history: Dataset, folder: Path | None, default: str | None) -> dict[str, Any]:
    """Which policies the bundle would have, or why training would refuse them."""
    from training.choose_policies import choose_policies
    from training.fit_features import with_levels
    from training.release import group_tables

    none: dict[str, Any] = {"fit": [], "default": None, "left_out": {}, "never_met": {}}
    if not history.n_events:
        return none | {"group_tables": []}
    groups = group_tables(with_levels(history))
    try:
        chosen = choose_policies(folder, default, groups)
    except Refused as refused:
        return none | {"group_tables": [table.name for table in groups], "refused": str(refused)}
    return {
        "group_tables": [table.name for table in groups],
        "fit": sorted(chosen.documents),
        "default": chosen.default,
        "left_out": chosen.left_out,
        "never_met": chosen.never_met,
    }


def _warnings(
    prepared: Prepared, facts: dict[str, Any], per_user: Int64, per_item: NDArray[Any]
) -> list[str]:
    """One sentence each."""
    data = prepared.dataset
    told: list[str] = []
    dropped = {why: rows for why, rows in prepared.cleaning.dropped if rows}
    for why, rows in dropped.items():
        share = rows / prepared.cleaning.rows_in
        if "added up" in why and share >= ADDED_UP_SHARE:
            told.append(f"{share:.0%} of the rows are duplicates: the same item again in a basket")
        elif "added up" not in why and share >= DROPPED_SHARE:
            told.append(f"{share:.0%} of the rows are dropped: {why}")
    told += _of_cleaning(prepared)
    giant = int(per_user.argmax())
    share = per_user[giant] / data.n_events
    if share >= GIANT_SHARE and per_user[giant] >= GIANT_TIMES * np.median(per_user):
        told.append(
            f"one user, {data.user_ids[giant]!r}, has {share:.0%} of all events: a shop's own account, "
            "or a machine?"
        )
    once = float((per_item == 1).mean())
    if once >= ONCE_SHARE:
        told.append(f"{once:.0%} of the items were bought once: of them nothing can be learned but "
                    "what --items tells")  # fmt: skip
    told += _of_times(facts)
    told += _of_attributes(facts)
    for cut in facts["cuts"][1:]:
        users = cut["users_with_targets"]
        if not users:
            told.append(f"nobody with a history has an event in the {cut['part']} window: training "
                        "will refuse this data")  # fmt: skip
        elif users < FEW_USERS:
            told.append(f"{users:,} users have targets in the {cut['part']} window: its intervals "
                        "will be wide")  # fmt: skip
    if "refused" in facts["policies"]:
        told.append(f"training will refuse the policies: {facts['policies']['refused']}")
    others = sum(rows for kind, rows in facts["kinds"].items() if kind != BOUGHT)
    if others:
        told.append(
            f"{others:,} rows are of other kinds than {BOUGHT}: nothing is learned from them"
        )
    if facts["repeat_share"] < RARELY_AGAIN:
        told.append(
            f"{facts['repeat_share']:.1%} of the events are repeats: what counts here is what comes "
            "next; try --family auto"
        )
    return told


def _of_cleaning(prepared: Prepared) -> list[str]:
    """A sentence for each attribute of which cleaning took far more of some groups, the worst first."""
    fallen: dict[str, list[tuple[float, str]]] = {}
    for group, others in fell_on(prepared.cleaning.groups):
        fallen.setdefault(group.attribute, []).append(
            (
                group.lost_share,
                f"{group.label!r} ({group.lost_share:.0%} of its rows; of the others {others:.0%})",
            )
        )
    told = []
    for attribute, groups in fallen.items():
        worst = [text for _, text in sorted(groups, reverse=True)]
        more = f" and {len(worst) - LISTED} more" if len(worst) > LISTED else ""
        told.append(f"cleaning falls on {attribute} {', '.join(worst[:LISTED])}{more}")
    return told


def _of_attributes(facts: dict[str, Any]) -> list[str]:
    told: list[str] = []
    untold: dict[str, list[str]] = {}
    for attribute in facts["attributes"]:
        name, label = attribute["attribute"], attribute["commonest"]
        share = f"{attribute['unknown_share']:.0%}"
        if attribute["unknown_share"] == 1:
            continue
        if attribute["labels"] == 1:
            told.append(f"{name} is {label!r} throughout: it parts nothing into groups")
        elif attribute["commonest_share"] >= CONSTANT_SHARE and label != UNKNOWN:
            told.append(
                f"{name} is {label!r} for {attribute['commonest_share']:.1%}: nearly constant"
            )
        elif attribute["unknown_share"] >= UNKNOWN_SHARE:
            untold.setdefault(share, []).append(name)
    return told + [f"unknown for {share}: {', '.join(names)}" for share, names in untold.items()]


def _of_times(facts: dict[str, Any]) -> list[str]:
    times = facts["time"]
    if times is None:
        return []
    told = []
    if times["commonest_instant_share"] >= ONE_INSTANT_SHARE:
        told.append(
            f"{times['commonest_instant_share']:.0%} of the events are at {times['commonest_instant']}:"
            " is that a time, or the date of an import?"
        )
    if times["stragglers"] is not None:
        late = times["stragglers"]
        told.append(
            f"{late['events']:,} events come after a gap of {late['gap_days']:,} days from "
            f"{late['after']} on: all cuts are counted back from the last, so leave them out"
        )
    return told


def _moment(unix_ms: int) -> str:
    return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
