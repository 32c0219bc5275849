"""The edges of lists of several tables, and of pages: reasons, verdicts, what the rest may hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from server.errors import InvalidField
from server.fairness import (
    CompiledPolicy,
    FairList,
    PrefixViolation,
    Status,
    TableGroups,
    bounded,
    compile_tables,
    overlap,
    rerank,
)
from server.fairness.overlap import arrange_overlapping
from server.fairness.policy import parse_policy
from server.fairness.types import Int32, ReasonCode
from strategies.fairness import compiled, document

Z, X, W, Y = range(4)
FREE = [0, 1, 2, 3, 4]
NO_FLOOR = [0] * 5


def of_two_tables(floors: dict[int, list[int]], ceilings: dict[int, list[int]]) -> CompiledPolicy:
    """Bounds of lists of up to 4 places, by row; all others are free."""
    text = document("intersection", '[intersection.u]\nx = "1/2"\n[intersection.v]\ny = "1/2"\n')
    tables = {"u": TableGroups.of(["z", "x"]), "v": TableGroups.of(["w", "y"])}
    policy = compile_tables(
        parse_policy(text.replace('group_table = "t"\n', ""), "test"), tables, 4
    )
    return replace(
        policy,
        floors=np.int32([floors.get(row, NO_FLOOR) for row in range(4)]),
        ceilings=np.int32([ceilings.get(row, FREE) for row in range(4)]),
    )


HALF_X = of_two_tables({X: [0, 0, 1, 1, 2]}, {})


def fair(
    rows: list[tuple[int, int]], count: int, policy: CompiledPolicy, fixed: list[int] | None = None
) -> FairList:
    """Scores fall with the position."""
    scores = np.linspace(1, 0.1, len(rows)).astype(np.float32)
    shown = None if fixed is None else np.int32(fixed)
    return rerank(scores, np.int32(rows).T, count, policy, fixed=shown)


# Reasons.


def test_of_several_tables_an_item_is_raised_and_lowered_for_a_floor() -> None:
    made = fair([(Z, Y), (Z, Y), (Z, W), (X, Y)], 3, HALF_X)
    assert (made.order.tolist(), made.rank_by_score.tolist()) == ([0, 3, 1], [1, 4, 2])
    assert made.reasons.tolist() == [
        ReasonCode.SCORE,
        ReasonCode.RAISED_FOR_FLOOR,
        ReasonCode.LOWERED_FOR_FLOOR,
    ]


def test_of_several_tables_an_item_is_raised_and_lowered_for_a_ceiling() -> None:
    """What was raised is of no group with a floor, though others are."""
    policy = of_two_tables({X: [0, 0, 1, 1, 1]}, {W: [0, 1, 2, 2, 4]})
    made = fair([(X, W), (X, W), (X, W), (Z, Y)], 4, policy)
    assert (made.order.tolist(), made.rank_by_score.tolist()) == ([0, 1, 3, 2], [1, 2, 4, 3])
    assert made.reasons.tolist() == [
        ReasonCode.SCORE,
        ReasonCode.SCORE,
        ReasonCode.RAISED_FOR_CEILING,
        ReasonCode.LOWERED_FOR_CEILING,
    ]


def test_of_several_tables_what_fills_a_group_at_an_items_own_place_did_not_lower_it() -> None:
    """The third place would have had room for another w: only the floor's x took it."""
    policy = of_two_tables({X: [0, 0, 0, 1, 1]}, {W: [0, 1, 2, 2, 4]})
    made = fair([(Z, Y), (Z, W), (Z, W), (X, W)], 4, policy)
    assert made.order.tolist() == [0, 1, 3, 2]
    assert made.reasons.tolist()[2:] == [
        ReasonCode.RAISED_FOR_FLOOR,
        ReasonCode.LOWERED_FOR_FLOOR,
    ]


def test_of_several_tables_a_group_may_be_full_at_the_first_place() -> None:
    made = fair([(Z, W), (Z, Y), (Z, Y)], 2, of_two_tables({}, {W: [0, 0, 1, 1, 1]}))
    assert made.order.tolist() == [1, 0]
    assert made.reasons.tolist() == [
        ReasonCode.RAISED_FOR_CEILING,
        ReasonCode.LOWERED_FOR_CEILING,
    ]


# Verdicts.


def test_of_several_tables_a_floor_without_supply_is_infeasible() -> None:
    receipt = fair([(Z, Y), (Z, W), (Z, W)], 3, HALF_X).receipt
    assert receipt.status is Status.INFEASIBLE
    assert receipt.first_bad_prefix == PrefixViolation(2, "u:x", 1, 0)


@pytest.mark.parametrize(
    ("rows", "bad"), [((Z, Y + 1), Y + 1), ((Z - 1, Y), Z - 1), ((W, Y), W), ((Z, Z), Z)]
)
def test_of_several_tables_a_group_that_is_no_row_of_its_table_is_refused(
    rows: tuple[int, int], bad: int
) -> None:
    told = rf"groups: got {bad}, allowed: 0 to 3, the rows of u:x, u:z, v:w, v:y"
    with pytest.raises(InvalidField, match=told):
        fair([(Z, Y), (Z, Y), rows], 2, HALF_X)


# Pages.


def test_after_what_was_shown_the_rest_keeps_the_bounds_of_several_tables() -> None:
    rows = [(Z, Y), (Z, Y), (X, W), (X, Y), (Z, W), (X, W)]
    assert fair(rows, 4, HALF_X).order.tolist() == [0, 2, 1, 3]
    made = fair(rows, 4, HALF_X, fixed=[5, 4])
    assert made.order.tolist() == [5, 4, 0, 2]
    assert made.rank_by_score.tolist() == [6, 5, 1, 3]
    assert (made.receipt.status, made.receipt.first_bad_prefix) == (Status.MET, None)
    # Ceilings too count what was shown.
    capped = of_two_tables({}, {Y: [0, 1, 1, 1, 1]})
    assert fair(rows, 4, capped, fixed=[3]).order.tolist() == [3, 2, 4, 5]


def test_what_was_shown_may_break_a_bound_of_several_tables_which_proves_nothing() -> None:
    rows = [(Z, Y), (Z, Y), (X, W), (X, Y), (Z, W), (X, W)]
    made = fair(rows, 4, HALF_X, fixed=[1, 0])
    assert made.order.tolist() == [1, 0, 2, 3]
    assert made.receipt.status is Status.NOT_FOUND
    assert made.receipt.first_bad_prefix == PrefixViolation(2, "u:x", 1, 0)
    # All that is asked for was shown.
    made = fair(rows, 2, HALF_X, fixed=[1, 0])
    assert (made.order.tolist(), made.receipt.status) == ([1, 0], Status.NOT_FOUND)
    # One x is left for two.
    made = fair(rows[:3], 3, of_two_tables({X: [0, 0, 0, 1, 2]}, {}), fixed=[1, 0])
    assert (made.order.tolist(), made.receipt.status) == ([1, 0, 2], Status.MET)


def test_a_list_that_was_shown_as_a_whole_is_judged_by_its_bounds() -> None:
    rows = [(Z, Y), (Z, Y), (X, W), (X, Y)]
    made = fair(rows, 2, HALF_X, fixed=[2, 0])
    assert made.order.tolist() == [2, 0]
    assert (made.receipt.status, made.receipt.first_bad_prefix) == (Status.MET, None)


def test_what_was_shown_is_no_supply_for_the_rest() -> None:
    """Three x are needed and two are left."""
    policy = of_two_tables({X: [0, 0, 0, 2, 3]}, {})
    made = fair([(X, W), (X, Y), (X, W), (Z, W), (Z, Y)], 4, policy, fixed=[3, 4])
    assert made.order.tolist()[:2] == [3, 4]
    assert sorted(made.order.tolist()[2:]) == [0, 1]
    assert made.receipt.status is Status.NOT_FOUND
    assert made.receipt.first_bad_prefix == PrefixViolation(3, "u:x", 2, 1)


def of_planted(rng: np.random.Generator, rows: Int32, planted: Int32) -> tuple[Int32, Int32]:
    """Floors and ceilings, of most rows, that this list keeps and few others do."""
    counts = np.zeros((rows.max() + 1, len(planted) + 1), np.int32)
    for own in rows[:, planted]:
        counts[own, np.arange(1, len(planted) + 1)] += 1
    counts = counts.cumsum(axis=1).astype(np.int32)
    free = np.broadcast_to(np.arange(counts.shape[1], dtype=np.int32), counts.shape)
    floors = np.where(rng.random((len(counts), 1)) < 0.8, counts, 0)
    ceilings = np.where(rng.random((len(counts), 1)) < 0.8, np.minimum(free, counts + 1), free)
    return floors.astype(np.int32), ceilings


def test_a_page_goes_on_by_supply_where_scores_lead_its_search_astray(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was shown is of a list that is still there; by scores, within few steps, none is found."""
    rng, tables, text = np.random.default_rng(7), {}, ""
    groups = np.stack([rng.integers(0, width, 120) for width in (3, 4, 10)]).astype(np.int32)
    planted = rng.permutation(120)[:30].astype(np.int32)
    for name, own in zip("tuv", groups, strict=True):
        tables[name] = TableGroups.of([f"{name}{row}" for row in range(own.max() + 1)])
        text += f'[intersection.{name}]\n{name}0 = "1/9"\n'
    text = document("intersection", text).replace('group_table = "t"\n', "")
    policy = compile_tables(parse_policy(text, "test"), tables, len(planted))
    rows = groups + np.int32(policy.starts)[:, np.newaxis]
    floors, ceilings = of_planted(rng, rows, planted)
    policy = replace(policy, floors=floors, ceilings=ceilings)
    scores = rng.random(120).astype(np.float32)
    monkeypatch.setattr(bounded, "BUDGET", 30_000)
    by_scores: list[int] = []

    def watched(*given: Any) -> Any:
        found = arrange_overlapping(*given)
        if len(given[0]) < len(scores) and given[0].any():
            by_scores.append(found[2])
        return found

    monkeypatch.setattr(overlap, "arrange_overlapping", watched)
    made = rerank(scores, rows, len(planted), policy, fixed=planted[:10])
    assert by_scores == [overlap.NOT_FOUND]
    assert made.receipt.status is Status.MET
    assert made.order[:10].tolist() == planted[:10].tolist()
    # Among items of the same groups the score still decides.
    for cell in {tuple(own) for own in rows.T.tolist()}:
        own = [int(item) for item in made.order[10:] if tuple(rows[:, item]) == cell]
        assert own == sorted(own, key=lambda item: -scores[item])


def test_without_bounds_a_list_goes_on_in_score_order_after_what_was_shown() -> None:
    text = document("diverse", '[diverse]\nmethod = "mmr"\ntrade_off = "1/2"\n')
    policy = compile_tables(parse_policy(text.replace('group_table = "t"\n', ""), "test"), {}, 12)
    scores, groups = np.float32([0.2, 0.9, 0.1, 0.8, 0.7, 0.3]), np.zeros(6, np.int32)
    made = rerank(scores, groups, 4, policy, fixed=np.int32([4, 3]))
    assert (made.order.tolist(), made.rank_by_score.tolist()) == ([4, 3, 1, 5], [3, 2, 1, 4])
    assert made.reasons.tolist() == [
        ReasonCode.SHOWN_BEFORE,
        ReasonCode.SCORE,
        ReasonCode.SHOWN_BEFORE,
        ReasonCode.SCORE,
    ]
    assert made.receipt.status is Status.MET
    assert made.receipt.utility_of_best == made.receipt.utility_kept < 1


def test_no_reason_names_a_bound_that_the_policy_lacks() -> None:
    """The tail of a list of two caps: lowered by a ceiling, though no group is full any more."""
    drawn_up = document(
        "stack",
        '[[stack]]\nkind = "cap"\ngroup_table = "t"\ncap = {at_most = 1, within_first = 3}\n'
        '[[stack]]\nkind = "cap"\ngroup_table = "u"\ncap = {at_most = 6, within_first = 6}\n',
    ).replace('group_table = "t"\n', "", 1)
    groups = {"t": TableGroups.of(("a", "b", "c")), "u": TableGroups.of(("x",))}
    policy = compile_tables(parse_policy(drawn_up, "test"), groups, 6)
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4], np.float32)
    members = np.array([[0, 0, 0, 0, 1, 2], [3, 3, 3, 3, 3, 3]], np.int32)
    fair = rerank(scores, members, 6, policy)
    assert fair.order.tolist() == [0, 4, 5, 1, 2, 3]
    assert set(fair.reasons.tolist()) == {
        ReasonCode.SCORE,
        ReasonCode.RAISED_FOR_CEILING,
        ReasonCode.LOWERED_FOR_CEILING,
    }


def test_what_only_shown_places_moved_says_so() -> None:
    capped = compiled("cap", "[cap]\nat_most = 3\nwithin_first = 3\n", ("a", "b"), 4)
    scores = np.array([0.9, 0.8, 0.7, 0.6], np.float32)
    fair = rerank(
        scores, np.array([0, 0, 1, 1], np.int32), 4, capped, fixed=np.array([3, 2], np.int32)
    )
    assert fair.order.tolist() == [3, 2, 0, 1]
    assert set(fair.reasons.tolist()) == {ReasonCode.SHOWN_BEFORE}
