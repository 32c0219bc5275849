"""The edges of lists and receipts: first prefixes, groups at the rim, reasons, small utilities."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from server.errors import InvalidField
from server.fairness import CompiledPolicy, FairList, PrefixViolation, Status, rerank
from server.fairness.types import ReasonCode
from strategies.fairness import LABELS, compiled

HALF = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2])
CAP = compiled("cap", "[cap]\nat_most = 1\nwithin_first = 3\n", LABELS[:3])


def fair(groups: list[int], count: int, policy: CompiledPolicy) -> FairList:
    """Scores fall with the position."""
    scores = np.linspace(1, 0.1, len(groups)).astype(np.float32)
    return rerank(scores, np.array(groups, np.int32), count, policy)


def with_tables(floors: list[list[int]], ceilings: list[list[int]]) -> CompiledPolicy:
    some = compiled("floors", '[floors]\na = "1/2"\n', LABELS[: len(floors)])
    return dataclasses.replace(
        some, floors=np.array(floors, np.int32), ceilings=np.array(ceilings, np.int32)
    )


def test_an_item_is_raised_and_lowered_for_a_floor() -> None:
    made = fair([0, 0, 0, 1], 4, HALF)
    assert made.order.tolist() == [0, 3, 1, 2]
    assert made.reasons.tolist() == [
        ReasonCode.SCORE,
        ReasonCode.RAISED_FOR_FLOOR,
        ReasonCode.LOWERED_FOR_FLOOR,
        ReasonCode.LOWERED_FOR_FLOOR,
    ]
    assert made.receipt.places_moved == 3


def test_an_item_is_raised_and_lowered_for_a_ceiling() -> None:
    made = fair([0, 0, 1, 2], 4, CAP)
    assert made.order.tolist() == [0, 2, 3, 1]
    assert made.reasons.tolist() == [
        ReasonCode.SCORE,
        ReasonCode.RAISED_FOR_CEILING,
        ReasonCode.RAISED_FOR_CEILING,
        ReasonCode.LOWERED_FOR_CEILING,
    ]


def test_above_its_ceiling_a_group_is_still_lowered_for_the_ceiling() -> None:
    """Two of group a stand though one is allowed: nobody else could fill the second place."""
    policy = with_tables([[0] * 5, [0] * 5], [[0, 1, 1, 1, 1], [0, 0, 0, 1, 4]])
    made = fair([0, 0, 0, 1], 4, policy)
    assert made.order.tolist() == [0, 1, 3, 2]
    assert made.reasons.tolist()[2:] == [
        ReasonCode.RAISED_FOR_CEILING,
        ReasonCode.LOWERED_FOR_CEILING,
    ]
    assert made.receipt.first_bad_prefix == PrefixViolation(2, "a", 1, 2)


def test_a_floor_may_ask_for_the_first_place() -> None:
    all_b = compiled("floors", '[floors]\nb = "1/1"\n', LABELS[:2])
    assert fair([0, 1, 1], 2, all_b).order.tolist() == [1, 2]
    assert fair([0, 1, 1], 1, all_b).order.tolist() == [1]
    bad = fair([0, 0, 0], 2, all_b).receipt.first_bad_prefix
    assert bad == PrefixViolation(1, "b", 1, 0)


def test_ceilings_may_leave_the_first_place_to_nobody() -> None:
    bad = fair([0, 0], 2, with_tables([[0] * 3] * 2, [[0, 0, 1], [0, 1, 2]])).receipt
    assert bad.status is Status.INFEASIBLE
    assert bad.first_bad_prefix == PrefixViolation(1, "a", 0, 1)


def test_a_floor_of_the_last_prefix_is_told_as_its_prefix() -> None:
    policy = with_tables([[0, 0, 0], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]])
    assert fair([0, 0], 2, policy).receipt.first_bad_prefix == PrefixViolation(2, "b", 1, 0)
    assert fair([0, 0, 1], 2, policy).receipt.first_bad_prefix is None


def test_of_two_floors_at_one_prefix_the_first_group_is_told() -> None:
    policy = with_tables([[0, 0, 1], [0, 0, 1], [0, 0, 0]], [[0, 1, 2]] * 3)
    assert fair([2, 2], 2, policy).receipt.first_bad_prefix == PrefixViolation(2, "a", 1, 0)


@pytest.mark.parametrize("group", [-1, -2, 2, 3])
def test_a_group_beyond_the_rim_of_the_table_is_refused(group: int) -> None:
    with pytest.raises(InvalidField) as refused:
        fair([0, 1, group], 2, HALF)
    told = str(refused.value)
    assert told.startswith("groups: got ")
    assert str(group) in told.split(",", maxsplit=1)[0]
    assert "allowed: 0 to 1, the rows of a, b" in told


@pytest.mark.parametrize("count", [-1, 0, 13])
def test_a_count_beyond_the_tables_is_refused(count: int) -> None:
    with pytest.raises(InvalidField, match=r"count: got .*allowed: 1 to 12"):
        fair([0, 1], count, HALF)
    assert len(fair([0, 1], 1, HALF).order) == 1


def test_groups_of_another_length_are_refused_unless_no_policy_reads_them() -> None:
    scores, one = np.ones(2, np.float32), np.zeros(1, np.int32)
    with pytest.raises(InvalidField, match="groups"):
        rerank(scores, one, 2, HALF)
    assert len(rerank(scores, one, 2, compiled("none", "", [])).order) == 2


def test_a_list_without_a_policy_is_the_plain_one_and_says_so() -> None:
    made = rerank(
        np.array([0.1, 0.9, 0.5], np.float32), np.zeros(3, np.int32), 3, compiled("none", "", [])
    )
    assert made.order.tolist() == [1, 2, 0]
    assert made.rank_by_score.tolist() == [1, 2, 3]
    assert made.reasons.tolist() == [ReasonCode.SCORE] * 3
    receipt = made.receipt
    assert (receipt.status, receipt.utility_kept, receipt.places_moved) == (Status.SKIPPED, 1.0, 0)
    assert receipt.exposure == ()
    assert receipt.first_bad_prefix is None


def test_a_group_without_candidates_asks_for_nothing_and_takes_no_room() -> None:
    policy = with_tables([[0, 0, 1], [0, 0, 1]], [[0, 1, 2], [0, 1, 2]])
    made = fair([0, 0], 2, policy)
    assert made.order.tolist() == [0, 1]
    assert [part.group for part in made.receipt.exposure] == ["a"]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_utility_kept_does_not_depend_on_the_scale_of_scores(scale: float) -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.1], np.float32) * np.float32(scale)
    groups = np.array([0, 0, 0, 1], np.int32)
    gains = [0.9, 0.1]
    expected = (gains[0] + gains[1] / math.log2(3)) / (0.9 + 0.8 / math.log2(3))
    assert rerank(scores, groups, 2, HALF).receipt.utility_kept == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("nans", [0, 1, 2])
def test_negative_scores_are_gains_above_the_lowest_number(nans: int) -> None:
    scores = np.array([-0.1, -0.2, -0.3, -0.9] + [np.nan] * nans, np.float32)
    groups = np.array([0, 0, 0, 1] + [0] * nans, np.int32)
    expected = 0.8 / (0.8 + 0.7 / math.log2(3))
    assert rerank(scores, groups, 2, HALF).receipt.utility_kept == pytest.approx(expected, rel=1e-5)


def test_a_list_without_any_gain_keeps_all_of_it() -> None:
    made = rerank(np.zeros(3, np.float32), np.array([0, 0, 1], np.int32), 2, HALF)
    assert made.receipt.utility_kept == 1.0


def test_exposure_shares_are_those_of_the_places() -> None:
    whole = 1 + 1 / math.log2(3)
    told = {part.group: part for part in fair([0, 0, 1], 2, HALF).receipt.exposure}
    assert (told["a"].items, told["b"].items) == (1, 1)
    assert told["a"].exposure_share == pytest.approx(1 / whole)
    assert told["b"].exposure_share == pytest.approx(1 - 1 / whole)
