"""The search for several tables ends: its steps are counted, and an early end is told as it is."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.fairness import inputs
from bench.fairness.milp import best_list
from bench.fairness.overlap_gap import Instance, arranged, varied
from server.errors import PolicyInfeasible
from server.fairness import Status, bounded, rerank
from server.fairness.bounded import BUDGET
from server.fairness.overlap import IMPOSSIBLE, KEPT, NOT_FOUND
from server.fairness.overlap_prices import best_under
from strategies.overlapping import check, utility

# A last list that breaks the least may take a quarter more, and the last place of a beam.
MOST = 1.3 * BUDGET

# Without an end the last took a minute and a half.
HARD = [(1000, 50, (8, 8, 8)), (1000, 100, (8, 8, 8, 8)), (2000, 120, (64, 64))]


@cache
def hard(n: int, size: int, tables: tuple[int, ...], full: bool) -> Instance:
    case = inputs.intersection(n, size, tables, full=full)[0]
    blocks = np.array([*case.policy.starts, len(case.policy.labels)], np.int32)
    return Instance(
        case.scores, case.groups, blocks, case.policy.floors, case.policy.ceilings, size
    )


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(("n", "size", "tables"), HARD)
def test_a_hard_shape_ends_within_its_steps(
    n: int, size: int, tables: tuple[int, ...], full: bool
) -> None:
    instance = hard(n, size, tables, full)
    got = arranged(instance)
    check(instance, got)
    assert 0 < got.steps <= MOST
    # Half of the places are free: then there is a list, and it is found.
    assert full or got.verdict == KEPT


@pytest.mark.parametrize("budget", [1, 10**5, 10**6, 10**7])
@pytest.mark.parametrize(("n", "size", "tables"), HARD)
def test_the_same_input_and_budget_give_the_same_list(
    n: int, size: int, tables: tuple[int, ...], budget: int
) -> None:
    instance = hard(n, size, tables, True)
    first, second = (arranged(instance, budget=budget) for _ in range(2))
    check(instance, first)
    assert first.places.tolist() == second.places.tolist()
    assert first.steps == second.steps
    assert (first.verdict, first.utility, first.bound) == (
        second.verdict,
        second.utility,
        second.bound,
    )


def test_a_list_is_found_where_no_beam_can_be_paid_for() -> None:
    instance = hard(2000, 120, (64, 64), False)
    got = arranged(instance, budget=4_000_000)
    check(instance, got)
    assert got.verdict == KEPT
    assert got.bound > got.utility > 0.98 * got.bound


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([0, 1, 3000, 20_000, 100_000, 10**6]))
def test_an_early_end_claims_nothing_that_is_not_so(seed: int, budget: int) -> None:
    instance = varied(np.random.default_rng(seed))
    got = arranged(instance, budget=budget)
    check(instance, got)
    best = best_list(
        instance.scores, instance.members, instance.floors, instance.ceilings, instance.discounts
    )
    if best is None:
        assert got.verdict in (IMPOSSIBLE, NOT_FOUND)
        return
    most = utility(instance, best)
    assert got.verdict in (KEPT, NOT_FOUND)
    assert most <= got.bound + 1e-6
    assert got.verdict == NOT_FOUND or got.utility <= most + 1e-6


@pytest.mark.parametrize("budget", [0, 10**5, 10**6, 10**7])
def test_the_receipt_tells_how_far_an_early_end_may_be_from_the_best(
    budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "BUDGET", budget)
    seen = set()
    for case in inputs.intersection(600, 20, (3, 4, 2), full=True)[:8]:
        short = rerank(case.scores, case.groups, case.count, case.policy)
        with monkeypatch.context() as restored:
            restored.setattr(bounded, "BUDGET", BUDGET)
            long = rerank(case.scores, case.groups, case.count, case.policy)
        assert long.receipt.status is Status.MET
        seen.add(short.receipt.status)
        if short.receipt.status is Status.MET:
            assert short.receipt.first_bad_prefix is None
            told = short.receipt.utility_kept / short.receipt.utility_of_best
            assert told >= long.receipt.utility_kept - 1e-9
        else:
            assert short.receipt.status is Status.NOT_FOUND
            assert short.receipt.first_bad_prefix is not None
            assert short.receipt.utility_of_best == 0
            unkept = replace(case.policy.policy, on_infeasible="refuse")
            refusing = replace(case.policy, policy=unkept)
            # There is a list, so nothing may read like a proof that there is none.
            with pytest.raises(PolicyInfeasible, match="was not found to be kept: the first"):
                rerank(case.scores, case.groups, case.count, refusing)
    assert Status.INFEASIBLE not in seen


@given(
    st.lists(
        st.tuples(st.lists(st.integers(-4, 4), min_size=1, max_size=4), st.integers(-3, 3)),
        min_size=1,
        max_size=9,
    ),
    st.sampled_from([1, 9]),
    st.integers(0, 20),
    st.data(),
)
def test_the_items_under_prices_are_the_best_and_of_equal_ones_the_first_cells(
    drawn: list[tuple[list[int], int]], times: int, k: int, data: st.DataObject
) -> None:
    # Few cells are looked through, many are kept in a heap.
    drawn = drawn * times
    mine = [data.draw(st.integers(0, 1)) for _ in drawn]
    stock = np.array([len(own) for own, _ in drawn], np.int32)
    values = np.zeros((len(drawn), 4))
    for cell, (own, _) in enumerate(drawn):
        values[cell, : len(own)] = sorted(own, reverse=True)
    credit = np.array([float(own) for _, own in drawn])
    cells, worth = np.empty(k + 1, np.int32), np.empty(k + 1)
    found = best_under(values, stock, credit, np.array(mine, np.int32), 1, k, cells, worth)
    every = sorted(
        (-(values[cell, at] + credit[cell]), cell)
        for cell in range(len(drawn))
        for at in range(stock[cell])
        if mine[cell]
    )[:k]
    assert found == len(every)
    assert list(zip((-worth[:found]).tolist(), cells[:found].tolist(), strict=True)) == every
