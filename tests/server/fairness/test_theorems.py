"""What is proven of fair lists, as properties against oracles that share no code with the kernels."""

from __future__ import annotations

import dataclasses
import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidField, PolicyInfeasible
from server.fairness import CompiledPolicy, FairList, PrefixViolation, Status, rerank
from server.fairness.invariants import broken_bounds, broken_tables, check_list, check_same
from server.fairness.metrics import floor_violations
from server.fairness.types import ReasonCode
from strategies.fairness import LABELS, Case, cases, compiled, policies, shares


def lists_that_keep(case: Case) -> list[tuple[int, ...]]:
    """Every list of the full length that keeps every bound, by trying all."""
    _, groups, count, policy = case
    size = min(count, len(groups))
    floors, ceilings = policy.floors.tolist(), policy.ceilings.tolist()
    return [
        order
        for order in itertools.permutations(range(len(groups)), size)
        if not broken_bounds([int(groups[p]) for p in order], floors, ceilings)
    ]


def backward(case: Case) -> list[int]:
    """Exact floors as in Smith (1956) and Lawler (1973), in plain Python; another rule than ours.

    Choose the heads that the floors ask for and the best of the rest; then fill the places from the
    last to the first, each with the worst item whose group can spare it.
    """
    scores, groups, count, policy = case
    order = sorted(range(len(scores)), key=lambda p: (-scores[p], p))
    size = min(count, len(order))
    supply = [groups.tolist().count(g) for g in range(len(policy.labels))]

    def floor(g: int, k: int) -> int:
        return min(int(policy.floors[g, k]), supply[g])

    heads = [
        p
        for g in range(len(policy.labels))
        for p in [p for p in order if groups[p] == g][: floor(g, size)]
    ]
    others = [p for p in order if p not in heads]
    left = sorted(heads + others[: size - len(heads)], key=order.index)
    places = []
    for place in range(size, 0, -1):
        have = [sum(groups[p] == g for p in left) for g in range(len(policy.labels))]
        worst = next(
            p for p in reversed(left) if have[groups[p]] - 1 >= floor(int(groups[p]), place - 1)
        )
        left.remove(worst)
        places.append(worst)
    return places[::-1]


def sums(scores: list[float]) -> list[Fraction]:
    """Of every prefix, exactly: floats of 3e38 and 1e-45 do not add up as floats."""
    return list(itertools.accumulate(map(Fraction, scores)))


def rerank_case(case: Case) -> FairList:
    scores, groups, count, policy = case
    return rerank(scores, groups, count, policy)


@given(policies() | policies(max_count=60, wide=True))
def test_the_tables_of_every_policy_are_sound(policy: CompiledPolicy) -> None:
    assert broken_tables(policy.floors.tolist(), policy.ceilings.tolist()) == []


@given(cases())
def test_every_list_and_receipt_is_sound(case: Case) -> None:
    scores, groups, count, policy = case
    assert check_list(scores.tolist(), groups.tolist(), count, policy, rerank_case(case)) == []


@given(cases(max_n=6, min_n=1))
def test_met_exactly_where_some_list_keeps_the_policy(case: Case) -> None:
    scores, groups, count, policy = case
    receipt = rerank_case(case).receipt
    assert (receipt.status is Status.MET) == bool(lists_that_keep(case))
    if receipt.status is Status.INFEASIBLE:
        keepable = [
            prefix
            for prefix in range(1, min(count, len(scores)) + 1)
            if lists_that_keep((scores, groups, prefix, policy))
        ]
        assert receipt.first_bad_prefix is not None
        assert receipt.first_bad_prefix.prefix == max(keepable, default=0) + 1


@given(cases(kinds=("floors", "cap"), max_n=6, min_n=1))
def test_floors_and_caps_have_the_largest_sum_in_every_prefix(case: Case) -> None:
    scores = case[0]
    rivals = lists_that_keep(case)
    if not rivals:
        assert rerank_case(case).receipt.status is Status.INFEASIBLE
        return
    got = sums(scores[rerank_case(case).order].tolist())
    best = [
        max(every) for every in zip(*(sums(scores[list(o)].tolist()) for o in rivals), strict=True)
    ]
    assert got == best


@given(cases(kinds=("floors",), max_n=60, max_count=40))
def test_exact_floors_are_the_list_of_the_backward_rule(case: Case) -> None:
    scores = case[0]
    assert scores[rerank_case(case).order].tolist() == scores[backward(case)].tolist()


@given(cases(kinds=("window",), max_n=6, min_n=1))
def test_a_window_list_is_the_first_in_score_order_of_those_that_keep_the_policy(
    case: Case,
) -> None:
    scores, _, _, _ = case
    rivals = lists_that_keep(case)
    rank = {p: r for r, p in enumerate(sorted(range(len(scores)), key=lambda p: (-scores[p], p)))}
    if not rivals:
        assert rerank_case(case).receipt.status is Status.INFEASIBLE
        return
    greedy = min(rivals, key=lambda order: [rank[p] for p in order])
    assert rerank_case(case).order.tolist() == list(greedy)


@given(
    parts=st.lists(st.integers(1, 30), min_size=2, max_size=10),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_hold_at_every_prefix_for_any_number_of_groups(parts: list[int], seed: int) -> None:
    labels = [f"g{n}" for n in range(len(parts))]
    proportions = [Fraction(part, sum(parts)) for part in parts]
    policy = compiled("window", "[window]\n" + shares(parts, sum(parts), labels), labels, 40)
    groups = np.repeat(np.arange(len(parts), dtype=np.int32), 40)
    scores = np.random.default_rng(seed).random(len(groups)).astype(np.float32)
    fair = rerank(scores, groups, 40, policy)
    assert fair.receipt.status is Status.MET
    listed = groups[fair.order].tolist()
    for prefix in range(1, 41):
        for group, share in enumerate(proportions):
            count = listed[:prefix].count(group)
            assert math.floor(share * prefix) <= count <= math.ceil(share * prefix)


def test_of_the_items_that_floors_force_the_best_goes_first() -> None:
    # From place 3 on all places until 5 are asked for: one a until 4, one b and one c until 5.
    policy = compiled("floors", '[floors]\na = "1/4"\nb = "1/5"\nc = "1/5"\n', max_count=5)
    groups = np.array([3, 3, 3, 1, 0, 2], np.int32)
    scores = np.linspace(1, 0.5, 6).astype(np.float32)
    assert rerank(scores, groups, 5, policy).order.tolist() == [0, 1, 3, 4, 5]


def test_a_floor_without_supply_does_not_spoil_the_others() -> None:
    policy = compiled("floors", '[floors]\na = "1/2"\nb = "1/8"\nc = "1/8"\n', max_count=8)
    groups = np.array([3] * 8 + [1, 2], np.int32)
    scores = np.linspace(1, 0.1, 10).astype(np.float32)
    fair = rerank(scores, groups, 8, policy)
    assert fair.order.tolist() == [0, 1, 2, 3, 4, 5, 8, 9]
    assert fair.receipt.first_bad_prefix == PrefixViolation(2, "a", 1, 0)


def test_the_first_bad_prefix_is_told_where_several_are_bad() -> None:
    # No a: its floor fails at 2. One b: the ceilings leave place 3 to nobody.
    policy = compiled("window", '[window]\na = "1/2"\nc = "1/4"\n', LABELS[:3])
    groups = np.array([1, 2, 2, 2, 2, 2], np.int32)
    bad = rerank(np.ones(6, np.float32), groups, 6, policy).receipt.first_bad_prefix
    assert bad == PrefixViolation(2, "a", 1, 0)


def test_groups_that_a_window_does_not_name_take_what_is_left_over() -> None:
    policy = compiled("window", '[window]\na = "1/2"\n', LABELS[:3], 12)
    groups = np.repeat(np.arange(3, dtype=np.int32), 12)
    scores = np.concatenate([np.full(12, 0.1), np.full(12, 0.2), np.full(12, 0.9)])
    fair = rerank(scores.astype(np.float32), groups, 12, policy)
    listed = groups[fair.order].tolist()
    assert fair.receipt.status is Status.MET
    assert (listed.count(0), listed.count(1), listed.count(2)) == (6, 0, 6)


def test_without_anything_left_over_unnamed_groups_come_only_where_nothing_else_is() -> None:
    policy = compiled("window", '[window]\na = "1/2"\nb = "1/2"\n', LABELS[:3], 12)
    groups = np.array([2, 2, 2, 0, 1, 0, 1], np.int32)
    scores = np.linspace(1, 0.1, 7).astype(np.float32)
    assert 2 not in groups[rerank(scores, groups, 4, policy).order]
    longer = rerank(scores, groups, 6, policy)
    assert groups[longer.order].tolist() == [0, 1, 0, 1, 2, 2]
    assert longer.receipt.status is Status.INFEASIBLE


def test_after_the_capped_places_the_score_alone_decides() -> None:
    policy = compiled("cap", "[cap]\nat_most = 1\nwithin_first = 3\n", LABELS, 12)
    groups = np.array([0, 0, 0, 1, 2, 3], np.int32)
    scores = np.linspace(1, 0.1, 6).astype(np.float32)
    assert rerank(scores, groups, 6, policy).order.tolist() == [0, 3, 4, 1, 2, 5]


@given(cases(kinds=("floors",)))
def test_a_list_that_keeps_its_floors_is_left_alone(case: Case) -> None:
    _, groups, count, policy = case
    fair = rerank_case(case)
    size = len(fair.order)
    again = rerank(np.arange(size, 0, -1, dtype=np.float32), groups[fair.order], count, policy)
    if fair.receipt.status is Status.MET:
        assert again.order.tolist() == list(range(size))
        assert again.receipt.places_moved == 0


@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_candidates_changes_nothing(case: Case, seed: int) -> None:
    scores, groups, count, policy = case
    ids = np.arange(len(scores), dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    first = rerank(scores, groups, count, policy, tie_break=ids)
    second = rerank(scores[shuffled], groups[shuffled], count, policy, tie_break=ids[shuffled])
    assert check_same(first, second, shuffled.tolist()) == []
    assert check_same(first, rerank_case(case)) == []


@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_renaming_the_groups_permutes_nothing_else(case: Case, seed: int) -> None:
    scores, groups, count, policy = case
    renamed = np.random.default_rng(seed).permutation(len(policy.labels)).astype(np.int32)
    floors, ceilings = np.empty_like(policy.floors), np.empty_like(policy.ceilings)
    floors[renamed], ceilings[renamed] = policy.floors, policy.ceilings
    other = dataclasses.replace(policy, floors=floors, ceilings=ceilings)
    first = rerank_case(case)
    second = rerank(scores, renamed[groups], count, other)
    assert first.order.tolist() == second.order.tolist()
    assert first.reasons.tolist() == second.reasons.tolist()


@given(cases(kinds=("floors",)))
def test_without_floors_the_list_is_the_score_order(case: Case) -> None:
    scores, groups, count, policy = case
    free = dataclasses.replace(policy, floors=np.zeros_like(policy.floors))
    fair = rerank(scores, groups, count, free)
    expected = sorted(range(len(scores)), key=lambda p: (-scores[p], p))[:count]
    assert fair.order.tolist() == expected


@given(cases())
def test_floors_are_kept_as_far_as_supply_goes(case: Case) -> None:
    scores, groups, count, policy = case
    size = min(count, len(scores))
    supply = np.bincount(groups, minlength=len(policy.labels))[:, np.newaxis]
    within = np.minimum(policy.floors, supply)
    assert floor_violations(groups[rerank_case(case).order], within[:, : size + 1]) == 0


@given(cases())
def test_reasons_name_the_bound_that_the_kind_has(case: Case) -> None:
    told = set(rerank_case(case).reasons.tolist())
    floors = {ReasonCode.RAISED_FOR_FLOOR, ReasonCode.LOWERED_FOR_FLOOR}
    ceilings = {ReasonCode.RAISED_FOR_CEILING, ReasonCode.LOWERED_FOR_CEILING}
    foreign = {"floors": ceilings, "fa_ir": ceilings, "cap": floors, "window": set()}[
        case[3].policy.kind
    ]
    assert told & foreign == set()


@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False) | st.sampled_from([0.0, -0.0, 1.0]), max_size=40
    ),
    data=st.data(),
)
def test_score_order_is_that_of_a_stable_sort_of_any_floats(
    values: list[float], data: st.DataObject
) -> None:
    none = compiled("none", "", [], 40)
    ids = data.draw(st.lists(st.integers(-3, 3), min_size=len(values), max_size=len(values)))
    scores, tie_break = np.array(values, np.float32), np.array(ids, np.int64)
    got = rerank(scores, np.zeros(len(values), np.int32), 40, none, tie_break)
    expected = sorted(range(len(values)), key=lambda p: (-values[p], ids[p], p))
    assert got.order.tolist() == expected


@pytest.mark.parametrize("n", [2, 30, 100, 3000])
def test_any_number_of_equal_scores_go_by_their_tie_break(n: int) -> None:
    none = compiled("none", "", [], n)
    ids = np.arange(n, dtype=np.int64)[::-1].copy()
    fair = rerank(np.ones(n, np.float32), np.zeros(n, np.int32), n, none, ids)
    assert fair.order.tolist() == list(range(n))[::-1]


def test_nan_is_ranked_last_and_ends() -> None:
    policy = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2], 12)
    scores = np.array([np.nan, 0.1, np.nan, 0.9], np.float32)
    fair = rerank(scores, np.array([0, 0, 1, 1], np.int32), 4, policy)
    assert fair.order.tolist() == [3, 1, 0, 2]


def test_arrays_of_any_layout_give_the_same_list() -> None:
    policy = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2], 12)
    scores = np.linspace(1, 0.1, 8).astype(np.float32)
    groups = np.array([0, 0, 0, 0, 0, 1, 1, 1], np.int32)
    plain = rerank(scores, groups, 5, policy)
    locked = scores.copy()
    locked.flags.writeable = False
    strided = np.repeat(groups, 2)[::2]
    assert check_same(plain, rerank(locked, strided, 5, policy)) == []
    wide = rerank(scores.astype(np.float64), groups.astype(np.int64), 5, policy)
    assert check_same(plain, wide) == []


@pytest.mark.parametrize(
    ("groups", "count", "field"),
    [
        ([0, 2], 1, "groups: got 2"),
        ([0, -1], 1, "groups: got -1"),
        ([0], 1, "groups: got '1 values'"),
        ([0, 1], 13, "count: got 13, allowed: 1 to 12"),
        ([0, 1], 0, "count: got 0"),
    ],
)
def test_what_would_be_read_outside_of_the_tables_is_refused(
    groups: list[int], count: int, field: str
) -> None:
    policy = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2], 12)
    with pytest.raises(InvalidField) as refused:
        rerank(np.ones(2, np.float32), np.array(groups, np.int32), count, policy)
    assert str(refused.value).startswith(field)


def test_a_policy_that_refuses_names_prefix_group_and_what_is_missing() -> None:
    policy = compiled("floors", '[floors]\nb = "1/2"\n', LABELS[:2], on_infeasible="refuse")
    with pytest.raises(PolicyInfeasible, match=r"first 4 places need 2 of group 'b'.*give 1"):
        rerank(np.ones(6, np.float32), np.array([0, 0, 0, 0, 0, 1], np.int32), 6, policy)
    cap = compiled("cap", "[cap]\nat_most = 2\nwithin_first = 4\n", on_infeasible="refuse")
    with pytest.raises(PolicyInfeasible, match=r"first 4 places allow 2 of group 'a'.*force 3"):
        rerank(np.ones(6, np.float32), np.array([0, 0, 0, 0, 0, 1], np.int32), 6, cap)


def test_an_empty_list_and_kind_none_say_why_they_were_skipped() -> None:
    none = compiled("none", "", [])
    plain = rerank(np.float32([0.1, 0.9]), np.zeros(2, np.int32), 2, none)
    assert plain.order.tolist() == [1, 0]
    assert plain.receipt.skip_reason.name == "POLICY_NONE"
    for policy in (none, compiled("floors", '[floors]\na = "1/2"\n')):
        empty = rerank(np.empty(0, np.float32), np.empty(0, np.int32), 2, policy)
        assert (len(empty.order), empty.receipt.skip_reason.name) == (0, "EMPTY_LIST")
