"""Leaks: one is planted in each place where a feature may come to know the future, and is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from server.features import FEATURE_NAMES, FeatureState
from server.features.types import DAY_MS
from strategies.purchases import START_MS, Row, purchase_rows, raw, shop_rows, tables
from training import fitting, lists_at_cuts
from training.commands import train
from training.data.dataset import Dataset, dataset_of
from training.data.split import targets_between
from training.fit_features import fit_features
from training.leaks import LabelLeak, check_leaks, check_recomputed, check_separation
from training.rows import Lists, make_lists
from training.settings import TrainSettings

SETTINGS = TrainSettings(n_novel=15, keep_ease=20, keep_cosine=20, min_buyers=1)
CUT = START_MS + 69 * DAY_MS
UNTIL = START_MS + 83 * DAY_MS


def nothing(done: int) -> None:
    """No progress bar."""


def lists_at(history: Dataset, state: FeatureState, data: Dataset) -> Lists:
    targets = targets_between(data, CUT, UNTIL)
    return make_lists(history, targets, CUT, state, SETTINGS, with_short=True, on_list=nothing)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset_of(tables(shop_rows()))


def test_honest_lists_pass(data: Dataset) -> None:
    history = data.until(CUT)
    state = fit_features(history, CUT, SETTINGS, nothing)
    check_leaks(lists_at(history, state, data), data, CUT, state, SETTINGS)


def test_a_history_that_holds_the_target_is_found(data: Dataset) -> None:
    state = fit_features(data.until(CUT), CUT, SETTINGS, nothing)
    # With their own times the features' door refuses them; a broken clock hides them.
    late = data.until(UNTIL)
    late = replace(late, times_ms=np.minimum(late.times_ms, CUT))
    leaking = lists_at(late, state, data)
    with pytest.raises(LabelLeak, match="changes when events after the cut of") as caught:
        check_recomputed(leaking, data, CUT, state, SETTINGS)
    assert caught.value.column in FEATURE_NAMES


def test_item_statistics_that_count_the_target_are_found(data: Dataset) -> None:
    state = fit_features(data.until(UNTIL), CUT, SETTINGS, nothing)
    leaking = lists_at(data.until(CUT), state, data)
    with pytest.raises(LabelLeak, match="changes when events after the cut"):
        check_recomputed(leaking, data, CUT, state, SETTINGS)


@pytest.mark.parametrize("column", [0, 7, len(FEATURE_NAMES) - 1])
def test_a_column_with_the_target_in_it_is_named(data: Dataset, column: int) -> None:
    history = data.until(CUT)
    state = fit_features(history, CUT, SETTINGS, nothing)
    honest = lists_at(history, state, data)
    features = honest.features.copy()
    features[:, column] += honest.labels * 0.01
    planted = replace(honest, features=features)
    with pytest.raises(LabelLeak, match=f"the feature {FEATURE_NAMES[column]} changes"):
        check_leaks(planted, data, CUT, state, SETTINGS)
    # Where it stands alone it is found without another look at the data.
    features[:, column] = honest.labels
    with pytest.raises(LabelLeak, match=f"the feature {FEATURE_NAMES[column]} alone parts"):
        check_separation(planted, SETTINGS.leak_auc)
    check_separation(planted, 1.0)
    with pytest.raises(LabelLeak):
        check_separation(replace(planted, features=-features), SETTINGS.leak_auc)


def test_of_few_purchases_a_column_that_parts_them_says_nothing(data: Dataset) -> None:
    history = data.until(CUT)
    state = fit_features(history, CUT, SETTINGS, nothing)
    honest = lists_at(history, state, data)
    labels = np.zeros_like(honest.labels)
    labels[:99] = True
    features = honest.features.copy()
    features[:, 0] = labels
    check_separation(replace(honest, labels=labels, features=features), SETTINGS.leak_auc)


@pytest.mark.slow
def test_training_stops_before_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole way: lists made of histories that hold what they are to foretell."""
    raw(shop_rows()).write_parquet(tmp_path / "purchases.parquet")
    honest = lists_at_cuts.make_lists

    def leaking(history, targets, cut_ms, *more, **named):
        hidden = np.minimum(leaking.all.times_ms, cut_ms)
        return honest(replace(leaking.all, times_ms=hidden), targets, cut_ms, *more, **named)

    def remembering(tables):
        leaking.all = dataset_of(tables)
        return leaking.all

    monkeypatch.setattr("training.data.prepare.dataset_of", remembering)
    monkeypatch.setattr(lists_at_cuts, "make_lists", leaking)
    monkeypatch.setattr(fitting, "train_ranker", None)
    arguments = ["--interactions", str(tmp_path / "purchases.parquet"), "--quick"]
    result = CliRunner().invoke(train, [*arguments, "--out", str(tmp_path / "b")])
    assert isinstance(result.exception, LabelLeak), (result.output, result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["purchases.parquet"]


@given(before=purchase_rows(min_size=1), later=st.lists(purchase_rows(max_size=20), max_size=2))
def test_no_event_after_the_cut_changes_a_feature(
    before: list[Row], later: list[list[Row]]
) -> None:
    """Whatever comes later, and by whom: state, candidates and features are the same bits."""
    cut_ms = START_MS + 50 * DAY_MS
    everyone = [(f"u{n}", f"i{n}", 0.0, f"start-{n}") for n in range(9)]
    after = [
        (user, item, 60 + day, f"later-{number}-{basket}")
        for number, rows in enumerate(later)
        for user, item, day, basket in rows
    ]
    made = []
    for rows in ([*everyone, *before], [*everyone, *before, *after]):
        history = dataset_of(tables(rows)).until(cut_ms)
        state = fit_features(history, cut_ms, SETTINGS, nothing)
        # The same users in both, whatever they bought next.
        targets = targets_between(dataset_of(tables([*rows, *_next(rows)])), cut_ms, cut_ms * 2)
        made.append(
            make_lists(history, targets, cut_ms, state, SETTINGS, with_short=True, on_list=nothing)
        )
    for name in ("features", "items", "ptr", "recent", "users"):
        first, second = (getattr(one, name) for one in made)
        assert first.tobytes() == second.tobytes(), name


def _next(rows: list[Row]) -> list[Row]:
    users = sorted({row[0] for row in rows})
    return [(user, "i0", 99.0, f"next-{user}") for user in users]
