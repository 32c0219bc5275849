"""The scores that the server gave to every candidate of every list, beside what was bought.

Owns the step from the engine's answers to flat arrays, so that ROC curves and calibration read
the very scores that made the lists and nothing is scored again.

    gather = Gathering(bundle)
    lists = served_lists(engine, ..., on_answer=gather)
    scored = gather.scored(bought)      # bought: `bought_within(...)`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.bundle import Bundle
from server.engine.query import Answer
from server.features.types import Float64, Int32, Int64
from training.data.dataset import Dataset

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Scored:
    """C candidates of T lists, one after the other.

    rows: `[C] int32`, the list of each, rising. items: `[C] int32`, places in the bundle.
    scores: `[C] float64`, the served ones, before any policy. listed: `[C]`, whether it was shown.
    positive: `[C]`, whether it was bought within the horizon.
    """

    rows: Int32
    items: Int32
    scores: Float64
    listed: Bool
    positive: Bool
    n_lists: int

    def __len__(self) -> int:
        return len(self.rows)


class Gathering:
    """Takes answers one by one, in the order of the lists' users."""

    def __init__(self, bundle: Bundle) -> None:
        self._index = bundle.items.index
        self._items: list[Int32] = []
        self._scores: list[NDArray[np.float32]] = []
        self._listed: list[Bool] = []

    def __call__(self, answer: Answer) -> None:
        candidates = answer.candidates
        if candidates is None:
            raise ValueError("an answer without candidates: it was not asked for them")
        shown = set(answer.item_ids)
        self._items.append(
            np.array([self._index[item] for item in candidates.item_ids], dtype=np.int32)
        )
        self._scores.append(candidates.scores)
        self._listed.append(np.array([item in shown for item in candidates.item_ids], np.bool_))

    def scored(self, n_items: int, bought_rows: Int64, bought_items: Int64) -> Scored:
        """Everything taken, with labels; n_items: of the bundle. bought_*: see `bought_within`."""
        counts = [len(own) for own in self._items]
        rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        items = np.concatenate([np.empty(0, np.int32), *self._items])
        pairs = rows.astype(np.int64) * n_items + items
        return Scored(
            rows=rows,
            items=items,
            scores=np.concatenate([np.empty(0, np.float32), *self._scores]).astype(np.float64),
            listed=np.concatenate([np.empty(0, np.bool_), *self._listed]),
            positive=np.isin(pairs, bought_rows * n_items + bought_items),
            n_lists=len(counts),
        )


def bought_within(
    dataset: Dataset, users: Int32, places: Int32, after_ms: int, until_ms: int
) -> tuple[Int64, Int64]:
    """What `users` bought in `(after_ms, until_ms]`: rows of `users`, and places in the bundle.

    places: of each item of the data set its place in the bundle, -1 where that does not know it;
    such purchases are left out, since they are no candidates.
    """
    window = dataset.between(after_ms, until_ms)
    row_of = np.full(dataset.n_users, -1, np.int64)
    row_of[users] = np.arange(len(users))
    rows, items = row_of[window.event_users], places[window.items].astype(np.int64)
    known = (rows >= 0) & (items >= 0)
    return rows[known], items[known]
