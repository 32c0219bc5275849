"""From purchases to a bundle: what goes in, what stays out, and that a failed gate writes nothing."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import safetensors.numpy
from click.testing import CliRunner, Result

from server.bundle import Bundle, load_bundle, ports_of
from server.errors import PolicyRefused, Refused
from server.events import SqliteEventStore
from server.features import generate_candidates, pair_features
from server.model import OnnxScorer
from strategies.fairness import document
from strategies.purchases import raw, shop_rows, tables
from training import fitting, pipeline
from training.commands import train
from training.data.dataset import Dataset, dataset_of
from training.data.prepare import prepare_files
from training.data.stored import load
from training.export import ParityFailed
from training.families import Family
from training.fit_features import fit_features, with_levels
from training.release import provider_tiers
from training.settings import TrainSettings
from training.unknown import COLUMNS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with purchases.parquet and items.csv."""
    folder = tmp_path_factory.mktemp("shop")
    raw(shop_rows()).write_parquet(folder / "purchases.parquet")
    items = [f"item-{n:03}" for n in range(60)]
    pl.DataFrame(
        {
            "item": items,
            "name": [f"Thing {n}" for n in range(60)],
            "category_path": [f"FOOD > SHELF {n % 8}" for n in range(60)],
            "provider": [f"maker-{n % 7}" for n in range(60)],
            "brand": ["Private" if n % 3 == 0 else "National" for n in range(60)],
        }
    ).write_csv(folder / "items.csv")
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(train, [*arguments, "--quick", "--json"])


@pytest.fixture(scope="module")
def trained(shop: Path) -> Path:
    """A bundle made by the command."""
    out = shop / "out" / "bundle"
    result = run(
        "--interactions", str(shop / "purchases.parquet"), "--items", str(shop / "items.csv"),
        "--out", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["parity_max_difference"] <= 1e-4
    assert (told["track"]["chosen"], told["track"]["why"]) == ("pairs", "it was asked for")
    return out


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Bundle:
    return load_bundle(trained)


def test_the_command_writes_a_bundle_that_loads(bundle: Bundle) -> None:
    assert bundle.manifest.data.items == len(bundle.items.ids)
    assert set(bundle.policies) == {
        "none", "provider-tiers", "private-label", "category-cap", "own-taste", "shelf-over-time",
    }  # fmt: skip
    assert bundle.manifest.default_policy == "provider-tiers"
    assert bundle.items.ids == tuple(sorted(bundle.items.ids))
    assert bundle.items.names[0] == "Thing 0"
    assert set(bundle.groups["category"].labels) == {f"SHELF {n}" for n in range(8)}
    assert np.array_equal(bundle.groups["category"].codes, bundle.state.category)
    assert 0 < bundle.manifest.quality["validation_ndcg_at_20"] <= 1


def test_warm_up_requests_are_answered_as_the_bundle_says(bundle: Bundle) -> None:
    model = bundle.manifest.model
    assert model.n_popular == TrainSettings.quick().n_popular > 0
    scorer = OnnxScorer(bundle.model, ports_of(model))
    sizes = [len(warmup.history) for warmup in bundle.warmups]
    assert sizes[0] == 0
    assert max(sizes) > 1
    for warmup in bundle.warmups:
        found = generate_candidates(
            warmup.history,
            warmup.now_ms,
            bundle.state,
            model.n_novel,
            n_popular=model.n_popular,
        )
        features = pair_features(warmup.history, found.items, warmup.now_ms, bundle.state)
        scores = scorer.score_lists([{"features": features}])[0]
        best = sorted(range(len(found)), key=lambda n: (-scores[n], found.items[n]))[:20]
        assert warmup.expected_top.tolist() == found.items[best].tolist()


def test_nobodys_data_is_in_the_bundle(trained: Path, bundle: Bundle) -> None:
    for file in trained.rglob("*"):
        assert not file.is_file() or b"user-0" not in file.read_bytes(), file.name
    data = dataset_of(tables(shop_rows()))
    people = {tuple(sorted(data.history(user).items.tolist())) for user in range(data.n_users)}
    drawn = {tuple(sorted(w.history.items.tolist())) for w in bundle.warmups}
    assert not people & drawn


def test_what_is_told_of_users_changes_no_feature(shop: Path, trained: Path) -> None:
    """The same model, statistics, groups and warm-ups, byte for byte; and no attribute stands in it."""
    region = "".join(f"user-{n:02},{'quetzal' if n % 2 else 'axolotl'}\n" for n in range(30))
    (shop / "users.csv").write_text(f"user,kingdom\n{region}")
    out = shop / "out" / "with-users"
    result = run(
        "--interactions", str(shop / "purchases.parquet"), "--items", str(shop / "items.csv"),
        "--users", str(shop / "users.csv"), "--out", str(out),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    names = {path.relative_to(out) for path in out.rglob("*") if path.is_file()}
    assert names == {path.relative_to(trained) for path in trained.rglob("*") if path.is_file()}
    for name in names:
        content = (out / name).read_bytes()
        for word in (b"quetzal", b"axolotl", b"kingdom"):
            assert word not in content, name
        if name.suffix in (".onnx", ".npz", ".safetensors"):
            assert content == (trained / name).read_bytes(), name


def test_the_checkpoint_is_the_model_that_was_exported(trained: Path, bundle: Bundle) -> None:
    weights = safetensors.numpy.load_file(trained.with_name("bundle.ranker.safetensors"))
    x = (bundle.golden_inputs["features"] - weights["mean"]) * weights["inverse_std"]
    for layer in (0, 2):
        x = np.maximum(x @ weights[f"layers.{layer}.weight"].T + weights[f"layers.{layer}.bias"], 0)
    logits = (x @ weights["layers.4.weight"].T + weights["layers.4.bias"])[..., 0]
    told = logits * weights["scale"] + weights["offset"]
    features = bundle.golden_inputs["features"]
    empty = features[..., COLUMNS.history] == 0
    popular = features[..., COLUMNS.popularity] * weights["popular_scale"]
    assert empty.any()
    assert bundle.manifest.quality["no_history"]["order"] == "best sellers"
    scores = 1 / (1 + np.exp(-np.where(empty, popular + weights["popular_offset"], told)))
    assert scores == pytest.approx(bundle.golden_outputs, abs=1e-5)


def test_a_failed_parity_gate_leaves_no_bundle(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = pipeline.scorer_of

    class Off:
        def __init__(self, model: bytes, family: Family) -> None:
            self._honest = honest(model, family)
            self.ports = self._honest.ports

        def score(self, feed: dict[str, np.ndarray]) -> np.ndarray:
            return self._honest.score(feed) + np.float32(1e-3)

    monkeypatch.setattr(pipeline, "scorer_of", Off)
    out = tmp_path / "bundle"
    result = run("--interactions", str(shop / "purchases.parquet"), "--out", str(out))
    assert isinstance(result.exception, ParityFailed)
    assert not out.exists()
    assert not [path.name for path in tmp_path.iterdir() if path.is_dir()]


def test_purchases_in_the_event_store_are_learned_from(shop: Path, tmp_path: Path) -> None:
    store = tmp_path / "events.db"
    with SqliteEventStore(store) as opened:
        load(tables(shop_rows()).interactions, opened)
    out = tmp_path / "bundle"
    result = run("--events", str(store), "--out", str(out))
    assert result.exit_code == 0, (result.output, result.exception)
    again = load_bundle(out)
    direct = run("--interactions", str(shop / "purchases.parquet"), "--out", str(tmp_path / "b"))
    assert direct.exit_code == 0, direct.output
    same = load_bundle(tmp_path / "b")
    # The same purchases, the same model: the way through the store loses nothing.
    assert again.manifest.model.digest == same.manifest.model.digest
    assert again.items.ids == same.items.ids


def test_too_short_a_time_is_refused_in_words(tmp_path: Path) -> None:
    raw(shop_rows(days=20)).write_parquet(tmp_path / "few.parquet")
    result = run("--interactions", str(tmp_path / "few.parquet"), "--out", str(tmp_path / "b"))
    assert isinstance(result.exception, Refused)
    assert not (tmp_path / "b").exists()


def shop_data(providers: list[str], sales: list[float]) -> Dataset:
    """One purchase of each item, at these prices."""
    rows = [("u", f"i{n}", n, f"b{n}") for n in range(len(providers))]
    data = dataset_of(tables(rows))
    attributes = {**data.item_attributes, "provider": tuple(providers)}
    return dataclasses.replace(data, item_attributes=attributes, values=np.array(sales, np.float64))


def test_provider_tiers_are_half_of_sales_the_next_to_80_percent_and_the_rest() -> None:
    data = shop_data(
        ["big", "big", "second", "third", "fourth", "unknown", "fifth"],
        [30, 15, 20, 16, 10, 500, 9],
    )
    # 45, 65, 81, 91 and 100 % of the sales whose provider is known.
    tiers = provider_tiers(data)
    named = dict(
        zip(
            data.item_attributes["provider"],
            (tiers.labels[code] for code in tiers.codes),
            strict=True,
        )
    )
    assert named == {
        "big": "large",
        "second": "large",
        "third": "medium",
        "fourth": "small",
        "fifth": "small",
        "unknown": "unknown",
    }


def test_without_prices_tiers_go_by_purchases() -> None:
    data = shop_data(["a", "a", "a", "b"], [0, 0, 0, 0])
    tiers = provider_tiers(data)
    assert [tiers.labels[code] for code in tiers.codes] == ["large"] * 3 + ["medium"]


def test_a_misspelt_policy_is_refused_before_anything_is_trained(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*arguments: object, **named: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(fitting, "train_ranker", trained)
    text = document("floors", '[floors]\nsmal = "1/5"\n').replace('"t"', '"provider_tier"')
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.toml").write_text(text)
    result = run(
        "--interactions", str(shop / "purchases.parquet"), "--items", str(shop / "items.csv"),
        "--policies", str(tmp_path / "policies"), "--out", str(tmp_path / "bundle"),
    )  # fmt: skip
    assert isinstance(result.exception, PolicyRefused)
    assert "floors.smal" in str(result.exception)
    assert "did you mean 'small'" in str(result.exception)
    assert not (tmp_path / "bundle").exists()


def test_a_policy_that_can_never_be_met_is_told_before_training(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(*arguments: object) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(fitting, "train_ranker", trained)
    cap = document("cap", "[cap]\nat_most = 2\nwithin_first = 20\n")
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "p.toml").write_text(cap.replace('"t"', '"provider_tier"'))
    result = run(
        "--interactions", str(shop / "purchases.parquet"), "--items", str(shop / "items.csv"),
        "--policies", str(tmp_path / "policies"), "--out", str(tmp_path / "bundle"),
    )  # fmt: skip
    told = " ".join(result.stderr.split())
    assert "policy p: cannot be met on this catalogue at 20 places: the first " in told
    assert str(result.exception) == "trained", "a user's own policy stays"


def test_without_items_no_policy_of_makers_is_promised(shop: Path, tmp_path: Path) -> None:
    result = run("--interactions", str(shop / "purchases.parquet"), "--out", str(tmp_path / "b"))
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["default_policy"] == "none"
    assert "policy provider-tiers is left out" in result.stderr
    assert set(load_bundle(tmp_path / "b").policies) == {"none"}


def test_a_bundle_that_is_replaced_is_named(shop: Path, tmp_path: Path) -> None:
    arguments = (
        "--interactions", str(shop / "purchases.parquet"), "--out", str(tmp_path / "b"),
    )  # fmt: skip
    first = run(*arguments)
    assert first.exit_code == 0, first.output
    again = run(*arguments, "--seed", "1")
    assert again.exit_code == 0, (again.output, again.exception)
    assert json.loads(first.stdout)["replaced"] is None
    assert json.loads(again.stdout)["replaced"] == json.loads(first.stdout)["bundle_id"]
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.quality["settings"] == "quick"


def test_what_ships_has_not_seen_the_test_window_unless_it_is_final(
    shop: Path, tmp_path: Path
) -> None:
    """The features of a bundle are those of the purchases up to its cut, and of no later one."""
    prepared = prepare_files(shop / "purchases.parquet")
    settings = TrainSettings.quick()
    cuts = {False: prepared.split.validation_until_ms, True: prepared.split.test_until_ms}
    digests = []
    for final, cut_ms in cuts.items():
        out = tmp_path / f"final-{final}"
        flags = ["--final"] if final else []
        made = run("--interactions", str(shop / "purchases.parquet"), "--out", str(out), *flags)
        assert made.exit_code == 0, made.output
        bundle = load_bundle(out)
        assert bundle.manifest.data.until_unix_ms == cut_ms
        assert bundle.manifest.quality["learned_from_test_window"] is final
        history = prepared.dataset.until(cut_ms)
        assert bundle.manifest.data.interactions == history.n_events
        expected = fit_features(with_levels(history), cut_ms, settings, lambda done: None)
        assert np.array_equal(bundle.state.popularity, expected.popularity)
        assert np.array_equal(bundle.state.ease.weights, expected.ease.weights)
        digests.append(bundle.manifest.model.digest)
    assert digests[0] != digests[1]
