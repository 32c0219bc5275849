"""Tables from raw ones: columns under our names in, types, defaults and a checked schema out.

Owns defaults of optional columns and the meaning of ids. What
it cannot read for certain it refuses, with column, number of rows and an example;
it never guesses. Must not know how files are read, models, cuts or cleaning rules.

    tables = read_tables(Path("purchases.csv"), items=Path("items.parquet"))
    tables.interactions  # user, item, time (UTC ms), kind, basket, quantity, value

Interactions need `user`, `item` and `time`. Defaults: `kind` purchase, `basket`
the user's rows of one instant, `quantity` 1, `value` 0. Times are timestamps, ISO
8601 text, or integers since 1970 in s, ms, us or ns: one unit for the column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from server.errors import DataRefused, listed
from training.data.files import IDS, REQUIRED, Raw, read_raw
from training.data.reading import LEAVE_OUT, RATING, Reading
from training.data.schema import (
    INTERACTIONS,
    ITEMS,
    KINDS,
    UNKNOWN,
    USERS,
    example_row,
    refuse_rows,
    validated,
)
from training.data.times import START_MS, parsed_times, steps_of

WHOLE_BELOW = 2**53
ODD_ID = r"^\s*$|\p{Cc}"


@dataclass(frozen=True)
class Tables:
    """The three tables, each accepted by its schema, and where they came from.

    week_ends_ms: the last instant of weeks 1, 2, ... where the source has a calendar
    of its own; empty otherwise.
    left_out: reason and number of rows that an adapter did not take over.
    notes: what reading noticed and did not refuse.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    source: str
    week_ends_ms: tuple[int, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()


AS_THEY_ARE = Reading()


def read_tables(
    interactions: Path,
    items: Path | None = None,
    users: Path | None = None,
    reading: Reading = AS_THEY_ARE,
) -> Tables:
    """The tables of these files; `DataRefused` says what is wrong with them.

    Without `items` or `users` every id of the interactions is known and nothing
    about it is.
    """
    raw = read_raw(interactions, "interactions", reading)
    notes = list(raw.notes)
    events, left_out = _read_events(raw, reading, notes)
    described = read_items(items, reading, notes) if items is not None else None
    people = read_users(users, reading, notes) if users is not None else None
    return tables_of_events(events, described, people, interactions.name, left_out, notes)


def tables_of_events(
    events: pl.DataFrame,
    items: pl.DataFrame | None,
    users: pl.DataFrame | None,
    source: str,
    left_out: Sequence[tuple[str, int]] = (),
    notes: Sequence[str] = (),
) -> Tables:
    """The three tables, with what is not described; ids that do not meet are noted.

    Raises:
        DataRefused: items or users are told of, and none of them is in the events.
    """
    told = list(notes)
    for name, table in (("item", items), ("user", users)):
        if table is not None:
            ids = events.select(pl.col(name).unique())
            strangers = ids.join(table, on=name, how="anti").height
            if strangers == ids.height > 0:
                # Whatever is told there would be told of nobody: policies would bound nothing.
                raise DataRefused(
                    name, rows=table.height, of_rows=table.height, example=example_row(table, 0),
                    why=f"none of these ids is among the {ids.height:,} of the interactions, such as "
                    f"{ids[name].min()!r}",
                    allowed=f"the interactions' ids, or --column {name}s.{name}=THEIRS",
                    source=f"{name}s",
                )  # fmt: skip
            if strangers:
                told.append(
                    f"{strangers:,} of {ids.height:,} {name}s of the interactions are not in --{name}s"
                )
    known = {name: events.select(pl.col(name).unique().sort()) for name in IDS}
    return Tables(
        events,
        items if items is not None else items_from(known["item"]),
        users if users is not None else users_from(known["user"]),
        source,
        left_out=tuple(left_out),
        notes=tuple(told),
    )


def read_items(
    path: Path, reading: Reading = AS_THEY_ARE, notes: list[str] | None = None
) -> pl.DataFrame:
    """The items of a file, under their schema."""
    raw = read_raw(path, "items", reading)
    if notes is not None:
        notes += raw.notes
    return items_from(raw.table, raw.source)


def read_users(
    path: Path, reading: Reading = AS_THEY_ARE, notes: list[str] | None = None
) -> pl.DataFrame:
    """The users of a file, under their schema."""
    raw = read_raw(path, "users", reading)
    if notes is not None:
        notes += raw.notes
    return users_from(raw.table, raw.source)


def _read_events(
    raw: Raw, reading: Reading, notes: list[str]
) -> tuple[pl.DataFrame, list[tuple[str, int]]]:
    """The events of a raw table as `reading` means them, and the rows that it leaves out."""
    table, left_out = raw.table, list(raw.left_out)
    if reading.kinds:
        table = _with_our_kinds(table, reading, raw.source)
        left = table["kind"] == LEAVE_OUT
        if left.any():
            left_out.append(("of a kind that is left out", int(left.sum())))
            table = table.filter(~left.fill_null(False))
    if reading.min_rating is not None:
        table, below = _well_rated(table, reading.min_rating, raw.source)
        left_out += below
    if reading.in_order and not table.is_empty():
        if "time" not in table.columns:
            notes.append("no column 'time': the order of the rows is that of the events")
            table = table.with_columns((START_MS + pl.int_range(pl.len())).alias("time"))
        elif (steps := steps_of(table["time"])) is not None:
            notes.append("column 'time' counts steps, and is no time: only its order is used")
            table = table.with_columns((START_MS + steps).alias("time"))
    return interactions_from(table, raw.source), left_out


def _with_our_kinds(table: pl.DataFrame, reading: Reading, source: str) -> pl.DataFrame:
    if "kind" not in table.columns:
        raise DataRefused(
            "kind", rows=table.height, of_rows=table.height, example=example_row(table, 0),
            why="kinds are told, and the column is missing", allowed="--column kind=THEIRS",
            source=source,
        )  # fmt: skip
    ours = pl.col("kind").cast(pl.String).replace(dict(reading.kinds))
    table = table.with_columns(ours.alias("kind"))
    known = table["kind"].str.to_lowercase().is_in([*KINDS, LEAVE_OUT])
    words = table["kind"].filter(~known).unique().drop_nulls()
    refuse_rows(
        table, ~known, "kind", f"words of which no kind is told ({listed(words)})",
        f"one of {', '.join(KINDS)}, or --kind KIND=WORD (--kind {LEAVE_OUT}=WORD)", source,
    )  # fmt: skip
    return table


def _well_rated(
    table: pl.DataFrame, least: float, source: str
) -> tuple[pl.DataFrame, list[tuple[str, int]]]:
    if RATING not in table.columns:
        raise DataRefused(
            RATING, rows=table.height, of_rows=table.height, example=example_row(table, 0),
            why="the column is missing, and --min-rating asks for it",
            allowed=f"--column {RATING}=THEIRS", source=source,
        )  # fmt: skip
    _refuse_no_numbers(table, RATING, source)
    ratings = table[RATING].cast(pl.Float64, strict=False)
    kept = table.filter((ratings >= least).fill_null(False) & ~ratings.is_nan().fill_null(False))
    refuse_rows(
        table, pl.Series([kept.is_empty()]).new_from_index(0, table.height), RATING,
        f"no row is rated {least:g} or more; the highest is {ratings.max()!r}",
        "a lower --min-rating", source,
    )  # fmt: skip
    return kept, [(f"rated below {least:g}, or not at all", table.height - kept.height)]


def interactions_from(raw: pl.DataFrame, source: str = "interactions") -> pl.DataFrame:
    """`raw` under the schema of interactions: types, defaults and all checks."""
    _required(raw, "interactions", source)
    table = _ids_as_text(raw, ("user", "item"), source)
    table = table.with_columns(parsed_times(table, "time", source).alias("time"))
    table = table.with_columns(
        _kind(table).alias("kind"),
        _number(table, "quantity", 1.0, source).alias("quantity"),
        _number(table, "value", 0.0, source).alias("value"),
    )
    basket = pl.format("{}@{}", "user", pl.col("time").dt.epoch("ms"))
    if "basket" in raw.columns:
        basket = pl.coalesce(pl.col("basket").cast(pl.String), basket)
    table = table.with_columns(basket.alias("basket"))
    return validated(table.select(list(INTERACTIONS.columns)), INTERACTIONS, source)


def items_from(raw: pl.DataFrame, source: str = "items") -> pl.DataFrame:
    """`raw` under the schema of items; a missing or null attribute reads "unknown"."""
    _required(raw, "items", source)
    table = _ids_as_text(raw, ("item",), source)
    if "name" not in table.columns:
        table = table.with_columns(pl.col("item").alias("name"))
    table = _text_attributes(table, "item", tuple(ITEMS.columns))
    return validated(table, ITEMS, source)


def users_from(raw: pl.DataFrame, source: str = "users") -> pl.DataFrame:
    """`raw` under the schema of users; a missing or null attribute reads "unknown"."""
    _required(raw, "users", source)
    table = _text_attributes(_ids_as_text(raw, ("user",), source), "user", tuple(USERS.columns))
    return validated(table, USERS, source)


def _required(raw: pl.DataFrame, kind: str, source: str) -> None:
    for column in REQUIRED[kind]:
        if column not in raw.columns:
            raise DataRefused(
                column,
                rows=raw.height,
                of_rows=raw.height,
                example=example_row(raw, 0),
                why="the column is missing",
                allowed=f"at least columns {', '.join(REQUIRED[kind])}",
                source=source,
            )
    if raw.is_empty():
        raise DataRefused(
            REQUIRED[kind][0],
            rows=0,
            of_rows=0,
            example={},
            why="the table is empty",
            allowed="at least one row",
            source=source,
        )


def _ids_as_text(table: pl.DataFrame, columns: tuple[str, ...], source: str) -> pl.DataFrame:
    return table.with_columns(_id_as_text(table, column, source) for column in columns)


def _id_as_text(table: pl.DataFrame, column: str, source: str) -> pl.Series:
    ids = table[column]
    refuse_rows(table, ids.is_null(), column, "null", "an id in every row", source)
    if ids.dtype.is_float():
        whole = (ids == ids.floor()) & (ids.abs() < WHOLE_BELOW)
        refuse_rows(
            table, ~whole, column, f"type {ids.dtype}, a fraction", "text or integers", source
        )
        return ids.cast(pl.Int64).cast(pl.String)
    if ids.dtype.is_nested() or ids.dtype == pl.Binary:
        refuse_rows(
            table, ids.is_not_null(), column, f"type {ids.dtype}", "text or integers", source
        )
    ids = ids.cast(pl.String)
    # Each id once: of a column with many rows it is a small part.
    once = ids.unique()
    if once.str.contains(ODD_ID).any():
        odd = ids.str.contains(ODD_ID)
        refuse_rows(table, odd, column, "blank, or with control characters", "an id", source)
    return ids


def _kind(table: pl.DataFrame) -> pl.Expr:
    if "kind" not in table.columns:
        return pl.lit("purchase")
    return pl.col("kind").cast(pl.String).str.to_lowercase().fill_null("purchase")


def _number(table: pl.DataFrame, column: str, default: float, source: str) -> pl.Expr:
    if column not in table.columns:
        return pl.lit(default, pl.Float64)
    _refuse_no_numbers(table, column, source)
    return pl.col(column).cast(pl.Float64, strict=False).fill_null(default)


def _refuse_no_numbers(table: pl.DataFrame, column: str, source: str) -> None:
    values = table[column]
    refuse_rows(
        table,
        values.is_not_null() & values.cast(pl.Float64, strict=False).is_null(),
        column,
        "not a number",
        "a number, or null for the default",
        source,
    )


def _text_attributes(table: pl.DataFrame, key: str, wanted: tuple[str, ...]) -> pl.DataFrame:
    missing = [pl.lit(UNKNOWN).alias(name) for name in wanted if name not in table.columns]
    others = [name for name in table.columns if name != key]
    return table.with_columns(
        *missing, *(pl.col(name).cast(pl.String).fill_null(UNKNOWN) for name in others)
    ).select(*wanted, *(name for name in others if name not in wanted))
