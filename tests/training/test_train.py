"""The training loop: its loss and measure against plain loops, seeds, early stopping, calibration."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strategies.learning import F, lists_of
from training import train as loop
from training.metrics import hits
from training.metrics import ndcg as ndcg_of_hits
from training.model import PairRanker
from training.rows import Lists
from training.settings import TrainSettings
from training.train import calibrate, ndcg_at_20, predict, train_ranker

SETTINGS = TrainSettings(epochs=6, lists_per_step=8, hidden=(8, 4), learning_rate=1e-2)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These tensors are tiny: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def ignore(epoch: int, ndcg: float) -> None:
    """No progress bar."""


def untrained() -> PairRanker:
    torch.manual_seed(1)
    return PairRanker(torch.full((F,), 3.0), torch.full((F,), 2.0), (8, 4))


def test_training_learns_what_there_is_to_learn() -> None:
    validation = lists_of(2)
    before = ndcg_at_20(untrained(), validation)
    trained = train_ranker([lists_of(0), lists_of(1)], validation, SETTINGS, 6, ignore)
    oracle = replace(validation, features=validation.features[:, :1])
    best = float(np.mean(_ndcgs(oracle, oracle.features[:, 0])))
    assert before < 0.9 * best
    assert ndcg_at_20(trained.model, validation) > 0.97 * best


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_the_same_seed_gives_the_same_weights_and_another_seed_others(loss: str) -> None:
    settings = replace(SETTINGS, loss=loss)
    runs = [
        train_ranker([lists_of(0)], lists_of(2), replace(settings, seed=seed), 2, ignore)
        for seed in (3, 3, 4)
    ]
    weights = [
        torch.cat([w.ravel() for w in run.model.parameters()]).detach().numpy().tobytes()
        for run in runs
    ]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_the_best_epoch_is_kept_and_training_stops_when_it_gets_no_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    course = [0.2, 0.5, 0.4, 0.45, 0.1, 0.9]
    seen: list[np.ndarray] = []

    def measured(model: PairRanker, _: Lists) -> float:
        seen.append(predict(model, lists_of(2)))
        return course[len(seen) - 1]

    monkeypatch.setattr(loop, "ndcg_at_20", measured)
    trained = train_ranker(
        [lists_of(0)], lists_of(2), replace(SETTINGS, patience=3), len(course), ignore
    )
    assert trained.best_epoch == 2
    assert trained.ndcg_by_epoch == tuple(course[:5])
    assert np.array_equal(predict(trained.model, lists_of(2)), seen[1])


def test_without_validation_all_epochs_are_run() -> None:
    told: list[int] = []
    trained = train_ranker([lists_of(0)], None, SETTINGS, 3, lambda epoch, ndcg: told.append(epoch))
    assert told == [1, 2, 3]
    assert trained.best_epoch == 3


@given(
    st.lists(
        st.lists(st.tuples(st.floats(-30, 30, width=32), st.booleans()), min_size=1, max_size=6),
        min_size=1,
        max_size=5,
    )
)
def test_the_listwise_loss_is_that_of_the_formula(lists: list[list[tuple[float, bool]]]) -> None:
    logits = torch.tensor([score for one in lists for score, _ in one])
    labels = torch.tensor([float(bought) for one in lists for _, bought in one])
    segments = torch.tensor([place for place, one in enumerate(lists) for _ in one])
    losses = []
    for one in lists:
        log_total = math.log(sum(math.exp(score - 30) for score, _ in one)) + 30
        losses += [
            [log_total - score for score, bought in one if bought]
        ]  # -log softmax at each bought item
    used = [sum(own) / len(own) for own in losses if own]
    expected = sum(used) / len(used) if used else 0.0
    found = loop._loss(logits, labels, segments, len(lists), "softmax")
    assert float(found) == pytest.approx(expected, rel=1e-4, abs=1e-4)


def _ndcgs(lists: Lists, scores: np.ndarray) -> np.ndarray:
    tops = np.full((len(lists), 20), -1, np.int32)
    targets, ptr = [], [0]
    for place in range(len(lists)):
        part = slice(int(lists.ptr[place]), int(lists.ptr[place + 1]))
        best = sorted(
            range(part.stop - part.start),
            key=lambda n: (-scores[part][n], lists.items[part][n]),
        )[:20]
        tops[place, : len(best)] = lists.items[part][best]
        bought = lists.items[part][lists.labels[part]].tolist()
        # Targets that were no candidate: items that no list holds.
        missed = range(1000, 1000 + int(lists.n_targets[place]) - len(bought))
        targets += sorted([*bought, *missed])
        ptr.append(len(targets))
    bounds = np.array(ptr, np.int64)
    return ndcg_of_hits(hits(tops, bounds, np.array(targets, np.int32)), np.diff(bounds))


def test_the_measure_of_the_loop_is_that_of_the_evaluation() -> None:
    model, lists = untrained(), lists_of(5)
    expected = _ndcgs(lists, predict(model, lists))
    assert ndcg_at_20(model, lists) == pytest.approx(float(np.mean(expected)), rel=1e-9)


def test_items_that_tie_stand_in_the_order_of_the_server() -> None:
    lists = lists_of(5)
    tied = replace(lists, features=np.zeros_like(lists.features))
    expected = _ndcgs(tied, np.zeros(len(tied.items), np.float32))
    assert ndcg_at_20(untrained(), tied) == pytest.approx(float(np.mean(expected)), rel=1e-9)


def test_calibrated_scores_are_probabilities_in_the_same_order() -> None:
    lists = lists_of(6, 400)
    model = train_ranker([lists_of(0)], None, SETTINGS, 3, ignore).model
    raw = predict(model, lists)
    calibrate(model, lists)
    with torch.no_grad():
        scores = model(torch.from_numpy(lists.features)).numpy()
    assert float(model.scale) > 0
    assert 0 <= scores.min() <= scores.max() <= 1
    # A logistic fit with an offset meets the mean, here up to what float32 rounds.
    assert scores.mean() == pytest.approx(lists.labels.mean(), abs=1e-3)
    assert (np.diff(scores[np.argsort(raw, kind="stable")]) >= 0).all()


def test_standardisation_is_fitted_on_the_training_part_and_travels_in_the_model() -> None:
    train = lists_of(0)
    shifted = replace(lists_of(2), features=lists_of(2).features + 100)
    model = train_ranker([train], shifted, SETTINGS, 1, ignore).model
    assert model.mean.numpy() == pytest.approx(train.features.mean(0), rel=1e-4)
    deviations = train.features.std(0, ddof=1)[:-1]
    assert model.inverse_std.numpy()[:-1] == pytest.approx(1 / deviations, rel=1e-3)
    assert {"mean", "inverse_std", "scale", "offset"} <= set(model.state_dict())


def test_a_feature_that_training_saw_with_one_value_only_counts_for_nothing() -> None:
    mean, std = torch.full((F,), 400.0), torch.full((F,), 2.0)
    std[3] = 1e-5  # of rounding
    model = PairRanker(mean, std, (8, 4)).eval()
    usual, other = torch.full((1, 2, F), 401.0), torch.full((1, 2, F), 401.0)
    other[..., 3] = -7.0
    other[:, 1, 2] = 3.0
    with torch.no_grad():
        expected, given = model.logits(usual)[0], model.logits(other)[0]
    assert given[0] == expected[0]
    assert given[1] != expected[1]
