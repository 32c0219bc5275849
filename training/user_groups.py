"""Are all groups of users served alike? Quality per group, and the worst of them.

Owns which user attributes are groups, and the k-anonymity floor: of a group of fewer users
nothing is told but their number. Users are resampled within their group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.errors import Refused, listed
from server.features.types import Int32
from training.data.dataset import Dataset
from training.data.schema import UNKNOWN
from training.data.split import Targets
from training.intervals import Estimate, Resampler
from training.metrics import PerUser, hits

MAX_LABELS = 12
"""An attribute with more labels than this is no partition into groups to report on."""

MIN_USERS = 20
"""The k-anonymity floor of evaluation and audit, unless their caller says another."""

GROUP_METRICS = ("ndcg_at_{k}", "first_basket_recall_at_{k}")

Groups = Mapping[str, NDArray[Any]]
"""Attribute -> one label per evaluated user."""


def groups_of(dataset: Dataset, users: Int32, wanted: Sequence[str] | None) -> Groups:
    """The labels of `users` under the wanted attributes; None: every attribute with few labels.

    Raises:
        Refused: the data has no such attribute, or it has too many labels to be groups.
    """
    known = dataset.user_attributes
    labels = {name: len(set(values)) for name, values in known.items()}
    if wanted is None:
        wanted = [name for name, count in labels.items() if 1 < count <= MAX_LABELS]
    for name in wanted:
        if name not in known:
            raise Refused(
                f"--group-by: users have no attribute {name!r}; there are: {listed(known)}"
            )
        if labels[name] > MAX_LABELS:
            raise Refused(
                f"--group-by: {name!r} has {labels[name]} different values, allowed: {MAX_LABELS}"
            )
    return {name: np.array(known[name])[users] for name in wanted}


def group_metrics(
    per_user: PerUser,
    groups: Groups,
    *,
    k: int,
    resamples: int,
    confidence: float,
    seed: int,
    min_users: int,
) -> dict[str, dict[str, dict[str, Any]]]:
    """attribute -> label -> metric -> estimate with its interval over the group's users.

    A group below `min_users` keeps its place, with `withheld` to say why it has no values: it can
    be left out of a comparison by name, but not overlooked in one.
    """
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for attribute, labels in groups.items():
        out[attribute] = {}
        for label in sorted(set(labels.tolist())):
            members = labels == label
            if members.sum() < min_users:
                hidden = withheld(int(members.sum()), min_users)
                out[attribute][label] = {name.format(k=k): dict(hidden) for name in GROUP_METRICS}
                continue
            sample = Resampler(
                int(members.sum()),
                resamples=resamples,
                confidence=confidence,
                seed=seed,
            )
            out[attribute][label] = {
                metric: sample.mean(per_user[metric][members]).as_json()
                for metric in (name.format(k=k) for name in GROUP_METRICS)
            }
    return out


def withheld(users: int, min_users: int) -> dict[str, Any]:
    none = Estimate(None, None, None, users).as_json()
    return none | {"withheld": f"{users} users, fewer than {min_users}"}


def group_counts(
    targets: Targets, lists: Int32, groups: Groups, min_users: int
) -> dict[str, dict[str, dict[str, int | None]]]:
    """attribute -> label -> users, targets and hits, whole period and first basket.

    Below `min_users` only the users are told.
    """
    found = hits(lists, targets.ptr, targets.items).sum(axis=1)
    first = hits(lists, targets.first_ptr, targets.first_items).sum(axis=1)
    columns = {
        "users": np.ones(len(targets), np.int64),
        "targets": np.diff(targets.ptr),
        "hits": found,
        "first_basket_targets": np.diff(targets.first_ptr),
        "first_basket_hits": first,
    }
    counted: dict[str, dict[str, dict[str, int | None]]] = {}
    for attribute, labels in groups.items():
        counted[attribute] = {}
        for label in sorted(set(labels.tolist())):
            members = labels == label
            enough = members.sum() >= min_users
            counted[attribute][label] = {
                name: int(values[members].sum()) if enough or name == "users" else None
                for name, values in columns.items()
            }
    return counted


def worst_groups(by_group: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The lowest group per attribute and metric; a group without a value is the worst of all.

    Where groups are withheld the lowest of the others is told, and that it is one of the others.
    """
    out: dict[str, dict[str, Any]] = {}
    for attribute, labels in by_group.items():
        known = {label: metrics for label, metrics in labels.items() if label != UNKNOWN}
        if not known:
            continue
        out[attribute] = {}
        for metric in next(iter(known.values())):
            told = {n: metrics[metric] for n, metrics in known.items()}
            value = {n: one["value"] for n, one in told.items() if "withheld" not in one}
            worst = min(
                value, key=lambda n: -np.inf if value[n] is None else value[n], default=None
            )
            none = Estimate(None, None, None, 0).as_json()
            entry = {"label": worst, **(none if worst is None else told[worst])}
            if hidden := [label for label in told if label not in value]:
                entry["withheld"] = f"groups with too few users: {listed(hidden)}"
            out[attribute][metric] = entry
    return out
