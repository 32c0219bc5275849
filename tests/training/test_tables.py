"""The door for data: what it takes, and what it refuses with column, rows and example."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import DataRefused
from strategies.purchases import tables
from training.data.clean import Rules, clean
from training.data.schema import INTERACTIONS
from training.data.tables import interactions_from, items_from, read_tables, users_from

NOON = dt.datetime(2017, 6, 1, 12, 0, 0, tzinfo=dt.UTC)
NOON_MS = int(NOON.timestamp() * 1000)


def table(**columns: list[object]) -> pl.DataFrame:
    base: dict[str, list[object]] = {
        "user": ["a", "b", "c"],
        "item": ["x", "y", "z"],
        "time": [NOON_MS, NOON_MS + 1, NOON_MS + 2],
    }
    return pl.DataFrame({**base, **columns}, strict=False)


def refused(raw: pl.DataFrame) -> DataRefused:
    with pytest.raises(DataRefused) as caught:
        interactions_from(raw)
    return caught.value


def test_optional_columns_get_their_defaults() -> None:
    got = interactions_from(table())
    assert got["kind"].unique().to_list() == ["purchase"]
    assert got["quantity"].to_list() == [1.0, 1.0, 1.0]
    assert got["value"].to_list() == [0.0, 0.0, 0.0]
    assert got["basket"].n_unique() == 3
    assert got.columns == list(INTERACTIONS.columns)


def test_without_a_basket_column_the_rows_of_a_user_at_one_instant_are_one_basket() -> None:
    got = interactions_from(table(user=["a", "a", "b"], time=[NOON_MS] * 3))
    assert got["basket"][0] == got["basket"][1] != got["basket"][2]


@pytest.mark.parametrize(
    "times",
    [
        [NOON] * 3,
        [NOON.replace(tzinfo=None)] * 3,
        ["2017-06-01T12:00:00Z"] * 3,
        ["2017-06-01 12:00:00"] * 3,
        ["2017-06-01T12:00:00.000"] * 3,
        ["2017-06-01T14:00:00+02:00"] * 3,
        ["2017-06-01 12:00"] * 3,
        [NOON_MS // 1000] * 3,
        [NOON_MS] * 3,
        [NOON_MS * 1000] * 3,
        [NOON_MS * 1_000_000] * 3,
        [str(NOON_MS)] * 3,
        [float(NOON_MS)] * 3,
    ],
)
def test_a_time_means_the_same_instant_in_every_allowed_form(times: list[object]) -> None:
    got = interactions_from(table(time=times))
    assert got["time"].to_list() == [NOON] * 3


def test_ids_that_are_whole_numbers_with_a_point_are_those_numbers() -> None:
    got = interactions_from(table(user=[1.0, 2.0, 30.0]))
    assert got["user"].to_list() == ["1", "2", "30"]


def test_times_of_several_zones_are_the_instants_that_they_name() -> None:
    times = ["2017-06-01T14:00:00+02:00", "2017-06-01T07:00:00-0500", "2017-06-01 12:00:00.000Z"]
    assert interactions_from(table(time=times))["time"].to_list() == [NOON] * 3


def test_a_day_without_a_time_is_its_midnight_in_utc() -> None:
    got = interactions_from(table(time=["2017-06-01"] * 3))
    assert got["time"][0] == dt.datetime(2017, 6, 1, tzinfo=dt.UTC)


@given(st.integers(10**8, 10**11 - 1), st.sampled_from([1000, 10**6, 10**9]))
def test_an_instant_is_read_alike_in_seconds_and_in_finer_units(second: int, per_s: int) -> None:
    coarse = interactions_from(table(time=[second] * 3))["time"].dt.epoch("ms")
    fine = interactions_from(table(time=[min(second, 9 * 10**9) * per_s] * 3))["time"]
    assert coarse[0] == second * 1000
    assert fine.dt.epoch("ms")[0] == min(second, 9 * 10**9) * 1000


@pytest.mark.parametrize(
    ("columns", "column", "rows", "why"),
    [
        ({"user": ["a", None, None]}, "user", 2, "null"),
        ({"item": ["x", None, "z"]}, "item", 1, "null"),
        ({"user": ["a", "", "c"]}, "user", 1, "''"),
        ({"user": [1.5, 2.0, 3.0]}, "user", 1, "Float64"),
        ({"user": [1.0, float("nan"), 3.0]}, "user", 1, "Float64"),
        ({"item": [["x"], ["y"], ["z"]]}, "item", 3, "List(String)"),
        ({"time": [NOON_MS, None, NOON_MS]}, "time", 1, "null"),
        ({"time": [NOON_MS // 1000, NOON_MS, NOON_MS]}, "time", 1, "mixed units"),
        ({"time": [NOON_MS, NOON_MS, NOON_MS * 1000]}, "time", 1, "mixed units"),
        ({"time": [1, 2, 3]}, "time", 3, "not a time since 1970"),
        ({"time": [-NOON_MS, NOON_MS, NOON_MS]}, "time", 1, "not a time since 1970"),
        ({"time": ["2017-06-01", "yesterday", "2017-06-02"]}, "time", 1, "text that is no time"),
        ({"time": ["2017-06-01", "1496318400", "2017-06-02"]}, "time", 1, "numbers among text"),
        (
            {"time": ["2017-06-01T12:00:00Z", "2017-06-01T12:00:00", "2017-06-01T12:00:00Z"]},
            "time",
            1,
            "with and without a time zone",
        ),
        ({"time": [NOON_MS + 0.5, NOON_MS, NOON_MS]}, "time", 1, "fraction"),
        ({"time": [True, True, False]}, "time", 3, "Boolean"),
        ({"kind": ["purchase", "steal", "view"]}, "kind", 1, "steal"),
        ({"quantity": [1, 0, 2]}, "quantity", 1, "0.0"),
        ({"quantity": [1, -2, -3]}, "quantity", 2, "-2.0"),
        ({"quantity": [1.0, float("inf"), 1.0]}, "quantity", 1, "inf"),
        ({"quantity": ["1", "two", "3"]}, "quantity", 1, "not a number"),
        ({"value": [1.0, float("nan"), 1.0]}, "value", 1, "NaN"),
    ],
)
def test_a_bad_table_is_refused_with_column_rows_and_an_example(
    columns: dict[str, list[object]], column: str, rows: int, why: str
) -> None:
    raw = table(**columns)
    error = refused(raw)
    assert (error.column, error.rows) == (column, rows)
    assert why in str(error)
    assert "allowed:" in str(error)
    assert set(error.example) >= {"user", "item", "time"}, "an example row"
    assert column in error.example


@pytest.mark.parametrize("column", ["user", "item", "time"])
def test_a_missing_column_is_refused_by_name(column: str) -> None:
    error = refused(table().drop(column))
    assert error.column == column
    assert "missing" in str(error)
    assert "user, item, time" in str(error)


def test_an_empty_table_is_refused() -> None:
    assert "empty" in str(refused(table().clear()))


def test_an_item_described_twice_is_refused() -> None:
    with pytest.raises(DataRefused, match="the same id twice") as caught:
        items_from(pl.DataFrame({"item": ["x", "y", "x"]}))
    assert caught.value.rows == 2


def test_items_without_attributes_read_unknown_and_keep_extra_columns() -> None:
    got = items_from(pl.DataFrame({"item": [7, 8], "brand": ["A", None], "colour": ["red", None]}))
    assert got["item"].to_list() == ["7", "8"]
    assert got["name"].to_list() == ["7", "8"]
    assert got["brand"].to_list() == ["A", "unknown"]
    assert got["colour"].to_list() == ["red", "unknown"]
    assert got["provider"].to_list() == ["unknown", "unknown"]


def test_a_user_described_twice_is_refused() -> None:
    with pytest.raises(DataRefused, match="user"):
        users_from(pl.DataFrame({"user": ["a", "a"]}))


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_files_of_both_forms_give_the_same_tables(tmp_path: Path, form: str) -> None:
    raw = table(user=["007", "7", "07"], quantity=[1, 2, 3])
    path = tmp_path / f"buys.{form}"
    if form == "csv":
        raw.write_csv(path)
    else:
        raw.write_parquet(path)
    got = read_tables(path)
    assert got.interactions.equals(interactions_from(raw))
    assert got.interactions["user"].to_list() == ["007", "7", "07"], "ids stay text"
    assert got.items["item"].to_list() == ["x", "y", "z"]
    assert set(got.users["user"]) == {"007", "7", "07"}


def test_a_file_that_is_no_table_is_refused(tmp_path: Path) -> None:
    broken = tmp_path / "buys.parquet"
    broken.write_bytes(b"not parquet at all")
    with pytest.raises(DataRefused, match="does not parse"):
        read_tables(broken)
    other = tmp_path / "buys.xlsx"
    other.write_bytes(b"x")
    with pytest.raises(DataRefused, match="xlsx"):
        read_tables(other)
    with pytest.raises(FileNotFoundError):
        read_tables(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("text", "column", "told"),
    [
        ("user,item,time,item\nann,a,2026-01-01,b\n", "item", "2 columns of this name"),
        ("user,item,time\n ,a,2026-01-01\n", "user", "blank"),
        ("user,item,time\nann,a\x00b,2026-01-01\n", "item", "control characters"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(
    tmp_path: Path, text: str, column: str, told: str
) -> None:
    (tmp_path / "odd.csv").write_text(text)
    with pytest.raises(DataRefused, match=told) as caught:
        read_tables(tmp_path / "odd.csv")
    assert caught.value.column == column


def test_a_basket_id_that_is_used_again_is_refused() -> None:
    rows = [("ann", "a", 0, "B1"), ("ann", "b", 2, "B1"), ("bob", "a", 0, "B2")]
    with pytest.raises(DataRefused, match="used again") as caught:
        clean(tables(rows), Rules())
    assert (caught.value.column, caught.value.rows) == ("basket", 2)
