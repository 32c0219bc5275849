"""Columns told by flags and by TOML: what is read under which name, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import click
import polars as pl
import pytest
from click.testing import CliRunner

from server.errors import DataRefused
from server.events import SqliteEventStore
from training.audit.command import audit
from training.commands import evaluate, load_events, train
from training.data.reading import MappingRefused, Reading
from training.data.stored import tables_of
from training.data.tables import interactions_from, read_items, read_tables

BOUGHT = "customer_id,sku,purchased_at,what,stars,note\n1,a,2026-01-01,buy,5,x\n2,b,2026-01-02,look,3,y\n"
FLAGS = ["user=customer_id", "item=sku", "time=purchased_at"]
TOML = """
[interactions]
user = "customer_id"
item = "sku"
time = "purchased_at"
kind = "what"
[items]
item = "sku"
name = "title"
[users]
user = "id"
[kind]
purchase = "buy"
view = ["look", "glance"]
"""


@pytest.fixture
def bought(tmp_path: Path) -> Path:
    path = tmp_path / "bought.csv"
    path.write_text(BOUGHT)
    return path


def test_flags_and_a_document_say_the_same(bought: Path, tmp_path: Path) -> None:
    (tmp_path / "columns.toml").write_text(TOML)
    told = Reading.of(document=tmp_path / "columns.toml")
    flags = Reading.of(
        [*FLAGS, "kind=what", "items.item=sku", "items.name=title", "users.user=id"],
        kinds=["purchase=buy", "view=look", "view=glance"],
    )
    assert told == flags
    tables = read_tables(bought, reading=told)
    assert tables.interactions["user"].to_list() == ["1", "2"]
    assert tables.interactions["kind"].to_list() == ["purchase", "view"]
    assert tables.notes == ("bought.csv: not used: stars, note",)


def test_a_flag_goes_before_the_document(bought: Path, tmp_path: Path) -> None:
    (tmp_path / "columns.toml").write_text(TOML)
    reading = Reading.of(["user=note"], tmp_path / "columns.toml")
    assert read_tables(bought, reading=reading).interactions["user"].to_list() == ["x", "y"]


def test_a_column_that_is_mapped_is_no_attribute_as_well(bought: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text("sku,title,name,colour\na,Milk,M,white\nb,Tea,T,green\n")
    reading = Reading.of([*FLAGS, "items.item=sku", "items.name=title"])
    tables = read_tables(bought, items, reading=reading)
    assert tables.items["name"].to_list() == ["Milk", "Tea"]
    assert set(tables.items.columns) == {"item", "name", "category_path", "provider", "brand", "colour"}  # fmt: skip
    assert "items.csv: not used: name" in tables.notes


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (["usr=customer_id"], "interactions have no 'usr'; did you mean 'user'? there are: basket"),
        (["shop.user=customer_id"], "no table 'shop'; there are: interactions, items, users"),
        (["items.nme=title"], "items have no 'nme'; did you mean 'name'?"),
        (["user=a", "user=b"], "two columns for interactions.user: 'a' and 'b'"),
        (["user"], "allowed: NAME=COLUMN"),
        (["user="], "allowed: NAME=COLUMN"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused(columns: list[str], told: str) -> None:
    with pytest.raises(MappingRefused) as refused:
        Reading.of(columns)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ("[interactions]\nuser = 3\n", "interactions.user: got 3, allowed: a name in quotes"),
        ("[interaction]\nuser = 'x'\n", "no table [interaction]; did you mean 'interactions'?"),
        ("user = 'x'\n", "no table [user]"),
        ("[interactions\n", "no TOML"),
        ("[kind]\nbuy = 'purchase'\n", "no kind 'buy'; there are: cart, click, leave_out"),
        ("[kind]\nview = 'x'\npurchase = 'x'\n", "two kinds for 'x': view and purchase"),
        ("[interactions]\nuser = 'x'\nuser = 'y'\n", "no TOML"),
    ],
)
def test_a_document_that_makes_no_sense_is_refused(
    tmp_path: Path, document: str, told: str
) -> None:
    (tmp_path / "columns.toml").write_text(document)
    with pytest.raises(MappingRefused) as refused:
        Reading.of(document=tmp_path / "columns.toml")
    assert told in str(refused.value)


@pytest.mark.parametrize("option", [{"separator": ""}, {"separator": "12345"}, {"header": "a,,b"}, {"header": "a,a"}])  # fmt: skip
def test_other_options_are_checked(option: dict[str, str]) -> None:
    with pytest.raises(MappingRefused, match="allowed"):
        Reading.of(**option)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_column_that_is_not_there_is_refused_by_its_name(
    bought: Path, tmp_path: Path, form: str
) -> None:
    if form == "parquet":
        pl.read_csv(bought).write_parquet(tmp_path / "bought.parquet")
        bought = tmp_path / "bought.parquet"
    with pytest.raises(DataRefused) as refused:
        read_tables(bought, reading=Reading.of(["user=customer"]))
    assert refused.value.column == "customer"
    assert "did you mean 'customer_id'? one of customer_id, note" in str(refused.value)


def test_what_a_row_is_refused_for_names_the_files_own_column(bought: Path) -> None:
    bought.write_text(BOUGHT.replace("2026-01-02", "soon"))
    with pytest.raises(
        DataRefused, match=r"time is its 'purchased_at'.*1 of 2 rows: text that is no"
    ):
        read_tables(bought, reading=Reading.of(FLAGS))


def test_words_without_a_kind_are_refused_and_may_be_left_out(bought: Path) -> None:
    columns = [*FLAGS, "kind=what"]
    with pytest.raises(DataRefused, match=r"no kind is told \(look\)"):
        read_tables(bought, reading=Reading.of(columns, kinds=["purchase=buy"]))
    told = Reading.of(columns, kinds=["purchase=buy", "leave_out=look"])
    tables = read_tables(bought, reading=told)
    assert tables.interactions.height == 1
    assert tables.left_out == (("of a kind that is left out", 1),)
    with pytest.raises(DataRefused, match="kinds are told, and the column is missing"):
        read_tables(bought, reading=Reading.of(FLAGS, kinds=["purchase=buy"]))


def test_rows_that_are_rated_low_leave_and_are_counted(bought: Path) -> None:
    tables = read_tables(bought, reading=Reading.of([*FLAGS, "rating=stars"], min_rating=4))
    assert tables.interactions["item"].to_list() == ["a"]
    assert tables.left_out == (("rated below 4, or not at all", 1),)
    with pytest.raises(DataRefused, match=r"no row is rated 6 or more; the highest is 5\.0"):
        read_tables(bought, reading=Reading.of([*FLAGS, "rating=stars"], min_rating=6))
    with pytest.raises(DataRefused, match=r"'rating'.*--min-rating asks for it"):
        read_tables(bought, reading=Reading.of(FLAGS, min_rating=4))


@pytest.mark.parametrize("command", [train, evaluate, audit, load_events])
def test_every_command_that_reads_files_takes_a_mapping(command: click.Command) -> None:
    options = {name for parameter in command.params for name in parameter.opts}
    assert options >= {"--column", "--columns", "--kind", "--min-rating", "--separator", "--header"}


def test_events_are_loaded_from_mapped_columns(bought: Path, tmp_path: Path) -> None:
    (tmp_path / "columns.toml").write_text(TOML)
    told = CliRunner().invoke(
        load_events,
        ["--interactions", str(bought), "--columns", str(tmp_path / "columns.toml"),
         "--store", str(tmp_path / "events.db"), "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    assert json.loads(told.stdout)["recorded"] == 2
    assert "not used: stars, note" in told.stderr
    with SqliteEventStore(tmp_path / "events.db", create=False) as store:
        stored = tables_of(store).interactions.sort("user")
    assert stored.select("user", "item", "kind").rows() == [
        ("1", "a", "purchase"),
        ("2", "b", "view"),
    ]


def test_a_separator_that_is_told_is_that_of_the_interactions(tmp_path: Path) -> None:
    (tmp_path / "bought.csv").write_text("user^item^time\nann^a, b^2026-01-01\n")
    (tmp_path / "items.csv").write_text('item,name\n"a, b",Both\n')
    (tmp_path / "more.csv").write_text("item^name\na, b^Both\n")
    for items in ("items.csv", "more.csv"):
        tables = read_tables(
            tmp_path / "bought.csv", tmp_path / items, reading=Reading.of(separator="^")
        )
        assert tables.items.select("item", "name").rows() == [("a, b", "Both")]
        assert tables.interactions["item"].to_list() == ["a, b"]


def test_text_with_separators_quotes_and_lines_in_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "bought.csv"
    path.write_text(
        'user,item,time\n"ann, of 3","milk ""whole""",2026-01-01\nbob,"oat, milk",2026-01-02\n'
    )
    got = read_tables(path).interactions
    assert got["user"].to_list() == ["ann, of 3", "bob"]
    assert got["item"].to_list() == ['milk "whole"', "oat, milk"]
    items = tmp_path / "items.csv"
    items.write_text('item,name\n"milk ""whole""","Milk,\nwhole"\n"oat, milk",Oat\n')
    assert read_tables(path, items).items["name"].to_list() == ["Milk,\nwhole", "Oat"]


def test_quotes_inside_of_text_are_text_where_none_enclose(tmp_path: Path) -> None:
    items = tmp_path / "items.csv"
    items.write_text('item,name\na,5" pipe\nb,6" pipe and 7"\n')
    assert read_items(items)["name"].to_list() == ['5" pipe', '6" pipe and 7"']
    items.write_text('item,name\na,5" pipe, long\nb,Tea\n')
    with pytest.raises(DataRefused, match=r"1 of 3 rows: lines that do not have 2 columns"):
        read_items(items)
    items.write_text('item,name\n"a",5" pipe\nb,Tea\n')
    with pytest.raises(DataRefused, match=r"quotes that do not enclose.*'line': 2"):
        read_items(items)


def test_text_and_parquet_of_the_same_give_the_same(tmp_path: Path) -> None:
    raw = pl.DataFrame({
        "user": ["007", "7"], "item": ["x", "y"], "time": [1_500_000_000, 1_500_000_001],
        "quantity": [1.5, None], "value": [None, 2.25], "basket": ["b1", None],
    })  # fmt: skip
    raw.write_csv(tmp_path / "bought.csv")
    raw.write_parquet(tmp_path / "bought.parquet")
    wanted = interactions_from(raw)
    for form in ("csv", "parquet"):
        assert read_tables(tmp_path / f"bought.{form}").interactions.equals(wanted)
