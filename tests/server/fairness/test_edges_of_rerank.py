"""The edges of what `rerank` is given: forms of groups, what a policy does not read, pages, refusals."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from server.errors import InvalidField, PolicyInfeasible
from server.fairness import (
    CompiledPolicy,
    FairList,
    Status,
    TableGroups,
    compile_tables,
    diversify,
    parse_policy,
    rerank,
)
from server.fairness.invariants import check_same
from server.fairness.rerank import _refusal
from server.fairness.types import PrefixViolation, ReasonCode
from strategies.fairness import LABELS, compiled, document

HALF = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2])
EVENED = compiled("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = "1/2"\n', LABELS[:2])
SCORES = np.float32([0.9, 0.8, 0.7, 0.1])
GROUPS = np.int32([0, 0, 0, 1])
# The best two are alike, the last is like neither.
VECTORS = np.float32([[1, 0], [1, 0], [0.8, 0.6], [0, 1]])


def diverse(method: str) -> CompiledPolicy:
    text = document("diverse", f'[diverse]\nmethod = "{method}"\ntrade_off = "3/5"\n')
    return compile_tables(parse_policy(text.replace('group_table = "t"\n', ""), "test"), {}, 12)


def refusing(policy: CompiledPolicy) -> CompiledPolicy:
    refuses = dataclasses.replace(policy.policy, on_infeasible="refuse")
    return dataclasses.replace(policy, policy=refuses)


def same(one: FairList, other: FairList) -> bool:
    return check_same(one, other) == [] and one.receipt == other.receipt


# Groups: of one table or of several.


@pytest.mark.parametrize("shown", [None, np.int32([1])])
def test_the_groups_of_one_table_may_be_given_as_those_of_several(
    shown: np.ndarray | None,
) -> None:
    alone = rerank(SCORES, GROUPS, 3, HALF, fixed=shown)
    assert same(rerank(SCORES, GROUPS[np.newaxis], 3, HALF, fixed=shown), alone)
    assert 3 in alone.order


def test_of_several_tables_each_gives_every_candidate_a_group() -> None:
    text = document("intersection", '[intersection.u]\nx = "1/2"\n[intersection.v]\ny = "1/2"\n')
    tables = {"u": TableGroups.of(["x", "z"]), "v": TableGroups.of(["w", "y"])}
    policy = compile_tables(parse_policy(text.replace('group_table = "t"\n', ""), "test"), tables)
    rows = np.int32([[0, 1, 1, 1], [2, 2, 2, 3]])
    fair = rerank(SCORES, rows, 2, policy)
    assert (fair.order.tolist(), fair.receipt.status) == ([0, 3], Status.MET)
    with pytest.raises(InvalidField, match="got '3 values', allowed: 4, one for each score"):
        rerank(SCORES, rows[:, :3], 2, policy)


def test_more_groups_or_more_tables_than_there_are_are_refused() -> None:
    with pytest.raises(InvalidField, match="got '5 values', allowed: 4, one for each score"):
        rerank(SCORES, np.int32([0, 0, 0, 1, 1]), 2, HALF)
    with pytest.raises(InvalidField, match="groups of 2 tables"):
        rerank(SCORES, np.stack([GROUPS, GROUPS]), 2, HALF)


def test_narrow_numbers_give_the_same_list() -> None:
    narrow = rerank(SCORES.astype(np.float16), GROUPS.astype(np.int8), 3, HALF)
    assert narrow.order.tolist() == rerank(SCORES, GROUPS, 3, HALF).order.tolist()


# What shapes the order, and what a policy does not read.


def test_of_a_user_nobody_knows_a_calibrated_policy_aims_at_the_catalogues_shares() -> None:
    body = '[calibrated]\nat_least = "1/1"\nat_most = "1/1"\nsmoothing = 4\n'
    policy = compiled("calibrated", body, LABELS[:2])
    fair = rerank(SCORES, GROUPS, 2, policy)
    assert same(fair, rerank(SCORES, GROUPS, 2, policy.for_user({})))
    assert fair.order.tolist() == [0, 3]
    assert len(fair.receipt.calibration) == 1


@pytest.mark.parametrize("method", ["mmr", "dpp"])
def test_a_diverse_list_is_made_by_the_policys_method_and_says_what_it_moved(method: str) -> None:
    pick = {"mmr": diversify.mmr_order, "dpp": diversify.dpp_order}[method]
    by_score = np.arange(4, dtype=np.int32)
    fair = rerank(SCORES, GROUPS, 4, diverse(method), vectors=VECTORS)
    assert fair.order.tolist() == pick(SCORES, VECTORS, by_score, 4, 0.6).tolist()
    moved = fair.rank_by_score - np.arange(1, 5)
    expected = {
        0: ReasonCode.SCORE,
        1: ReasonCode.RAISED_FOR_DIVERSITY,
        -1: ReasonCode.LOWERED_FOR_DIVERSITY,
    }
    assert fair.reasons.tolist() == [expected[int(way)] for way in np.sign(moved)]
    assert fair.receipt.places_moved > 0


def test_the_two_methods_differ_on_these_candidates() -> None:
    lists = [
        rerank(SCORES, GROUPS, 4, diverse(method), vectors=VECTORS) for method in ("mmr", "dpp")
    ]
    assert lists[0].order.tolist() != lists[1].order.tolist()


def test_without_vectors_a_diverse_list_is_in_score_order() -> None:
    fair = rerank(SCORES, GROUPS, 4, diverse("mmr"))
    assert fair.order.tolist() == [0, 1, 2, 3]
    assert fair.receipt.utility_of_best == 1


def test_vectors_and_boosts_are_not_read_where_no_rule_asks_for_them() -> None:
    plain = rerank(SCORES, GROUPS, 3, HALF)
    boost = np.float32([0, 0, 1, 0])
    assert same(rerank(SCORES, GROUPS, 3, HALF, vectors=VECTORS), plain)
    assert same(rerank(SCORES, GROUPS, 3, HALF, boost=boost), plain)


def test_a_boost_raises_for_exposure_and_lowers_who_makes_room() -> None:
    boost = np.float32([0, 0, 0, 0.75])
    fair = rerank(SCORES, GROUPS, 3, EVENED, boost=boost)
    assert fair.order.tolist() == [0, 3, 1]
    assert fair.reasons.tolist() == [
        ReasonCode.SCORE,
        ReasonCode.RAISED_FOR_EXPOSURE,
        ReasonCode.LOWERED_FOR_EXPOSURE,
    ]
    # Before anything has been shown there is no boost.
    assert rerank(SCORES, GROUPS, 3, EVENED, vectors=VECTORS).order.tolist() == [0, 1, 2]


def test_a_boost_however_large_leaves_each_groups_items_in_the_order_of_their_scores() -> None:
    """Sums of 32 bits are all the same there: FairCo's boosts have no bound."""
    rng = np.random.default_rng(3)
    scores = rng.permutation(16).astype(np.float32) / np.float32(1000)
    groups = np.repeat(np.int32([0, 1]), 8)
    boost = np.where(groups == 1, np.float32(1e7), np.float32(0))
    made = rerank(scores, groups, 12, EVENED, boost=boost).order
    own = [made[groups[made] == group] for group in (1, 0)]
    assert made.tolist() == np.concatenate(own).tolist()
    for listed in own:
        assert (np.diff(scores[listed]) < 0).all()


def test_what_a_boost_costs_is_told_against_the_best_list_that_keeps_the_bounds() -> None:
    policy = dataclasses.replace(HALF, amortisation=EVENED.amortisation)
    fair = rerank(SCORES, GROUPS, 2, policy, boost=np.float32([0, 0, 1, 0]))
    assert fair.order.tolist() == [2, 3]
    second = 0.1 / math.log2(3)
    assert fair.receipt.utility_of_best == pytest.approx((0.7 + second) / (0.9 + second))


# Pages: what was shown stays.


def test_what_was_shown_is_no_reason_to_refuse_but_what_cannot_be_is() -> None:
    policy = refusing(HALF)
    shown = rerank(SCORES, GROUPS, 3, policy, fixed=np.int32([0, 1]))
    assert shown.receipt.status is Status.NOT_FOUND
    assert shown.order.tolist()[:2] == [0, 1]
    for fixed in (None, np.int32([0])):
        with pytest.raises(PolicyInfeasible, match="first 4 places need 2 of group 'b'"):
            rerank(SCORES, GROUPS, 4, policy, fixed=fixed)


def test_an_item_that_was_shown_is_raised_above_better_ones_alone() -> None:
    """The one at place 3 passes a full group; another, with room, has only worse items left."""
    body = '[cap]\nat_most = 1\nwithin_first = 3\ngroups = ["a"]\n'
    policy = compiled("cap", body, LABELS[:2])
    scores = np.linspace(1, 0.5, 6, dtype=np.float32)
    groups = np.int32([0, 0, 0, 0, 1, 1])
    fair = rerank(scores, groups, 3, policy, fixed=np.int32([5, 0, 3]))
    assert fair.reasons.tolist()[2] == ReasonCode.RAISED_FOR_CEILING


# What cannot be kept: where, and in which words.


@pytest.mark.parametrize("labels", [("a", "b", "c"), ("b", "a", "c")])
def test_of_several_floors_that_cannot_be_kept_the_first_is_told(labels: tuple[str, ...]) -> None:
    """Nothing is of a, due at 3, nor of b, due at 5; whichever of them comes first in the table."""
    policy = compiled("floors", '[floors]\na = "1/3"\nb = "1/5"\n', labels)
    found = rerank(np.float32([3, 2, 1, 0, -1, -2]), np.full(6, 2, np.int32), 6, policy)
    assert found.receipt.first_bad_prefix == PrefixViolation(3, "a", 1, 0)


@pytest.mark.parametrize(
    ("tables", "status", "bad", "told"),
    [
        (1, Status.INFEASIBLE, (3, "b", 2, 1),
         "cannot be met: the first 3 places need 2 of group 'b', these candidates give 1"),
        (1, Status.INFEASIBLE, (3, "b", 1, 2),
         "cannot be met: the first 3 places allow 1 of group 'b', these candidates force 2"),
        (2, Status.INFEASIBLE, (3, "t:b", 2, 1),
         "cannot be met: the first 3 places need 2 of group 't:b', the best list has 1"),
        (2, Status.NOT_FOUND, (3, "t:b", 1, 2),
         "was not found to be kept: the first 3 places allow 1 of group 't:b', the best list has 2"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_is_proven_and_what_is_lacking(
    tables: int, status: Status, bad: tuple[int, str, int, int], told: str
) -> None:
    policy = dataclasses.replace(HALF, starts=tuple(range(tables)))
    words = _refusal(policy, PrefixViolation(*bad), status)
    assert words.startswith(f"policy 'p' {told}")


def test_a_reason_points_the_way_the_item_moved_though_two_things_moved_it() -> None:
    """Exposure may lower an item farther than a floor raises it again, and the other way round."""
    raised = {code for code in ReasonCode if code.name.startswith("RAISED")}
    lowered = {code for code in ReasonCode if code.name.startswith("LOWERED")}
    policy = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2])
    rng = np.random.default_rng(5)
    for _ in range(300):
        scores = rng.random(8).astype(np.float32)
        groups = rng.integers(0, 2, 8).astype(np.int32)
        boost = (rng.integers(0, 2, 8) * rng.random()).astype(np.float32)
        made = rerank(scores, groups, 6, policy, boost=boost)
        moved = zip(made.reasons.tolist(), made.rank_by_score.tolist(), strict=True)
        for place, (reason, by_score) in enumerate(moved, start=1):
            assert (reason in raised) == (by_score > place)
            assert (reason in lowered) == (by_score < place)
