"""Lists under the bounds of several attributes, against all lists (tiny) and an exact solver."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.fairness.milp import best_list
from bench.fairness.overlap_gap import Instance, arranged, overlap_gap, varied
from server.fairness import kernels
from server.fairness.overlap import BAD_ROW, IMPOSSIBLE, KEPT, NOT_FOUND
from strategies.fairness import Case, cases, columns, policies
from strategies.overlapping import broken, check, made, unit, utility

# Wide enough for every set of items of a tiny instance: the search is exhaustive there.
EXHAUSTIVE = 64


@st.composite
def instances(draw: st.DrawFn, max_n: int = 6, max_size: int = 4, attributes: int = 3) -> Instance:
    """One policy for each attribute, one in eight of up to 64 groups; scores from few values, some
    negative, huge or denormal; cells may be empty."""
    n = draw(st.integers(1, max_n))
    size = draw(st.integers(1, min(n, max_size)))
    stack = [
        draw(policies(max_count=max_size, wide=draw(st.integers(0, 7)) == 7))
        for _ in range(draw(st.integers(1, attributes)))
    ]
    blocks = np.cumsum([0, *(len(policy.labels) for policy in stack)]).astype(np.int32)
    members = [
        [first + draw(st.integers(0, end - first - 1)) for _ in range(n)]
        for first, end in itertools.pairwise(blocks.tolist())
    ]
    return Instance(
        draw(columns(n, 1))[0],
        np.array(members, np.int32),
        blocks,
        np.vstack([policy.floors for policy in stack]),
        np.vstack([policy.ceilings for policy in stack]),
        size,
    )


def lacking(instance: Instance, places: list[int]) -> tuple[int, int]:
    """By how much floors, lowered to supply, are missed, and ceilings passed, over all prefixes."""
    rows = np.arange(len(instance.floors))
    here = (instance.members[:, places, np.newaxis] == rows).any(axis=0)
    counts = np.vstack([np.zeros(len(rows), np.int64), np.cumsum(here, axis=0)]).T
    supply = (instance.members[:, :, np.newaxis] == rows).sum(axis=(0, 1))[:, np.newaxis]
    k = instance.size + 1
    short = np.maximum(np.minimum(instance.floors[:, :k], supply) - counts, 0).sum()
    return int(short), int(np.maximum(counts - instance.ceilings[:, :k], 0).sum())


@given(instances())
def test_a_tiny_list_is_the_best_of_all_or_breaks_the_least(instance: Instance) -> None:
    got = arranged(instance, EXHAUSTIVE)
    check(instance, got)
    everything = [
        list(p) for p in itertools.permutations(range(len(instance.scores)), instance.size)
    ]
    rivals = [places for places in everything if not broken(instance, places)]
    if rivals:
        best = max(utility(instance, places) for places in rivals)
        assert got.verdict == KEPT
        assert got.utility == pytest.approx(best, abs=1e-9 * unit(instance))
        assert got.bound == got.utility
    else:
        assert got.verdict == IMPOSSIBLE
        least = min((*lacking(instance, p), -utility(instance, p)) for p in everything)
        own = lacking(instance, got.places.tolist())
        assert own == least[:2]
        assert got.utility == pytest.approx(-least[2], abs=1e-9 * unit(instance))
        if own == (0, 0):
            assert got.bound == got.utility


@settings(max_examples=40)
@given(instances(max_n=40, max_size=10, attributes=4))
def test_the_exact_solver_lies_between_the_list_and_its_bound(instance: Instance) -> None:
    got = arranged(instance)
    check(instance, got)
    # The solver takes 1e20 for infinity.
    scaled = (instance.scores.astype(np.float64) / unit(instance)).astype(np.float32)
    best = best_list(
        scaled, instance.members, instance.floors, instance.ceilings, instance.discounts
    )
    if best is None:
        assert got.verdict in (IMPOSSIBLE, NOT_FOUND)
        return
    assert broken(instance, best) == []
    assert got.verdict == KEPT
    slack = 1e-6 * unit(instance)
    assert got.utility - slack <= utility(instance, best) <= got.bound + slack


def test_the_gap_to_the_optimum_is_small() -> None:
    gap = overlap_gap(80, 3)
    assert (gap.missed, gap.false_proofs) == (0, 0)
    assert gap.feasible > 40
    assert gap.mean_gap < 1e-3
    assert gap.certified > 0.8


def test_a_list_is_found_where_nearly_every_start_is_dead() -> None:
    # One of 1500 that a beam without the test for lacking items did not find, however wide.
    rng = np.random.default_rng(11)
    for _ in range(1013):
        varied(rng)
    instance = varied(rng)
    got = arranged(instance)
    check(instance, got)
    assert got.verdict == KEPT


@given(cases(kinds=("floors", "fa_ir"), min_n=1))
def test_one_attribute_with_floors_is_arranged_as_alone(case: Case) -> None:
    scores, groups, count, policy = case
    size = min(count, len(scores))
    order = kernels.score_order(scores, np.empty(0, np.int64))
    alone = kernels.arrange(
        groups, order, policy.floors, policy.ceilings, size, np.empty(0, np.int32)
    )
    blocks = np.array([0, len(policy.labels)], np.int32)
    got = arranged(
        Instance(scores, groups[np.newaxis].copy(), blocks, policy.floors, policy.ceilings, size)
    )
    # Where floors are out of reach, equal scores of two groups may come in either order.
    listed = scores[got.places] if alone[3][0] else got.places
    assert listed.tolist() == (scores[alone[0]] if alone[3][0] else alone[0]).tolist()
    assert got.verdict == (KEPT if alone[3][0] == 0 else IMPOSSIBLE)
    assert got.bound == got.utility


@given(instances(max_n=20, max_size=8), st.integers(0, 2**32 - 1))
def test_the_order_of_the_candidates_changes_nothing(instance: Instance, seed: int) -> None:
    n = len(instance.scores)
    # Distinct, and as large as they were.
    scores = instance.scores.astype(np.float64) / unit(instance) + np.arange(n) / 1000
    scores *= max(1.0, unit(instance) / 1.1)
    distinct = dataclasses.replace(instance, scores=scores.astype(np.float32))
    assert len(set(distinct.scores.tolist())) == n
    shuffled = np.random.default_rng(seed).permutation(n)
    other = dataclasses.replace(
        distinct, scores=distinct.scores[shuffled], members=distinct.members[:, shuffled].copy()
    )
    first, second = arranged(distinct), arranged(other)
    assert first.places.tolist() == shuffled[second.places].tolist()
    assert (first.broken, first.verdict) == (second.broken, second.verdict)
    assert (first.utility, first.bound) == (second.utility, second.bound)


def _demand(floors: NDArray[np.int32], row: int, from_prefix: int) -> None:
    floors[row, from_prefix:] = 1


def test_an_item_that_serves_two_floors_is_taken_for_both() -> None:
    # Rows 0, 1 and 2, 3. Until place 2 one of row 1 and one of row 3: one item is of both.
    instance = made([0.9, 0.8, 0.7, 0.6, 0.5], [[0, 0, 1, 0, 1], [2, 2, 2, 3, 3]], [0, 2, 4], 2)
    _demand(instance.floors, 1, 2)
    _demand(instance.floors, 3, 2)
    got = arranged(instance)
    assert got.places.tolist() == [0, 4]
    assert got.bound == got.utility


def test_equal_scores_go_by_the_order_within_their_cell() -> None:
    instance = made([0.5] * 6, [[0, 0, 0, 1, 1, 1], [2, 3, 2, 3, 2, 3]], [0, 2, 4], 4)
    _demand(instance.floors, 1, 1)
    got = arranged(instance).places.tolist()
    assert got[0] in (3, 4)
    for cell in ((0, 2), (3, 5)):
        listed = [p for p in got if p in cell]
        assert listed == list(cell)[: len(listed)]


def test_a_list_that_keeps_every_bound_is_left_in_score_order() -> None:
    instance = made([-0.1, -0.3, -0.2], [[0, 1, 0], [2, 2, 3]], [0, 2, 4], 3)
    _demand(instance.floors, 1, 3)
    got = arranged(instance)
    assert (got.places.tolist(), got.broken, got.verdict) == ([0, 2, 1], (0, 0), KEPT)
    assert got.bound == got.utility < 0


def test_two_floors_that_only_an_empty_cell_could_serve_are_impossible() -> None:
    # Place 1 is asked for by row 1 and by row 3, and no item is of both.
    instance = made([0.9, 0.8, 0.7], [[0, 1, 0], [2, 2, 3]], [0, 2, 4], 3)
    _demand(instance.floors, 1, 1)
    _demand(instance.floors, 3, 1)
    got = arranged(instance)
    assert got.verdict == IMPOSSIBLE
    assert got.places.tolist() == [1, 2, 0]
    assert got.broken == (1, 3)


def test_a_floor_above_its_supply_is_lowered_and_the_others_hold() -> None:
    instance = made([0.9, 0.8, 0.7, 0.1], [[0, 0, 0, 1], [2, 2, 3, 2]], [0, 2, 4], 4)
    instance.floors[1, 2:] = [1, 2, 2]
    _demand(instance.floors, 3, 3)
    got = arranged(instance)
    assert got.verdict == IMPOSSIBLE
    assert got.places.tolist() == [0, 3, 2, 1]
    assert got.broken == (3, 1)
    assert got.bound == got.utility


def test_a_row_without_items_and_without_bounds_is_no_hindrance() -> None:
    instance = made([0.9, 0.8, 0.1], [[1, 1, 2], [3, 3, 3]], [0, 3, 5], 2)
    _demand(instance.floors, 2, 2)
    got = arranged(instance)
    assert (got.places.tolist(), got.verdict) == ([0, 2], KEPT)


def test_ceilings_of_two_attributes_hold_together() -> None:
    instance = made([0.9, 0.8, 0.7, 0.6, 0.5], [[0, 0, 1, 1, 1], [2, 3, 2, 2, 3]], [0, 2, 4], 3)
    instance.ceilings[0] = instance.ceilings[2] = [0, 1, 1, 1]
    got = arranged(instance)
    # With item 0 rows 0 and 2 are full, and only item 4 is of neither.
    assert (got.places.tolist(), got.verdict) == ([1, 2, 4], KEPT)
    longer = dataclasses.replace(
        instance,
        size=4,
        floors=np.zeros((4, 5), np.int32),
        ceilings=np.hstack([instance.ceilings, [[1], [4], [1], [4]]]).astype(np.int32),
    )
    assert arranged(longer).verdict == IMPOSSIBLE


@pytest.mark.parametrize("row", [-1, 0, 4])
def test_a_member_outside_its_attribute_gives_no_list(row: int) -> None:
    instance = made([0.9, 0.8], [[0, 1], [2, 3]], [0, 2, 4], 2)
    instance.members[1, 1] = row
    assert arranged(instance).verdict == BAD_ROW
