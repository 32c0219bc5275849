"""Small tables of purchases: made by hand for examples, drawn for properties."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import strategies as st

from server.features.types import DAY_MS
from training.data.tables import Tables, interactions_from, items_from, users_from

START_MS = 1_400_000_000_000

Row = tuple[str, str, float, str]
"""user, item, day, basket"""


def raw(rows: list[Row]) -> pl.DataFrame:
    """Rows as a raw table with times in milliseconds."""
    return pl.DataFrame(
        {
            "user": [row[0] for row in rows],
            "item": [row[1] for row in rows],
            "time": [START_MS + int(row[2] * DAY_MS) for row in rows],
            "basket": [row[3] for row in rows],
        },
        schema={"user": pl.String, "item": pl.String, "time": pl.Int64, "basket": pl.String},
    )


def tables(rows: list[Row]) -> Tables:
    """Rows through the door, with items and users of which nothing is told."""
    events = interactions_from(raw(rows))
    return Tables(
        events,
        items_from(events.select(pl.col("item").unique())),
        users_from(events.select(pl.col("user").unique())),
        "by hand",
    )


def purchase_rows(min_size: int = 1, max_size: int = 60) -> st.SearchStrategy[list[Row]]:
    """Purchases of up to 6 users, 9 items, 40 days; a basket may hold rows of several hours."""

    def row(user: int, item: int, basket: int, hour: int) -> Row:
        return f"u{user}", f"i{item}", basket * 3 + hour / 24, f"b{basket}"

    return st.lists(
        st.builds(
            row, st.integers(0, 5), st.integers(0, 8), st.integers(0, 13), st.integers(0, 23)
        ),
        min_size=min_size,
        max_size=max_size,
    )


def shop_rows(seed: int = 0, n_users: int = 30, n_items: int = 60, days: int = 90) -> list[Row]:
    """A small shop: everyone has favourites, buys them weekly, and tries something now and then."""
    rng = np.random.default_rng(seed)
    rows: list[Row] = []
    for user in range(n_users):
        favourites = rng.choice(n_items, 6, replace=False)
        for day in range(int(rng.integers(0, 7)), days, 7):
            basket = set(rng.choice(favourites, 3, replace=False).tolist())
            basket.add(int(rng.integers(0, n_items)))
            rows += [
                (f"user-{user:02}", f"item-{item:03}", day, f"{user}-{day}")
                for item in sorted(basket)
            ]
    return rows
