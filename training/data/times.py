"""A column of times in any of the allowed forms, as UTC milliseconds.

Owns the forms. What could be meant in two ways is refused, with column, number of rows and an
example. Must not know what the times are of.
"""

from __future__ import annotations

import polars as pl

from training.data.schema import TIME_DTYPE, refuse_rows

EPOCH_UNITS = (("s", 10**8, 10**11), ("ms", 10**11, 10**14), ("us", 10**14, 10**17))
"""Unit and range of the integers taken for it: each spans 1973 to 5138, so no value fits two."""

NS_FROM = 10**17

PER_MS = {"s": (1000, 1), "ms": (1, 1), "us": (1, 1000), "ns": (1, 1_000_000)}

START_MS = EPOCH_UNITS[1][1]
"""The time of the first row where only the order of rows is known."""

NUMBER = r"^-?\d+(\.\d+)?([eE][+-]?\d+)?$"


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
        bare = values.str.strip_chars()
        numeric = bare.str.contains(NUMBER)
        if not numeric.all():
            return _parsed_text(table, values, numeric, column, source)
        whole = bare.cast(pl.Int64, strict=False)
        if whole.null_count():
            # 881250949.0, as pandas writes it.
            return parsed_times(
                table.with_columns(bare.cast(pl.Float64).alias(column)), column, source
            )
        values = whole
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
    usual = _usual_form(values)
    if usual is not None:
        return usual.dt.replace_time_zone("UTC").cast(TIME_DTYPE)
    plain = (
        values.str.strip_chars()
        .str.replace("T", " ")
        .str.replace(r"\s*[Zz]$", "+00:00")
        .str.replace(r"(:\d\d(?:\.\d+)?)\s*([+-]\d\d):?(\d\d)$", "$1$2:$3")
        .str.replace(r"^(\S+ \d\d:\d\d)([+-])", "$1:00$2")
    )
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


def _usual_form(values: pl.Series) -> pl.Series | None:
    """The times in UTC if all are in one form that is read fast; to try all forms takes ten times as
    long."""
    for form in ("%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S"):
        if values.head(1).str.to_datetime(form, time_unit="ms", strict=False).null_count() == 0:
            parsed = values.str.to_datetime(form, time_unit="ms", strict=False)
            return parsed if parsed.null_count() == 0 else None
    return None


def steps_of(times: pl.Series) -> pl.Series | None:
    """The column as whole numbers that are too small for times since 1970; None if it is not that."""
    if times.dtype != pl.String and not times.dtype.is_integer():
        return None
    steps = times.cast(pl.Int64, strict=False)
    small = ((steps >= 0) & (steps < EPOCH_UNITS[0][1])).fill_null(False)
    return steps if small.all() else None
