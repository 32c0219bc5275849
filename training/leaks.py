"""Does a feature know what it is to foretell? Two checks of lists, before anything learns from them.

The exact one: features of some users are computed once more, from nothing but their events up to the cut
and item statistics counted again from those of all; a column that differs knew more. The EASE and cosine
weights are taken as they are, since to fit them again would cost as much as the fit: of a leak through
them the other check tells, which is a suspicion: one column alone that parts bought from unbought as no
honest one does.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np

from server.errors import Refused
from server.features import FEATURE_NAMES, FeatureState, pair_features
from server.features.types import Float32, History, Int32
from training.data.dataset import Dataset
from training.fit_features import item_counts
from training.metrics import roc_auc
from training.rows import Lists
from training.settings import TrainSettings

USERS = 20
"""Whose features are computed again."""
TOLERANCE = 1e-5
"""Of a feature, as a share of its size: what another order of adding up makes."""
LEAST = 100
"""Rows bought, and rows not bought, below which a column may part them by chance."""
ROWS = 100_000


class LabelLeak(Refused):
    """A feature that knows the labels."""

    def __init__(self, column: str, why: str) -> None:
        self.column = column
        super().__init__(f"label leak: the feature {column} {why}")


def check_leaks(
    lists: Lists, data: Dataset, cut_ms: int, state: FeatureState, settings: TrainSettings
) -> None:
    """Both checks of the lists at a cut; data: all events, those after the cut too.

    Raises:
        LabelLeak: naming the column.
    """
    check_recomputed(lists, data, cut_ms, state, settings)
    check_separation(lists, settings.leak_auc)


def check_recomputed(
    lists: Lists, data: Dataset, cut_ms: int, state: FeatureState, settings: TrainSettings
) -> None:
    """The exact check."""
    before = data.times_ms <= cut_ms
    counts = item_counts(
        data.event_users[before], data.items[before], data.times_ms[before], data.n_items,
        cut_ms, settings.min_buyers,
    )  # fmt: skip
    honest = replace(
        state, popularity=counts.popularity, popularity_recent=counts.popularity_recent,
        repeat_rate=counts.repeat_rate, gap_days=counts.gap_days,
    )  # fmt: skip
    # The first list of a user is that of the whole history.
    users, first = np.unique(lists.users, return_index=True)
    for place in range(0, len(users), max(1, len(users) // USERS)):
        part = slice(int(lists.ptr[first[place]]), int(lists.ptr[first[place] + 1]))
        history = _history(data, int(users[place]), cut_ms)
        again = pair_features(history, lists.items[part], cut_ms, honest)
        if (column := _differing(lists.features[part], again)) is not None:
            day = datetime.fromtimestamp(cut_ms / 1000, UTC).strftime("%Y-%m-%d")
            raise LabelLeak(
                FEATURE_NAMES[column],
                f"changes when events after the cut of {day} are removed: it was computed with what "
                "it is to foretell",
            )


def check_separation(lists: Lists, most: float) -> None:
    """No column alone has an AUC above `most` or below `1 - most`."""
    rng = np.random.default_rng(0)
    rows = np.arange(len(lists.labels))
    if len(rows) > ROWS:
        rows = np.sort(rng.choice(rows, ROWS, replace=False))
    labels = lists.labels[rows]
    if min(labels.sum(), (~labels).sum()) < LEAST:
        return
    for column, name in enumerate(FEATURE_NAMES):
        auc = roc_auc(lists.features[rows, column].astype(np.float64), labels)
        if max(auc, 1 - auc) > most:
            raise LabelLeak(
                name,
                f"alone parts what was bought from what was not (AUC {auc:.4f}, allowed: "
                f"{1 - most:.3f} to {most:.3f}): it seems to hold the answer. If your data is like that, "
                "raise leak_auc (--settings)",
            )


def _history(data: Dataset, user: int, cut_ms: int) -> History:
    start, end = int(data.user_ptr[user]), int(data.user_ptr[user + 1])
    kept: Int32 = np.flatnonzero(data.times_ms[start:end] <= cut_ms).astype(np.int32) + start
    return History.of(data.items[kept], data.times_ms[kept], data.quantities[kept]).merged()


def _differing(given: Float32, again: Float32) -> int | None:
    """The column that differs most, if any does."""
    given = given[:, : again.shape[1]]
    gap = np.abs(given - again) / (1 + np.abs(again))
    # What is no number on both sides is no leak: the loss will tell of it.
    gap = np.where(np.isnan(given) & np.isnan(again), 0.0, np.where(np.isnan(gap), np.inf, gap))
    worst = gap.max(axis=0, initial=0.0)
    column = int(worst.argmax())
    return column if worst[column] > TOLERANCE else None
