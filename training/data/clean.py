"""Cleaning that says what it did: rows in, dropped per reason, rows out.

Owns the rules by which rows leave, and their count. Must not know models; the only
instant it knows is the one up to which an item's purchases count, so that nothing
after the cut decides what a model may see.

    tables, cleaning = clean(tables, Rules(min_item_purchases=10, counted_until_ms=cut))
    print(cleaning)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta

import polars as pl

from server.errors import DataRefused
from training.data.schema import refuse_rows
from training.data.tables import Tables

BASKET_LASTS = timedelta(days=1)


@dataclass(frozen=True)
class Rules:
    """What leaves. Raising or lowering a field changes which items a model knows."""

    drop_departments: tuple[str, ...] = ()
    """First names of category paths whose items leave."""
    drop_undescribed: bool = False
    """Whether items that the items table does not describe leave, or stay with unknown attributes."""
    min_item_purchases: int = 1
    """Items with fewer purchases leave: higher is a smaller model and fewer rare items."""
    counted_until_ms: int | None = None
    """Purchases up to this instant count for `min_item_purchases`; None counts all (no evaluation)."""


@dataclass(frozen=True)
class Cleaning:
    """The account of one cleaning; `rows_in - sum(dropped) == rows_out`."""

    rows_in: int
    dropped: tuple[tuple[str, int], ...]
    rows_out: int
    users: int
    items: int

    def __str__(self) -> str:
        lines = [f"{self.rows_in:>12,} rows in"]
        lines += [f"{-rows:>12,} {reason}" for reason, rows in self.dropped if rows]
        lines += [f"{self.rows_out:>12,} rows out: {self.users:,} users, {self.items:,} items"]
        return "\n".join(lines)


def merged_baskets(rows: pl.DataFrame) -> pl.DataFrame:
    """One row per (user, basket, item, kind), quantities and values added up; sorted.

    A basket is one instant: all its rows get the time of the first, so that no cut in time
    can part it. What goes into an event store goes through here as well, so that serving
    counts what training counts. Raises `DataRefused` if a basket lasts longer than a day.
    """
    span = rows.select((pl.col("time").max() - pl.col("time").min()).over("user", "basket"))
    refuse_rows(
        rows,
        span.to_series() > BASKET_LASTS,
        "basket",
        "the user's basket of this id lasts longer than a day: the id is used again",
        "an id that is unique over time, or no such column",
        "interactions",
    )
    return (
        rows.with_columns(pl.col("time").min().over("user", "basket"))
        .group_by("user", "basket", "item", "kind")
        .agg(pl.col("time").min(), pl.col("quantity").sum(), pl.col("value").sum())
        .select("user", "item", "time", "kind", "basket", "quantity", "value")
        .sort("user", "time", "basket", "item", "kind")
    )


def clean(tables: Tables, rules: Rules) -> tuple[Tables, Cleaning]:
    """The tables without what `rules` drop, one row per (user, basket, item, kind); and the account.

    Raises `DataRefused` as `merged_baskets` does, and if nothing is left.
    """
    rows = tables.interactions
    account = list(tables.left_out)
    rows_in = rows.height + sum(count for _, count in account)

    described = tables.items.select("item", department=_department())
    rows = rows.join(described, on="item", how="left")
    if rules.drop_undescribed:
        rows = _keep(rows, pl.col("department").is_not_null(), "item not described", account)
    if rules.drop_departments:
        gone = pl.col("department").is_in(rules.drop_departments).fill_null(False)
        rows = _keep(rows, ~gone, f"department {', '.join(rules.drop_departments)}", account)

    merged = merged_baskets(rows)
    account.append(("same item again in the basket (added up)", rows.height - merged.height))

    counted = merged.filter(pl.col("kind") == "purchase")
    if rules.counted_until_ms is not None:
        counted = counted.filter(pl.col("time").dt.epoch("ms") <= rules.counted_until_ms)
    bought = counted.group_by("item").len()
    usual = bought.filter(pl.col("len") >= rules.min_item_purchases)["item"]
    why = f"item with fewer than {rules.min_item_purchases} purchases"
    kept = _keep(merged, pl.col("item").is_in(usual.implode()), why, account)
    if kept.is_empty():
        raise DataRefused(
            "item",
            rows=merged.height,
            of_rows=merged.height,
            example={},
            why="cleaning dropped every row",
            allowed=f"some item with {rules.min_item_purchases} purchases that count",
        )

    cleaned = replace(
        tables,
        interactions=kept,
        items=tables.items.join(kept.select("item").unique(), on="item", how="semi"),
        users=tables.users.join(kept.select("user").unique(), on="user", how="semi"),
        left_out=(),
    )
    return cleaned, Cleaning(
        rows_in, tuple(account), kept.height, kept["user"].n_unique(), kept["item"].n_unique()
    )


def rows_per_group(before: Tables, after: Tables, attribute: str) -> pl.DataFrame:
    """Rows in and out per label of a user attribute: whether cleaning fell on one group more."""

    def rows(tables: Tables, name: str) -> pl.DataFrame:
        joined = tables.interactions.join(before.users, on="user", how="left")
        return joined.group_by(pl.col(attribute).fill_null("unknown")).len(name)

    both = rows(before, "rows_in").join(rows(after, "rows_out"), on=attribute, how="left")
    return both.with_columns(pl.col("rows_out").fill_null(0)).sort(attribute)


def _department() -> pl.Expr:
    return pl.col("category_path").str.split(" > ").list.first()


def _keep(
    rows: pl.DataFrame, wanted: pl.Expr, reason: str, account: list[tuple[str, int]]
) -> pl.DataFrame:
    kept = rows.filter(wanted)
    account.append((reason, rows.height - kept.height))
    return kept
