"""Fair training: what lists count for, how the strength is chosen, and that no attribute is a feature."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
import torch
from click.testing import CliRunner
from rich.console import Console

from server.bundle import load_bundle
from server.errors import Refused
from server.features import FEATURE_NAMES
from strategies.learning import lists_of
from strategies.purchases import raw, shop_rows, tables
from training import fair_training
from training.commands import train
from training.data.prepare import Prepared, prepare_tables
from training.data.tables import users_from
from training.fair_training import (
    ADJUSTMENT,
    NO_GROUP,
    REMEMBERED,
    FairGroups,
    FairSettings,
    GroupDro,
    Reweight,
    Tried,
    Weighting,
    check_attribute,
    choose,
    choose_strength,
    fair_groups,
)
from training.intervals import Estimate
from training.pipeline import Pipeline
from training.rows import Lists
from training.settings import SequenceSettings, TrainSettings
from training.train import ndcgs_at_20, train_ranker

# Six lists of group 0, two of group 1, two of nobody's.
CODES = np.array([0, 0, 0, 1, NO_GROUP, 0, 0, 1, NO_GROUP, 0], np.int32)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def counted(weighting: Weighting) -> np.ndarray:
    """What each list counts for."""
    every = np.arange(len(CODES))
    ones = torch.ones(len(CODES))
    return weighting(every, ones, ones > 0).numpy()


def test_reweighting_makes_groups_count_alike_and_the_rest_as_before() -> None:
    whole = counted(Reweight(CODES, 2, 1.0))
    assert whole[CODES == 0].sum() == pytest.approx(whole[CODES == 1].sum())
    assert whole[CODES == NO_GROUP].tolist() == [1, 1]
    assert whole.mean() == pytest.approx(1)
    half = counted(Reweight(CODES, 2, 0.5))
    assert half == pytest.approx((1 + whole) / 2)
    assert counted(Reweight(CODES, 2, 0.0)).tolist() == [1] * len(CODES)


def test_group_dro_follows_the_formula() -> None:
    rng = np.random.default_rng(0)
    eta, shares = 0.3, np.array([0.75, 0.25])
    dro = GroupDro(CODES, 2, eta)
    q, running = shares.copy(), [math.nan, math.nan]
    assert dro.q.numpy() == pytest.approx(q)
    for _ in range(20):
        chosen = rng.permutation(len(CODES))[:4]
        losses = rng.uniform(0.5, 3, 4)
        used = rng.random(4) < 0.8
        given = dro(chosen, torch.from_numpy(losses), torch.from_numpy(used)).numpy()
        for code in range(2):
            seen = losses[(CODES[chosen] == code) & used]
            if len(seen):
                new = seen.mean()
                old = running[code]
                running[code] = (
                    new if math.isnan(old) else REMEMBERED * old + (1 - REMEMBERED) * new
                )
        if not all(map(math.isnan, running)):
            known = [np.nanmean(running) if math.isnan(one) else one for one in running]
            q = q * np.exp(eta * (np.array(known) + ADJUSTMENT / np.sqrt([6, 2])))
            q /= q.sum()
        assert dro.q.numpy() == pytest.approx(q)
        own = np.where(CODES[chosen] == NO_GROUP, 1.0, (q / shares)[CODES[chosen]])
        assert given == pytest.approx(losses * own)


def test_group_dro_turns_to_the_group_that_loses_most() -> None:
    dro = GroupDro(CODES, 2, 0.1)
    losses = torch.tensor([3.0 if code == 0 else 1.0 for code in CODES])
    every = np.arange(len(CODES))
    for _ in range(100):
        dro(every, losses, losses > 0)
    assert dro.q[0] > 0.99
    assert counted(GroupDro(CODES, 2, 0.0)) == pytest.approx(np.ones(len(CODES)))


def two_kinds(seed: int) -> tuple[Lists, np.ndarray]:
    """Lists of users who buy what the first feature speaks for; every eighth, what it speaks against."""
    lists = lists_of(seed, 160)
    few = lists.users % 8 == 0
    rows = np.repeat(few, np.diff(lists.ptr))
    features = lists.features.copy()
    features[rows, 0] = 6 - features[rows, 0]
    return dataclasses.replace(lists, features=features), few.astype(np.int32)


@pytest.mark.parametrize("method", ["reweight", "group-dro"])
def test_the_few_are_served_better_where_they_count_for_more(method: str) -> None:
    lists, codes = two_kinds(0)
    validation, validation_codes = two_kinds(1)
    settings = TrainSettings(epochs=8, lists_per_step=8, hidden=(8, 4), learning_rate=1e-2)

    def worst(weighting: Weighting | None) -> float:
        trained = train_ranker([lists], None, settings, 8, lambda *_: None, None, weighting)
        return float(ndcgs_at_20(trained.model, validation)[validation_codes == 1].mean())

    strong = Reweight(codes, 2, 1.0) if method == "reweight" else GroupDro(codes, 2, 0.05)
    assert worst(strong) > worst(None) + 0.05


def one(strength: float, ndcg: float, a: float, b: float, low: float = 0.001) -> Tried:
    return Tried(strength, ndcg, {"a": a, "b": b}, 1, Estimate(0.02, low, 0.04, 50))


@pytest.mark.parametrize(
    ("candidates", "strength"),
    [
        ([one(0, 0.40, 0.3, 0.5), one(0.5, 0.399, 0.32, 0.4), one(1, 0.397, 0.31, 0.33)], 0.5),
        ([one(0, 0.40, 0.3, 0.5), one(0.5, 0.399, 0.32, 0.4), one(1, 0.397, 0.35, 0.33)], 1),
        # Two percent are too many.
        ([one(0, 0.40, 0.3, 0.5), one(0.5, 0.392, 0.38, 0.4)], 0),
        # A tie: the weaker.
        ([one(0, 0.40, 0.3, 0.5), one(0.5, 0.4, 0.32, 0.4), one(1, 0.4, 0.32005, 0.4)], 0.5),
        # A gain that may be chance is none.
        ([one(0, 0.40, 0.3, 0.5), one(0.5, 0.4, 0.32, 0.4, -0.001)], 0),
        # Nothing helps.
        ([one(0, 0.40, 0.3, 0.5), one(0.5, 0.41, 0.29, 0.6)], 0),
    ],
)
def test_the_strength_is_the_one_that_helps_the_worst_at_a_bounded_price(
    candidates: list[Tried], strength: float
) -> None:
    assert choose(candidates, 0.01).strength == strength


def test_a_gain_is_that_of_the_group_that_was_worst_paired_over_its_users() -> None:
    validation = lists_of(0, 60)
    codes = (np.arange(60) % 2).astype(np.int32)
    groups = FairGroups(("a", "b"), codes, ())
    rng = np.random.default_rng(0)
    plain = rng.uniform(0, 0.4, 60) + 0.3 * codes  # b is served better
    better = plain + np.where(codes == 0, 0.02, -0.01)
    settings = FairSettings("sex")
    told: list[str] = []
    choice = choose_strength(
        settings, groups, validation,
        lambda strength: (better if strength == 0.5 else plain, 3), told.append,
    )  # fmt: skip
    assert choice.chosen.strength == 0.5
    gains = {tried.strength: tried.gain for tried in choice.candidates}
    assert gains[0.5].n_users == 30
    for bound in (gains[0.5].value, gains[0.5].low, gains[0.5].high):
        assert bound == pytest.approx(0.02)
    assert gains[1.0].value == 0
    assert choice.chosen.ndcg == pytest.approx(better.mean())
    assert "(gain +0.0200 [+0.0200, +0.0200])" in told[2]
    # Per user the gain is as often a loss: chance.
    noisy = plain + rng.normal(0.005, 0.3, 60)
    chance = choose_strength(
        settings, groups, validation,
        lambda strength: (noisy if strength == 0.5 else plain, 3), told.append,
    )  # fmt: skip
    assert chance.chosen.strength == 0


def prepared_shop(shuffle: int | None = None) -> Prepared:
    """80 users: 25 young, 25 old, 5 who are older, 25 who do not tell."""
    ages = np.array(["young", "old"] * 25 + ["older"] * 5 + [None] * 25)
    if shuffle is not None:
        ages = np.random.default_rng(shuffle).permutation(ages)
    users = pl.DataFrame({"user": [f"user-{n:02}" for n in range(80)], "age": ages.tolist()})
    own = tables(shop_rows(n_users=80))
    return prepare_tables(dataclasses.replace(own, users=users_from(users)))


QUIET = Console(quiet=True)
QUICK = dataclasses.replace(TrainSettings.quick(), lists_per_step=8)


def test_small_groups_and_those_unknown_keep_their_weight() -> None:
    prepared = prepared_shop()
    tuning, validation = Pipeline(prepared, QUICK, QUIET).lists.tuning()
    settings = FairSettings("age")
    groups = fair_groups(prepared.dataset, settings, tuning, validation)
    assert groups.labels == ("old", "young")
    assert groups.left_out == ("older", "unknown")
    ages = np.array(prepared.dataset.user_attributes["age"])
    assert [groups.labels[code] for code in groups.codes if code != NO_GROUP] == [
        age for age in ages if age in ("old", "young")
    ]
    assert set(ages[groups.codes == NO_GROUP]) == {"older", "unknown"}
    with pytest.raises(Refused, match="of the groups of 'age' none have 30 users or more"):
        fair_groups(
            prepared.dataset, dataclasses.replace(settings, min_users=30), tuning, validation
        )


@pytest.mark.parametrize(
    ("attribute", "why"),
    [
        ("shoe", "no attribute 'shoe'; there are: age, nickname, shop"),
        ("shop", "'shop' has 1 different values, allowed: 2 to 12"),
        ("nickname", "'nickname' has 80 different values"),
    ],
)
def test_what_makes_no_groups_is_refused_before_training(attribute: str, why: str) -> None:
    data = prepared_shop().dataset
    attributes = {
        **data.user_attributes,
        "shop": ("here",) * 80,
        "nickname": tuple(map(str, range(80))),
    }
    with pytest.raises(Refused, match=why):
        check_attribute(dataclasses.replace(data, user_attributes=attributes), attribute)


def test_a_family_that_has_no_lists_to_weigh_is_refused_before_training(tmp_path: Path) -> None:
    alone = dataclasses.replace(QUICK, sequence=SequenceSettings().of("two-tower"))
    with pytest.raises(Refused, match="'two-tower' by itself has none: take --family"):
        Pipeline(prepared_shop(), alone, QUIET, fair=FairSettings("age")).run(
            name="b", policies=None, default_policy=None, out=tmp_path / "b"
        )


def test_lists_hold_nothing_of_an_attribute() -> None:
    """Whoever is old: features, candidates and labels are the same."""
    made = [Pipeline(prepared_shop(shuffle), QUICK, QUIET).lists.tuning() for shuffle in (None, 1)]
    for plain, permuted in zip([*made[0][0], made[0][1]], [*made[1][0], made[1][1]], strict=True):
        for name in ("features", "labels", "items", "ptr", "recent", "users"):
            assert np.array_equal(getattr(plain, name), getattr(permuted, name)), name


@pytest.mark.slow
def test_at_strength_0_the_attribute_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fair_training.STRENGTHS, "reweight", (0.0,))
    digests = set()
    for name, shuffle, fair in (("plain", None, None), ("permuted", 1, FairSettings("age"))):
        released = Pipeline(prepared_shop(shuffle), QUICK, QUIET, fair=fair).run(
            name=name, policies=None, default_policy=None, out=tmp_path / name
        )
        digests.add(released.manifest.model.digest)
    assert len(digests) == 1


@pytest.mark.slow
def test_the_command_tells_what_was_tried_and_the_bundle_that_no_attribute_is_a_feature(
    tmp_path: Path,
) -> None:
    prepared = prepared_shop()
    raw(shop_rows(n_users=80)).write_parquet(tmp_path / "purchases.parquet")
    prepared.tables.users.write_csv(tmp_path / "users.csv")
    arguments = [
        "--interactions", str(tmp_path / "purchases.parquet"), "--users",
        str(tmp_path / "users.csv"), "--out", str(tmp_path / "b"), "--quick", "--json",
        "--fair-by", "age", "--fair-method", "group-dro",
    ]  # fmt: skip
    result = CliRunner().invoke(train, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    bundle = load_bundle(tmp_path / "b")
    fair: dict[str, Any] = bundle.manifest.quality["fair_training"]  # type: ignore[assignment]
    assert json.loads(result.stdout)["fair_training"] == fair
    assert (fair["attribute"], fair["method"]) == ("age", "group-dro")
    assert fair["protected_features"] == []
    assert fair["groups"] == ["old", "young"]
    assert fair["left_without_weight"] == ["older", "unknown"]
    assert [one["strength"] for one in fair["tried"]] == list(
        FairSettings("age", "group-dro").strengths
    )
    for tried in fair["tried"]:
        assert set(tried["by_group"]) == {"old", "young"}
        assert tried["worst_group_ndcg_at_20"] == min(tried["by_group"].values())
    # What the model reads: the features, and no other input.
    assert bundle.manifest.model.feature_names == FEATURE_NAMES
    assert not [name for name in FEATURE_NAMES if "age" in name.split("_")]
    graph = onnx.load_model_from_string(bundle.model).graph
    assert [one.name for one in graph.input] == ["features"]
    assert graph.input[0].type.tensor_type.shape.dim[2].dim_value == len(FEATURE_NAMES)
    cards = [path.read_text() for path in (tmp_path / "b").glob("*.md")]
    assert "losses were weighed by age (group-dro" in cards[0]


def test_codes_of_lists_are_those_of_their_users() -> None:
    lists = lists_of(0, 4)
    groups = FairGroups(("a", "b"), np.array([1, 0, NO_GROUP, 1], np.int32), ())
    assert groups.of([lists, lists]).tolist() == [1, 0, -1, 1] * 2
