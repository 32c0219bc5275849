"""How groups of users and of items are represented, before cleaning and after it.

Owns the count, and when cleaning is said to fall on one group. A row that was added to another of
its basket is not lost. Must not know rules of cleaning or models.

    for group in cleaning.groups: print(group.attribute, group.label, group.lost_share)
    fell_on(cleaning.groups)    # those that lost far more than the others
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import polars as pl

from training.data.schema import UNKNOWN
from training.data.tables import Tables

MAX_LABELS = 50
"""An attribute with more values than this is no partition into groups to report on."""
DEPARTMENT = "department"
"""The first name of an item's category path, where the items have no such column of their own."""

FAR_MORE = 2.0
AND_POINTS = 0.05
ENOUGH_ROWS = 50


@dataclass(frozen=True)
class GroupRows:
    """Rows and members (users or items) of one group, before and after cleaning."""

    side: str
    attribute: str
    label: str
    rows_in: int
    rows_out: int
    members_in: int
    members_out: int

    @property
    def lost_share(self) -> float:
        """The share of its rows that cleaning took."""
        return 1 - self.rows_out / self.rows_in if self.rows_in else 0.0


def department() -> pl.Expr:
    """The first name of the category path."""
    return pl.col("category_path").str.split(" > ").list.first()


def group_rows(
    before: Tables, kept: pl.DataFrame, lost: Sequence[pl.DataFrame]
) -> Iterator[GroupRows]:
    """Each group's rows; `lost` are the rows (user, item) that left, as they left."""
    items = before.items.drop("name")
    if DEPARTMENT not in items.columns:
        items = items.with_columns(department().alias(DEPARTMENT))
    for side, key, told in (
        ("users", "user", before.users),
        ("items", "item", items.drop("category_path")),
    ):
        counts = _counts(kept, lost, key)
        known = counts.join(told, on=key, how="left")
        for attribute in told.columns:
            if attribute == key or told[attribute].n_unique() > MAX_LABELS:
                continue
            grouped = (
                known.group_by(pl.col(attribute).fill_null(UNKNOWN).alias("label"))
                .agg(
                    (pl.col("_kept") + pl.col("_lost")).sum().alias("rows_in"),
                    pl.col("_kept").sum().alias("rows_out"),
                    pl.len().alias("members_in"),
                    (pl.col("_kept") > 0).sum().alias("members_out"),
                )
                .sort("label")
            )
            if grouped.height > 1 or grouped["label"][0] != UNKNOWN:
                yield from (GroupRows(side, attribute, *row) for row in grouped.iter_rows())


def fell_on(groups: Iterable[GroupRows]) -> list[tuple[GroupRows, float]]:
    """Groups of enough rows whose lost share is far above that of the others of their attribute;
    with that share of the others."""
    told = list(groups)
    found = []
    for group in told:
        others = [
            other
            for other in told
            if (other.side, other.attribute) == (group.side, group.attribute)
            and other.label != group.label
        ]
        rows = sum(other.rows_in for other in others)
        if not rows or group.rows_in < ENOUGH_ROWS:
            continue
        share = 1 - sum(other.rows_out for other in others) / rows
        if group.lost_share > FAR_MORE * share and group.lost_share > share + AND_POINTS:
            found.append((group, share))
    return found


def _counts(kept: pl.DataFrame, lost: Sequence[pl.DataFrame], key: str) -> pl.DataFrame:
    stayed = kept.group_by(key).len("_kept")
    none = pl.DataFrame(schema={key: pl.String, "_lost": stayed["_kept"].dtype})
    left = pl.concat(part.select(key) for part in lost).group_by(key).len("_lost") if lost else none
    joined = stayed.join(left, on=key, how="full", coalesce=True)
    return joined.with_columns(
        pl.col("_kept", "_lost").fill_null(0).cast(pl.Int64),
    )
