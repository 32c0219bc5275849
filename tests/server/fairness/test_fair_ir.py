"""FA*IR's tables: the published ones, an exact program in fractions, and what must be monotone."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from math import comb

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.fairness.fair_ir import _exactly, _fail_exactly, fail_probability, fair_ir_floors

# Zehlike et al. 2017, table 2: alpha = 0.1, prefixes 1 to 12.
PUBLISHED = {
    "1/10": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    "2/10": [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1],
    "3/10": [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2],
    "4/10": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 3],
    "5/10": [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3, 4],
    "6/10": [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5],
    "7/10": [0, 1, 1, 2, 2, 3, 3, 4, 5, 5, 6, 6],
}

shares = st.fractions(Fraction(1, 20), Fraction(19, 20), max_denominator=20)
alphas = st.fractions(Fraction(1, 100), Fraction(1, 2), max_denominator=100)


def exact_fail(floors: list[int], p: Fraction) -> Fraction:
    """By the same definition, in fractions, over counts kept in a dictionary."""
    alive, failed = {0: Fraction(1)}, Fraction(0)
    for floor in floors[1:]:
        after: dict[int, Fraction] = {}
        for count, mass in alive.items():
            for more, chance in ((1, p), (0, 1 - p)):
                after[count + more] = after.get(count + more, Fraction(0)) + mass * chance
        failed += sum((mass for count, mass in after.items() if count < floor), Fraction(0))
        alive = {count: mass for count, mass in after.items() if count >= floor}
    return failed


def plain_floors(size: int, p: Fraction, alpha: Fraction) -> list[int]:
    """Definition 3 word for word, in fractions."""
    floors = [0]
    for k in range(1, size + 1):
        total, c = Fraction(0), 0
        while True:
            total += comb(k, c) * p**c * (1 - p) ** (k - c)
            if total > alpha:
                break
            c += 1
        floors.append(c)
    return floors


@pytest.mark.parametrize("share", PUBLISHED)
def test_the_published_tables_come_out(share: str) -> None:
    floors = fair_ir_floors(12, Fraction(share), Fraction(1, 10), adjusted=False)
    assert floors[1:].tolist() == PUBLISHED[share]


@example(size=2, p=Fraction(3, 5), alpha=Fraction(4, 25))
@example(size=3, p=Fraction(1, 10), alpha=Fraction(9**3, 10**3))
@given(st.integers(1, 30), shares, alphas)
def test_unadjusted_floors_are_the_definition(size: int, p: Fraction, alpha: Fraction) -> None:
    assert fair_ir_floors(size, p, alpha, adjusted=False).tolist() == plain_floors(size, p, alpha)


@given(st.integers(1, 30), shares, alphas)
def test_a_fair_list_fails_no_more_often_than_alpha(
    size: int, p: Fraction, alpha: Fraction
) -> None:
    floors = fair_ir_floors(size, p, alpha).tolist()
    assert exact_fail(floors, p) <= alpha


@example(size=1, p=Fraction(5, 6), alpha=Fraction(1, 6))
@example(size=1, p=Fraction(1, 2), alpha=Fraction(1, 2))
@example(size=2, p=Fraction(1, 2), alpha=Fraction(1, 4))
@example(size=18, p=Fraction(2, 3), alpha=Fraction(1, 100))
@given(st.integers(1, 18), shares, alphas)
def test_no_larger_table_of_the_family_keeps_alpha(size: int, p: Fraction, alpha: Fraction) -> None:
    """The adjustment gives nothing away, not even a table that fails with alpha exactly."""
    found = fair_ir_floors(size, p, alpha).tolist()
    assert exact_fail(found, p) <= alpha
    family = {
        tuple(plain_floors(size, p, Fraction(step)))
        for k in range(1, size + 1)
        for step in np.cumsum([comb(k, c) * p**c * (1 - p) ** (k - c) for c in range(k)])
        if step <= alpha
    }
    for table in family:
        if exact_fail(list(table), p) <= alpha:
            assert all(own >= low for own, low in zip(found, table, strict=True))


@pytest.mark.parametrize(
    ("size", "p", "alpha", "floors"),
    [
        (1, "1/2", "1/2", [0, 1]),
        (2, "1/2", "1/4", [0, 0, 1]),
        (2, "3/5", "4/25", [0, 0, 1]),
        (3, "1/10", "729/1000", [0, 0, 0, 1]),
        (3, "1/10", "728/1000", [0, 0, 0, 0]),
    ],
)
def test_a_table_that_fails_with_alpha_exactly_is_allowed(
    size: int, p: str, alpha: str, floors: list[int]
) -> None:
    own = fair_ir_floors(size, Fraction(p), Fraction(alpha)).tolist()
    assert own == floors
    assert exact_fail(floors, Fraction(p)) in (Fraction(alpha), 0)


@given(st.integers(1, 25), shares, st.data())
def test_the_fail_probability_is_exact(size: int, p: Fraction, data: st.DataObject) -> None:
    rises = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    floors = np.concatenate([[0], np.cumsum(rises)]).astype(np.int32)
    exact = float(exact_fail(floors.tolist(), p))
    assert fail_probability(floors, float(p)) == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("adjusted", [True, False])
def test_whole_numbers_tell_what_floats_cannot(adjusted: bool) -> None:
    """F(0; 2, 1/2) is 1/4, and so is the probability that floors of [0, 0, 1] fail."""
    tenth = Fraction(1, 10**10)
    for alpha, floor in ((-tenth, 0), (Fraction(0), 1), (tenth, 1)):
        own = fair_ir_floors(2, Fraction(1, 2), Fraction(1, 4) + alpha, adjusted=adjusted)
        assert own.tolist() == [0, 0, floor]


@given(st.integers(1, 9), shares, st.data())
def test_whole_numbers_give_the_same_probabilities(
    size: int, p: Fraction, data: st.DataObject
) -> None:
    rises = data.draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    floors = [0, *itertools.accumulate(rises)]
    assert _fail_exactly(floors, p) == exact_fail(floors, p)
    c = data.draw(st.integers(0, size - 1))
    draws = itertools.product((p, 1 - p), repeat=size)
    few = [math.prod(chances) for chances, had in
           zip(draws, itertools.product((1, 0), repeat=size), strict=True) if sum(had) <= c]  # fmt: skip
    assert _exactly(c, size, p) == sum(few)


@given(st.integers(2, 200), shares, alphas, st.booleans())
def test_floors_rise_by_at_most_one_and_with_p_and_alpha(
    size: int, p: Fraction, alpha: Fraction, adjusted: bool
) -> None:
    floors = fair_ir_floors(size, p, alpha, adjusted=adjusted)
    assert set(np.diff(floors).tolist()) <= {0, 1}
    if not adjusted:
        more = fair_ir_floors(size, (p + 1) / 2, alpha, adjusted=False)
        surer = fair_ir_floors(size, p, (alpha + 1) / 2, adjusted=False)
        assert (more >= floors).all()
        assert (surer >= floors).all()


def test_the_known_wrong_adjustment_is_not_ours() -> None:
    """A table adjusted by a program that skips the last position fails more often than alpha."""
    p, alpha, size = Fraction(1, 4), Fraction(1, 10), 20
    ours = fair_ir_floors(size, p, alpha).tolist()
    assert exact_fail(ours, p) <= alpha
    unadjusted = fair_ir_floors(size, p, alpha, adjusted=False).tolist()
    assert exact_fail(unadjusted, p) > alpha


def test_probabilities_that_are_equal_are_one_step() -> None:
    """With p = 3/5, F(3; 9) = F(4; 11) exactly: floors that rise by both would fail too often."""
    assert fair_ir_floors(21, Fraction(3, 5), Fraction(24, 100)).tolist() == [
        0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10,
    ]  # fmt: skip
