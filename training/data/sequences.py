"""Sequences: the order of a user's events counts, and not their times. Leave-one-out is a cut in time.

Owns the reading of files with a user's whole sequence on one line, and the times that stand for
places: a user's last event is at the last instant, the one before it a week before, and so on: a week,
so that what counts by halves of a week and more counts by places.
So the cuts of `training.data.split` one week before each other leave out the last event of each user
for the test and the one before it for validation, and nothing else needs to know of it. Must not know
models or metrics.

    tables = read_sequences(Path("Beauty.txt"))         # user item item item ...
    tables = in_order(read_tables(Path("ratings.csv"))) # with real times, of which the order stays
    split = leave_one_out()
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from server.errors import DataRefused
from server.features.types import DAY_MS
from training.data.files import lines_of
from training.data.schema import BOUGHT, refuse_no_purchases, refuse_rows
from training.data.split import Split
from training.data.tables import Tables, interactions_from, tables_of_events

LAST_MS = int(datetime(2020, 1, 1, tzinfo=UTC).timestamp() * 1000)
"""The instant of each user's last event."""
PLACE_MS = 7 * DAY_MS
"""From one event to the next."""
NEWEST = 2_500
"""Events of one user that have places, which reach back to 1972; older ones are left out, and told."""


def read_sequences(
    path: Path, items: pl.DataFrame | None = None, users: pl.DataFrame | None = None
) -> Tables:
    """The tables of a text file with one user a line: his id, then those of his items, oldest first;
    or with one event a line, a user and an item, each user's oldest first.

    items, users: what is known of them, under their schemas.

    Raises:
        DataRefused: a line has no item, or a user has two lines of which one has several items.
    """
    source = f"interactions ({path.name})"
    lines = lines_of(path, source).with_row_index("number", offset=1)
    parts = lines.select("number", words=pl.col("line").str.extract_all(r"\S+"))
    parts = parts.filter(pl.col("words").list.len() > 0)
    if parts.is_empty():
        raise DataRefused(
            "user", rows=0, example={}, why="the file is empty",
            allowed="a line for each user, user item item ..., or for each event, user item", source=source,
        )  # fmt: skip
    refuse_rows(
        parts, parts["words"].list.len() < 2, "item", "a line with a user and no item",
        "user item item ...; where a line has columns, --separator", source,
    )  # fmt: skip
    named = parts.select("number", user=pl.col("words").list.first())
    # Pairs leave no doubt: of a user with one event both forms say the same.
    if (parts["words"].list.len() > 2).any():
        refuse_rows(
            named, named["user"].is_duplicated(), "user", "the same user on two lines",
            "all items of a user on one line, or one item on each", source,
        )  # fmt: skip
    events = parts.select(
        user=pl.col("words").list.first(), item=pl.col("words").list.slice(1)
    ).explode("item")
    raw, older = _placed(events)
    rows = interactions_from(raw, source)
    return tables_of_events(rows, items, users, path.name, (older,))


def in_order(tables: Tables) -> Tables:
    """The same events with times that stand for their order; each is a basket by itself.

    Events of one instant are in the order of the rows. Only purchases have places: a view that came
    last would be nobody's target.
    """
    bought = tables.interactions.filter(pl.col("kind") == BOUGHT)
    others = tables.interactions.height - bought.height
    if bought.is_empty():
        refuse_no_purchases(tables.interactions)
    rows = bought.sort("user", "time", maintain_order=True)
    placed, older = _placed(rows.drop("time", "basket"))
    return replace(
        tables,
        interactions=interactions_from(placed),
        left_out=(*tables.left_out, ("no purchase, so it has no place", others), older),
    )


def leave_one_out() -> Split:
    """Each user's last event is the test, the one before it validation."""
    return Split(
        LAST_MS - 2 * PLACE_MS,
        LAST_MS - PLACE_MS,
        LAST_MS,
        protocol="leave-one-out: test on each user's last event, with all before it as history; "
        "tune on the one before",
    )


def _placed(events: pl.DataFrame) -> tuple[pl.DataFrame, tuple[str, int]]:
    """Events in order within each user, with times by their places; and how many had none."""
    from_end = pl.len().over("user") - 1 - pl.int_range(pl.len()).over("user")
    placed = events.with_columns(from_end=from_end.cast(pl.Int64))
    kept = placed.filter(pl.col("from_end") < NEWEST)
    timed = kept.with_columns(
        time=(LAST_MS - pl.col("from_end") * PLACE_MS).cast(pl.Datetime("ms", "UTC"))
    ).drop("from_end")
    return timed, (f"older than a user's newest {NEWEST:,} events", placed.height - kept.height)
