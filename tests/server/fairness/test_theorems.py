"""What is proven of fair lists, as properties against oracles that share no code with the kernels."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import PolicyInfeasible
from server.fairness import CompiledPolicy, Status, compile_policy, parse_policy, rerank
from server.fairness.invariants import broken_bounds, check_list
from server.fairness.metrics import floor_violations
from strategies.fairness import LABELS, cases, document

Case = tuple[np.ndarray, np.ndarray, int, CompiledPolicy]


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


def longest_keepable_prefix(case: Case) -> int:
    """The length of the longest prefix for which some list keeps every bound."""
    scores, groups, count, policy = case
    size = min(count, len(groups))
    for prefix in range(size, 0, -1):
        if lists_that_keep((scores, groups, prefix, policy)):
            return prefix
    return 0


@given(cases())
def test_every_list_and_receipt_is_sound(case: Case) -> None:
    scores, groups, count, policy = case
    fair = rerank(scores, groups, count, policy)
    assert check_list(scores.tolist(), groups.tolist(), count, policy, fair) == []


@given(cases(max_n=6))
def test_met_exactly_where_some_list_keeps_the_policy(case: Case) -> None:
    scores, groups, count, policy = case
    if not len(scores):
        return
    receipt = rerank(scores, groups, count, policy).receipt
    assert (receipt.status is Status.MET) == bool(lists_that_keep(case))
    if receipt.status is Status.INFEASIBLE:
        assert receipt.first_bad_prefix is not None
        assert receipt.first_bad_prefix.prefix == longest_keepable_prefix(case) + 1


@given(cases(kinds=("floors", "cap"), max_n=6))
def test_floors_and_caps_have_the_largest_sum_in_every_prefix(case: Case) -> None:
    scores, groups, count, policy = case
    rivals = lists_that_keep(case)
    if not rivals or not len(scores):
        return
    got = np.cumsum(scores[rerank(scores, groups, count, policy).order])
    best = np.max([np.cumsum(scores[list(order)]) for order in rivals], axis=0)
    np.testing.assert_allclose(got, best, atol=1e-6)


@given(cases(kinds=("window",), max_n=6))
def test_a_window_list_is_one_of_those_that_keep_the_policy(case: Case) -> None:
    scores, groups, count, policy = case
    rivals = lists_that_keep(case)
    if not rivals or not len(scores):
        return
    assert tuple(rerank(scores, groups, count, policy).order.tolist()) in rivals


@given(
    parts=st.lists(st.integers(1, 30), min_size=2, max_size=8),
    seed=st.integers(0, 2**32 - 1),
)
def test_windows_hold_at_every_prefix_for_any_number_of_groups(parts: list[int], seed: int) -> None:
    labels = [f"g{n}" for n in range(len(parts))]
    shares = [Fraction(part, sum(parts)) for part in parts]
    body = "[window]\n" + "".join(
        f'{label} = "{s.numerator}/{s.denominator}"\n'
        for label, s in zip(labels, shares, strict=True)
    )
    policy = compile_policy(parse_policy(document("window", body), "test"), labels, 40)
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(parts), dtype=np.int32), 40)
    fair = rerank(rng.random(len(groups)).astype(np.float32), groups, 40, policy)
    assert fair.receipt.status is Status.MET
    listed = groups[fair.order].tolist()
    for prefix in range(1, 41):
        for group, share in enumerate(shares):
            count = listed[:prefix].count(group)
            assert share * prefix - 1 < count < share * prefix + 1


def test_the_counter_example_to_detgreedy_is_met() -> None:
    # Geyik et al. (KDD 2019): p = (2, 2, 1, 1) / 6 breaks DetGreedy when groups 3 and 4 lead.
    body = '[floors]\na = "2/6"\nb = "2/6"\nc = "1/6"\nd = "1/6"\n'
    policy = compile_policy(parse_policy(document("floors", body), "test"), LABELS, 6)
    groups = np.array([2, 3, 2, 3, 0, 0, 1, 1], np.int32)
    scores = np.linspace(1, 0.1, 8).astype(np.float32)
    fair = rerank(scores, groups, 6, policy)
    assert fair.receipt.status is Status.MET
    assert groups[fair.order][:3].tolist() != [2, 3, 2]


@given(cases(kinds=("floors",)))
def test_a_list_that_keeps_its_floors_is_left_alone(case: Case) -> None:
    scores, groups, count, policy = case
    fair = rerank(scores, groups, count, policy)
    if fair.receipt.status is not Status.MET:
        return
    again = rerank(
        np.arange(len(fair.order), 0, -1, dtype=np.float32), groups[fair.order], count, policy
    )
    assert again.order.tolist() == list(range(len(fair.order)))
    assert again.receipt.places_moved == 0


@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_the_order_of_the_candidates_changes_nothing(case: Case, seed: int) -> None:
    scores, groups, count, policy = case
    ids = np.arange(len(scores), dtype=np.int64)
    shuffled = np.random.default_rng(seed).permutation(len(scores))
    first = rerank(scores, groups, count, policy, tie_break=ids)
    second = rerank(scores[shuffled], groups[shuffled], count, policy, tie_break=ids[shuffled])
    assert ids[first.order].tolist() == ids[shuffled][second.order].tolist()
    assert first.receipt == second.receipt


@given(case=cases(kinds=("floors", "cap")), seed=st.integers(0, 2**32 - 1))
def test_renaming_the_groups_permutes_nothing_else(case: Case, seed: int) -> None:
    scores, groups, count, policy = case
    renamed = np.random.default_rng(seed).permutation(len(policy.labels)).astype(np.int32)
    floors, ceilings = np.empty_like(policy.floors), np.empty_like(policy.ceilings)
    floors[renamed], ceilings[renamed] = policy.floors, policy.ceilings
    other = dataclasses.replace(policy, floors=floors, ceilings=ceilings)
    first = rerank(scores, groups, count, policy)
    second = rerank(scores, renamed[groups], count, other)
    assert scores[first.order].tolist() == scores[second.order].tolist()


@given(cases(kinds=("floors",)))
def test_without_floors_the_list_is_the_score_order(case: Case) -> None:
    scores, groups, count, policy = case
    free = dataclasses.replace(policy, floors=np.zeros_like(policy.floors))
    fair = rerank(scores, groups, count, free)
    expected = sorted(range(len(scores)), key=lambda p: (-scores[p], p))[:count]
    assert fair.order.tolist() == expected


@given(cases(kinds=("floors",)))
def test_infeasible_floors_are_kept_as_far_as_supply_goes(case: Case) -> None:
    scores, groups, count, policy = case
    size = min(count, len(scores))
    supply = np.bincount(groups, minlength=len(policy.labels))[:, np.newaxis]
    fair = rerank(scores, groups, count, policy)
    within = np.minimum(policy.floors, supply)
    assert floor_violations(groups[fair.order], within[:, : size + 1]) == 0


def test_a_policy_that_refuses_names_prefix_group_and_what_is_missing() -> None:
    text = document("floors", '[floors]\nb = "1/2"\n', on_infeasible="refuse")
    policy = compile_policy(parse_policy(text, "test"), LABELS[:2], 12)
    with pytest.raises(PolicyInfeasible, match=r"first 4 places need 2 of group 'b'.*give 1"):
        rerank(np.ones(6, np.float32), np.array([0, 0, 0, 0, 0, 1], np.int32), 6, policy)


def test_an_empty_list_and_kind_none_say_why_they_were_skipped() -> None:
    none = compile_policy(parse_policy(document("none", ""), "test"), [], 12)
    plain = rerank(np.float32([0.1, 0.9]), np.zeros(2, np.int32), 2, none)
    assert plain.order.tolist() == [1, 0]
    assert plain.receipt.skip_reason.name == "POLICY_NONE"
    empty = rerank(np.empty(0, np.float32), np.empty(0, np.int32), 2, none)
    assert (len(empty.order), empty.receipt.skip_reason.name) == (0, "EMPTY_LIST")
