"""From a source to arrays, in one call: read, clean, split.

Owns the rules and cuts per source and the cache of prepared tables. Must not know
models.

    prepared = prepare_complete_journey(cache=Path("out/data"))
    prepared.dataset, prepared.split, print(prepared.cleaning)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from training.data.clean import Cleaning, Rules, clean
from training.data.completejourney import NAME, NOT_PRODUCTS, complete_journey
from training.data.dataset import Dataset, dataset_of
from training.data.groups import GroupRows
from training.data.reading import Reading
from training.data.sequences import leave_one_out
from training.data.split import Split, split_by_days, split_by_weeks
from training.data.tables import AS_THEY_ARE, Tables, read_tables

CACHE_VERSION = 2
"""Raise when cleaning or the adapter changes what comes out of the same input."""


@dataclass(frozen=True)
class Prepared:
    """Data that is ready for models, and the account of how it became so."""

    tables: Tables
    cleaning: Cleaning
    dataset: Dataset
    split: Split


def prepare_complete_journey(cache: Path | None = None, min_item_purchases: int = 10) -> Prepared:
    """The Complete Journey by the published protocol; read from `cache` if it holds the same.

    cache: a folder that is made if missing. Its content is written aside and renamed
    into place, so a broken run leaves nothing half-written.
    """
    stored = _read_cache(cache, min_item_purchases) if cache else None
    if stored is not None:
        tables, cleaning = stored
        return Prepared(tables, cleaning, dataset_of(tables), split_by_weeks(tables.week_ends_ms))
    tables = complete_journey()
    split = split_by_weeks(tables.week_ends_ms)
    tables, cleaning = clean(
        tables,
        Rules(
            drop_departments=NOT_PRODUCTS,
            drop_undescribed=True,
            min_item_purchases=min_item_purchases,
            counted_until_ms=split.train_until_ms,
        ),
    )
    if cache:
        _write_cache(cache, min_item_purchases, tables, cleaning)
    return Prepared(tables, cleaning, dataset_of(tables), split)


def prepare_files(
    interactions: Path,
    items: Path | None = None,
    users: Path | None = None,
    min_item_purchases: int = 2,
    validation_days: int = 14,
    test_days: int = 21,
    reading: Reading = AS_THEY_ARE,
) -> Prepared:
    """A user's own files, cut by days from their last event; `DataRefused` as `read_tables`."""
    tables = read_tables(interactions, items, users, reading)
    return prepare_tables(tables, min_item_purchases, validation_days, test_days)


def prepare_in_order(tables: Tables) -> Prepared:
    """Tables whose times are places (`training.data.sequences`), cut by leave-one-out; nothing is
    cleaned away but what stands twice in one place."""
    tables, cleaning = clean(tables, Rules())
    return Prepared(tables, cleaning, dataset_of(tables), leave_one_out())


def prepare_tables(
    tables: Tables,
    min_item_purchases: int = 2,
    validation_days: int = 14,
    test_days: int = 21,
) -> Prepared:
    """Tables from anywhere, cut by days from their last event."""
    first, last = (
        int(ms)
        for ms in tables.interactions.select(
            pl.col("time").dt.epoch("ms").min(), pl.col("time").dt.epoch("ms").max().alias("last")
        ).row(0)
    )
    split = split_by_days(first, last, validation_days, test_days)
    tables, cleaning = clean(
        tables,
        Rules(min_item_purchases=min_item_purchases, counted_until_ms=split.train_until_ms),
    )
    return Prepared(tables, cleaning, dataset_of(tables), split)


def _target(cache: Path, min_item_purchases: int) -> Path:
    return cache / f"{NAME}-v{CACHE_VERSION}-min{min_item_purchases}"


def _read_cache(cache: Path, min_item_purchases: int) -> tuple[Tables, Cleaning] | None:
    folder = _target(cache, min_item_purchases)
    try:
        facts = json.loads((folder / "facts.json").read_text())
        interactions, items, users = (
            pl.read_parquet(folder / f"{name}.parquet")
            for name in ("interactions", "items", "users")
        )
        account = facts["cleaning"]
        cleaning = Cleaning(
            account["rows_in"],
            tuple((str(reason), int(rows)) for reason, rows in account["dropped"]),
            account["rows_out"],
            account["users"],
            account["items"],
            tuple(GroupRows(*group) for group in account["groups"]),
        )
        tables = Tables(interactions, items, users, NAME, tuple(facts["week_ends_ms"]))
    except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError):
        # A cache that cannot be read is a cache that is not there: it is made anew.
        return None
    return (tables, cleaning) if tables.interactions.height == cleaning.rows_out else None


def _write_cache(cache: Path, min_item_purchases: int, tables: Tables, cleaning: Cleaning) -> None:
    cache.mkdir(parents=True, exist_ok=True)
    target = _target(cache, min_item_purchases)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=cache))
    try:
        tables.interactions.write_parquet(aside / "interactions.parquet")
        tables.items.write_parquet(aside / "items.parquet")
        tables.users.write_parquet(aside / "users.parquet")
        facts = {
            "week_ends_ms": list(tables.week_ends_ms),
            "cleaning": {
                "rows_in": cleaning.rows_in,
                "dropped": [list(entry) for entry in cleaning.dropped],
                "rows_out": cleaning.rows_out,
                "users": cleaning.users,
                "items": cleaning.items,
                "groups": [list(dataclasses.astuple(group)) for group in cleaning.groups],
            },
        }
        (aside / "facts.json").write_text(json.dumps(facts, indent=1))
        if target.exists():
            shutil.rmtree(target)
        # Another process may have been first: its folder is as good as ours.
        with contextlib.suppress(OSError):
            os.rename(aside, target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
