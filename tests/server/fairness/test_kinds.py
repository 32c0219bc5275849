"""Calibrated tables, stacks, discounts, shaped orders, pages: against definitions written anew."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.verify.optimum import largest_dcg
from server.errors import InvalidField, PolicyRefused
from server.fairness import CompiledPolicy, Status, TableGroups, compile_tables, rerank
from server.fairness.calibrate import Calibration, divergence
from server.fairness.discount import discounts
from server.fairness.invariants import broken_bounds, broken_tables
from server.fairness.policy import parse_policy
from server.fairness.policy_sections import Calibrated
from server.fairness.tables import clash
from server.fairness.types import ReasonCode
from strategies.fairness import LABELS, Case, cases, compiled, document

counts = st.lists(st.integers(0, 12), min_size=1, max_size=5)
UP = {ReasonCode.RAISED_FOR_FLOOR, ReasonCode.RAISED_FOR_CEILING, ReasonCode.RAISED_FOR_EXPOSURE,
      ReasonCode.RAISED_FOR_DIVERSITY}  # fmt: skip


def in_stack(*rules: str) -> str:
    body = "".join(f"[[stack]]\n{rule}\n" for rule in rules)
    return document("stack", "").replace('group_table = "t"\n', "") + body


# Calibrated: each user's own tables.


@given(
    items=counts,
    bought=counts,
    at_least=st.fractions(0, 1, max_denominator=6),
    at_most=st.fractions(1, 3, max_denominator=6),
    smoothing=st.integers(0, 9),
)
def test_a_users_tables_are_his_shares_in_exact_integers_and_always_sound(
    items: list[int], bought: list[int], at_least: Fraction, at_most: Fraction, smoothing: int
) -> None:
    items = [count + 1 for count in items]
    bought = (bought + [0] * len(items))[: len(items)]
    rule = Calibrated(
        at_least=f"{at_least.numerator}/{at_least.denominator}",
        at_most=f"{at_most.numerator}/{at_most.denominator}",
        smoothing=smoothing,
    )
    part = Calibration.of(rule, "t", 0, np.array(items))
    floors, ceilings = part.bounds(np.array(bought), 14)
    if sum(bought) + smoothing == 0:
        assert not floors.any()
        assert (ceilings == np.arange(15)).all()
        return
    shares = [
        (b + smoothing * Fraction(n, sum(items))) / (sum(bought) + smoothing)
        for b, n in zip(bought, items, strict=True)
    ]
    assert sum(shares) == 1
    for g, q in enumerate(shares):
        for k in range(15):
            assert floors[g, k] == math.floor(at_least * q * k)
            assert ceilings[g, k] == min(k, math.ceil(at_most * q * k))
    assert broken_tables(floors.tolist(), ceilings.tolist()) == []


def test_the_largest_counts_stay_exact() -> None:
    part = Calibration.of(
        Calibrated(at_least="9999/10000", at_most="9999/1000", smoothing=10_000), "t", 0,
        np.array([1, 999_999]),
    )  # fmt: skip
    floors, ceilings = part.bounds(np.array([99_999, 1]), 1000)
    share = (99_999 + Fraction(10_000, 1_000_000)) / (100_000 + 10_000)
    assert floors[0, 1000] == math.floor(Fraction(9999, 10_000) * share * 1000)
    assert ceilings[0, 1000] == min(1000, math.ceil(Fraction(9999, 1000) * share * 1000))


def test_of_a_huge_catalogue_bounds_stay_exact_beyond_64_bits() -> None:
    items = np.array([1, 2_000_000_000])
    rule = Calibrated(at_least="9999/10000", at_most="9999/9998", smoothing=10_000)
    floors, ceilings = Calibration.of(rule, "t", 0, items).bounds(np.array([49_999, 50_001]), 1000)
    share = (49_999 + Fraction(10_000, 2_000_000_001)) / (100_000 + 10_000)
    for k in (1, 7, 999, 1000):
        assert floors[0, k] == math.floor(Fraction(9999, 10_000) * share * k)
        assert ceilings[0, k] == math.ceil(Fraction(9999, 9998) * share * k)


def test_what_a_user_never_buys_counts_nothing_in_the_divergence() -> None:
    target, listed = np.array([0.5, 0.5, 0.0]), np.array([0.5, 0.0, 0.5])
    expected = 0.5 * math.log(0.5 / 0.5) + 0.5 * math.log(0.5 / 0.005)
    assert divergence(target, listed) == pytest.approx(expected)
    assert divergence(np.array([0.2, 0.8, 0.0]), np.array([0.2, 0.8, 0.0])) >= 0


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.lists(st.integers(0, 9), min_size=5))
def test_the_divergence_is_kullback_and_leiblers_and_zero_for_the_target_alone(
    target: list[int], listed: list[int]
) -> None:
    q = np.array(target) / sum(target)
    own = np.array(listed[: len(target)], float) + (np.arange(len(target)) == 0)
    p = own / own.sum()
    mixed = [0.99 * a + 0.01 * b for a, b in zip(p, q, strict=True)]
    expected = sum(b * math.log(b / a) for a, b in zip(mixed, q, strict=True))
    assert divergence(q, p) == pytest.approx(max(0, expected), abs=1e-12)
    assert divergence(q, q) < 1e-12
    assert divergence(q, p) > 1e-12 or np.allclose(p, q, atol=1e-3)


def test_a_calibrated_list_is_nearer_to_the_user_and_says_by_how_much() -> None:
    policy = compiled(
        "calibrated", '[calibrated]\nat_least = "1/1"\nat_most = "1/1"\nsmoothing = 0\n', LABELS[:2]
    )
    scores = np.linspace(1, 0, 24, dtype=np.float32)
    groups = np.repeat([0, 1], 12).astype(np.int32)
    fair = rerank(scores, groups, 8, policy.for_user({"t": np.array([1, 3])}))
    assert groups[fair.order].tolist().count(1) == 6
    (gap,) = fair.receipt.calibration
    assert gap.after < 0.05
    assert gap.before > 1
    unknown = rerank(scores, groups, 8, policy)
    assert unknown.order.tolist() == list(range(8))
    assert unknown.receipt.calibration == ()


# Stacks: the highest floor, the lowest ceiling, and clashes by name.


@given(st.data())
def test_a_clash_is_told_exactly_where_no_list_of_any_supply_keeps_the_bounds(
    data: st.DataObject,
) -> None:
    size, n_groups = 4, 2
    steps = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    floors = np.array([[0, *np.cumsum(data.draw(steps))] for _ in range(n_groups)], np.int32)
    ceilings = np.array([[0, *np.cumsum(data.draw(steps))] for _ in range(n_groups)], np.int32)
    # A group without bounds fills what is left.
    floors = np.vstack([floors, np.zeros((1, size + 1), np.int32)])
    ceilings = np.vstack([ceilings, np.arange(size + 1, dtype=np.int32)[np.newaxis]])
    keeps = any(
        not broken_bounds(groups, floors.tolist(), ceilings.tolist())
        for groups in itertools.product(range(n_groups + 1), repeat=size)
    )
    assert (clash(floors, ceilings, "abc") == "") == keeps


@given(st.integers(0, 4), st.integers(1, 6), st.integers(1, 12))
def test_rules_of_one_table_are_all_kept_or_refused_by_name(
    part: int, at_most: int, within: int
) -> None:
    text = in_stack(
        f'kind = "floors"\ngroup_table = "t"\nfloors = {{a = "{part}/8"}}',
        f'kind = "cap"\ngroup_table = "t"\ncap = {{at_most = {min(at_most, within)}, '
        f"within_first = {within}}}",
    )
    tables = {"t": TableGroups.of(LABELS[:3])}
    floors = [part * k // 8 for k in range(13)]
    ceilings = [min(k, at_most, within) if k <= within else k for k in range(13)]
    if any(floors[b] - ceilings[a] > b - a for b in range(13) for a in range(b + 1)):
        with pytest.raises(PolicyRefused, match=r"stack\.1\.cap: clashes with stack\.0\.floors"):
            compile_tables(parse_policy(text, "test"), tables, 12)
        return
    policy = compile_tables(parse_policy(text, "test"), tables, 12)
    for k in range(13):
        assert policy.floors[:, k].tolist() == [floors[k], 0, 0]
        assert policy.ceilings[:, k].tolist() == [ceilings[k]] * 3
    assert broken_tables(policy.floors.tolist(), policy.ceilings.tolist()) == []


def test_a_cap_of_some_groups_leaves_the_others_free() -> None:
    policy = compiled(
        "cap", '[cap]\nat_most = 1\nwithin_first = 3\ngroups = ["b"]\n', LABELS[:2], 4
    )
    assert policy.ceilings.tolist() == [[0, 1, 2, 3, 4], [0, 1, 1, 1, 4]]


def test_rows_of_several_tables_follow_each_other_and_are_named_after_their_table() -> None:
    text = document("intersection", '[intersection.u]\nx = "1/2"\n[intersection.v]\ny = "1/4"\n')
    policy = parse_policy(text.replace('group_table = "t"\n', ""), "test")
    both = compile_tables(
        policy, {"u": TableGroups.of(["x", "z"]), "v": TableGroups.of(["w", "y"])}, 4
    )
    assert both.labels == ("u:x", "u:z", "v:w", "v:y")
    assert both.starts == (0, 2)
    assert both.floors[:, 4].tolist() == [2, 0, 0, 1]
    with pytest.raises(InvalidField, match="groups of 1 tables"):
        rerank(np.ones(3, np.float32), np.zeros(3, np.int32), 2, both)


def gains_of(scores: NDArray[np.float32]) -> list[float]:
    """What the scores are above the lowest, times a power of two, since only ratios are looked at:
    the oracle's solver would lose gains of 1e-40 beside its own numbers."""
    gains = scores.astype(np.float64) - min(0.0, float(scores.min()))
    return np.ldexp(gains, -int(np.frexp(gains.max())[1])).tolist()


# Discounts: the policy's choice, and exact kinds are best under each.


@pytest.mark.parametrize("discount", ["log2", "reciprocal", "top_heavy"])
@given(case=cases(kinds=("floors", "fa_ir", "cap", "window"), min_n=1, max_n=12))
def test_receipts_measure_by_the_policys_discount_and_bound_the_distance_to_the_best(
    discount: str, case: Case
) -> None:
    scores, groups, count, policy = case
    policy = replace(policy, policy=replace(policy.policy, discount=discount))
    fair = rerank(scores, groups, count, policy)
    size = len(fair.order)
    worth = {
        "log2": [1 / math.log2(k + 1) for k in range(1, size + 1)],
        "reciprocal": [1 / k for k in range(1, size + 1)],
        "top_heavy": [0.8 ** (k - 1) for k in range(1, size + 1)],
    }[discount]
    assert discounts(size, fair.receipt.discount).tolist() == pytest.approx(worth)
    gains = gains_of(scores)
    got = sum(w * gains[p] for w, p in zip(worth, fair.order.tolist(), strict=True))
    ideal = sum(w * g for w, g in zip(worth, sorted(gains, reverse=True), strict=False))
    assert fair.receipt.utility_kept == pytest.approx(got / ideal if ideal else 1.0, abs=1e-6)
    for part in fair.receipt.exposure:
        own = sum(
            w
            for w, p in zip(worth, fair.order.tolist(), strict=True)
            if policy.labels[groups[p]] == part.group
        )
        assert part.exposure_share == pytest.approx(own / sum(worth))
    if fair.receipt.status is not Status.MET:
        assert fair.receipt.utility_of_best == 0
        return
    best = _best(gains, groups.tolist(), policy, worth)
    share = got / best if best > 1e-12 else 1.0
    assert fair.receipt.utility_of_best <= share + 1e-9
    if policy.policy.kind != "window":
        assert share == pytest.approx(1, abs=1e-9)
        assert fair.receipt.utility_of_best == 1


def _best(
    gains: Sequence[float], groups: Sequence[int], policy: CompiledPolicy, worth: Sequence[float]
) -> float:
    size = len(worth)
    table = {
        str(g): [(int(low), int(high)) for low, high in zip(policy.floors[g, : size + 1],
                 policy.ceilings[g, : size + 1], strict=True)]
        for g in range(len(policy.labels))
    }  # fmt: skip
    found = largest_dcg([(x, (str(g),)) for x, g in zip(gains, groups, strict=True)], table, worth)
    assert found is not None
    return found


# Shaped orders: bounds survive, reasons say what moved an item.


@given(case=cases(min_n=1), data=st.data())
def test_a_boost_changes_the_order_and_never_a_bound(case: Case, data: st.DataObject) -> None:
    scores, groups, count, policy = case
    n = len(scores)
    boost = np.array(
        data.draw(st.lists(st.integers(0, 8), min_size=n, max_size=n)), np.float32
    ) / np.float32(4)
    evened = compiled("amortised", '[amortised]\nmethod = "p_mmf"\nstrength = "1/2"\n', LABELS)
    both = replace(policy, amortisation=evened.amortisation)
    fair = rerank(scores, groups, count, both, boost=boost)
    by_score = sorted(range(n), key=lambda p: (-scores[p], p))
    # Of equal sums the larger score comes first.
    alone = rerank(scores + boost, groups, count, policy, np.argsort(by_score))
    assert fair.order.tolist() == alone.order.tolist()
    assert (fair.receipt.status, fair.receipt.first_bad_prefix) == (
        alone.receipt.status, alone.receipt.first_bad_prefix,
    )  # fmt: skip
    for place, (position, rank, reason) in enumerate(
        zip(fair.order.tolist(), fair.rank_by_score.tolist(), fair.reasons.tolist(), strict=True), 1
    ):
        assert by_score[rank - 1] == position
        if rank == place:
            assert reason == ReasonCode.SCORE
        else:
            assert (reason in UP) == (rank > place)
    moved = int((fair.rank_by_score != np.arange(1, len(fair.order) + 1)).sum())
    assert fair.receipt.places_moved == moved
    assert 0 <= fair.receipt.utility_kept <= 1 + 1e-9
    assert fair.receipt.utility_of_best <= 1 + 1e-9


@given(case=cases(min_n=2), method=st.sampled_from(["mmr", "dpp"]), seed=st.integers(0, 99))
def test_a_diverse_order_is_followed_as_far_as_bounds_allow(
    case: Case, method: str, seed: int
) -> None:
    scores, groups, count, policy = case
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(len(scores), 3)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text = document("diverse", f'[diverse]\nmethod = "{method}"\ntrade_off = "1/3"\n')
    rule = parse_policy(text.replace('group_table = "t"\n', ""), "test")
    alone = rerank(scores, groups, count, compile_tables(rule, {}, 150), vectors=vectors)
    assert alone.receipt.status is Status.MET
    assert len(set(alone.order.tolist())) == min(count, len(scores))
    both = replace(policy, policy=replace(policy.policy, rules=(*rule.rules, *policy.policy.rules)))
    fair = rerank(scores, groups, count, both, vectors=vectors)
    plain = rerank(scores, groups, count, policy)
    assert fair.receipt.status == plain.receipt.status
    if fair.receipt.status is Status.MET:
        own = groups[fair.order].tolist()
        assert broken_bounds(own, policy.floors.tolist(), policy.ceilings.tolist()) == []
        if broken_bounds(
            groups[alone.order].tolist(), policy.floors.tolist(), policy.ceilings.tolist()
        ) == [] and policy.policy.kind in ("floors", "fa_ir", "cap"):
            assert fair.order.tolist() == alone.order.tolist()


# Pages: what was shown stays, and the list goes on.


@given(case=cases(min_n=1), shown=st.integers(0, 12))
def test_a_list_goes_on_after_its_own_first_places_as_if_it_had_no_pages(
    case: Case, shown: int
) -> None:
    scores, groups, count, policy = case
    whole = rerank(scores, groups, count, policy)
    again = rerank(scores, groups, count, policy, fixed=whole.order[:shown])
    assert again.order.tolist() == whole.order.tolist()
    assert again.reasons.tolist() == whole.reasons.tolist()
    assert again.receipt == whole.receipt


@given(case=cases(min_n=1), data=st.data())
def test_after_any_first_places_nothing_repeats_and_the_receipt_tells_the_truth(
    case: Case, data: st.DataObject
) -> None:
    scores, groups, count, policy = case
    size = min(count, len(scores))
    fixed = data.draw(st.permutations(range(len(scores))))[: data.draw(st.integers(0, size))]
    fair = rerank(scores, groups, count, policy, fixed=np.array(fixed, np.int32))
    assert fair.order[: len(fixed)].tolist() == list(fixed)
    assert len(set(fair.order.tolist())) == size
    own = groups[fair.order].tolist()
    broken = broken_bounds(own, policy.floors.tolist(), policy.ceilings.tolist())
    if fair.receipt.status is Status.MET:
        assert broken == []
        worth = [1 / math.log2(k + 1) for k in range(1, size + 1)]
        gains = gains_of(scores)
        got = sum(w * gains[p] for w, p in zip(worth, fair.order.tolist(), strict=True))
        best = _best(gains, groups.tolist(), policy, worth)
        assert fair.receipt.utility_of_best <= (got / best if best > 1e-12 else 1.0) + 1e-9
    else:
        assert fair.receipt.first_bad_prefix is not None
        possible = rerank(scores, groups, count, policy).receipt.status is Status.MET
        assert fair.receipt.status is (Status.NOT_FOUND if possible else Status.INFEASIBLE)
