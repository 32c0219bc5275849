"""A made-up shop of any size: who bought what when, and what the items are. Arrays all the way.

Owns what is drawn: popularity by Zipf, users of very different activity, trips to the shop with several
items each, tastes for a few categories, and items that are bought again. Must not know training.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

Ints = NDArray[np.int64]

BEGAN_S, DAYS, DAY_S = 1_700_000_000, 365, 86_400
ZIPF = 0.9
REPEATS = 0.5
"""Of the purchases, those of an item that the user had bought before; as in a food shop."""
TASTE = 0.6
"""Of the others, those from one of the user's own categories."""
LIKED = 4
TRIP_ITEMS = 5
ITEMS_PER_CATEGORY = 50
CATEGORIES_PER_DEPARTMENT = 10
ITEMS_PER_PROVIDER = 25
NAMES = ("interactions.parquet", "items.parquet")


@dataclass(frozen=True)
class Size:
    """Of a shop."""

    events: int
    users: int
    items: int

    @classmethod
    def of(cls, events: int) -> Size:
        """A hundred events for each user and for each item, so that all three grow alike."""
        each = max(50, events // 100)
        return cls(events, each, each)


def write_shop(size: Size, folder: Path, seed: int) -> tuple[Path, Path]:
    """The two tables as parquet files in a folder that is there; where they lie."""
    rng = np.random.default_rng((seed, size.events, size.users, size.items))
    category = np.sort(rng.integers(0, max(1, size.items // ITEMS_PER_CATEGORY), size.items))
    users, trips, times = _trips(size, rng)
    bought = _bought(users, category, size, rng)
    purchases, items = (folder / name for name in NAMES)
    shuffled = rng.permutation(size.events)
    pl.DataFrame({"user": users[shuffled], "item": bought[shuffled], "s": times[shuffled],
                  "trip": trips[shuffled]}).select(
        user=pl.format("u{}", "user"),
        item=pl.format("i{}", "item"),
        time=pl.from_epoch("s", time_unit="s").dt.cast_time_unit("ms").dt.replace_time_zone("UTC"),
        basket=pl.format("b{}", "trip"),
    ).write_parquet(purchases)  # fmt: skip
    _items(category, rng).write_parquet(items)
    return purchases, items


def _trips(size: Size, rng: np.random.Generator) -> tuple[Ints, Ints, Ints]:
    """Per event, oldest first within each user: its user, its trip to the shop, and when that was."""
    activity = rng.lognormal(0, 1, size.users)
    users = np.sort(rng.choice(size.users, size.events, p=activity / activity.sum()))
    events = np.bincount(users, minlength=size.users)
    trips = np.maximum(1, events // TRIP_ITEMS)
    first = np.cumsum(trips) - trips
    # Dealt out, a user's trips rise in time as they do in number.
    user_of_trip = np.repeat(np.arange(size.users), trips)
    day = rng.integers(0, DAYS, len(user_of_trip))
    moment = day * DAY_S + rng.integers(8 * 3600, 22 * 3600, len(user_of_trip))
    moment = moment[np.lexsort((moment, user_of_trip))]
    of_event = np.sort(first[users] + (rng.random(size.events) * trips[users]).astype(np.int64))
    return users, of_event, BEGAN_S + moment[of_event]


def _bought(users: Ints, category: Ints, size: Size, rng: np.random.Generator) -> Ints:
    """Per event, the item."""
    popularity = 1.0 / rng.permutation(np.arange(1, size.items + 1)) ** ZIPF
    bounds = np.concatenate([[0.0], np.cumsum(popularity / popularity.sum())])
    categories = int(category[-1]) + 1
    begin = bounds[np.searchsorted(category, np.arange(categories))]
    end = bounds[np.searchsorted(category, np.arange(categories), side="right")]
    liked = rng.integers(0, categories, (size.users, LIKED))[
        users, rng.integers(0, LIKED, size.events)
    ]
    by_taste = rng.random(size.events) < TASTE
    low, high = np.where(by_taste, begin[liked], 0.0), np.where(by_taste, end[liked], 1.0)
    at = low + rng.random(size.events) * (high - low)
    drawn = np.clip(np.searchsorted(bounds, at, side="right") - 1, 0, size.items - 1)

    # A repeat takes the item of an earlier event, which may be one itself: followed to its root.
    place = np.arange(size.events)
    before = place - np.searchsorted(users, users)
    earlier = place - 1 - (rng.random(size.events) * before).astype(np.int64)
    root = np.where((rng.random(size.events) < REPEATS) & (before > 0), earlier, place)
    while not np.array_equal(further := root[root], root):
        root = further
    bought: Ints = drawn[root]
    return bought


def _items(category: Ints, rng: np.random.Generator) -> pl.DataFrame:
    n = len(category)
    return pl.DataFrame(
        {
            "n": np.arange(n),
            "category": category,
            "provider": rng.integers(0, max(1, n // ITEMS_PER_PROVIDER), n),
            "own": rng.random(n) < 0.2,
        }
    ).select(
        item=pl.format("i{}", "n"),
        name=pl.format("Item {}", "n"),
        category_path=pl.format(
            "Department {} > Category {}", pl.col("category") // CATEGORIES_PER_DEPARTMENT,
            "category",
        ),
        provider=pl.format("Provider {}", "provider"),
        brand=pl.when("own").then(pl.lit("Private")).otherwise(pl.lit("National")),
    )  # fmt: skip
