"""The dry run: what it counts, checked against plain loops, and when it warns."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given

from server.features.types import DAY_MS
from strategies.purchases import START_MS, Row, purchase_rows, raw, shop_rows, tables
from training.commands import train
from training.data.clean import Rules, clean
from training.data.dataset import dataset_of
from training.data.prepare import Prepared, prepare_in_order, prepare_tables
from training.data.sequences import in_order
from training.data.split import Split
from training.data.tables import items_from, users_from
from training.describe import describe

pytestmark = pytest.mark.slow


def prepared(rows: list[Row], **columns: pl.DataFrame) -> Prepared:
    return prepare_tables(dataclasses.replace(tables(rows), **columns))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def shop() -> dict[str, Any]:
    return describe(prepared(shop_rows()))


def warned(facts: dict[str, Any], words: str) -> list[str]:
    return [warning for warning in facts["warnings"] if words in warning]


@given(purchase_rows())
def test_counts_are_those_of_a_plain_loop(rows: list[Row]) -> None:
    cleaned, account = clean(tables(rows), Rules())
    split = Split(START_MS + 20 * DAY_MS, START_MS + 30 * DAY_MS, START_MS + 50 * DAY_MS, "by hand")
    facts = describe(Prepared(cleaned, account, dataset_of(cleaned), split))
    events = cleaned.interactions.sort("time").rows(named=True)
    seen: set[tuple[str, str]] = set()
    again = 0
    for row in events:
        again += (row["user"], row["item"]) in seen
        seen.add((row["user"], row["item"]))
    assert facts["events"] == len(events)
    assert facts["repeat_share"] == pytest.approx(again / len(events))
    assert facts["density"] == pytest.approx(len(seen) / (facts["users"] * facts["items"]))
    assert facts["baskets"] == len({(row["user"], row["basket"]) for row in events})
    per_user = Counter(row["user"] for row in events)
    quantiles = facts["quantiles"]["events per user"]
    assert (quantiles["min"], quantiles["max"]) == (min(per_user.values()), max(per_user.values()))
    for cut, after, until in (
        (facts["cuts"][1], split.train_until_ms, split.validation_until_ms),
        (facts["cuts"][2], split.validation_until_ms, split.test_until_ms),
    ):
        times = [(row["user"], int(row["time"].timestamp() * 1000)) for row in events]
        window = {user for user, ms in times if after < ms <= until}
        before = {user for user, ms in times if ms <= after}
        assert cut["users"] == len(window)
        assert cut["users_with_targets"] == len(window & before)
        assert cut["users_without_history"] == len(window - before)
    json.dumps(facts, allow_nan=False)


def test_a_shop_without_oddities_has_only_the_warnings_of_its_size(shop: dict[str, Any]) -> None:
    assert [warning[:29] for warning in shop["warnings"]] == ["30 users have targets in the "] * 2
    assert shop["policies"]["fit"] == ["none"]
    assert shop["time"]["only_days"] is False


def test_groups_are_told_with_what_cleaning_took_of_each() -> None:
    rows = shop_rows()
    rare = [("user-29", f"rare-{n}", float(n), f"rare {n}") for n in range(60)]
    people = users_from(
        pl.DataFrame(
            {
                "user": [f"user-{n:02}" for n in range(30)],
                "region": ["south"] * 29 + ["north"],
            }
        )
    )
    facts = describe(prepared(rows + rare, users=people))
    (north,) = (group for group in facts["groups"] if group["label"] == "north")
    own = sum(user == "user-29" for user, *_ in rows)
    assert (north["rows_in"], north["rows_out"]) == (own + 60, own)
    assert north["lost_share"] == pytest.approx(60 / (own + 60))
    assert warned(facts, "cleaning falls on region 'north' (")
    assert not warned(facts, "'south' (")


def test_one_giant_user_is_told_of(shop: dict[str, Any]) -> None:
    assert not warned(shop, "one user")
    giant = [("till", f"item-{n % 60:03}", n / 20, f"till {n}") for n in range(1800)]
    facts = describe(prepared(shop_rows() + giant))
    assert warned(facts, "one user, 'till', has 5")


def test_stragglers_after_a_gap_are_told_of(shop: dict[str, Any]) -> None:
    assert not warned(shop, "after a gap")
    facts = describe(prepared([*shop_rows(), ("user-00", "item-001", 200.0, "late")]))
    assert warned(facts, "1 events come after a gap of 11")
    assert warned(facts, "nobody with a history has an event in the validation window")


def test_times_that_are_mostly_one_are_told_of(shop: dict[str, Any]) -> None:
    assert not warned(shop, "the date of an import")
    imported = [(user, item, 1.0, f"i{user}") for user, item, when, _ in shop_rows() if when < 45]
    later = [row for row in shop_rows() if row[2] >= 45]
    assert warned(describe(prepared(imported + later)), "is that a time, or the date of an import")


def test_items_bought_once_and_duplicates_are_told_of() -> None:
    rows: list[Row] = [(f"u{n % 9}", f"i{n}", float(n), f"b{n}") for n in range(60)]
    facts = describe(prepare_in_order(in_order(tables(rows))))
    assert warned(facts, "100% of the items were bought once")
    assert warned(facts, "repeats: what counts here is what comes next")
    assert facts["time"] is None
    twice = describe(prepared(shop_rows() * 2))
    assert warned(twice, "50% of the rows are duplicates")


def test_columns_that_tell_little_are_told_of() -> None:
    items = [f"item-{n:03}" for n in range(60)]
    described = items_from(
        pl.DataFrame(
            {
                "item": items,
                "category_path": ["FOOD"] * 60,
                "brand": ["A"] + [None] * 59,
                "provider": [f"maker-{n % 7}" for n in range(60)],
            }
        )
    )
    facts = describe(prepared(shop_rows(), items=described))
    assert warned(facts, "category_path is 'FOOD' throughout")
    assert warned(facts, "unknown for 98%: brand")
    assert not warned(facts, "provider")
    assert "provider-tiers" in facts["policies"]["fit"]
    assert "private-label" in facts["policies"]["left_out"]


def test_policies_that_training_would_refuse_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("schema_version = 1\n")
    facts = describe(prepared(shop_rows()), tmp_path)
    assert warned(facts, "training will refuse the policies: policy refused")


def test_other_kinds_are_told_of() -> None:
    bought = tables(shop_rows())
    rng = np.random.default_rng(0)
    kinds = pl.Series(rng.choice(["view", "purchase"], bought.interactions.height))
    mixed = dataclasses.replace(bought, interactions=bought.interactions.with_columns(kind=kinds))
    facts = describe(prepare_tables(mixed))
    assert facts["kinds"]["view"] + facts["kinds"]["purchase"] == facts["rows_out"]
    assert warned(facts, f"{facts['kinds']['view']:,} rows are of other kinds than purchase")


def test_the_command_describes_and_writes_nothing(tmp_path: Path) -> None:
    raw(shop_rows()).write_csv(tmp_path / "bought.csv")
    people = "".join(f"user-{n:02},{'north' if n % 2 else 'south'}\n" for n in range(30))
    (tmp_path / "users.csv").write_text(f"user,region\n{people}")
    before = set(tmp_path.rglob("*"))
    words = [
        "--interactions", str(tmp_path / "bought.csv"), "--users", str(tmp_path / "users.csv"),
        "--out", str(tmp_path / "out"), "--dry-run",
    ]  # fmt: skip
    told = CliRunner().invoke(train, words, catch_exceptions=False)
    assert told.exit_code == 0
    for words_told in ("rows stay: 30 users, 60 items", "validation", "north"):
        assert words_told in told.output
    as_json = CliRunner().invoke(train, [*words, "--json"], catch_exceptions=False)
    groups = {group["label"] for group in json.loads(as_json.stdout)["groups"]}
    assert groups == {"north", "south"}
    assert set(tmp_path.rglob("*")) == before
    assert CliRunner().invoke(train, words[:2]).exit_code == 2, "neither --out nor --dry-run"
