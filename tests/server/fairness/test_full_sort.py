"""Only as much is sorted as a list needs, and nothing that is told of it changes by that."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from server.fairness import CompiledPolicy, FairList, Status, kernels, rerank
from server.fairness.bounded import bounded_list
from server.fairness.discount import discounts
from server.fairness.types import PrefixViolation
from strategies.fairness import KINDS, compiled, shares
from strategies.full_sort import Told, fair_by_full_sort, sorted_fully, walked

NO_TIES = np.empty(0, np.int64)
NOTHING = np.empty(0, np.int32)
Case = tuple[NDArray[np.float32], NDArray[np.int32], int, CompiledPolicy, NDArray[np.int64] | None]


def policy_of(
    kind: str, parts: list[int], size: int, chance: np.random.Generator
) -> CompiledPolicy:
    labels = [f"g{g}" for g in range(len(parts))]
    if kind == "cap":
        # A cap of 1 with few groups leaves places that no ceiling lets be filled.
        body = (
            f"[cap]\nat_most = {chance.integers(1, max(2, size // 4 + 1))}\nwithin_first = {size}\n"
        )
        return compiled(kind, body, labels, size)
    named = int(chance.integers(1, len(parts) + 1))
    rest = 0 if named == len(parts) and kind == "window" else int(chance.integers(0, 4))
    head = f'[fa_ir]\nalpha = "1/10"\nwithin_first = {size}\n[fa_ir.shares]\n'
    body = (head if kind == "fa_ir" else f"[{kind}]\n") + shares(
        parts[:named], sum(parts[:named]) + rest, labels
    )
    return compiled(kind, body, labels, size)


@st.composite
def candidates(draw: st.DrawFn) -> Case:
    """Up to 64 groups and 400 candidates; ties, NaN, infinities and both zeros; groups that are rare,
    and groups whose items all are at the end of score order, so that floors and ceilings reach deep."""
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_groups = draw(st.sampled_from([1, 2, 4, 10, 64]))
    max_count = draw(st.sampled_from([1, 5, 12, 40]))
    n = draw(st.sampled_from([1, 3, 12, 60, 150, 400]))
    parts = chance.integers(1, 9, n_groups).tolist()
    policy = policy_of(draw(st.sampled_from(KINDS)), parts, max_count, chance)
    groups = (n_groups * chance.random(n) ** draw(st.sampled_from([1, 2, 5]))).astype(np.int32)
    scores = {
        "spread": lambda: chance.normal(size=n),
        "by group": lambda: chance.normal(size=n) / 9 - groups,
        "few": lambda: chance.integers(-2, 3, n) / 4,
        "equal": lambda: np.full(n, 0.5),
        "odd": lambda: chance.choice([0.0, -0.0, np.nan, np.inf, -np.inf, 1.0, -1.0], n),
        "nan": lambda: np.where(chance.random(n) < 0.9, np.nan, chance.normal(size=n)),
        "far": lambda: np.where(chance.random(n) < 0.1, -1e30, chance.normal(size=n)),
    }[draw(st.sampled_from(["spread", "by group", "few", "equal", "odd", "nan", "far"]))]()
    ties = {
        "none": None,
        "some": chance.integers(-2, 3, n),
        "all": chance.permutation(n),
    }[draw(st.sampled_from(["none", "some", "all"]))]
    count = draw(st.integers(1, max_count))
    return scores.astype(np.float32), groups, count, policy, ties


def same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))


def ratio(got: float, best: float) -> float:
    """NaN stays NaN; two infinite sums are the same."""
    if best > 0 and not math.isclose(got, best, rel_tol=1e-12):
        return got / best
    return 1.0


def differs(fair: FairList, told: Told, policy: CompiledPolicy) -> list[str]:
    """What is not the same, by name."""
    receipt = fair.receipt
    got, ideal, best = told.utilities
    prefix, row, needed, available = told.bad
    bad = receipt.first_bad_prefix
    met = receipt.status is Status.MET
    right = {
        "order": fair.order.tolist() == told.order,
        "ranks": fair.rank_by_score.tolist() == told.ranks,
        "reasons": fair.reasons.tolist() == told.reasons,
        "status": met == (prefix == 0),
        "first bad prefix": (bad is None and prefix == 0)
        or (
            bad is not None
            and dataclasses.astuple(bad) == (prefix, policy.labels[row], needed, available)
        ),
        "utility kept": same(receipt.utility_kept, ratio(got, ideal)),
        "utility of best": same(receipt.utility_of_best, ratio(got, best) if met else 0.0),
        "moved": receipt.places_moved == sum(r != p for p, r in enumerate(told.ranks, start=1)),
        "exposure": [(part.group, part.items) for part in receipt.exposure]
        == [part[:2] for part in told.exposure]
        and all(
            # The discounts' sum differs in its last bit where the kernels run as plain Python.
            math.isclose(part.exposure_share, share, rel_tol=1e-12)
            for part, (*_, share) in zip(receipt.exposure, told.exposure, strict=True)
        ),
    }
    return [name for name, holds in right.items() if not holds]


def first_broken(groups: list[int], policy: CompiledPolicy) -> tuple[int, int, int, int]:
    """(prefix, group, bound, count) of the first bound that a list of these groups breaks, floors
    first; prefix 0: none."""
    for k in range(1, len(groups) + 1):
        counts = [groups[:k].count(g) for g in range(len(policy.labels))]
        low, high = policy.floors[:, k].tolist(), policy.ceilings[:, k].tolist()
        for g, count in enumerate(counts):
            if count < low[g]:
                return k, g, low[g], count
        for g, count in enumerate(counts):
            if count > high[g]:
                return k, g, high[g], count
    return 0, -1, 0, 0


@given(candidates())
def test_a_list_and_its_receipt_are_those_of_a_full_sort(case: Case) -> None:
    scores, groups, count, policy, ties = case
    fair = rerank(scores, groups, count, policy, ties)
    assert differs(fair, fair_by_full_sort(scores, groups, count, policy, ties), policy) == []


@given(case=candidates(), part=st.floats(0, 1))
def test_a_list_that_goes_on_from_shown_places_is_that_of_a_full_sort(
    case: Case, part: float
) -> None:
    scores, groups, count, policy, ties = case
    size = min(count, len(scores))
    shown = np.random.default_rng(len(scores)).permutation(len(scores))[: int(part * size)]
    order = kernels.score_order(scores, NO_TIES if ties is None else ties)
    found = bounded_list(scores, groups[np.newaxis], order, policy, size, shown.astype(np.int32))
    told = fair_by_full_sort(scores, groups, count, policy, ties, shown.tolist())
    assert found.places.tolist() == told.order
    assert found.ranks.tolist() == told.ranks
    assert found.reasons.tolist() == told.reasons
    bad, status = told.bad, Status.INFEASIBLE
    if bad[0] == 0:
        bad = first_broken([int(groups[place]) for place in told.order], policy)
        status = Status.NOT_FOUND if bad[0] else Status.MET
    violation = PrefixViolation(bad[0], policy.labels[bad[1]], *bad[2:]) if bad[0] else None
    assert (found.status, found.violation) == (status, violation)


@given(case=candidates(), depth=st.floats(0, 1))
def test_an_order_that_ends_early_gives_the_same_list_or_says_that_it_is_too_short(
    case: Case, depth: float
) -> None:
    scores, groups, count, policy, ties = case
    n, size = len(scores), min(count, len(scores))
    keys, supply, _ = kernels.ready_to_sort(scores, groups, policy.floors, policy.ceilings, size)
    cut = size + int(depth * (n - size))
    if cut < n:
        keys.partition(cut)
    keys[:cut].sort()
    order = kernels.head_by_score(keys, cut, NO_TIES if ties is None else ties)
    full = sorted_fully(scores, ties)
    assert order.tolist() == full[: len(order)]
    if len(order) < size:
        return
    floors, ceilings = policy.floors.tolist(), policy.ceilings.tolist()
    told = walked(groups.tolist(), full, floors, ceilings, size, [])
    found = kernels.arrange_head(
        groups, order, supply, policy.floors, policy.ceilings, size, NOTHING
    )
    if found[3][0] == kernels.TOO_SHORT:
        assert len(order) < n
        assert told[3][0] or max(told[1]) > len(order)
    else:
        assert [column.tolist() for column in found[:3]] == list(told[:3])
        assert found[3] == told[3]


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many items were sorted for each try at a list."""
    depths: list[int] = []
    kernel = kernels.fair_list
    monkeypatch.setattr(
        kernels, "fair_list", lambda *given: depths.append(given[3]) or kernel(*given)
    )
    return depths


def test_a_list_that_reaches_deeper_than_was_sorted_is_whole(tries: list[int]) -> None:
    """The floor's items are the last of all, where no even spread would have them."""
    policy = compiled("floors", '[floors]\nb = "1/2"\n', ["a", "b"], 10)
    groups = np.repeat(np.int32([0, 1]), 200)
    fair = rerank(np.linspace(1, 0, 400, dtype=np.float32), groups, 10, policy)
    assert fair.rank_by_score.tolist() == [1, 201, 2, 202, 3, 203, 4, 204, 5, 205]
    assert len(tries) == 2
    assert tries[0] < 200 < tries[1] == 400


@pytest.mark.parametrize("ties", [None, np.arange(400, dtype=np.int64)])
def test_a_list_of_well_spread_groups_sorts_a_part_once(
    ties: NDArray[np.int64] | None, tries: list[int]
) -> None:
    policy = compiled("floors", '[floors]\nb = "1/2"\n', ["a", "b"], 10)
    scores = np.linspace(1, 0, 400, dtype=np.float32)
    fair = rerank(scores, np.tile(np.int32([0, 1]), 200), 10, policy, ties)
    assert fair.receipt.status is Status.MET
    assert len(tries) == 1
    assert tries[0] < 200


def measured(
    scores: NDArray[np.float32], groups: NDArray[np.int32], size: int, policy: CompiledPolicy
) -> tuple:
    """One try at a list, of as many items as are likely to be enough."""
    floors, ceilings = policy.floors, policy.ceilings
    keys, supply, depth = kernels.ready_to_sort(scores, groups, floors, ceilings, size)
    keys.sort()
    both, worth = policy.has_floors and policy.has_ceilings, discounts(size)
    return kernels.fair_list(
        scores, groups, keys, depth, NO_TIES, supply, floors, ceilings, both, worth
    )


def test_a_list_that_too_few_items_leave_unfinished_is_not_measured() -> None:
    """Its last places hold no positions: measuring them would read any memory."""
    policy = compiled("floors", '[floors]\nb = "1/2"\n', ["a", "b"], 10)
    groups = np.repeat(np.int32([0, 1]), 200)
    places, *_, bad, _, _, _, _, items, _ = measured(
        np.linspace(1, 0, 400, dtype=np.float32), groups, 10, policy
    )
    assert bad[0] == kernels.TOO_SHORT
    assert (len(places), len(items)) == (0, 0)


def test_where_no_list_keeps_the_bounds_none_is_the_best_of_those_that_do() -> None:
    scores = np.float32([8, 6, 3, 3, 2, 2, 2, 1])
    groups = np.int32([1, 1, 2, 2, 2, 0, 0, 0])
    named = compiled("window", '[window]\na = "2/5"\nb = "2/5"\n', ["a", "b", "c"], 4)
    absent = dataclasses.replace(
        named,
        floors=np.vstack([named.floors, np.int32([[0, 0, 0, 0, 1]])]),
        ceilings=np.vstack([named.ceilings, np.int32([[0, 1, 2, 3, 4]])]),
    )
    *_, bad, got, _, best, _, _, _ = measured(scores, groups, 4, named)
    assert bad[0] == 0
    assert best > got
    *_, bad, got, _, best, _, _, _ = measured(scores, groups, 4, absent)
    assert bad == (4, 3, 1, 0)
    assert best == got


@given(candidates())
def test_the_first_bound_that_a_list_breaks_is_told_as_by_its_definition(case: Case) -> None:
    scores, groups, count, policy, _ = case
    places = np.arange(min(count, len(scores)), dtype=np.int32)
    told = kernels.first_broken(groups[np.newaxis], places, policy.floors, policy.ceilings)
    assert told == first_broken(groups[places].tolist(), policy)


def test_equal_scores_across_the_end_of_what_is_sorted_go_by_their_tie_break() -> None:
    policy = compiled("floors", '[floors]\nb = "1/4"\n', ["a", "b"], 8)
    scores = np.concatenate([np.full(6, 2.0), np.full(394, 1.0)]).astype(np.float32)
    groups = np.tile(np.int32([0, 1]), 200)
    ties = np.arange(400, dtype=np.int64)[::-1].copy()
    fair = rerank(scores, groups, 8, policy, ties)
    assert fair.order.tolist() == [5, 4, 3, 2, 1, 0, 399, 398]


def test_what_was_shown_may_break_no_more_than_the_last_prefix() -> None:
    policy = compiled("window", '[window]\na = "1/2"\n', ["a", "b"], 4)
    # Shown when the items had other groups: two of b come first, and nothing after them mends that.
    groups = np.int32([[1, 1, 0, 0, 0, 1, 1]])
    order = np.arange(7, dtype=np.int32)
    scores = np.linspace(1, 0, 7, dtype=np.float32)
    broken = bounded_list(scores, groups, order, policy, 4, np.int32([0, 1, 2]))
    assert broken.status is Status.NOT_FOUND
    assert broken.violation == PrefixViolation(2, "a", 1, 0)
    floor = compiled("floors", '[floors]\na = "1/4"\n', ["a", "b"], 4)
    late = bounded_list(scores, groups, order, floor, 4, np.int32([0, 1, 5]))
    assert late.status is Status.MET
    last = bounded_list(scores, groups, order, floor, 4, np.int32([0, 1, 5, 6]))
    assert (last.status, last.violation) == (Status.NOT_FOUND, PrefixViolation(4, "a", 1, 0))


def test_where_all_scores_are_equal_the_tie_break_alone_decides() -> None:
    policy = compiled("floors", '[floors]\nb = "1/4"\n', ["a", "b"], 8)
    ties = np.arange(400, dtype=np.int64)[::-1].copy()
    groups = np.tile(np.int32([0, 1]), 200)
    fair = rerank(np.ones(400, np.float32), groups, 2, policy, ties)
    assert fair.order.tolist() == [399, 398]


@pytest.mark.parametrize("first", range(8))
def test_of_a_few_equals_any_may_come_first_though_only_a_part_was_sorted(first: int) -> None:
    policy = compiled("floors", '[floors]\nb = "1/4"\n', ["a", "b"], 8)
    ties = np.where(np.arange(8) == first, 0, 1)
    groups = np.tile(np.int32([0, 1]), 4)
    assert rerank(np.ones(8, np.float32), groups, 1, policy, ties).order.tolist() == [first]


def test_the_best_of_very_many_equals_comes_first_though_only_a_part_was_sorted() -> None:
    policy = compiled("floors", '[floors]\nrare = "1/1"\n', ["rare", "other"], 1)
    scores = np.concatenate([np.ones(60), np.linspace(0.9, 0, 340)]).astype(np.float32)
    groups = np.ones(400, np.int32)
    groups[28:36] = 0
    ties = np.arange(400, dtype=np.int64)[::-1].copy()
    assert rerank(scores, groups, 1, policy, ties).order.tolist() == [35]


def test_a_window_tells_what_no_list_exceeds_and_does_not_reach() -> None:
    policy = compiled("window", '[window]\na = "2/5"\nb = "2/5"\n', ["a", "b", "c"], 4)
    scores = np.float32([8, 6, 3, 3, 2, 2, 2, 1])
    groups = np.int32([1, 1, 2, 2, 2, 0, 0, 0])
    fair = rerank(scores, groups, 4, policy)
    assert differs(fair, fair_by_full_sort(scores, groups, 4, policy, None), policy) == []
    assert fair.receipt.status is Status.MET
    assert fair.receipt.utility_of_best < 0.96


@pytest.mark.parametrize("best", [0, 1])
def test_the_best_list_of_a_window_is_bounded_by_its_floors_and_by_its_ceilings(best: int) -> None:
    # Of the group that is named the best items of all, or the worst.
    policy = compiled("window", '[window]\na = "3/10"\n', ["a", "b"], 10)
    groups = np.repeat(np.int32([best, 1 - best]), 30)
    scores = np.linspace(1, 0, 60, dtype=np.float32) ** 2
    fair = rerank(scores, groups, 10, policy)
    assert differs(fair, fair_by_full_sort(scores, groups, 10, policy, None), policy) == []
    assert 0 < fair.receipt.utility_kept < fair.receipt.utility_of_best <= 1
