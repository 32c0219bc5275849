"""The split by time: what a model may see, and what it is asked to foresee.

Owns the cuts and the targets after a cut. Must not know models or metrics.

Protocol of the Complete Journey: tune with history of weeks 1-48 on weeks 49-50,
test with history of weeks 1-50 on weeks 51-53. Other data: the last 21 days test,
the 14 days before them tune. A basket is one instant, so no cut parts it.

    split = split_by_weeks(tables.week_ends_ms)
    test = targets_between(dataset, split.validation_until_ms, split.test_until_ms)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.errors import DataRefused
from server.features.types import DAY_MS, Int32, Int64
from training.data.dataset import Dataset


@dataclass(frozen=True)
class Split:
    """Cuts in Unix ms; each part holds the events after the cut before it, up to and with its own.

    Train: up to train_until_ms. Validation: up to validation_until_ms. Test: up to
    test_until_ms, with the validation events in the history.
    """

    train_until_ms: int
    validation_until_ms: int
    test_until_ms: int
    protocol: str

    @property
    def horizon_ms(self) -> int:
        """How long the validation window is: what a model foretells, and how far its training cuts
        are apart."""
        return self.validation_until_ms - self.train_until_ms

    def __post_init__(self) -> None:
        if not 0 <= self.train_until_ms < self.validation_until_ms < self.test_until_ms:
            raise ValueError(
                f"cuts must rise, got {self.train_until_ms}, {self.validation_until_ms}, "
                f"{self.test_until_ms}"
            )


@dataclass(frozen=True)
class Targets:
    """What T users bought in a window, for users with a history before it.

    users: `[T] int32`, places in the dataset, rising.
    ptr, items: user t's distinct items are items[ptr[t] : ptr[t + 1]], rising; at least one.
    first_ptr, first_items: the same for the first basket of the window alone.
    """

    users: Int32
    ptr: Int64
    items: Int32
    first_ptr: Int64
    first_items: Int32

    def __len__(self) -> int:
        return len(self.users)

    def some(self, places: Int64) -> Targets:
        """Those of the users at these places, which rise."""
        ptr, items = _rows(self.ptr, self.items, places)
        first_ptr, first_items = _rows(self.first_ptr, self.first_items, places)
        return Targets(self.users[places], ptr, items, first_ptr, first_items)

    def of(self, place: int) -> Int32:
        """The distinct items of the `place`-th user, rising."""
        return self.items[self.ptr[place] : self.ptr[place + 1]]

    def first_of(self, place: int) -> Int32:
        """The items of that user's first basket, rising."""
        return self.first_items[self.first_ptr[place] : self.first_ptr[place + 1]]


def _rows(ptr: Int64, items: Int32, places: Int64) -> tuple[Int64, Int32]:
    lengths = np.diff(ptr)[places]
    new_ptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    at = np.arange(new_ptr[-1]) + np.repeat(ptr[places] - new_ptr[:-1], lengths)
    return new_ptr, items[at]


def split_by_weeks(
    week_ends_ms: tuple[int, ...], train: int = 48, validation: int = 50, test: int = 53
) -> Split:
    """The cuts at the ends of these weeks (counted from 1)."""
    if len(week_ends_ms) < test:
        raise ValueError(f"the split needs {test} weeks, the data has {len(week_ends_ms)}")
    return Split(
        week_ends_ms[train - 1],
        week_ends_ms[validation - 1],
        week_ends_ms[test - 1],
        protocol=(
            f"tune: history <= week {train}, targets {train + 1}-{validation}; "
            f"test: history <= week {validation}, targets {validation + 1}-{test}"
        ),
    )


def split_by_days(
    first_ms: int, last_ms: int, validation_days: int = 14, test_days: int = 21
) -> Split:
    """The cuts `test_days` and `test_days + validation_days` before the last event."""
    train_until = last_ms - (test_days + validation_days) * DAY_MS
    if train_until <= first_ms:
        days = (last_ms - first_ms) / DAY_MS
        raise DataRefused(
            "time",
            rows=0,
            example={},
            why=f"the events span {days:.1f} days",
            allowed=f"more than {test_days + validation_days} days, to leave some for training; where the order of events is all there is, "
            "--protocol leave-one-out",
        )
    return Split(
        train_until,
        last_ms - test_days * DAY_MS,
        last_ms,
        protocol=(
            f"test: the last {test_days} days, history before; "
            f"tune: the {validation_days} days before those"
        ),
    )


def targets_between(dataset: Dataset, after_ms: int, until_ms: int) -> Targets:
    """What users with an event at or before `after_ms` bought in `(after_ms, until_ms]`."""
    window = dataset.between(after_ms, until_ms)
    has_history = np.diff(dataset.until(after_ms).user_ptr) > 0
    bought = has_history[window.event_users]
    users = window.event_users[bought].astype(np.int64)
    items = window.items[bought].astype(np.int64)
    baskets = window.baskets[bought]
    # Events are in time order per user, so a user's first event names the first basket.
    kept, starts, inverse = np.unique(users, return_index=True, return_inverse=True)
    first = baskets == baskets[starts][inverse]
    ptr, distinct = _distinct(users, items, kept, dataset.n_items)
    first_ptr, first_distinct = _distinct(users[first], items[first], kept, dataset.n_items)
    return Targets(kept.astype(np.int32), ptr, distinct, first_ptr, first_distinct)


def _distinct(users: Int64, items: Int64, kept: Int64, n_items: int) -> tuple[Int64, Int32]:
    # Sorted first: np.unique of numbers in any order hashes, which takes far longer.
    pairs = np.sort(users * n_items + items)
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    counts = np.bincount(np.searchsorted(kept, pairs // n_items), minlength=len(kept))
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ptr, (pairs % n_items).astype(np.int32)
