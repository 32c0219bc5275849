"""The edges of score order: NaN, infinities, both zeros, the smallest numbers, many ties."""

from __future__ import annotations

import numpy as np
import pytest

from server.fairness import rerank
from strategies.fairness import compiled

NONE = compiled("none", "", [], 200)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
LARGEST = float(np.finfo(np.float32).max)


def ordered(scores: list[float], ids: list[int] | None = None) -> list[int]:
    tie_break = None if ids is None else np.array(ids, np.int64)
    groups = np.zeros(len(scores), np.int32)
    return rerank(np.array(scores, np.float32), groups, 200, NONE, tie_break).order.tolist()


def test_nan_comes_after_every_number_whatever_its_sign() -> None:
    nan = float("nan")
    scores = [nan, -1.0, -np.inf, -nan, -LARGEST, 0.0, np.inf, -SMALLEST]
    assert ordered(scores) == [6, 5, 7, 1, 4, 2, 0, 3]


def test_the_smallest_numbers_stand_on_their_side_of_both_zeros() -> None:
    scores = [-SMALLEST, -0.0, SMALLEST, 0.0, -2 * SMALLEST, 2 * SMALLEST]
    assert ordered(scores) == [5, 2, 1, 3, 0, 4]


def test_the_largest_numbers_stand_inside_the_infinities() -> None:
    assert ordered([-np.inf, LARGEST, -LARGEST, np.inf]) == [3, 1, 2, 0]


def test_one_item_may_have_a_tie_break() -> None:
    assert ordered([0.5], [7]) == [0]


@pytest.mark.parametrize("ids", [[5, 5, 5], [2, 1, 0], [0, 2, 1]])
def test_equal_scores_and_equal_ids_go_by_position(ids: list[int]) -> None:
    assert ordered([0.5] * 3, ids) == sorted(range(3), key=lambda p: (ids[p], p))


@pytest.mark.parametrize("equal", [31, 32, 33, 34, 100])
def test_many_ties_among_neighbouring_scores_go_by_id_inside_each_score(equal: int) -> None:
    """Neighbours in float32, so that a key that loses its last bit mixes them up."""
    levels = [np.float32(1.0)]
    while len(levels) < 4:
        levels.append(np.nextafter(levels[-1], np.float32(0)))
    scores = [float(level) for level in levels for _ in range(equal)][:200]
    # The last of a score comes first: it passes more of its equals than moving one by one is meant for.
    ids = list(range(len(scores)))[::-1]
    assert ordered(scores, ids) == sorted(range(len(scores)), key=lambda p: (-scores[p], ids[p]))
