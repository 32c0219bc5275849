"""The edges of `utility_kept` and `utility_of_best`, against every list that there is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from server.fairness import CompiledPolicy, FairList, Status, TableGroups, compile_tables, rerank
from server.fairness.calibrate import divergence
from server.fairness.policy import parse_policy
from server.fairness.receipt import receipt_with
from server.fairness.types import ReasonCode
from strategies.fairness import LABELS, compiled, document

SIZE = 4
FLOORS = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2])
# One a in the first two places, at most.
CEILINGS = compiled("cap", '[cap]\nat_most = 1\nwithin_first = 2\ngroups = ["a"]\n', LABELS[:3])
WINDOW = compiled("window", '[window]\na = "1/4"\nb = "3/4"\n', LABELS[:2])
EVENED = compiled("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = "1/2"\n', LABELS[:2])
NONE = compiled("none", "", [])
SCORES = np.float32([0.2, 0.9, 0.1, 0.8, 0.7, 0.3])
ROW = np.int32([1, 0, 1, 0, 0, 1])


def without_table(kind: str, body: str) -> str:
    return document(kind, body).replace('group_table = "t"\n', "")


def crossed() -> CompiledPolicy:
    """Floors and ceilings of which each alone allows better lists than both."""
    text = without_table("stack", "") + (
        '[[stack]]\nkind = "floors"\ngroup_table = "t"\nfloors = {b = "1/2"}\n'
        '[[stack]]\nkind = "cap"\ngroup_table = "t"\n'
        'cap = {at_most = 1, within_first = 3, groups = ["a", "c"]}\n'
    )
    return compile_tables(parse_policy(text, "test"), {"t": TableGroups.of(LABELS[:3])}, 12)


def of_two_tables() -> CompiledPolicy:
    text = without_table(
        "intersection", '[intersection.u]\nx = "1/2"\n[intersection.v]\ny = "1/4"\n'
    )
    tables = {"u": TableGroups.of(["z", "x"]), "v": TableGroups.of(["w", "y"])}
    return compile_tables(parse_policy(text, "test"), tables, 12)


def evened(policy: CompiledPolicy) -> CompiledPolicy:
    """The policy, with a boost on top."""
    return replace(policy, amortisation=EVENED.amortisation)


def utility(scores: NDArray[np.float32], places: Sequence[int]) -> float:
    lowest = min(0.0, float(scores.min()))
    return sum((float(scores[p]) - lowest) / math.log2(t + 2) for t, p in enumerate(places))


def best_by_hand(
    scores: NDArray[np.float32],
    rows: NDArray[np.int32],
    floors: NDArray[np.int32] | None = None,
    ceilings: NDArray[np.int32] | None = None,
) -> float:
    """The largest utility of the lists of SIZE places that keep these bounds; rows `[A, n]`."""

    def keeps(places: Sequence[int]) -> bool:
        for k in range(1, SIZE + 1):
            own = rows[:, list(places[:k])].ravel()
            for g in range(len(floors if floors is not None else ceilings)):  # type: ignore[arg-type]
                have = int((own == g).sum())
                if floors is not None and have < floors[g, k]:
                    return False
                if ceilings is not None and have > ceilings[g, k]:
                    return False
        return True

    lists = itertools.permutations(range(len(scores)), SIZE)
    return max(utility(scores, places) for places in lists if keeps(places))


def bound_by_hand(
    scores: NDArray[np.float32], row: NDArray[np.int32], policy: CompiledPolicy
) -> float:
    """The floors' best list or the ceilings', whichever is worse: the best list is no better."""
    rows = row[np.newaxis]
    return min(
        best_by_hand(scores, rows, floors=policy.floors),
        best_by_hand(scores, rows, ceilings=policy.ceilings),
    )


def drawn(seed: int, policy: CompiledPolicy) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Some scores below 0; candidates of every group."""
    rng = np.random.default_rng(seed)
    scores = np.float32(rng.permutation(6) / 4 - 0.6)
    return scores, np.int32(rng.permutation([0, 0, 0, 1, 1, len(policy.labels) - 1]))


# One table: floors, ceilings, both.


@pytest.mark.parametrize(
    "policy",
    [FLOORS, CEILINGS, WINDOW, crossed()],
    ids=["floors", "ceilings", "window", "crossed"],
)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_however_a_list_is_made_it_is_measured_against_the_same_best(
    policy: CompiledPolicy, seed: int
) -> None:
    """Of either side alone the best list is found; of both, what bounds it is."""
    scores, row = drawn(seed, policy)
    best = bound_by_hand(scores, row, policy)
    boost = np.float32(np.random.default_rng(seed).permutation(6) / 4)
    made = [
        rerank(scores, row, SIZE, policy),
        # Nothing reads the boost.
        rerank(scores, row, SIZE, policy, boost=boost),
        rerank(scores, row, SIZE, evened(policy), boost=boost),
        rerank(scores, row, SIZE, evened(policy), boost=boost[::-1]),
    ]
    shown = made[2].order[:2]
    made.append(rerank(scores, row, SIZE, policy, fixed=shown))
    made.append(rerank(scores, row, SIZE, evened(policy), boost=boost[::-1], fixed=shown))
    assert made[1].receipt == made[0].receipt
    for fair in made:
        got, ideal = utility(scores, fair.order), utility(scores, np.argsort(-scores)[:SIZE])
        assert fair.receipt.utility_kept == pytest.approx(got / ideal)
        met = fair.receipt.status is Status.MET
        assert fair.receipt.utility_of_best == pytest.approx(got / best if met else 0)


@pytest.mark.parametrize("side", ["floors", "ceilings"])
def test_of_floors_and_ceilings_the_narrower_side_is_the_measure(side: str) -> None:
    scores, row = (SCORES, ROW) if side == "floors" else (SCORES, 1 - ROW)
    free_floors, free_ceilings = WINDOW.unbounded
    policy = {
        "floors": replace(FLOORS, ceilings=np.minimum(free_ceilings, [[9], [3]]).astype(np.int32)),
        "ceilings": replace(
            FLOORS,
            floors=np.maximum(free_floors, [[0], [1]] * np.int32(np.arange(13) > 3)),
            ceilings=np.int32([range(13), [0, 0, 1, 1, *range(2, 11)]]),
        ),
    }[side]
    assert policy.has_floors
    assert policy.has_ceilings
    rows = row[np.newaxis]
    sides = {
        "floors": best_by_hand(scores, rows, floors=policy.floors),
        "ceilings": best_by_hand(scores, rows, ceilings=policy.ceilings),
    }
    assert min(sides, key=lambda name: sides[name]) == side
    assert sides["floors"] != sides["ceilings"]
    first = int(np.argmin(scores))
    for fair in (
        rerank(scores, row, SIZE, policy),
        rerank(scores, row, SIZE, policy, boost=scores),
        rerank(scores, row, SIZE, policy, fixed=rerank(scores, row, SIZE, policy).order[:1]),
        rerank(scores, row, SIZE, evened(policy), boost=np.float32(np.arange(6) == first)),
    ):
        assert fair.receipt.status is Status.MET
        share = utility(scores, fair.order) / sides[side]
        assert fair.receipt.utility_of_best == pytest.approx(share)


def test_a_list_that_breaks_a_bound_has_no_best() -> None:
    short = rerank(SCORES, np.zeros(6, np.int32), SIZE, FLOORS)
    assert (short.receipt.status, short.receipt.utility_of_best) == (Status.INFEASIBLE, 0)
    short = rerank(SCORES, np.zeros(6, np.int32), SIZE, FLOORS, fixed=np.int32([1, 3]))
    assert (short.receipt.status, short.receipt.utility_of_best) == (Status.INFEASIBLE, 0)
    shown = rerank(SCORES, ROW, SIZE, FLOORS, fixed=np.int32([1, 3]))
    assert (shown.receipt.status, shown.receipt.utility_of_best) == (Status.NOT_FOUND, 0)


# Several tables.


@pytest.mark.parametrize("below", [0.0, 0.5, 3.0])
def test_of_several_tables_no_list_that_keeps_the_bounds_is_better_than_the_best_told(
    below: float,
) -> None:
    policy, scores = of_two_tables(), SCORES - np.float32(below)
    rows = np.stack([ROW, np.int32([2, 2, 3, 2, 3, 2])])
    best = best_by_hand(scores, rows, policy.floors, policy.ceilings)
    boost = np.float32([0, 0, 0.5, 0, 0, 0])
    plain = rerank(scores, rows, SIZE, policy)
    shaped = rerank(scores, rows, SIZE, evened(policy), boost=boost)
    paged = rerank(scores, rows, SIZE, policy, fixed=plain.order[:2])
    other = rerank(scores, rows, SIZE, policy, fixed=np.int32([4, 5]))
    assert shaped.order.tolist() != plain.order.tolist() != other.order.tolist()
    assert paged.receipt == plain.receipt
    for fair in (plain, shaped, other):
        assert fair.receipt.status is Status.MET
        share = utility(scores, fair.order) / best
        assert fair.receipt.utility_of_best == pytest.approx(share)


# Without bounds, and without a policy.


def test_a_diverse_list_without_bounds_is_measured_against_score_order() -> None:
    text = without_table("diverse", '[diverse]\nmethod = "mmr"\ntrade_off = "1/2"\n')
    policy = compile_tables(parse_policy(text, "test"), {}, 12)
    vectors = np.float32([[1, 0], [1, 0], [0, 1], [1, 0], [1, 0], [1, 0]])
    fair = rerank(SCORES, ROW, SIZE, policy, vectors=vectors)
    assert fair.receipt.places_moved > 0
    assert fair.receipt.utility_of_best == fair.receipt.utility_kept < 1


@pytest.mark.parametrize("below", [0.0, 2.0])
def test_without_a_policy_a_list_goes_on_in_score_order_after_what_was_shown(below: float) -> None:
    scores = SCORES - np.float32(below)
    fair = rerank(scores, ROW, SIZE, NONE, fixed=np.int32([4, 3]))
    assert fair.order.tolist() == [4, 3, 1, 5]
    assert fair.rank_by_score.tolist() == [3, 2, 1, 4]
    assert fair.reasons.tolist() == [
        ReasonCode.SHOWN_BEFORE,
        ReasonCode.SCORE,
        ReasonCode.SHOWN_BEFORE,
        ReasonCode.SCORE,
    ]
    receipt = fair.receipt
    assert (receipt.status, receipt.places_moved, receipt.exposure) == (Status.SKIPPED, 2, ())
    share = utility(scores, [4, 3, 1, 5]) / utility(scores, [1, 3, 4, 5])
    assert receipt.utility_kept == pytest.approx(share)


def test_without_a_policy_the_whole_list_may_have_been_shown() -> None:
    fair = rerank(SCORES, ROW, 2, NONE, fixed=np.int32([2, 1]))
    assert (fair.order.tolist(), fair.rank_by_score.tolist()) == ([2, 1], [6, 1])
    assert fair.reasons.tolist() == [ReasonCode.SHOWN_BEFORE] * 2


# What is told of what was measured.


def told(got: float, ideal: float, best: float) -> tuple[float, float]:
    items, shares = np.int32([2, 0]), np.float64([1, 0])
    receipt = receipt_with(FLOORS, Status.MET, None, (got, ideal, best), 0, items, shares, ())
    assert [part.group for part in receipt.exposure] == ["a"]
    return receipt.utility_kept, receipt.utility_of_best


def test_a_ratio_is_one_where_it_differs_by_rounding_or_there_was_nothing_to_get() -> None:
    assert told(0, 0, 0) == (1, 1)
    assert told(math.inf, math.inf, math.inf) == (1, 1)
    assert told(math.nan, math.nan, math.nan) == (1, 1)
    assert told(3, 3 + 1e-15, 3 - 1e-15) == (1, 1)
    assert told(3e-6, 3e-6 + 1e-20, 3e-6) == (1, 1)
    assert told(0, 3, 1e-3) == (0, 0)
    assert told(3, 4, 3 + 1e-9) == (0.75, pytest.approx(1, abs=1e-9))
    assert told(3, 4, 3 + 1e-9)[1] < 1
    assert told(3e-6, 4e-6, 6e-6) == pytest.approx((0.75, 0.5))
    assert math.isnan(told(math.nan, 3, 3)[0])


@pytest.mark.parametrize(("score", "n"), [(-0.1, 3), (-0.7, 3), (-1.1, 6), (0.0, 3), (0.7, 5)])
def test_of_equal_scores_every_list_of_several_tables_is_the_best(score: float, n: int) -> None:
    scores, rows = np.full(n, score, np.float32), np.array([[1] * n, [3] * n], np.int32)
    receipt = rerank(scores, rows, n, of_two_tables()).receipt
    assert (receipt.status, receipt.utility_of_best) == (Status.MET, 1.0)


def test_an_item_without_a_score_that_a_floor_raises_makes_the_utility_unknown() -> None:
    receipt = rerank(np.float32([0.9, 0.8, np.nan]), np.int32([0, 0, 1]), 2, FLOORS).receipt
    assert receipt.status is Status.MET
    assert math.isnan(receipt.utility_kept)


# Calibrated: two tables, each user known in one of them, or in both.


def calibrated_twice() -> CompiledPolicy:
    rule = (
        '[[stack]]\nkind = "calibrated"\ngroup_table = "{}"\n'
        'calibrated = {{at_least = "0/1", at_most = "10/1", smoothing = 0}}\n'
    )
    text = without_table("stack", "") + rule.format("u") + rule.format("v")
    tables = {"u": TableGroups.of(["x", "z"]), "v": TableGroups.of(["w", "y", "q"])}
    return compile_tables(parse_policy(text, "test"), tables, 12)


def test_of_each_table_in_which_a_user_is_known_the_list_is_compared_with_his_shares() -> None:
    rows = np.stack([ROW, np.int32([2, 3, 4, 3, 2, 4])])
    bought = {"u": np.array([1, 3]), "v": np.array([2, 1, 1])}
    for known in (["u", "v"], ["v"], ["u"], []):
        policy = calibrated_twice().for_user({table: bought[table] for table in known})
        fair: FairList = rerank(SCORES, rows, 3, policy, fixed=np.int32([2, 0]))
        assert fair.order.tolist() == [2, 0, 1]
        assert [gap.group_table for gap in fair.receipt.calibration] == known
        for gap in fair.receipt.calibration:
            own = rows["uv".index(gap.group_table)] - 2 * "uv".index(gap.group_table)
            target = bought[gap.group_table] / 4
            for places, seen in (([1, 3, 4], gap.before), ([2, 0, 1], gap.after)):
                shares = np.zeros(len(target))
                for place, item in enumerate(places):
                    shares[own[item]] += 1 / math.log2(place + 2)
                assert seen == pytest.approx(divergence(target, shares / shares.sum()))
