"""Diverse orders against their definitions, recomputed naively at each place."""

from __future__ import annotations

import doctest
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.fairness import diversify
from server.fairness.diversify import EPSILON, dpp_order, mmr_order
from server.fairness.kernels import score_order

Case = tuple[np.ndarray, np.ndarray, np.ndarray, int]

ORDERS = pytest.mark.parametrize("diverse", [mmr_order, dpp_order])
trade_offs = st.floats(0.05, 1.0)


def test_the_examples_in_the_docstring_hold() -> None:
    result = doctest.testmod(diversify)
    assert (result.attempted > 0, result.failed) == (True, 0)


def ranked(scores: np.ndarray) -> np.ndarray:
    return score_order(scores, np.empty(0, np.int64))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scaled to length 1, zeros left as they are."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)


@st.composite
def candidates(draw: st.DrawFn, most: int = 12) -> Case:
    """Few and small whole numbers, so that equal scores, equal, opposite and zero vectors are likely."""
    n, d = draw(st.integers(1, most)), draw(st.integers(1, 5))
    scores = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), np.float32)
    numbers = draw(st.lists(st.integers(-2, 2), min_size=n * d, max_size=n * d))
    vectors = unit(np.array(numbers, np.float64).reshape(n, d))
    return scores, vectors, ranked(scores), draw(st.integers(1, n))


def relevance(scores: np.ndarray) -> np.ndarray:
    low, high = float(scores.min()), float(scores.max())
    return (scores.astype(np.float64) - low) / (high - low) if high > low else 0.0 * scores


def products(vectors: np.ndarray) -> np.ndarray:
    """S: inner products, and 1 for a zero vector with itself."""
    wide = vectors.astype(np.float64)
    matrix = wide @ wide.T
    return matrix + np.diag((np.abs(wide).sum(axis=1) == 0).astype(np.float64))


def log_det(matrix: np.ndarray, rows: list[int]) -> float:
    sign, value = np.linalg.slogdet(matrix[np.ix_(rows, rows)])
    return float(value) if sign > 0 else -np.inf


@given(candidates(), trade_offs)
def test_each_pick_of_mmr_is_the_best_by_its_formula(case: Case, trade_off: float) -> None:
    scores, vectors, order, size = case
    r, like = relevance(scores), products(vectors)
    picked = mmr_order(scores, vectors, order, size, trade_off).tolist()
    for place, pick in enumerate(picked):
        earlier = picked[:place]
        values = {
            item: (1 - trade_off) * r[item]
            - trade_off * max((float(like[item, other]) for other in earlier), default=0.0)
            for item in order.tolist()
            if item not in earlier
        }
        assert values[pick] >= max(values.values()) - 1e-9


@given(candidates(), trade_offs)
def test_each_pick_of_dpp_raises_the_determinant_most_and_then_scores_decide(
    case: Case, trade_off: float
) -> None:
    scores, vectors, order, size = case
    r, matrix = relevance(scores), products(vectors)
    picked = dpp_order(scores, vectors, order, size, trade_off).tolist()
    for place, pick in enumerate(picked):
        earlier = picked[:place]
        before = log_det(matrix, earlier) if earlier else 0.0
        rest = [item for item in order.tolist() if item not in earlier]
        gains = {item: log_det(matrix, [*earlier, item]) - before for item in rest}
        values = {
            item: (1 - trade_off) * r[item] + trade_off * gain
            for item, gain in gains.items()
            if gain > np.log(EPSILON)
        }
        if not values:
            assert picked[place:] == rest[: size - place]
            return
        assert values[pick] >= max(values.values()) - 1e-7


def greedy(scores: np.ndarray, matrix: np.ndarray, size: int, trade_off: float) -> list[int]:
    """The greedy picks by the whole objective, which is evaluated for every list one item longer."""
    r, picked = relevance(scores), []
    for _ in range(size):
        lists = [[*picked, item] for item in range(len(scores)) if item not in picked]
        picked = max(
            lists,
            key=lambda rows: (
                (1 - trade_off) * r[rows].sum() + trade_off * log_det(matrix, rows),
                -rows[-1],
            ),
        )
    return picked


@given(st.integers(0, 10_000), trade_offs, st.integers(1, 6))
def test_vectors_in_general_position_give_the_picks_of_a_plain_greedy(
    seed: int, trade_off: float, size: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = np.sort(rng.random(9).astype(np.float32))[::-1].copy()
    vectors = unit(rng.standard_normal((9, 7)))
    picked = dpp_order(scores, vectors, ranked(scores), size, trade_off).tolist()
    assert picked == greedy(scores, products(vectors), size, trade_off)


def test_on_a_small_case_dpps_two_picks_are_the_best_pair() -> None:
    """Greedy is not the optimum in general; with orthogonal best pairs it is, by trying all."""
    vectors = unit(np.array([[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0.9, 0, 0.1], [0, 0.9, 0.2]]))
    scores = np.array([1, 0.95, 0.6, 0.5, 0.4], np.float32)
    r, matrix = relevance(scores), products(vectors)
    best = max(
        itertools.combinations(range(5), 2),
        key=lambda pair: 0.5 * r[list(pair)].sum() + 0.5 * log_det(matrix, list(pair)),
    )
    assert dpp_order(scores, vectors, ranked(scores), 2, 0.5).tolist() == list(best) == [0, 2]


# What both promise


@ORDERS
@given(case=candidates(), trade_off=st.floats(0, 1))
def test_picks_are_distinct_candidates_and_a_shorter_list_is_a_prefix(
    diverse, case: Case, trade_off: float
) -> None:
    scores, vectors, order, size = case
    whole = diverse(scores, vectors, order, len(order), trade_off)
    assert whole.dtype == np.int32
    assert sorted(whole.tolist()) == sorted(order.tolist())
    assert diverse(scores, vectors, order, size, trade_off).tolist() == whole[:size].tolist()


@ORDERS
@given(case=candidates())
def test_without_a_trade_off_it_is_score_order(diverse, case: Case) -> None:
    scores, vectors, order, size = case
    for trade_off in (0.0, 1e-9):
        picked = diverse(scores, vectors, order, size, 0.0 if diverse is mmr_order else trade_off)
        assert picked.tolist() == order[:size].tolist()


@ORDERS
@given(case=candidates(), trade_off=trade_offs, data=st.data())
def test_only_the_candidates_in_the_order_count(
    diverse, case: Case, trade_off: float, data
) -> None:
    scores, vectors, order, _ = case
    some = data.draw(st.lists(st.sampled_from(order.tolist()), min_size=1, unique=True))
    part = np.array([item for item in order.tolist() if item in some], np.int32)
    picked = diverse(scores, vectors, part, len(part), trade_off)
    alone = diverse(
        scores[part].copy(), vectors[part].copy(), np.arange(len(part), dtype=np.int32),
        len(part), trade_off,
    )  # fmt: skip
    assert picked.tolist() == part[alone].tolist()


@ORDERS
@given(case=candidates(), trade_off=trade_offs, power=st.integers(-3, 3))
def test_the_scale_of_the_scores_is_of_no_account(
    diverse, case: Case, trade_off: float, power: int
) -> None:
    scores, vectors, order, size = case
    other = (scores * 2.0**power - 8).astype(np.float32)
    assert (
        diverse(scores, vectors, order, size, trade_off).tolist()
        == diverse(other, vectors, order, size, trade_off).tolist()
    )


@ORDERS
@pytest.mark.parametrize("trade_off", [0.0, 0.3, 1.0])
def test_zero_vectors_alone_go_by_score(diverse, trade_off: float) -> None:
    scores = np.array([0.1, 0.9, 0.5, 0.9], np.float32)
    picked = diverse(scores, np.zeros((4, 3), np.float32), ranked(scores), 4, trade_off)
    assert picked.tolist() == [1, 3, 2, 0]


@ORDERS
@pytest.mark.parametrize("trade_off", [0.3, 1.0])
def test_identical_vectors_go_by_score(diverse, trade_off: float) -> None:
    rng = np.random.default_rng(3)
    scores = rng.random(40).astype(np.float32)
    vectors = np.tile(unit(rng.standard_normal((1, 16))), (40, 1))
    order = ranked(scores)
    assert diverse(scores, vectors, order, 40, trade_off).tolist() == order.tolist()


@ORDERS
def test_a_duplicate_waits_for_what_is_new_and_an_item_without_a_vector_is_new(diverse) -> None:
    vectors = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], np.float32)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    assert diverse(scores, vectors, ranked(scores), 4, 0.9).tolist() == [0, 2, 3, 1]


@pytest.mark.parametrize("dimensions", [1, 2, 8, 31])
def test_dpp_goes_by_score_once_the_space_is_full(dimensions: int) -> None:
    rng = np.random.default_rng(dimensions)
    scores = rng.random(200).astype(np.float32)
    vectors = unit(rng.standard_normal((200, dimensions)))
    order = ranked(scores)
    picked = dpp_order(scores, vectors, order, 100, 0.6).tolist()
    head = picked[:dimensions]
    assert np.linalg.matrix_rank(vectors[head].astype(np.float64), tol=1e-4) == dimensions
    rest = [item for item in order.tolist() if item not in head]
    assert picked[dimensions:] == rest[: 100 - dimensions]


@ORDERS
def test_scores_that_are_not_finite_neither_crash_nor_hide_the_others(diverse) -> None:
    scores = np.array([np.nan, 1.0, -np.inf, 0.0, np.inf, 0.5], np.float32)
    order = ranked(scores)
    assert diverse(scores, np.eye(6, dtype=np.float32), order, 6, 0.5).tolist() == order.tolist()


@ORDERS
def test_a_vector_of_nan_is_survived(diverse) -> None:
    vectors = np.eye(4, dtype=np.float32)
    vectors[1] = np.nan
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    picked = diverse(scores, vectors, ranked(scores), 4, 0.5)
    assert sorted(picked.tolist()) == [0, 1, 2, 3]


@ORDERS
def test_more_trade_off_makes_lists_more_diverse(diverse) -> None:
    rng = np.random.default_rng(5)
    taste = unit(rng.standard_normal((1, 16)))[0]
    vectors = unit(rng.standard_normal((300, 16)) + 0.7 * taste)
    scores = (vectors @ taste).astype(np.float32)
    likeness = []
    for trade_off in (0.0, 0.3, 0.8):
        chosen = vectors[diverse(scores, vectors, ranked(scores), 12, trade_off)].astype(float)
        likeness.append(float((np.sum(chosen @ chosen.T) - 12) / (12 * 11)))
    assert likeness[0] > likeness[1] > likeness[2]
