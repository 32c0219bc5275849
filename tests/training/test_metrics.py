"""Ranking metrics and intervals against plain loops, known values and scipy."""

from __future__ import annotations

import doctest
import importlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from training.intervals import Resampler
from training.metrics import hits, ndcg, recall, without

K = 4
N_ITEMS = 9

Case = tuple[list[int], set[int], set[int]]
"""One user's list, targets and history."""


def cases() -> st.SearchStrategy[list[Case]]:
    items = st.integers(0, N_ITEMS - 1)
    ranked = st.lists(items, unique=True, max_size=K)
    return st.lists(st.tuples(ranked, st.sets(items), st.sets(items)), min_size=1, max_size=5)


def padded(lists: list[list[int]]) -> np.ndarray:
    return np.array([row + [-1] * (K - len(row)) for row in lists], np.int32)


def rows(sets: list[set[int]]) -> tuple[np.ndarray, np.ndarray]:
    ptr = np.concatenate([[0], np.cumsum([len(s) for s in sets])]).astype(np.int64)
    return ptr, np.array([i for s in sets for i in sorted(s)], np.int32)


def naive_ndcg(ranked: list[int], targets: set[int]) -> float:
    if not targets:
        return math.nan
    got = sum(1 / math.log2(r + 1) for r, item in enumerate(ranked, 1) if item in targets)
    ideal = sum(1 / math.log2(r + 1) for r in range(1, min(K, len(targets)) + 1))
    return got / ideal


def naive_recall(ranked: list[int], targets: set[int]) -> float:
    return len(targets & set(ranked)) / len(targets) if targets else math.nan


@given(cases())
def test_metrics_are_what_plain_loops_find(users: list[Case]) -> None:
    ptr, items = rows([targets for _, targets, _ in users])
    found = hits(padded([ranked for ranked, _, _ in users]), ptr, items)
    sizes = np.diff(ptr)
    wanted = [(naive_ndcg(r, t), naive_recall(r, t)) for r, t, _ in users]
    np.testing.assert_allclose(ndcg(found, sizes), [w[0] for w in wanted])
    np.testing.assert_allclose(recall(found, sizes), [w[1] for w in wanted])
    assert found.shape == (len(users), K)


@given(cases())
def test_novel_targets_are_those_outside_the_history(users: list[Case]) -> None:
    ptr, items = rows([targets for _, targets, _ in users])
    gone_ptr, gone = rows([history for _, _, history in users])
    novel_ptr, novel = without(ptr, items, gone_ptr, gone)
    for place, (_, targets, history) in enumerate(users):
        got = novel[novel_ptr[place] : novel_ptr[place + 1]].tolist()
        assert got == sorted(targets - history)


@given(cases())
def test_ndcg_is_between_0_and_1_and_a_perfect_list_scores_1(users: list[Case]) -> None:
    sets = [targets for _, targets, _ in users if targets]
    if not sets:
        return
    ptr, items = rows(sets)
    perfect = ndcg(hits(padded([sorted(t)[:K] for t in sets]), ptr, items), np.diff(ptr))
    assert perfect == pytest.approx(np.ones(len(sets)))
    other = ndcg(hits(padded([[0, 1, 2, 3]] * len(sets)), ptr, items), np.diff(ptr))
    assert ((other >= 0) & (other <= 1 + 1e-12)).all()


def test_lists_and_targets_of_different_users_are_refused() -> None:
    with pytest.raises(ValueError, match="2 lists for 1 users"):
        hits(np.zeros((2, 3), np.int32), np.array([0, 1]), np.array([1]))


@pytest.mark.parametrize("name", ["metrics", "intervals", "baselines", "data.schema"])
def test_the_examples_in_docstrings_are_true(name: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"training.{name}"))
    assert outcome.attempted > 0
    assert outcome.failed == 0


def test_the_interval_of_a_mean_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).beta(1, 3, 400)
    ours = Resampler(400, resamples=4000, seed=1).mean(values)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.high, abs=0.002)


def test_a_ratio_of_means_agrees_with_scipy() -> None:
    rng = np.random.default_rng(4)
    whole = rng.beta(2, 2, 300)
    part = whole * rng.uniform(0.8, 1.0, 300)
    ours = Resampler(300, resamples=4000, seed=1).ratio(part, whole)
    theirs = stats.bootstrap(
        (part, whole),
        lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=np.random.default_rng(2),
    ).confidence_interval
    assert ours.value == pytest.approx(part.mean() / whole.mean())
    assert ours.low == pytest.approx(theirs.low, abs=0.002)
    assert ours.high == pytest.approx(theirs.high, abs=0.002)


def test_a_paired_difference_is_surer_than_its_two_sides() -> None:
    rng = np.random.default_rng(5)
    base = rng.random(200)
    sample = Resampler(200)
    gain = sample.mean(base + 0.01 - base)
    assert (gain.low, gain.high) == (pytest.approx(0.01), pytest.approx(0.01))
    side = sample.mean(base)
    assert side.low is not None
    assert side.high is not None
    assert side.high - side.low > 0.05


def test_users_without_a_value_do_not_count() -> None:
    estimate = Resampler(4).mean(np.array([1.0, np.nan, np.nan, 1.0]))
    assert (estimate.value, estimate.n_users) == (1.0, 2)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_no_users_give_no_number_rather_than_a_zero(values: list[float]) -> None:
    estimate = Resampler(len(values)).mean(np.array(values))
    assert (estimate.value, estimate.low, estimate.high) == (None, None, None)
    assert estimate.n_users == 0


def test_the_same_seed_gives_the_same_interval() -> None:
    values = np.random.default_rng(6).random(50)
    assert Resampler(50, seed=9).mean(values) == Resampler(50, seed=9).mean(values)
    assert Resampler(50, seed=9).mean(values) != Resampler(50, seed=10).mean(values)
