"""Are all groups of users served alike? Quality per group, and the worst of them.

Owns which user attributes are groups. Users are resampled within their group.
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
from training.intervals import Resampler
from training.metrics import PerUser, hits

MAX_LABELS = 12
"""An attribute with more labels than this is no partition into groups to report on."""

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
) -> dict[str, dict[str, dict[str, Any]]]:
    """attribute -> label -> metric -> estimate with its interval over the group's users."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for attribute, labels in groups.items():
        out[attribute] = {}
        for label in sorted(set(labels.tolist())):
            members = labels == label
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


def group_counts(
    targets: Targets, lists: Int32, groups: Groups
) -> dict[str, dict[str, dict[str, int]]]:
    """attribute -> label -> users, targets and hits, whole period and first basket."""
    found = hits(lists, targets.ptr, targets.items).sum(axis=1)
    first = hits(lists, targets.first_ptr, targets.first_items).sum(axis=1)
    columns = {
        "users": np.ones(len(targets), np.int64),
        "targets": np.diff(targets.ptr),
        "hits": found,
        "first_basket_targets": np.diff(targets.first_ptr),
        "first_basket_hits": first,
    }
    return {
        attribute: {
            label: {name: int(values[labels == label].sum()) for name, values in columns.items()}
            for label in sorted(set(labels.tolist()))
        }
        for attribute, labels in groups.items()
    }


def worst_groups(by_group: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """The lowest group per attribute and metric; a group without a value is the worst of all."""
    out: dict[str, dict[str, Any]] = {}
    for attribute, labels in by_group.items():
        known = {label: metrics for label, metrics in labels.items() if label != UNKNOWN}
        if not known:
            continue
        out[attribute] = {}
        for metric in next(iter(known.values())):
            value = {label: metrics[metric]["value"] for label, metrics in known.items()}
            label = min(value, key=lambda one: -np.inf if value[one] is None else value[one])
            out[attribute][metric] = {"label": label, **known[label][metric]}
    return out
