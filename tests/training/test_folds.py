"""Rolling origin: a fold is the same training earlier, and knows nothing of what came later."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from rich.console import Console

from server.errors import Refused
from server.features.types import DAY_MS
from strategies.purchases import START_MS, Row, raw, shop_rows, tables
from training.data.prepare import Prepared, prepare_tables
from training.data.split import Split
from training.folds import cross_validate, over_folds, prepared_before, split_before
from training.folds_command import cross_validate as command
from training.settings import TrainSettings

pytestmark = pytest.mark.slow
DAYS = 130


def prepared_of(rows: list[Row]) -> Prepared:
    return prepare_tables(tables(rows))


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    return prepared_of(shop_rows(days=DAYS))


def test_cuts_move_by_whole_test_windows_and_no_test_window_overlaps(prepared: Prepared) -> None:
    usual = prepared.split
    splits = [split_before(usual, n) for n in range(4)]
    assert splits[0].test_until_ms == usual.test_until_ms
    for later, earlier in itertools.pairwise(splits):
        assert earlier.test_until_ms == later.validation_until_ms
        assert later.train_until_ms - earlier.train_until_ms == 21 * DAY_MS
        assert earlier.horizon_ms == later.horizon_ms
    with pytest.raises(Refused, match="before 1970"):
        split_before(Split(10, 20, 40, "p"), 1)


def test_a_fold_is_the_data_as_it_was(prepared: Prepared) -> None:
    """What was planted after its end, users, items and purchases, changes nothing in it."""
    fold = prepared_before(prepared, 1, 2)
    until_ms = fold.split.test_until_ms
    assert fold.dataset.last_ms <= until_ms
    late = (until_ms - START_MS) / DAY_MS + 1
    last = (prepared.dataset.last_ms - START_MS) / DAY_MS
    planted = shop_rows(days=DAYS) + [
        (user, item, day, f"late-{user}-{day}")
        for user in ("user-01", "nobody-yet")
        for item in ("item-003", "item-not-yet")
        for day in (late, last)
    ]
    assert prepared_before(prepared_of(planted), 1, 2).dataset.digest() == fold.dataset.digest()
    early = [*planted, ("user-01", "item-059", late - 2, "early")]
    assert prepared_before(prepared_of(early), 1, 2).dataset.digest() != fold.dataset.digest()


def test_which_items_stay_is_decided_before_the_folds_own_training_cut(prepared: Prepared) -> None:
    """An item that became usual between the fold's cut and the usual one is not in the fold."""
    fold = prepared_before(prepared, 1, 2).split
    day = (fold.train_until_ms - START_MS) / DAY_MS
    rising = [("user-02", "item-rising", day + 1 + n, f"r{n}") for n in range(6)]
    whole = prepared_of(shop_rows(days=DAYS) + rising)
    assert "item-rising" in whole.dataset.item_ids
    assert "item-rising" not in prepared_before(whole, 1, 2).dataset.item_ids
    known = [("user-02", "item-rising", day - 1 - n, f"k{n}") for n in range(2)]
    again = prepared_before(prepared_of(shop_rows(days=DAYS) + rising + known), 1, 2)
    assert "item-rising" in again.dataset.item_ids


def run(prepared: Prepared, work: Path, folds: int = 1) -> dict[str, Any]:
    return cross_validate(
        prepared,
        TrainSettings.quick(),
        n_folds=folds,
        min_item_purchases=2,
        work=work,
        console=Console(quiet=True),
    )


@dataclasses.dataclass(frozen=True)
class Ran:
    """What the command printed, and where it wrote."""

    printed: str
    folder: Path


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("folds")
    raw(shop_rows(days=DAYS)).write_csv(folder / "bought.csv")
    arguments = [
        "--interactions", str(folder / "bought.csv"), "--folds", "2", "--quick",
        "--out", str(folder / "out"),
    ]  # fmt: skip
    outcome = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0
    return Ran(outcome.stdout, folder / "out")


@pytest.fixture(scope="module")
def document(ran: Ran) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((ran.folder / "folds.json").read_text())
    return told


def test_a_fold_learns_nothing_of_what_it_is_measured_on(
    tmp_path: Path, prepared: Prepared, document: dict[str, Any]
) -> None:
    """All that was bought after its cut is rewritten: the model stays the same to the last bit, and
    what is measured does not. What came after its end is not even in its data, see above."""
    row = document["folds"][1]
    times = prepared.tables.interactions["time"].dt.epoch("ms")
    shuffled = prepared.tables.interactions["item"].shuffle(seed=1)
    rewritten = prepared.tables.interactions.with_columns(
        item=pl.when(times > row["cut_unix_ms"]).then(shuffled).otherwise(pl.col("item"))
    )
    changed = dataclasses.replace(
        prepared, tables=dataclasses.replace(prepared.tables, interactions=rewritten)
    )
    other = run(changed, tmp_path)["folds"][0]
    assert (row["fold"], other["fold"]) == (1, 1)
    assert row["dataset_digest"] == prepared_before(prepared, 1, 2).dataset.digest()
    assert other["dataset_digest"] != row["dataset_digest"]
    assert other["model_digest"] == row["model_digest"]
    assert other["metrics"] != row["metrics"]


def test_the_document_tells_each_fold_and_all_together(document: dict[str, Any]) -> None:
    earlier, later = document["folds"]
    assert (earlier["fold"], later["fold"]) == (2, 1)
    assert earlier["until_unix_ms"] == later["cut_unix_ms"]
    assert document["protocol"]["not_looked_at_after_unix_ms"] == later["until_unix_ms"]
    metrics = later["metrics"]
    best = metrics["ndcg_at_20_best_baseline"]
    gap = metrics["ndcg_at_20_minus_best_baseline"]
    assert gap["value"] == pytest.approx(metrics["ndcg_at_20"]["value"] - best["value"])
    values = [row["metrics"]["ndcg_at_20"]["value"] for row in document["folds"]]
    assert document["over_folds"]["ndcg_at_20"]["mean"] == pytest.approx(np.mean(values))


def test_mean_and_spread_are_those_of_the_folds_that_have_a_value() -> None:
    values = [0.1, 0.4, None, 0.3]
    told = over_folds([{"metrics": {"m": {"value": one}}} for one in values])["m"]
    known = [0.1, 0.4, 0.3]
    mean = sum(known) / 3
    spread = (sum((one - mean) ** 2 for one in known) / 2) ** 0.5
    assert told["mean"] == pytest.approx(mean)
    assert told["spread"] == pytest.approx(spread)
    assert (told["lowest"], told["highest"], told["n_folds"]) == (0.1, 0.4, 3)


def test_more_folds_than_the_data_reaches_back_are_refused_before_any_training(
    tmp_path: Path, prepared: Prepared
) -> None:
    with pytest.raises(Refused, match="ask for fewer folds"):
        run(prepared, tmp_path / "none", folds=9)
    assert not (tmp_path / "none").exists()


def test_the_command_writes_table_and_page_with_the_documents_numbers(
    ran: Ran, document: dict[str, Any]
) -> None:
    html = (ran.folder / "index.html").read_text()
    assert (ran.folder / "folds.txt").read_text() in ran.printed
    for told in (ran.printed, html):
        for row in document["folds"]:
            assert row["cut_day"] in told
            assert f"{row['metrics']['ndcg_at_20']['value']:.4f}" in told
        for fact in document["over_folds"]["novel_ndcg_at_20"].values():
            assert isinstance(fact, int) or f"{fact:.4f}" in told
