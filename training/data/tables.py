"""Tables from files: parquet or CSV in, columns under our names and types out.

Owns reading, defaults of optional columns and the meaning of a time column. What
it cannot read for certain it refuses, with column, number of rows and an example;
it never guesses. Must not know models, cuts or cleaning rules.

    tables = read_tables(Path("purchases.csv"), items=Path("items.parquet"))
    tables.interactions  # user, item, time (UTC ms), kind, basket, quantity, value

Interactions need `user`, `item` and `time`. Defaults: `kind` purchase, `basket`
the user's rows of one instant, `quantity` 1, `value` 0. Times are timestamps, ISO
8601 text, or integers since 1970 in s, ms, us or ns: one unit for the column.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from server.errors import DataRefused
from training.data.schema import (
    INTERACTIONS,
    ITEMS,
    TIME_DTYPE,
    UNKNOWN,
    USERS,
    example_row,
    refuse_rows,
    validated,
)

REQUIRED = {"interactions": ("user", "item", "time"), "items": ("item",), "users": ("user",)}

EPOCH_UNITS = (("s", 10**8, 10**11), ("ms", 10**11, 10**14), ("us", 10**14, 10**17))
"""Unit and range of the integers taken for it: each spans 1973 to 5138, so no value fits two."""

NS_FROM = 10**17

PER_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}


@dataclass(frozen=True)
class Tables:
    """The three tables, each accepted by its schema, and where they came from.

    week_ends_ms: the last instant of weeks 1, 2, ... where the source has a calendar
    of its own; empty otherwise.
    left_out: reason and number of rows that an adapter did not take over.
    """

    interactions: pl.DataFrame
    items: pl.DataFrame
    users: pl.DataFrame
    source: str
    week_ends_ms: tuple[int, ...] = ()
    left_out: tuple[tuple[str, int], ...] = ()


def read_tables(interactions: Path, items: Path | None = None, users: Path | None = None) -> Tables:
    """The tables of these files (`.parquet` or `.csv`); `DataRefused` says what is wrong with them.

    Without `items` or `users` every id of the interactions is known and nothing
    about it is.
    """
    events = interactions_from(_read(interactions, "interactions"))
    described = (
        read_items(items)
        if items is not None
        else items_from(events.select(pl.col("item").unique().sort()))
    )
    people = (
        read_users(users)
        if users is not None
        else users_from(events.select(pl.col("user").unique().sort()))
    )
    return Tables(events, described, people, interactions.name)


def read_items(path: Path) -> pl.DataFrame:
    """The items of a file, under their schema."""
    return items_from(_read(path, "items"))


def read_users(path: Path) -> pl.DataFrame:
    """The users of a file, under their schema."""
    return users_from(_read(path, "users"))


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
    at_once = pl.format("{}@{}", "user", pl.col("time").dt.epoch("ms"))
    given = pl.col("basket").cast(pl.String) if "basket" in raw.columns else pl.lit(None, pl.String)
    table = table.with_columns(pl.coalesce(given, at_once).alias("basket"))
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


def parsed_times(table: pl.DataFrame, column: str, source: str) -> pl.Series:
    """The column as UTC milliseconds, whichever of the allowed forms it has."""
    values = table[column]
    refuse_rows(table, values.is_null(), column, "null", "a time in every row", source)
    dtype = values.dtype
    if dtype == pl.Date or isinstance(dtype, pl.Datetime):
        if isinstance(dtype, pl.Datetime) and dtype.time_zone not in (None, "UTC"):
            values = values.dt.convert_time_zone("UTC")
        if not isinstance(dtype, pl.Datetime) or dtype.time_zone is None:
            values = values.cast(pl.Datetime("ms")).dt.replace_time_zone("UTC")
        return values.cast(TIME_DTYPE)
    if dtype.is_float():
        refuse_rows(
            table, ~values.is_finite(), column, "not a finite time", "whole numbers or text", source
        )
        refuse_rows(
            table,
            values != values.floor(),
            column,
            "a fraction as a time",
            "whole s, ms, us or ns since 1970",
            source,
        )
        values = values.cast(pl.Int64)
    elif dtype == pl.String:
        numeric = values.str.contains(r"^\s*-?\d+\s*$")
        if not numeric.all():
            return _parsed_text(table, values, numeric, column, source)
        values = values.str.strip_chars().cast(pl.Int64)
    elif not dtype.is_integer():
        refuse_rows(
            table,
            values.is_not_null(),
            column,
            f"type {dtype}",
            "timestamps, ISO 8601 text or whole numbers since 1970",
            source,
        )
    return _parsed_epochs(table, values.cast(pl.Int64), column, source)


def _parsed_epochs(table: pl.DataFrame, values: pl.Series, column: str, source: str) -> pl.Series:
    units = pl.Series([None] * len(values), dtype=pl.String)
    for unit, low, high in EPOCH_UNITS:
        units = units.zip_with(~((values >= low) & (values < high)), pl.Series([unit]))
    units = units.zip_with(values < NS_FROM, pl.Series(["ns"]))
    refuse_rows(
        table,
        units.is_null(),
        column,
        "not a time since 1970 in any unit",
        f"s, ms, us or ns since 1970, from {EPOCH_UNITS[0][1]} (1973) on",
        source,
    )
    counts = units.value_counts(sort=True)
    if counts.height > 1:
        usual = str(counts[units.name][0])
        seen = ", ".join(f"{n} in {u}" for u, n in counts.iter_rows())
        refuse_rows(
            table, units != usual, column, f"mixed units ({seen})", "one unit for all rows", source
        )
    times, per = PER_MS[str(units[0])]
    return (values * times // per).cast(TIME_DTYPE)


def _parsed_text(
    table: pl.DataFrame, values: pl.Series, numeric: pl.Series, column: str, source: str
) -> pl.Series:
    refuse_rows(table, numeric, column, "numbers among text", "one form for all rows", source)
    plain = values.str.strip_chars().str.replace("T", " ").str.replace("Z$", "+00:00")
    frame = pl.DataFrame({"text": plain}).select(
        zoned=pl.col("text").str.to_datetime(
            "%Y-%m-%d %H:%M:%S%.f%:z", time_unit="ms", strict=False
        ),
        naive=pl.coalesce(
            pl.col("text").str.to_datetime(form, time_unit="ms", strict=False)
            for form in ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
        ),
        day=pl.col("text").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("ms")),
    )
    naive = frame.select(pl.coalesce("naive", "day").alias("time"))["time"]
    zoned = frame["zoned"]
    refuse_rows(
        table,
        naive.is_null() & zoned.is_null(),
        column,
        "text that is no time",
        "ISO 8601, such as 2017-12-31T23:59:59Z",
        source,
    )
    if zoned.null_count() not in (0, len(zoned)):
        refuse_rows(
            table,
            zoned.is_null(),
            column,
            "times with and without a time zone",
            "all with one, or none (then UTC)",
            source,
        )
    if zoned.null_count() == 0:
        return zoned.dt.convert_time_zone("UTC").cast(TIME_DTYPE)
    return naive.dt.replace_time_zone("UTC").cast(TIME_DTYPE)


def _read(path: Path, source: str) -> pl.DataFrame:
    if not path.is_file():
        raise FileNotFoundError(2, "no such file", str(path))
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(path)
        if path.suffix == ".csv":
            # Ids stay text: "007" is not 7.
            header = _header(path, source)
            ids = ("user", "item", "basket", "provider")
            texts: dict[str, pl.DataType] = {c: pl.String() for c in ids if c in header}
            return pl.read_csv(path, schema_overrides=texts, infer_schema_length=None)
        why = f"file type {path.suffix!r}"
    except pl.exceptions.PolarsError as error:
        why = (
            f"the file does not parse: {str(error).splitlines()[0]}" if str(error) else "empty file"
        )
    raise DataRefused(
        REQUIRED[source][0],
        rows=0,
        example={},
        why=why,
        allowed=".parquet, or .csv with a header line",
        source=f"{source} ({path.name})",
    )


def _header(path: Path, source: str) -> list[str]:
    """The columns of a CSV file, each of which may be there once: which of two would be meant?"""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as text:
        names = next(csv.reader(text), [])
    for name, times in Counter(names).items():
        if times > 1:
            raise DataRefused(
                name,
                rows=0,
                example={},
                why=f"{times} columns of this name",
                allowed="each name once",
                source=f"{source} ({path.name})",
            )
    return names


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
    for column in columns:
        ids = table[column]
        refuse_rows(table, ids.is_null(), column, "null", "an id in every row", source)
        if ids.dtype == pl.String:
            odd = ids.str.contains(r"^\s*$|\p{Cc}")
            refuse_rows(table, odd, column, "blank, or with control characters", "an id", source)
        if ids.dtype.is_float():
            refuse_rows(
                table, ids.is_not_null(), column, f"type {ids.dtype}", "text or integers", source
            )
    return table.with_columns(pl.col(columns).cast(pl.String))


def _kind(table: pl.DataFrame) -> pl.Expr:
    if "kind" not in table.columns:
        return pl.lit("purchase")
    return pl.col("kind").cast(pl.String).str.to_lowercase().fill_null("purchase")


def _number(table: pl.DataFrame, column: str, default: float, source: str) -> pl.Expr:
    if column not in table.columns:
        return pl.lit(default, pl.Float64)
    values = table[column]
    numbers = values.cast(pl.Float64, strict=False)
    refuse_rows(
        table,
        values.is_not_null() & numbers.is_null(),
        column,
        "not a number",
        "a number, or null for the default",
        source,
    )
    return pl.col(column).cast(pl.Float64, strict=False).fill_null(default)


def _text_attributes(table: pl.DataFrame, key: str, wanted: tuple[str, ...]) -> pl.DataFrame:
    missing = [pl.lit(UNKNOWN).alias(name) for name in wanted if name not in table.columns]
    others = [name for name in table.columns if name != key]
    return table.with_columns(
        *missing, *(pl.col(name).cast(pl.String).fill_null(UNKNOWN) for name in others)
    ).select(*wanted, *(name for name in others if name not in wanted))
