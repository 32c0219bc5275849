"""The edges of diverse orders: trade-offs at their ends, scores without bounds, a full space."""

from __future__ import annotations

import numpy as np
import pytest

from server.fairness.diversify import EPSILON, dpp_order, mmr_order
from server.fairness.kernels import score_order

ORDERS = pytest.mark.parametrize("diverse", [mmr_order, dpp_order])


def picks(diverse, scores: list[float], vectors: list[list[float]], trade_off: float) -> list[int]:
    """All of them, in the order of picking."""
    values = np.array(scores, np.float32)
    order = score_order(values, np.empty(0, np.int64))
    rows = np.array(vectors, np.float32)
    return diverse(values, rows, order, len(values), trade_off).tolist()


def test_an_infinite_score_is_worth_as_much_as_the_best_finite_one() -> None:
    """Both are 1: a second infinite one that is like the first waits for what is new."""
    vectors = [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert picks(mmr_order, [np.inf, np.inf, 5, 1], vectors, 0.5) == [0, 2, 1, 3]


def test_infinite_scores_alone_are_one_and_no_number_is_nought() -> None:
    """No two finite scores to scale by: 1, 0, 0, 0 are what the formula goes by."""
    scores, vectors = [np.inf, 3, -np.inf, np.nan], [[1, 0], [1, 0], [0.8, 0.6], [0, 1]]
    assert picks(mmr_order, scores, vectors, 0.5) == [0, 3, 2, 1]


@ORDERS
def test_among_equal_scores_what_is_unlike_comes_first(diverse) -> None:
    assert picks(diverse, [2, 2, 2], [[1, 0], [1, 0], [0, 1]], 0.5) == [0, 2, 1]


@ORDERS
@pytest.mark.parametrize("least", [-np.inf, np.nan])
def test_no_number_is_worth_as_much_as_the_lowest_finite_score(diverse, least: float) -> None:
    """So the more unlike of the two comes first."""
    vectors = [[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]]
    assert picks(diverse, [3, 2, least], vectors, 0.5) == [0, 2, 1]


@pytest.mark.parametrize(
    ("trade_off", "expected"),
    [(1 / 701.5, [0, 1, 2, 3]), (1 / 701, [0, 2, 1, 3]), (1 / 700.5, [0, 2, 1, 3])],
)
def test_dpp_goes_by_score_below_a_trade_off_of_1_in_701_alone(
    trade_off: float, expected: list[int]
) -> None:
    """From there on a duplicate waits, however little diversity counts."""
    vectors = [[1, 0], [1, 0], [0, 1], [0, 1]]
    assert picks(dpp_order, [1, 0.9, 0.8, 0], vectors, trade_off) == expected


def test_dpp_tells_the_least_liked_apart_at_the_least_trade_off() -> None:
    """Their weights are e^-700 and still above 0: of two, the one that is more unlike comes first."""
    vectors = [[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1]]
    assert picks(dpp_order, [1, 0, 0], vectors, 1 / 700.5) == [0, 2, 1]


def test_dpp_tells_equally_liked_ones_apart_at_the_least_trade_off() -> None:
    vectors = [[1, 0, 0], [0.75, 0.5, 0], [0, 0, 1], [0, 1, 0]]
    assert picks(dpp_order, [1, 1, 1, 0], vectors, 1 / 700.5) == [0, 2, 1, 3]


def of_squared_length(wanted: float) -> list[float]:
    """Three coordinates in float32 whose squares sum to this in float64, to the last bit."""
    found: list[float] = []
    total = 0.0
    for _ in range(3):
        found.append(float(np.float32(np.sqrt(wanted - total) * (1 - 1e-7))))
        total += found[-1] * found[-1]
    assert total == wanted
    return found


def test_an_item_is_picked_for_diversity_from_epsilon_on() -> None:
    """The better liked is nearer than that to the span of what is picked, here of nothing."""
    near, at = of_squared_length(EPSILON / 2), of_squared_length(EPSILON)
    assert picks(dpp_order, [1, 0], [near, at], 1.0) == [1, 0]
    assert picks(dpp_order, [1, 0], [near, near], 1.0) == [0, 1]
