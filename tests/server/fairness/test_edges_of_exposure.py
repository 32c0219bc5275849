"""The edges of exposure over many lists: sums to the last bit, and the water level by sorting."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from server.fairness.amortise import (
    _below,
    _lowest,
    _sums,
    accumulate,
    fair_co_boost,
    p_mmf_boost,
    project_dual,
)

# Around where sums take four at a time, and where the level is guessed from a part.
SIZES = [1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 63, 64, 65, 66, 67, 100, 131]


def test_a_discount_is_counted_in_whole_units_of_2_to_the_minus_20_ties_to_even() -> None:
    """The unit is that of every ledger kept: another one would not merge with them exactly."""
    unit = 2.0**-20
    discounts = np.array([0.5, 0.5 + 2.0**-20, 1.5, 2.5, 7.25, 1 / unit]) * unit
    exposure = np.zeros(6)
    accumulate(exposure, np.arange(6, dtype=np.int32), discounts)
    assert (exposure / unit).tolist() == [0, 1, 2, 2, 7, 2**20]


def test_a_unit_more_is_seen_up_to_2_to_the_33() -> None:
    exposure = np.array([2.0**33 - 1, 0.0])
    for _ in range(3):
        accumulate(exposure, np.int32([0, 1, 0]), np.full(3, 2.0**-20))
    assert (exposure - [2.0**33 - 1, 0]).tolist() == [6 * 2.0**-20, 3 * 2.0**-20]


def test_a_list_may_have_as_many_items_as_there_are_discounts_or_none() -> None:
    exposure = np.zeros(2)
    accumulate(exposure, np.zeros(0, np.int32), np.zeros(0))
    assert exposure.tolist() == [0, 0]
    accumulate(exposure, np.int32([1, 0]), np.array([1.0, 0.5]))
    assert exposure.tolist() == [0.5, 1.0]


# Sums in lanes


@pytest.mark.parametrize("n", range(1, 14))
def test_the_lowest_is_found_wherever_it_is_and_each_is_counted_once(n: int) -> None:
    values = 2.0 ** np.random.default_rng(n).permutation(n)
    for turned in (np.roll(values, by) for by in range(n)):
        assert _lowest(turned) == 1
        assert _lowest(-turned) == -(2.0 ** (n - 1))
        assert _sums(turned, turned / 4) == (2**n - 1, (2**n - 1) / 4)
        for high in range(n + 1):
            # One at the level is not below it.
            assert _below(turned, 2.0**high) == (2**high - 1, high)


def test_sums_have_the_same_bits_as_ever() -> None:
    """In four lanes, which are added two and two: what is lost against 1 alone is not lost in pairs."""
    values = np.array([1, 2.0**-53, 2.0**-53, 2.0**-53])
    assert values[0] + values[1] + values[2] + values[3] == 1
    assert _sums(values, values[::-1].copy()) == (1 + 2.0**-52, 1 + 2.0**-52)
    assert _below(values, 2.0) == (1 + 2.0**-52, 4)


# The level


def level_by_sorting(heights: list[Fraction], water: Fraction, top: Fraction) -> Fraction:
    """Filled from the lowest on: each height that the water reaches is covered."""
    wet = sorted(heights)
    for n in range(1, len(wet) + 1):
        level = (water + sum(wet[:n])) / n
        if n == len(wet) or level <= wet[n]:
            break
    return min(level, top)


def shares(n: int) -> np.ndarray:
    weights = np.arange(n) * 7 % 5 + 1.0
    return weights / weights.sum()


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("strength", [2.0**-6, 0.5, 4.0, 2.0**10])
def test_the_boost_is_water_poured_over_exposure_per_target(n: int, strength: float) -> None:
    rng = np.random.default_rng(n)
    targets, step = shares(n), 2.0**-5
    exposure = rng.integers(0, 200, n) * targets
    wide, aims = (list(map(Fraction, array.tolist())) for array in (exposure, targets))
    ratios = [given / aim for given, aim in zip(wide, aims, strict=True)]
    water, mean = Fraction(strength) / Fraction(step), sum(wide) / sum(aims)
    level = level_by_sorting(ratios, water, mean)
    boost = p_mmf_boost(exposure, targets, strength, step)
    expected = [
        float(Fraction(step) * max(Fraction(0), level - ratio) / aim)
        for ratio, aim in zip(ratios, aims, strict=True)
    ]
    assert boost == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_the_projection_in_the_targets_norm_is_the_water_level_below_zero(n: int) -> None:
    """z_p = target_p mu_p: positive z stay, the others are lifted to a level that strength allows."""
    rng = np.random.default_rng(n)
    targets, z = shares(n), rng.integers(-40, 20, n) / 8
    wide = list(map(Fraction, z.tolist()))
    level = level_by_sorting(wide, Fraction(3, 2), Fraction(0))
    expected = [float(one if one >= 0 else -max(Fraction(0), level - one)) for one in wide]
    nearest = project_dual(z / targets, targets, 1.5)
    assert nearest * targets == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("n", SIZES)
def test_a_dual_that_is_feasible_stays_as_it_is(n: int) -> None:
    dual = np.arange(n) % 3 / 4
    # Compiled code raises where something is divided by 0.
    with np.errstate(divide="raise", invalid="raise"):
        assert project_dual(dual, shares(n), 0.5).tolist() == dual.tolist()
    dual[-1] = -0.25
    assert project_dual(dual, np.full(n, 0.5), 0.125) == pytest.approx(dual, rel=1e-12)


@pytest.mark.parametrize("n", SIZES)
def test_providers_that_are_treated_equally_get_exactly_nothing(n: int) -> None:
    targets, exposure = np.full(n, 2.0**-7), np.full(n, 3.0)
    assert not p_mmf_boost(exposure, targets, 1.0, 1.0).any()
    assert not fair_co_boost(exposure, targets, 1.0).any()


def test_one_provider_far_behind_gets_all_of_strength_and_not_a_bit_more() -> None:
    """Level minus height is rounded: the bound holds nevertheless."""
    for behind in np.linspace(0.1, 9.7, 97):
        exposure, targets = np.array([behind, 1e6]), np.array([0.3, 0.7])
        boost = p_mmf_boost(exposure, targets, 0.1, 0.01)
        assert boost[0] == pytest.approx(0.1 / 0.3, rel=1e-9)
        assert boost[0] <= 0.1 / 0.3
        assert boost[1] == 0


def test_no_providers_are_no_boost() -> None:
    none = np.zeros(0)
    assert p_mmf_boost(none, none, 1.0, 1.0).shape == (0,)
    assert fair_co_boost(none, none, 1.0).shape == (0,)
    assert project_dual(none, none, 1.0).shape == (0,)
