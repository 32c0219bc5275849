"""Purchases into the event store and out again."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner

from server.errors import DataRefused, Refused
from server.events import SqliteEventStore
from server.features.types import DAY_MS
from strategies.purchases import START_MS, raw, shop_rows, tables
from training.commands import load_events
from training.data.stored import cut_at, load, tables_of, until_ms_of
from training.data.tables import Tables

KEY = ["user", "time", "basket", "item"]


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    shop = tables(shop_rows(n_users=5))
    seen: list[int] = []
    with SqliteEventStore(tmp_path / "events.db") as store:
        loaded = load(shop.interactions, store, seen.append, batch_events=37)
        back = tables_of(store)
    assert loaded.recorded == shop.interactions.height == sum(seen)
    assert loaded.users == 5
    assert back.interactions.sort(KEY).equals(shop.interactions.sort(KEY))
    assert set(back.items["item"]) == set(shop.items["item"])


def test_loading_twice_adds_nothing_whatever_the_order_of_rows(tmp_path: Path) -> None:
    shop = tables(shop_rows(n_users=5))
    with SqliteEventStore(tmp_path / "events.db") as store:
        first = load(shop.interactions, store)
        again = load(shop.interactions.reverse(), store)
    assert (again.recorded, again.duplicates) == (0, first.recorded)


def test_rows_that_say_the_same_are_both_kept(tmp_path: Path) -> None:
    twice = tables([("u", "milk", 0, "b"), ("u", "milk", 0, "b")])
    with SqliteEventStore(tmp_path / "events.db") as store:
        assert load(twice.interactions, store).recorded == 2
        assert load(twice.interactions, store).recorded == 0


def test_an_empty_store_has_no_tables(tmp_path: Path) -> None:
    with (
        SqliteEventStore(tmp_path / "events.db") as store,
        pytest.raises(DataRefused, match="event store is empty"),
    ):
        tables_of(store)


def test_a_cut_is_a_week_or_an_instant_and_not_both() -> None:
    shop = tables(shop_rows(n_users=2))
    weekly = Tables(shop.interactions, shop.items, shop.users, "s", week_ends_ms=(START_MS, 7))
    noon = dt.datetime(2014, 5, 20, 12)
    assert until_ms_of(weekly, None, None) is None
    assert until_ms_of(weekly, None, 1) == START_MS
    assert until_ms_of(weekly, noon, None) == 1_400_587_200_000
    for until, week in ((noon, 1), (None, 3)):
        with pytest.raises(Refused, match="--until"):
            until_ms_of(weekly, until, week)
    cut_ms = START_MS + 30 * DAY_MS
    kept = cut_at(shop.interactions, cut_ms)
    assert kept["time"].dt.epoch("ms").max() <= cut_ms
    assert 0 < kept.height < shop.interactions.height


def test_the_command_loads_a_file_and_says_what_it_did(tmp_path: Path) -> None:
    rows = raw(shop_rows(n_users=4))
    rows.write_csv(tmp_path / "buys.csv")
    arguments = [
        "--interactions", str(tmp_path / "buys.csv"), "--store", str(tmp_path / "s.db"), "--json",
    ]  # fmt: skip
    first = json.loads(CliRunner().invoke(load_events, arguments, catch_exceptions=False).stdout)
    again = json.loads(CliRunner().invoke(load_events, arguments, catch_exceptions=False).stdout)
    assert first["recorded"] == rows.height
    assert (again["recorded"], again["duplicates"]) == (0, rows.height)
    said = CliRunner().invoke(load_events, arguments[:-1], catch_exceptions=False).stdout
    assert f"{rows.height:,} known already" in said


def test_the_command_refuses_a_bad_file_and_makes_no_store(tmp_path: Path) -> None:
    bad = raw(shop_rows(n_users=2)).with_columns(user=pl.lit(None, pl.String))
    bad.write_parquet(tmp_path / "buys.parquet")
    arguments = [
        "--interactions", str(tmp_path / "buys.parquet"), "--store", str(tmp_path / "s.db"),
    ]  # fmt: skip
    outcome = CliRunner().invoke(load_events, arguments)
    assert isinstance(outcome.exception, DataRefused)
    assert outcome.exception.column == "user"
    assert not (tmp_path / "s.db").exists()
    neither = CliRunner().invoke(load_events, ["--store", str(tmp_path / "s.db")])
    assert neither.exit_code == 2
    assert "only one, of --dataset and --interactions" in neither.output
