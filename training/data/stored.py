"""Between tables and the event store: purchases in, and out again to learn from.

Owns the ids under which loaded rows are stored. An id is made from what the row says,
so loading a file twice adds nothing. Must not know a store's inside, models or cuts.

    with closing(SqliteEventStore(path)) as store:
        loaded = load(tables.interactions, store)
    tables = tables_of(store, items, users)     # for `equipoise train --events`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b

import numpy as np
import polars as pl

from server.errors import DataRefused, Refused
from server.events import Event, EventStore
from training.data.schema import KINDS
from training.data.tables import Tables, interactions_from, items_from, users_from

BATCH_EVENTS = 20_000


@dataclass(frozen=True)
class Loaded:
    """What a load came to."""

    rows: int
    recorded: int
    duplicates: int
    users: int


def load(
    interactions: pl.DataFrame,
    store: EventStore,
    on_rows: Callable[[int], None] = lambda _: None,
    batch_events: int = BATCH_EVENTS,
) -> Loaded:
    """Record every row; each batch is durable before the next, so a broken load may be repeated.

    on_rows: told how many rows of each batch are done. Raises what the store raises.
    """
    recorded = duplicates = 0
    for events in _batches(interactions, batch_events):
        answer = store.record(events)
        recorded += answer.recorded
        duplicates += answer.duplicates
        on_rows(len(events))
    users = interactions["user"].n_unique()
    return Loaded(interactions.height, recorded, duplicates, users)


def until_ms_of(tables: Tables, until: datetime | None, until_week: int | None) -> int | None:
    """The cut in Unix ms; None without one. `Refused` for both, or a week that is not there."""
    if until is not None and until_week is not None:
        raise Refused("--until and --until-week: got both, allowed: one of them")
    if until is not None:
        return int(until.replace(tzinfo=UTC).timestamp() * 1000)
    if until_week is None:
        return None
    if not 1 <= until_week <= len(tables.week_ends_ms):
        raise Refused(
            f"--until-week: got {until_week}, {tables.source} has {len(tables.week_ends_ms)} weeks"
            "; use --until DATE for data without week numbers"
        )
    return tables.week_ends_ms[until_week - 1]


def cut_at(interactions: pl.DataFrame, until_ms: int | None) -> pl.DataFrame:
    """The rows at or before `until_ms`; all of them for None."""
    if until_ms is None:
        return interactions
    return interactions.filter(pl.col("time").dt.epoch("ms") <= until_ms)


def tables_of(
    store: EventStore,
    items: pl.DataFrame | None = None,
    users: pl.DataFrame | None = None,
    source: str = "event store",
) -> Tables:
    """The store's events as tables; what `items` and `users` do not tell is "unknown"."""
    parts = [
        pl.DataFrame(
            {
                "user": batch.user_ids,
                "item": batch.item_ids,
                "time": pl.Series(batch.times_ms).cast(pl.Datetime("ms", "UTC")),
                "kind": np.array(KINDS)[batch.kinds - 1],
                "basket": batch.baskets,
                "quantity": batch.quantities.astype(np.float64),
                "value": batch.values,
            }
        )
        for batch in store.export()
        if len(batch)
    ]
    if not parts:
        raise DataRefused(
            "user",
            rows=0,
            of_rows=0,
            example={},
            why="the event store is empty",
            allowed="at least one event; 'equipoise events load' fills it",
            source=source,
        )
    rows = pl.concat(parts).with_columns(
        pl.col("value").fill_nan(None),
        pl.when(pl.col("basket") == "").then(None).otherwise("basket").alias("basket"),
    )
    interactions = interactions_from(rows, source)
    return Tables(
        interactions,
        items_from(items if items is not None else interactions.select(pl.col("item").unique())),
        users_from(users if users is not None else interactions.select(pl.col("user").unique())),
        source,
    )


def _batches(interactions: pl.DataFrame, batch_events: int) -> Iterator[list[Event]]:
    # User by user: the store keeps a user's events together, and writes them so fastest.
    rows = interactions.select(
        "user",
        "item",
        pl.col("time").dt.epoch("ms"),
        pl.col("kind").replace_strict(
            list(KINDS), list(range(1, len(KINDS) + 1)), return_dtype=pl.Int64
        ),
        "basket",
        "quantity",
        "value",
        # Rows that say the same are told apart by their number among themselves.
        pl.int_range(pl.len()).over("user", "item", "time", "kind", "basket").alias("again"),
    ).sort("user", "time", maintain_order=True)
    for start in range(0, rows.height, batch_events):
        yield [
            Event(
                event_id=_event_id(user, item, time_ms, kind, basket, again),
                user_id=user,
                item_id=item,
                kind=kind,
                time_ms=time_ms,
                quantity=quantity,
                basket=basket,
                value=value,
            )
            for user, item, time_ms, kind, basket, quantity, value, again in rows.slice(
                start, batch_events
            ).iter_rows()
        ]


def _event_id(*what: str | int) -> str:
    said = "\0".join(map(str, what)).encode()
    return "load-" + blake2b(said, digest_size=16).hexdigest()
