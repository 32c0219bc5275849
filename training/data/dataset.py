"""Tables as arrays: what models and features read.

Owns the order of users, items and events, and cuts in time. Must not know files,
cleaning or models. Only positive events (purchases) are in it.

    dataset = dataset_of(tables)
    before = dataset.until(cut_ms)          # the same users and items, earlier events
    before.history(user)                    # server.features.types.History

Index order is id order: items and users are sorted by id as text, the same as in a
bundle.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import NDArray

from server.features.types import Float32, Float64, History, Int32, Int64
from training.data.clean import places
from training.data.schema import UNKNOWN
from training.data.tables import Tables


@dataclass(frozen=True)
class Dataset:
    """Events of U users on I items, sorted by (user, time, basket, item).

    user_ids, item_ids: sorted as text.
    user_ptr: `[U + 1] int64`; user u's events are the places user_ptr[u] to user_ptr[u + 1].
    items: `[E] int32`, places in item_ids. times_ms: `[E] int64`, Unix ms.
    baskets: `[E] int64`, dense numbers; no basket has two users or two times.
    quantities, values: `[E] float32` and `[E] float64` (money).
    item_attributes, user_attributes: name -> one text per item or user, "unknown" where untold.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    user_ptr: Int64
    items: Int32
    times_ms: Int64
    baskets: Int64
    quantities: Float32
    values: Float64
    item_attributes: dict[str, tuple[str, ...]]
    user_attributes: dict[str, tuple[str, ...]]
    source: str

    @property
    def n_users(self) -> int:
        """Number of users, those without events included."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.items)

    @cached_property
    def event_users(self) -> Int32:
        """`[E] int32`: the user of each event."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.user_ptr))

    @cached_property
    def item_index(self) -> dict[str, int]:
        """Item id to its place."""
        return {item: place for place, item in enumerate(self.item_ids)}

    @property
    def last_ms(self) -> int:
        """The time of the last event; ValueError if there is none."""
        return int(self.times_ms.max())

    def until(self, cut_ms: int) -> Dataset:
        """The events at or before `cut_ms`; users and items keep their places."""
        return self._where(self.times_ms <= cut_ms)

    def between(self, after_ms: int, until_ms: int) -> Dataset:
        """The events with `after_ms < time <= until_ms`; users and items keep their places."""
        return self._where((self.times_ms > after_ms) & (self.times_ms <= until_ms))

    def history(self, user: int) -> History:
        """The user's events, oldest first, as serving reads them: merged, see `History.merged`."""
        part = slice(int(self.user_ptr[user]), int(self.user_ptr[user + 1]))
        return History.of(self.items[part], self.times_ms[part], self.quantities[part]).merged()

    def digest(self) -> str:
        """SHA-256 over ids, events and attributes: equal data, equal digest."""
        total = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            total.update("\n".join(ids).encode() + b"\0")
        for array in (self.user_ptr, self.items, self.times_ms, self.baskets):
            total.update(np.ascontiguousarray(array).tobytes())
        for amounts in (self.quantities, self.values):
            total.update(np.ascontiguousarray(amounts).tobytes())
        for attributes in (self.item_attributes, self.user_attributes):
            for name in sorted(attributes):
                total.update("\n".join((name, *attributes[name])).encode() + b"\0")
        return total.hexdigest()

    def _where(self, kept: NDArray[np.bool_]) -> Dataset:
        counts = np.bincount(self.event_users[kept], minlength=self.n_users)
        return replace(
            self,
            user_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            items=self.items[kept],
            times_ms=self.times_ms[kept],
            baskets=self.baskets[kept],
            quantities=self.quantities[kept],
            values=self.values[kept],
        )


def dataset_of(tables: Tables, positive_kinds: Sequence[str] = ("purchase",)) -> Dataset:
    """The cleaned tables as arrays; events of other kinds are left out."""
    rows = tables.interactions.filter(pl.col("kind").is_in(positive_kinds))
    user_ids = rows["user"].unique().sort()
    item_ids = rows["item"].unique().sort()
    coded = (
        rows.select(
            user=places(rows["user"], user_ids),
            item=places(rows["item"], item_ids),
            time_ms=pl.col("time").dt.epoch("ms"),
            basket=pl.col("basket"),
            quantity=pl.col("quantity"),
            value=pl.col("value"),
        )
        .sort("user", "time_ms", "basket", "item")
        .with_columns(
            basket=(pl.struct("user", "basket", "time_ms").rle_id()).cast(pl.Int64),
        )
    )
    counts = np.bincount(coded["user"].to_numpy(), minlength=len(user_ids))
    return Dataset(
        user_ids=tuple(user_ids),
        item_ids=tuple(item_ids),
        user_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=coded["item"].to_numpy().astype(np.int32),
        times_ms=coded["time_ms"].to_numpy().astype(np.int64),
        baskets=coded["basket"].to_numpy().astype(np.int64),
        quantities=coded["quantity"].to_numpy().astype(np.float32),
        values=coded["value"].to_numpy().astype(np.float64),
        item_attributes=_attributes(tables.items, "item", item_ids),
        user_attributes=_attributes(tables.users, "user", user_ids),
        source=tables.source,
    )


def _attributes(table: pl.DataFrame, key: str, ids: pl.Series) -> dict[str, tuple[str, ...]]:
    aligned = pl.DataFrame({key: ids}).join(table, on=key, how="left", maintain_order="left")
    filled = aligned.with_columns(
        pl.col(name).fill_null(pl.col(key) if name == "name" else pl.lit(UNKNOWN))
        for name in aligned.columns
        if name != key
    )
    return {name: tuple(filled[name]) for name in filled.columns if name != key}
