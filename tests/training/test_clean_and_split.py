"""Cleaning's account, the arrays, and cuts in time that no basket straddles."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import DataRefused
from server.features.types import DAY_MS
from strategies.purchases import START_MS, Row, purchase_rows, raw, shop_rows, tables
from training.data.clean import Cleaning, Rules, clean, merged_baskets
from training.data.completejourney import week_ends_ms
from training.data.dataset import dataset_of
from training.data.groups import GroupRows, fell_on
from training.data.prepare import prepare_files, prepare_tables
from training.data.split import Split, split_by_days, split_by_weeks, targets_between
from training.data.tables import items_from, users_from

pytestmark = pytest.mark.slow


def day(n: int) -> int:
    return START_MS + n * DAY_MS


@given(purchase_rows(), st.integers(1, 4), st.integers(0, 40))
def test_the_account_adds_up_and_rare_items_leave(rows: list[Row], least: int, cut: int) -> None:
    rules = Rules(min_item_purchases=least, counted_until_ms=day(cut))
    starts: dict[tuple[str, str], int] = {}
    for user, _, when, basket in rows:
        starts[user, basket] = min(when, starts.get((user, basket), when))
    merged = {(user, basket, item) for user, item, _, basket in rows}
    counts = Counter(item for user, basket, item in merged if starts[user, basket] <= cut)
    kept = {(u, b, i) for u, b, i in merged if counts[i] >= least}
    if not kept:
        with pytest.raises(DataRefused, match="dropped every row"):
            clean(tables(rows), rules)
        return
    cleaned, account = clean(tables(rows), rules)
    assert set(cleaned.interactions.select("user", "basket", "item").iter_rows()) == kept
    assert account.rows_in == len(rows)
    assert account.rows_in - sum(count for _, count in account.dropped) == account.rows_out
    assert account.rows_out == cleaned.interactions.height == len(kept)


def test_departments_and_undescribed_items_leave_with_their_reasons() -> None:
    bought = tables([("u", "milk", 0, "b"), ("u", "petrol", 0, "b"), ("u", "thing", 0, "b")])
    described = items_from(
        pl.DataFrame({"item": ["milk", "petrol"], "category_path": ["FOOD > MILK", "FUEL"]})
    )
    known = type(bought)(bought.interactions, described, bought.users, "by hand")
    cleaned, account = clean(known, Rules(drop_departments=("FUEL",), drop_undescribed=True))
    assert cleaned.interactions["item"].to_list() == ["milk"]
    assert dict(account.dropped)["item not described"] == 1
    assert dict(account.dropped)["department FUEL"] == 1
    assert "department FUEL" in str(account)
    kept, _ = clean(known, Rules(drop_departments=("FUEL",)))
    assert set(kept.interactions["item"]) == {"milk", "thing"}


def test_an_item_twice_in_a_basket_is_one_row_with_the_sum() -> None:
    cleaned, account = clean(tables([("u", "milk", 0, "b"), ("u", "milk", 0, "b")]), Rules())
    assert cleaned.interactions["quantity"].to_list() == [2.0]
    assert isinstance(account, Cleaning)
    assert account.rows_out == 1


def test_what_cleaning_took_is_told_per_group() -> None:
    before = tables([("a", "x", 0, "1"), ("a", "x", 1, "2"), ("b", "y", 0, "3")])
    people = users_from(pl.DataFrame({"user": ["a", "b"], "age": ["old", "young"]}))
    things = items_from(
        pl.DataFrame({"item": ["x", "y"], "category_path": ["FOOD > X", "FOOD > Y"]})
    )
    before = type(before)(before.interactions, things, people, "by hand")
    _, account = clean(before, Rules(min_item_purchases=2))
    assert account.groups == (
        GroupRows("users", "age", "old", 2, 2, 1, 1),
        GroupRows("users", "age", "young", 1, 0, 1, 0),
        GroupRows("items", "department", "FOOD", 3, 2, 2, 1),
    )


def test_rows_that_were_added_up_are_not_lost() -> None:
    before = tables([("a", "x", 0, "1"), ("a", "x", 0, "1"), ("b", "y", 0, "3")])
    people = users_from(pl.DataFrame({"user": ["a", "b"], "age": ["old", "young"]}))
    _, account = clean(type(before)(before.interactions, before.items, people, "x"), Rules())
    assert [group.rows_in for group in account.groups] == [1, 1]
    assert fell_on(account.groups) == []


def test_cleaning_that_falls_on_one_group_is_found() -> None:
    fair = [GroupRows("users", "age", label, 100, 95, 9, 9) for label in ("old", "young")]
    assert fell_on(fair) == []
    unfair = GroupRows("users", "age", "middle", 100, 80, 9, 9)
    ((group, others),) = fell_on([*fair, unfair])
    assert group == unfair
    assert others == pytest.approx(0.05)
    few = GroupRows("users", "age", "middle", 10, 5, 9, 9)
    assert fell_on([*fair, few]) == []


def test_baskets_of_one_instant_are_in_the_order_of_their_ids() -> None:
    names = [f"b{n}" for n in range(12)]
    rows: list[Row] = [("ann", f"i{n % 3}", 0.0, name) for n, name in enumerate(names)]
    merged = merged_baskets(tables([*rows, ("bob", "i1", 0.0, "b")]).interactions)
    assert merged["basket"].to_list() == [*sorted(names), "b"]


@given(purchase_rows())
def test_baskets_are_merged_as_a_plain_group_by_does(rows: list[Row]) -> None:
    events = tables(rows).interactions
    told = (
        events.with_columns(pl.col("time").min().over("user", "basket"))
        .group_by("user", "basket", "item", "kind")
        .agg(pl.col("time").min(), pl.col("quantity").sum(), pl.col("value").sum())
        .select(events.columns)
        .sort("user", "time", "basket", "item", "kind")
    )
    assert merged_baskets(events).equals(told)


@given(purchase_rows())
def test_arrays_hold_the_same_events_as_the_tables(rows: list[Row]) -> None:
    cleaned, _ = clean(tables(rows), Rules())
    dataset = dataset_of(cleaned)
    told = [
        (dataset.user_ids[u], dataset.item_ids[i], int(t), float(q))
        for u, i, t, q in zip(
            dataset.event_users, dataset.items, dataset.times_ms, dataset.quantities, strict=True
        )
    ]
    wanted = cleaned.interactions.select(
        "user", "item", pl.col("time").dt.epoch("ms"), "quantity"
    ).rows()
    assert sorted(told) == sorted(wanted)
    assert list(dataset.user_ids) == sorted({row[0] for row in rows})
    assert list(dataset.item_ids) == sorted({row[1] for row in rows})
    for user in range(dataset.n_users):
        history = dataset.history(user)
        assert (np.diff(history.times_ms) >= 0).all()


@given(purchase_rows(), st.integers(0, 40))
def test_no_basket_straddles_a_cut(rows: list[Row], cut: int) -> None:
    cleaned, _ = clean(tables(rows), Rules())
    dataset = dataset_of(cleaned)
    before = set(dataset.until(day(cut)).baskets.tolist())
    after = set(dataset.between(day(cut), day(99)).baskets.tolist())
    assert not before & after
    baskets = cleaned.interactions.group_by("user", "basket").agg(pl.col("time").n_unique())
    assert baskets["time"].max() == 1
    assert len(before | after) == baskets.height


@given(purchase_rows(), st.integers(0, 39), st.integers(1, 40))
def test_targets_are_what_a_plain_loop_finds(rows: list[Row], cut: int, days: int) -> None:
    cleaned, _ = clean(tables(rows), Rules())
    dataset = dataset_of(cleaned)
    targets = targets_between(dataset, day(cut), day(cut + days))
    has_history = set()
    bought: dict[str, set[str]] = defaultdict(set)
    first: dict[str, tuple[int, str]] = {}
    events = cleaned.interactions.sort("user", "time", "basket").iter_rows(named=True)
    for row in events:
        ms = int(row["time"].timestamp() * 1000)
        if ms <= day(cut):
            has_history.add(row["user"])
        elif ms <= day(cut + days):
            bought[row["user"]].add(row["item"])
            key = (ms, row["basket"])
            first[row["user"]] = min(key, first.get(row["user"], key))
    users = sorted(set(bought) & has_history)
    assert [dataset.user_ids[u] for u in targets.users] == users
    for place, user in enumerate(users):
        assert [dataset.item_ids[i] for i in targets.of(place)] == sorted(bought[user])
        in_first = {
            row["item"]
            for row in cleaned.interactions.iter_rows(named=True)
            if row["user"] == user and row["basket"] == first[user][1]
        }
        assert [dataset.item_ids[i] for i in targets.first_of(place)] == sorted(in_first)


def test_the_digest_changes_with_any_event() -> None:
    rows: list[Row] = [("a", "x", 0, "1"), ("b", "y", 1, "2")]
    same = dataset_of(clean(tables(rows), Rules())[0]).digest()
    assert dataset_of(clean(tables(rows[::-1]), Rules())[0]).digest() == same
    later: list[Row] = [("a", "x", 0, "1"), ("b", "y", 2, "2")]
    assert dataset_of(clean(tables(later), Rules())[0]).digest() != same


def test_cuts_must_rise() -> None:
    with pytest.raises(ValueError, match="cuts must rise"):
        Split(3, 2, 4, "x")
    with pytest.raises(DataRefused, match=r"span 3\.0 days"):
        split_by_days(day(0), day(3))
    with pytest.raises(ValueError, match="needs 53 weeks"):
        split_by_weeks((1, 2, 3))


def test_own_files_are_cut_by_days_from_their_last_event(tmp_path: Path) -> None:
    raw(shop_rows()).write_csv(tmp_path / "buys.csv")
    prepared = prepare_files(tmp_path / "buys.csv")
    last = prepared.dataset.last_ms
    assert prepared.split.test_until_ms == last
    assert prepared.split.validation_until_ms == last - 21 * DAY_MS
    assert prepared.split.train_until_ms == last - 35 * DAY_MS
    again = prepare_tables(tables(shop_rows()))
    assert again.dataset.digest() == prepared.dataset.digest()


def test_weeks_that_overlap_in_time_are_refused() -> None:
    times = pl.Series([0, 10, 5], dtype=pl.Int64).cast(pl.Datetime("ms"))
    with pytest.raises(DataRefused, match="weeks overlap"):
        week_ends_ms(pl.DataFrame({"week": [1, 1, 2], "transaction_timestamp": times}))
