"""What the three tables must look like, and the one form in which a breach is told.

Owns the pandera schemas of interactions, items and users, and the translation of
a failed check into `DataRefused` (column, number of rows, one of those rows, what
is allowed). Must not know where a table came from.

>>> import polars as pl
>>> from server.errors import DataRefused
>>> table = pl.DataFrame({"user": ["a", None]}, schema={"user": pl.String})
>>> try:
...     validated(table, USERS, "users")
... except DataRefused as refused:
...     print(refused)
data refused: users: column 'user': 1 of 2 rows: null; allowed: no null; example: {'user': None}
"""

from __future__ import annotations

import datetime as dt
from typing import Any, NoReturn

import pandera.polars as pa
import polars as pl
from pandera.errors import SchemaErrors

from server.errors import DataRefused, shown

KINDS = ("view", "click", "cart", "purchase")
"""Values of `kind`; their places + 1 are the numbers of `equipoise.v1.EventKind`."""

BOUGHT = "purchase"
"""The kind that is learned from and foretold."""

UNKNOWN = "unknown"
"""The explicit label of an attribute that nobody told us."""

MAX_ID_BYTES = 128
"""The bound on user and item ids, the same as on the wire."""

TIME_DTYPE = pl.Datetime("ms", "UTC")


def _id(unique: bool = False) -> pa.Column:
    return pa.Column(
        pl.String,
        [
            pa.Check.str_length(min_value=1, error="an id of 1 to 128 bytes"),
            pa.Check(
                lambda data: data.lazyframe.select(
                    pl.col(data.key).str.len_bytes() <= MAX_ID_BYTES
                ),
                error="an id of 1 to 128 bytes",
            ),
        ],
        unique=unique,
    )


def _text() -> pa.Column:
    return pa.Column(pl.String, nullable=False)


INTERACTIONS = pa.DataFrameSchema(
    {
        "user": _id(),
        "item": _id(),
        "time": pa.Column(
            TIME_DTYPE,
            pa.Check(
                lambda data: data.lazyframe.select(pl.col(data.key).dt.epoch("ms") >= 0),
                error="a time not before 1970",
            ),
        ),
        "kind": pa.Column(pl.String, pa.Check.isin(KINDS, error=f"one of {', '.join(KINDS)}")),
        "basket": _text(),
        "quantity": pa.Column(
            pl.Float64,
            pa.Check(
                lambda data: data.lazyframe.select(
                    (pl.col(data.key) > 0) & pl.col(data.key).is_finite()
                ),
                error="a finite number above 0",
            ),
        ),
        "value": pa.Column(
            pl.Float64,
            pa.Check(
                lambda data: data.lazyframe.select(pl.col(data.key).is_finite()),
                error="a finite number",
            ),
        ),
    },
    name="interactions",
)
"""One row per event: who did what to which item, when, in which basket."""

ITEMS = pa.DataFrameSchema(
    {
        "item": _id(unique=True),
        "name": _text(),
        "category_path": _text(),
        "provider": _text(),
        "brand": _text(),
    },
    name="items",
)
"""One row per item; `category_path` reads "A > B > C"; further columns are attributes."""

USERS = pa.DataFrameSchema({"user": _id(unique=True)}, name="users")
"""One row per user; further columns are attributes, used to audit and never to rank."""


def example_row(table: pl.DataFrame, at: int) -> dict[str, Any]:
    """The row at place `at` as a dict, times as text, for an error message."""
    if not 0 <= at < table.height:
        return {}
    row = table.row(at, named=True)
    return {k: v.isoformat() if isinstance(v, dt.date) else v for k, v in row.items()}


def refuse_rows(
    table: pl.DataFrame, bad: pl.Series, column: str, why: str, allowed: str, source: str
) -> None:
    """Raise `DataRefused` if any value of the boolean series `bad` is true (null counts as false)."""
    places = bad.fill_null(False).arg_true()
    if len(places):
        raise DataRefused(
            column,
            rows=len(places),
            of_rows=table.height,
            example=example_row(table, int(places[0])),
            why=why,
            allowed=allowed,
            source=source,
        )


def refuse_no_purchases(rows: pl.DataFrame) -> NoReturn:
    """Raise the refusal of a table in which nothing was bought."""
    raise DataRefused(
        "kind",
        rows=rows.height,
        of_rows=rows.height,
        example=example_row(rows, 0),
        why=f"no row is of kind {BOUGHT}, which is what is learned",
        allowed=f"rows of kind {BOUGHT}, or your word for it: --kind {BOUGHT}=WORD",
    )


def validated(table: pl.DataFrame, schema: pa.DataFrameSchema, source: str) -> pl.DataFrame:
    """`table` if `schema` accepts it; else `DataRefused` for the first column that fails."""
    if table.is_empty():
        raise DataRefused(
            next(iter(schema.columns)),
            rows=0,
            of_rows=0,
            example={},
            why="the table is empty",
            allowed="at least one row",
            source=source,
        )
    try:
        return schema.validate(table, lazy=True)
    except SchemaErrors as errors:
        raise _refusal(table, schema, errors, source) from None


def _refusal(
    table: pl.DataFrame, schema: pa.DataFrameSchema, errors: SchemaErrors, source: str
) -> DataRefused:
    """The first failure in column order, told with our own count of the bad rows."""
    order = {name: place for place, name in enumerate(schema.columns)}
    cases = errors.failure_cases
    first = min(
        cases.iter_rows(named=True), key=lambda row: order.get(str(row["column"]), len(order))
    )
    column = str(first["column"])
    check = str(first["check"])
    if check == "column_in_dataframe" or column not in table.columns:
        missing = str(first["failure_case"]) if column not in schema.columns else column
        return DataRefused(
            missing,
            rows=table.height,
            of_rows=table.height,
            example=example_row(table, 0),
            why="the column is missing",
            allowed=f"columns {', '.join(schema.columns)}",
            source=source,
        )
    values = table[column]
    if check.startswith("dtype"):
        bad, why, allowed = values.is_not_null(), f"type {values.dtype}", check
    elif values.null_count():
        bad, why, allowed = values.is_null(), "null", "no null"
    elif "unique" in check:
        bad, why, allowed = values.is_duplicated(), "the same id twice", "each id once"
    else:
        places = cases.filter((pl.col("column") == column) & (pl.col("check") == check))["index"]
        at = places.drop_nulls().cast(pl.UInt32)
        bad = pl.Series(range(table.height)).cast(pl.UInt32).is_in(at.implode())
        if not bad.any():
            bad = values.cast(pl.String) == str(first["failure_case"])
        why, allowed = f"value {shown(first['failure_case'])}", check
        if check == "not_nullable":
            why, allowed = "not a number (NaN)", "a finite number"
    where = bad.fill_null(False).arg_true()
    return DataRefused(
        column,
        rows=len(where),
        of_rows=table.height,
        example=example_row(table, int(where[0]) if len(where) else 0),
        why=why,
        allowed=allowed,
        source=source,
    )
