"""`equipoise quality`: a whole short run on a made-up shop, and what its table must not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner, Result

from server.bundle import load_bundle
from strategies.purchases import raw, shop_rows
from training.baselines import BASELINES
from training.feature_groups import FEATURE_GROUPS
from training.quality import run as quality_run
from training.quality.command import quality
from training.quality.document import Incomplete, document
from training.quality.kept import Entry, Kept
from training.quality.measured import Asked
from training.quality.policies import scaled
from training.quality.rows import model_rows
from training.settings import SequenceSettings, TrainSettings

pytestmark = pytest.mark.slow
ROWS = "two-tower,pairs,pairs-no-refit,ablation,policies"


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("quality")
    raw(shop_rows(n_users=40)).write_parquet(folder / "bought.parquet")
    pl.DataFrame(
        {
            "item": [f"item-{n:03}" for n in range(60)],
            "category_path": [f"FOOD > SHELF {n % 8}" for n in range(60)],
            "provider": [f"maker-{n % 7}" for n in range(60)],
        }
    ).write_csv(folder / "items.csv")
    return folder


def call(shop: Path, *more: str) -> Result:
    return CliRunner().invoke(
        quality,
        [
            "--interactions", str(shop / "bought.parquet"), "--items", str(shop / "items.csv"),
            "--out", str(shop / "out"), "--quick", "--resamples", "100", *more,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(shop: Path) -> dict[str, Any]:
    result = call(shop, "--rows", ROWS, "--json")
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    assert document == json.loads((shop / "out" / "quality-table.json").read_text())
    return document


def test_the_table_has_every_baseline_and_the_rows_that_were_asked_for(
    shop: Path, made: dict[str, Any]
) -> None:
    names = [row["name"] for row in made["rows"]]
    assert names == [one.name for one in BASELINES] + ["two-tower", "pairs", "pairs-no-refit"]
    rows = {row["name"]: row for row in made["rows"]}
    assert (rows["pairs"]["refit"], rows["pairs-no-refit"]["refit"]) == (True, False)
    until = {
        name: load_bundle(shop / "out" / "bundles" / name).manifest.data.until_unix_ms
        for name in ("pairs", "pairs-no-refit")
    }
    assert until["pairs-no-refit"] < until["pairs"]
    text = (shop / "out" / "quality-table.txt").read_text()
    after = {True: ", refit", False: ", no refit", None: " "}
    for row in made["rows"]:
        value = row["metrics"]["ndcg_at_20"]["value"]
        title = f"  {row['title']}{after[row.get('refit')]}"
        (line,) = (line for line in text.splitlines() if line.startswith(title))
        assert f"{value:.4f}".lstrip("0") in line
    assert max(len(line) for line in text.splitlines()) <= 140


def test_what_a_row_says_is_the_mean_over_its_users(shop: Path, made: dict[str, Any]) -> None:
    best = made["best_baseline"]
    arrays = {
        name: np.load(shop / "out" / "rows" / f"{name}.npz")
        for name in (*(one.name for one in BASELINES), "pairs")
    }
    means = {name: float(found["ndcg_at_20"].mean()) for name, found in arrays.items()}
    assert means[best] == max(value for name, value in means.items() if name != "pairs")
    (row,) = (row for row in made["rows"] if row["name"] == "pairs")
    assert row["metrics"]["ndcg_at_20"]["value"] == pytest.approx(means["pairs"])
    gap = row["minus_best_baseline"]
    assert gap["value"] == pytest.approx(means["pairs"] - means[best])
    assert gap["low"] <= gap["value"] <= gap["high"]
    assert row["seconds"] > 0
    assert row["peak_rss_bytes"] > 1 << 26


def test_a_model_without_its_refit_takes_the_tuning_of_the_one_with_it(
    shop: Path, made: dict[str, Any], tmp_path: Path
) -> None:
    by_itself = call(shop, "--rows", "pairs-no-refit", "--json", "--out", str(tmp_path / "out"))
    assert by_itself.exit_code == 0, by_itself.output
    (single,) = (row for row in json.loads(by_itself.stdout)["rows"] if row["kind"] == "model")
    rows = {row["name"]: row for row in made["rows"]}
    both = rows["pairs-no-refit"]
    assert (rows["pairs"]["resumed"], both["resumed"], single["resumed"]) == (False, True, False)
    assert single["model_digest"] == both["model_digest"] != rows["pairs"]["model_digest"]
    assert single["metrics"] == both["metrics"]
    assert not list((shop / "out" / "bundles").glob("*.training"))


def test_each_feature_group_is_left_out_once(made: dict[str, Any]) -> None:
    found = made["ablation"]
    assert set(found) == {"all features", *(f"without {group}" for group in FEATURE_GROUPS)}
    values = [one["validation_ndcg_at_20"]["value"] for one in found.values()]
    assert len(set(values)) > 3
    assert found["all features"]["minus_all"]["value"] == 0


def test_policies_are_shown_over_their_strength(shop: Path, made: dict[str, Any]) -> None:
    policies = made["policies"]
    assert policies["default"] == "provider-tiers"
    assert policies["ndcg_kept"]["none"]["value"] == 1.0
    assert list(policies["curve"]) == [
        "floors x 0.25", "floors x 0.5", "floors x 0.75", "floors x 1", "floors x 1.5", "floors x 2",
    ]  # fmt: skip
    same = policies["ndcg_kept"]["provider-tiers"]["value"]
    assert policies["curve"]["floors x 1"]["value"] == same
    bundle = load_bundle(shop / "out" / "bundles" / "pairs")
    half = scaled(bundle, Fraction(1, 2))
    assert half is not None
    assert 'small = "1/20"' in half.policy.document
    assert 'medium = "1/10"' in half.policy.document
    assert half.policy.kind == "floors"


def test_what_is_measured_is_not_measured_again(
    shop: Path, made: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def never(what: str) -> Callable[..., Entry]:
        def stub(*arguments: Any, **named: Any) -> Entry:
            told.append(what)
            raise KeyboardInterrupt

        return stub

    for name in ("baseline_entry", "model_entry", "ablation_entry", "policy_entry"):
        monkeypatch.setattr(quality_run, name, never(name))
    again = call(shop, "--rows", ROWS, "--json")
    assert again.exit_code == 0, again.output
    assert told == []
    assert json.loads(again.stdout) == made
    # A figure of other code, of another length or of spoilt arrays is none.
    monkeypatch.setattr(quality_run, "code_digest", lambda: "other")
    assert call(shop, "--rows", ROWS).exit_code != 0
    assert told == ["baseline_entry"]
    monkeypatch.undo()
    for name in ("baseline_entry", "model_entry", "ablation_entry", "policy_entry"):
        monkeypatch.setattr(quality_run, name, never(name))
    assert call(shop, "--rows", ROWS, "--length", "5").exit_code != 0
    path = shop / "out" / "rows" / "pairs.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-40])
    assert call(shop, "--rows", ROWS).exit_code != 0
    assert told == ["baseline_entry", "baseline_entry", "model_entry"]
    path.write_bytes(whole)


def test_entries_are_found_by_their_whole_key(tmp_path: Path) -> None:
    kept = Kept(tmp_path)
    entry = Entry({"seconds": 1.5}, {"ndcg_at_20": np.array([0.1, 0.2])})
    kept.write("one", {"data": "a", "settings": {"width": 3}}, entry)
    found = kept.read("one", {"settings": {"width": 3}, "data": "a"})
    assert found is not None
    assert found.facts == entry.facts
    assert np.array_equal(found.arrays["ndcg_at_20"], entry.arrays["ndcg_at_20"])
    assert kept.read("one", {"data": "a", "settings": {"width": 4}}) is None
    assert kept.read("two", {"data": "a", "settings": {"width": 3}}) is None
    np.savez_compressed(tmp_path / "one.npz", ndcg_at_20=np.array([0.1, 0.3]))
    assert kept.read("one", {"data": "a", "settings": {"width": 3}}) is None


def test_a_table_without_a_baseline_is_refused() -> None:
    some = {one.name: Entry({}, {}) for one in BASELINES[1:]}
    with pytest.raises(Incomplete, match=f"missing: {BASELINES[0].name}"):
        document(Asked(None, 20), some, {}, None, None, resamples=100, seed=0)  # type: ignore[arg-type]


def test_every_family_has_a_row_and_fair_losses_where_they_are_asked_for() -> None:
    rows = model_rows(TrainSettings(), SequenceSettings(), "income")
    assert [row.name for row in rows] == [
        "two-tower-difference", "two-tower", "sasrec", "recanet", "pairs", "pairs-no-refit", "auto",
        "auto-no-refit", "fair-reweight", "fair-group-dro",
    ]  # fmt: skip
    assert [row.fair.method for row in rows if row.fair] == ["reweight", "group-dro"]
    assert not any(row.fair for row in model_rows(TrainSettings(), SequenceSettings(), None))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--rows", "pairs,sasrek"], "there is no row 'sasrek'; there are: "),
        (["--fair-by", "shoe"], "users have no attribute 'shoe'"),
    ],
)
def test_nonsense_is_refused_before_anything_is_measured(
    shop: Path, more: list[str], told: str
) -> None:
    result = call(shop, "--out", str(shop / "never"), *more)
    assert result.exit_code != 0
    assert told in str(result.exception)
    assert not (shop / "never").exists()
