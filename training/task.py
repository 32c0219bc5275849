"""Held-out users with their histories and targets, and where their items stand in a bundle.

Owns the two cuts, validation and test, for whatever is measured. Must not know how lists are made.

    task = task_of(prepared, "test")
    task.measured(lists, novel_lists, k=20)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from server.bundle import Bundle
from server.errors import Refused
from server.features.types import Int32, Int64
from training.data.dataset import Dataset
from training.data.prepare import Prepared
from training.data.split import Targets, targets_between
from training.metrics import PerUser, hits, ndcg, recall, without

OnStep = Callable[[str, int, int], None]
"""Told (what, users done in it, users in all), for a progress bar."""


@dataclass(frozen=True)
class Task:
    """What is asked: users with a history up to `cut_ms`, and what they bought after it.

    novel_ptr, novel_items: their targets without the items of their history.
    """

    history: Dataset
    targets: Targets
    cut_ms: int
    until_ms: int
    novel_ptr: Int64
    novel_items: Int32

    def measured(self, lists: Int32, novel_lists: Int32, k: int) -> PerUser:
        """All per-user metrics of lists in places of the data set."""
        targets = self.targets
        values: PerUser = {}
        for prefix, ranked, ptr, items in (
            ("", lists, targets.ptr, targets.items),
            ("first_basket_", lists, targets.first_ptr, targets.first_items),
            ("novel_", novel_lists, self.novel_ptr, self.novel_items),
        ):
            found = hits(ranked, ptr, items)
            values[f"{prefix}ndcg_at_{k}"] = ndcg(found, np.diff(ptr))
            values[f"{prefix}recall_at_{k}"] = recall(found, np.diff(ptr))
        return values


def task_of(prepared: Prepared, on: str) -> Task:
    """The users and targets of the held-out part `on`: "test" or "validation"."""
    split, dataset = prepared.split, prepared.dataset
    cut_ms, until_ms = (
        (split.validation_until_ms, split.test_until_ms)
        if on == "test"
        else (split.train_until_ms, split.validation_until_ms)
    )
    history = dataset.until(cut_ms)
    targets = targets_between(dataset, cut_ms, until_ms)
    lengths = np.diff(history.user_ptr)
    own_ptr = np.concatenate([[0], np.cumsum(lengths[targets.users])]).astype(np.int64)
    asked = np.zeros(dataset.n_users, np.bool_)
    asked[targets.users] = True
    own = history.items[asked[history.event_users]]
    novel_ptr, novel_items = without(targets.ptr, targets.items, own_ptr, own)
    return Task(history, targets, cut_ms, until_ms, novel_ptr, novel_items.astype(np.int32))


def places_in_bundle(bundle: Bundle, dataset: Dataset) -> Int32:
    """`[n_items] int32`: an item's place in the bundle, -1 if the bundle does not know it."""
    find = bundle.items.index.get
    return np.array([find(item, -1) for item in dataset.item_ids], np.int32)


def places_in_data(bundle: Bundle, dataset: Dataset) -> Int32:
    """`[n_bundle_items + 1] int32`: an item's place in the data set, -1 if it is not there.

    The last entry is -1, so that the list padding -1 maps to itself. An item that only the bundle
    knows can be no target, and stands in a list as a miss.

    Raises:
        Refused: the bundle knows no item of the data set.
    """
    find = dataset.item_index.get
    places = np.array([*(find(item, -1) for item in bundle.items.ids), -1], np.int32)
    if not (places >= 0).any():
        raise Refused(
            f"bundle {bundle.manifest.bundle_id} knows none of the {dataset.n_items:,} items of "
            f"{dataset.source}: it was made from {bundle.manifest.data.source}"
        )
    return places
