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

import numpy as np
import polars as pl

from server.errors import DataRefused
from training.data.groups import GroupRows, department, group_rows
from training.data.schema import BOUGHT, KINDS, refuse_no_purchases, refuse_rows
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
    groups: tuple[GroupRows, ...] = ()
    """The rows that each group of users and of items had and kept."""

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
    # Numbers sort and group many times as fast as text. A basket's stands for it within one user.
    users, items = (rows[name].unique().sort() for name in ("user", "item"))
    coded = rows.select(
        "time",
        "basket",
        "quantity",
        "value",
        u=places(rows["user"], users),
        i=places(rows["item"], items),
        k=pl.col("kind").cast(pl.Enum(sorted(KINDS))).to_physical(),
        b=pl.col("basket").hash(),
        # The last key, so that equal rows are added up in one order.
        n=pl.int_range(pl.len(), dtype=pl.UInt32),
    )
    coded = _at_one_instant(rows, coded)
    when = _instants(coded, len(users))
    coded = coded.sort(*when, "b", "i", "k", "n")
    tied = _same_as_before(coded, "u", "time") & ~_same_as_before(coded, "b")
    if tied.any():
        coded = _with_order_of_baskets(coded, tied).sort(*when, "order", "i", "k", "n")
    starts = (~_same_as_before(coded, "u", "time", "b", "i", "k")).arg_true()
    first = coded.gather(starts)
    return first.select(
        user=users.gather(first["u"]),
        item=items.gather(first["i"]),
        time=pl.col("time"),
        kind=pl.Series(sorted(KINDS)).gather(first["k"]),
        basket=pl.col("basket"),
        quantity=_sums(coded["quantity"], starts),
        value=_sums(coded["value"], starts),
    )


def places(values: pl.Series, ids: pl.Series) -> pl.Series:
    """The place of each value in the sorted ids; polars sorts text by bytes, as Python does."""
    table = pl.DataFrame({"id": ids, "place": np.arange(len(ids), dtype=np.int32)})
    return pl.DataFrame({"id": values}).join(table, on="id", how="left", maintain_order="left")[
        "place"
    ]


def _at_one_instant(rows: pl.DataFrame, coded: pl.DataFrame) -> pl.DataFrame:
    lasting = (
        coded.group_by("u", "b")
        .agg(first=pl.col("time").min(), last=pl.col("time").max())
        .filter(pl.col("first") < pl.col("last"))
    )
    if lasting.is_empty():
        return coded
    timed = coded.join(lasting, on=["u", "b"], how="left", maintain_order="left")
    refuse_rows(
        rows,
        (timed["last"] - timed["first"]) > BASKET_LASTS,
        "basket",
        "the user's basket of this id lasts longer than a day: the id is used again",
        "an id that is unique over time, or no such column",
        "interactions",
    )
    return timed.with_columns(time=pl.coalesce("first", "time")).drop("first", "last")


def _instants(coded: pl.DataFrame, users: int) -> list[pl.Expr]:
    """What sorts by user and time: one number if it has room for both, which is twice as fast."""
    first, last = coded.select(
        first=pl.col("time").dt.epoch("ms").min(), last=pl.col("time").dt.epoch("ms").max()
    ).row(0)
    span = last - first + 1
    if users * span >= 2**63:
        return [pl.col("u"), pl.col("time")]
    return [pl.col("u").cast(pl.Int64) * span + (pl.col("time").dt.epoch("ms") - first)]


def _with_order_of_baskets(coded: pl.DataFrame, tied: pl.Series) -> pl.DataFrame:
    """With the places of those baskets that a user has at one instant, by their ids as text."""
    instants = coded.filter(tied).select("u", "time").unique()
    named = coded.join(instants, on=["u", "time"], how="semi").select("u", "b", "basket").unique()
    order = named.sort("basket").with_row_index("order").drop("basket")
    return coded.join(order, on=["u", "b"], how="left", maintain_order="left")


def _same_as_before(table: pl.DataFrame, *columns: str) -> pl.Series:
    """Per row, whether it has the values of the row before it."""
    same = pl.all_horizontal(pl.col(name) == pl.col(name).shift(1) for name in columns)
    return table.select(same.fill_null(False).alias("same"))["same"]


def _sums(amounts: pl.Series, starts: pl.Series) -> pl.Series:
    return pl.Series(np.add.reduceat(amounts.to_numpy(), starts.to_numpy()))


def clean(tables: Tables, rules: Rules) -> tuple[Tables, Cleaning]:
    """The tables without what `rules` drop, one row per (user, basket, item, kind); and the account.

    Raises `DataRefused` as `merged_baskets` does, and if nothing is left or nothing was bought.
    """
    rows = tables.interactions
    account = list(tables.left_out)
    lost: list[pl.DataFrame] = []
    rows_in = rows.height + sum(count for _, count in account)

    if rules.drop_undescribed or rules.drop_departments:
        described = tables.items.select("item", department=department())
        rows = rows.join(described, on="item", how="left")
    if rules.drop_undescribed:
        known = pl.col("department").is_not_null()
        rows = _keep(rows, known, "item not described", account, lost)
    if rules.drop_departments:
        gone = pl.col("department").is_in(rules.drop_departments).fill_null(False)
        rows = _keep(rows, ~gone, f"department {', '.join(rules.drop_departments)}", account, lost)

    if not (rows["kind"] == BOUGHT).any():
        refuse_no_purchases(rows)
    merged = merged_baskets(rows)
    account.append(("same item again in the basket (added up)", rows.height - merged.height))

    counted = merged.filter(pl.col("kind") == BOUGHT)
    if rules.counted_until_ms is not None:
        counted = counted.filter(pl.col("time").dt.epoch("ms") <= rules.counted_until_ms)
    bought = counted.group_by("item").len()
    usual = bought.filter(pl.col("len") >= rules.min_item_purchases)["item"]
    why = f"item with fewer than {rules.min_item_purchases} purchases"
    if rules.counted_until_ms is not None:
        why += " before the first cut"
    kept = _keep(merged, pl.col("item").is_in(usual.implode()), why, account, lost)
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
    groups = tuple(group_rows(tables, kept, lost))
    return cleaned, Cleaning(
        rows_in,
        tuple(account),
        kept.height,
        kept["user"].n_unique(),
        kept["item"].n_unique(),
        groups,
    )


def _keep(
    rows: pl.DataFrame,
    wanted: pl.Expr,
    reason: str,
    account: list[tuple[str, int]],
    lost: list[pl.DataFrame],
) -> pl.DataFrame:
    kept = rows.filter(wanted)
    account.append((reason, rows.height - kept.height))
    if kept.height < rows.height:
        lost.append(rows.filter(~wanted).select("user", "item"))
    return kept
