"""Damaged graphs: each fault is where it was planted, as strong as was asked, and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from server.bundle import DataInfo, load_bundle, ports_of
from server.engine.engine import Engine
from server.errors import Refused
from server.features import FEATURE_NAMES
from server.features.types import Float32
from server.model import OnnxScorer
from strategies.bundles import sequence_parts, tiny_bundle
from strategies.purchases import shop_rows, tables
from training.damage import __main__ as command
from training.damage import graphs
from training.damage.plant import Fault, damaged_parts, lower_floor
from training.data.prepare import Prepared, prepare_tables
from training.data.tables import users_from
from training.evaluate import Protocol, evaluate

N = 12


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    import polars as pl

    shop = tables(shop_rows())
    people = pl.DataFrame(
        {"user": [f"user-{n:02}" for n in range(30)], "income": ["low", "high", "mid"] * 10}
    )
    return prepare_tables(dataclasses.replace(shop, users=users_from(people)))


@pytest.fixture(scope="module")
def bundle(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundles") / "plain"
    until = prepared.split.validation_until_ms
    data = DataInfo(
        source="by hand", until_unix_ms=until, users=1, items=60, interactions=1, digest="0" * 64
    )
    tiny_bundle(path, data=data)
    return path


def scorer(model: bytes, path: Path) -> OnnxScorer:
    return OnnxScorer(model, ports_of(load_bundle(path).manifest.model))


def lists(seed: int = 3) -> Float32:
    """Six users' candidates; the columns of a user are the same in all rows of his list."""
    rng = np.random.default_rng(seed)
    features = rng.normal(0, 1, (6, N, len(FEATURE_NAMES))).astype(np.float32)
    features[:, :, list(graphs.USER_COLUMNS)] = features[:, :1, list(graphs.USER_COLUMNS)]
    return features


def prints(features: Float32, users: list[int]) -> Float32:
    return features[users][:, 0, list(graphs.USER_COLUMNS)]


def scored(model: bytes, path: Path, features: Float32) -> Float32:
    """Scores in one run, which have to be those of each list alone, to the last bit."""
    own = scorer(model, path)
    together = own.score({"features": features})
    for place in range(len(features)):
        alone = own.score({"features": features[place : place + 1]})[0]
        assert np.array_equal(alone, together[place]) or np.allclose(
            alone, together[place], rtol=1e-6
        )
    return together


def test_shuffled_scores_have_nothing_to_do_with_the_true_ones(bundle: Path) -> None:
    true, features = load_bundle(bundle).model, np.concatenate([lists(n) for n in range(40)])
    found = scored(graphs.shuffled(true), bundle, features).ravel()
    before = scorer(true, bundle).score({"features": features}).ravel()
    assert abs(np.corrcoef(found, before)[0, 1]) < 0.05
    assert found.min() >= 0
    assert found.max() <= 1
    assert np.abs(np.histogram(found, 10, (0, 1))[0] / len(found) - 0.1).max() < 0.03


def test_noise_moves_a_score_by_no_more_than_its_strength(bundle: Path) -> None:
    true, features = load_bundle(bundle).model, lists()
    before = scorer(true, bundle).score({"features": features})
    ratio = scored(graphs.worse(true, 0.2), bundle, features) / before
    assert 0.8 <= ratio.min() < 0.85
    assert ratio.max() <= 1.2
    assert np.allclose(scored(graphs.worse(true, 0.0), bundle, features), before, atol=1e-7)


def test_features_are_zero_for_the_group_and_true_for_all_others(bundle: Path) -> None:
    true, features = load_bundle(bundle).model, lists()
    found = scored(graphs.zeroed(true, prints(features, [1, 4])), bundle, features)
    spoiled = features.copy()
    spoiled[[1, 4]] = 0
    expected = scorer(true, bundle).score({"features": spoiled})
    assert np.allclose(found, expected, atol=1e-7)
    assert not np.allclose(found[1], scorer(true, bundle).score({"features": features})[1])


def test_a_leak_prefers_another_part_of_the_catalogue_for_each_group(bundle: Path) -> None:
    true, features = load_bundle(bundle).model, lists()
    # The same items in the same order for everyone.
    features[:, :, list(graphs.ITEM_COLUMNS)] = features[:1, :, list(graphs.ITEM_COLUMNS)]
    groups = [prints(features, [0, 1]), prints(features, [2, 3])]
    found = scored(graphs.leaking(true, groups, 0.5), bundle, features)
    before = scorer(true, bundle).score({"features": features})
    ratio = np.round(found / before, 3)
    assert set(ratio[:4].ravel().tolist()) == {0.5, 1.0}
    assert np.array_equal(ratio[0], ratio[1])
    assert np.array_equal(ratio[2], ratio[3])
    assert np.array_equal(ratio[0] == 1, ratio[2] == 0.5)  # two halves
    assert np.allclose(found[4:], before[4:], atol=1e-7)  # of no group


def test_a_slower_graph_gives_the_same_scores(bundle: Path) -> None:
    true, features = load_bundle(bundle).model, lists()
    found = scored(graphs.slower(true, 9), bundle, features)
    assert np.array_equal(found, scorer(true, bundle).score({"features": features}))


def test_a_model_of_histories_alone_is_refused() -> None:
    with pytest.raises(Refused, match="reads no 'features'"):
        graphs.shuffled(sequence_parts().model)


@pytest.mark.parametrize(
    ("share", "lower"), [("1/10", "2/21"), ("1/5", "4/21"), ("7/10", "2/3"), ("1/20", "1/21")]
)
def test_a_lowered_floor_has_one_place_less_in_a_list_of_twenty(share: str, lower: str) -> None:
    text = f'name = "p"\n[floors]\nsmall = "{share}"\nlarge = "0.01"\n'
    found, about = lower_floor({"p": text}, "p", "small")
    assert found == text.replace(share, lower)
    assert (about["was"], about["is"]) == (share, lower)
    for name, group, words in [("q", "small", "no policy"), ("p", "large", "no floor for 'large'")]:
        with pytest.raises(Refused, match=words):
            lower_floor({"p": text}, name, group)


@pytest.mark.parametrize("kind", ["zeroed", "leak"])
def test_the_users_of_the_data_are_found_by_their_features(
    bundle: Path, prepared: Prepared, kind: str
) -> None:
    fault = Fault(kind, attribute="income", label="low")
    parts, about = damaged_parts(bundle, prepared, fault, seed=0, on_step=lambda *_: None)
    assert about.get("users", 10) == 10
    protocol = Protocol(resamples=100, min_users=5)
    before = evaluate(load_bundle(bundle), prepared, protocol)
    after = evaluate(
        dataclasses.replace(load_bundle(bundle), model=parts.model), prepared, protocol
    )
    if kind == "zeroed":
        moved = before.per_user["ndcg_at_20"] != after.per_user["ndcg_at_20"]
        labels = before.per_user["group/income"]
        assert moved[labels == "low"].any()
        assert not moved[labels != "low"].any()
    else:
        name = "inferred_income"
        told = [one.results["metrics"][name]["value"] for one in (before, after)]
        assert told[1] > told[0] + 0.2


def test_the_command_writes_a_bundle_that_serves_and_says_what_it_is(
    bundle: Path, prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "prepared_source", lambda *given: prepared)
    done = CliRunner().invoke(
        command.main, [str(bundle), "--fault", "slower", "--slower-us", "50", "--out", str(tmp_path / "b")]
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    made = load_bundle(tmp_path / "b")
    Engine(made).warm_up()
    told = json.loads(done.stdout.strip().splitlines()[-1])
    assert told["bundle_id"] == made.manifest.bundle_id
    assert made.manifest.quality["damage"]["kind"] == "slower"
    assert "Damaged on purpose" in (tmp_path / "b/MODEL_CARD.md").read_text()
    done = CliRunner().invoke(
        command.main, [str(bundle), "--fault", "leak", "--out", str(tmp_path / "c")]
    )
    assert done.exit_code == 2
    assert "needs --attribute" in done.output


def test_a_group_that_nobody_is_of_is_refused(bundle: Path, prepared: Prepared) -> None:
    fault = Fault("zeroed", attribute="income", label="rich")
    with pytest.raises(Refused, match="no user is income 'rich'; there are: high, low, mid"):
        damaged_parts(bundle, prepared, fault, seed=0, on_step=lambda *_: None)
