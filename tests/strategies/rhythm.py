"""A shop where everyone buys each of his items at a fixed rhythm of its own, which only gaps tell."""

from __future__ import annotations

import numpy as np

from server.features.sequence import sequence
from server.features.types import DAY_MS, History
from strategies.purchases import Row
from training.rows import Lists

ITEMS, OWN, DAYS, LENGTH = 60, 8, 24, 80
EVERY_DAY = 0
"""An item that everyone buys on each trip, so that each trip begins with the lowest number."""


def habits(rng: np.random.Generator) -> dict[int, tuple[int, int]]:
    """Some items of a user, each with the days from one purchase to the next, and the first one's day."""
    items = rng.choice(np.arange(1, ITEMS), OWN, replace=False)
    return {int(item): (int(n := rng.integers(2, 6)), int(rng.integers(n))) for item in items}


def bought_on(habit: dict[int, tuple[int, int]], day: int) -> list[int]:
    """The items of a day's trip, rising; but for `EVERY_DAY`."""
    return sorted(item for item, (every, first) in habit.items() if day % every == first)


def history_of(habit: dict[int, tuple[int, int]], days: int) -> History:
    """The trips of so many days."""
    events = [(item, day) for day in range(days) for item in (EVERY_DAY, *bought_on(habit, day))]
    items, at = (np.array(part) for part in zip(*events, strict=True))
    return History.of(
        items.astype(np.int32), at.astype(np.int64) * DAY_MS, np.ones(len(items), np.float32)
    )


def rhythm_rows(n_users: int, seed: int = 0) -> list[Row]:
    """Purchases of `DAYS` days, one trip a day."""
    rng = np.random.default_rng(seed)
    return [
        (f"u{user:03}", f"i{item:02}", float(day), f"{user}-{day}")
        for user in range(n_users)
        for habit in [habits(rng)]
        for day in range(DAYS)
        for item in (EVERY_DAY, *bought_on(habit, day))
    ]


def rhythm_lists(n_lists: int, seed: int, n_features: int) -> Lists:
    """Each user's own items and as many that he never bought, in any order; what is bought is what is due on
    the day after. Nothing else tells: the features are noise."""
    rng = np.random.default_rng(seed)
    items, labels, recent = [], [], []
    while len(recent) < n_lists:
        habit, days = habits(rng), int(rng.integers(12, DAYS))
        due = bought_on(habit, days)
        if not due:
            continue
        others = rng.choice(np.setdiff1d(np.arange(1, ITEMS), list(habit)), OWN, replace=False)
        asked = rng.permutation([*habit, *others]).astype(np.int32)
        items.append(asked)
        labels.append(np.isin(asked, due))
        recent.append(sequence(history_of(habit, days), asked, LENGTH)[0])
    rows = n_lists * 2 * OWN
    return Lists(
        rng.normal(2, 3, (rows, n_features)).astype(np.float32),
        np.concatenate(labels),
        np.concatenate(items),
        np.arange(0, rows + 1, 2 * OWN),
        np.array([part.sum() for part in labels]),
        np.stack(recent),
        np.arange(n_lists, dtype=np.int32),
    )
