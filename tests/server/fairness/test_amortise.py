"""Exposure over many lists: a general solver, exact sums, one worker or many, and a small shop."""

from __future__ import annotations

import doctest
import itertools
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from scipy.optimize import LinearConstraint, linprog, minimize
from scipy.sparse import coo_array

from server.fairness import amortise
from server.fairness.amortise import (
    GRID,
    accumulate,
    fair_co_boost,
    p_mmf_boost,
    project_dual,
)
from server.fairness.metrics import discounts

SIZE = 10
WEIGHTS = discounts(SIZE)


def test_the_examples_in_the_docstring_hold() -> None:
    result = doctest.testmod(amortise)
    assert (result.attempted > 0, result.failed) == (True, 0)


@st.composite
def shops(draw: st.DrawFn, most: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Exposure and shares of some providers; equal ratios, none and much are all likely."""
    n = draw(st.integers(1, most))
    weights = draw(st.lists(st.integers(1, 20), min_size=n, max_size=n))
    ratios = draw(st.lists(st.integers(0, 200), min_size=n, max_size=n))
    targets = np.array(weights) / sum(weights)
    return np.array(ratios) * targets, targets


strengths = st.floats(1e-3, 2.0)
steps = st.floats(1e-4, 0.1)


# The projection


@settings(max_examples=40)
@given(st.data(), st.integers(1, 6), st.floats(0.01, 3.0))
def test_the_projection_is_what_a_general_solver_finds(
    data: st.DataObject, n: int, strength: float
) -> None:
    """All 2^P - 1 constraints, word for word."""
    some = st.floats(-5, 5).map(lambda value: round(value, 3))
    dual = np.array(data.draw(st.lists(some, min_size=n, max_size=n)))
    targets = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))) / 10
    sets = np.array([s for s in itertools.product((0.0, 1.0), repeat=n) if any(s)])

    def distance(mu: np.ndarray) -> float:
        return float(np.sum((targets * (mu - dual)) ** 2))

    found = minimize(
        distance,
        np.zeros(n),
        jac=lambda mu: 2 * targets**2 * (mu - dual),
        method="SLSQP",
        constraints=LinearConstraint(sets * targets, -strength, np.inf),
        options={"ftol": 1e-14, "maxiter": 1_000},
    )
    ours = project_dual(dual, targets, strength)
    assert (sets @ (targets * ours)).min() >= -strength - 1e-12
    assert distance(ours) == pytest.approx(found.fun, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 50, 1_000])
@pytest.mark.parametrize("strength", [1e-6, 0.1, 10.0, 1e6])
def test_the_projection_has_a_certificate_at_any_size(n: int, strength: float) -> None:
    """It is nearest iff no feasible y has <dual - nearest, y - nearest> > 0 in the norm's product.

    The residual is 0 or negative, so the best y puts all of -strength on its largest entry.
    """
    rng = np.random.default_rng(n)
    targets = rng.dirichlet(np.full(n, 2.0))
    z = rng.normal(0, 3, n) * rng.choice([1e-3, 1.0], n)
    nearest = project_dual(z / targets, targets, strength) * targets
    residual = z - nearest
    assert -np.minimum(nearest, 0).sum() <= strength * (1 + 1e-12) + 1e-12
    assert residual.max() <= 1e-12
    scale = max(1.0, abs(residual @ nearest))
    assert strength * -residual.min() == pytest.approx(residual @ nearest, abs=1e-9 * scale)


@given(shops(), strengths, steps)
def test_the_boost_is_the_projected_sum_of_the_papers_gradients(
    shop: tuple[np.ndarray, np.ndarray], strength: float, step: float
) -> None:
    exposure, targets = shop
    gradients = targets * exposure.sum() - exposure
    dual = project_dual(-step * gradients / targets**2, targets, strength)
    boost = p_mmf_boost(exposure, targets, strength, step)
    assert boost == pytest.approx(np.maximum(0, -dual), rel=1e-9, abs=1e-9)


# What a boost promises


@given(shops(), strengths, steps)
def test_a_boost_is_bounded_and_those_at_the_mean_have_none(
    shop: tuple[np.ndarray, np.ndarray], strength: float, step: float
) -> None:
    exposure, targets = shop
    boost = p_mmf_boost(exposure, targets, strength, step)
    assert (boost >= 0).all()
    assert (boost <= strength / targets).all()
    assert targets @ boost <= strength * (1 + 1e-12)
    ratios = exposure / targets
    ahead = ratios >= exposure.sum() + 1e-9
    assert (boost[ahead] == 0).all()
    if ratios.min() < exposure.sum() * (1 - 1e-9):
        assert boost[ratios.argmin()] > 0


@given(shops(), strengths, steps)
def test_who_has_less_for_its_target_gets_no_less_and_equals_get_the_same(
    shop: tuple[np.ndarray, np.ndarray], strength: float, step: float
) -> None:
    exposure, targets = shop
    order = np.argsort(exposure / targets, kind="stable")
    price = (p_mmf_boost(exposure, targets, strength, step) * targets)[order]
    assert (np.diff(price) <= 1e-12 * (1 + price.max())).all()
    assert (np.diff(fair_co_boost(exposure, targets, strength)[order]) <= 0).all()
    twice = np.concatenate([exposure, exposure]), np.concatenate([targets, targets]) / 2
    boost = p_mmf_boost(*twice, strength, step)
    assert (boost[: len(exposure)] == boost[len(exposure) :]).all()


@given(shops(), strengths, steps, st.data())
def test_more_exposure_never_raises_ones_own_boost(
    shop: tuple[np.ndarray, np.ndarray], strength: float, step: float, data: st.DataObject
) -> None:
    exposure, targets = shop
    p = data.draw(st.integers(0, len(exposure) - 1))
    more = exposure.copy()
    more[p] += data.draw(st.floats(0, 100))
    before, after = (p_mmf_boost(e, targets, strength, step)[p] for e in (exposure, more))
    assert after <= before + 1e-9 * (1 + before)


@given(shops(), strengths, steps, st.randoms(use_true_random=False))
def test_numbering_is_of_no_account(
    shop: tuple[np.ndarray, np.ndarray], strength: float, step: float, chance
) -> None:
    exposure, targets = shop
    order = np.array(chance.sample(range(len(targets)), len(targets)))
    mixed = p_mmf_boost(exposure[order], targets[order], strength, step)
    straight = p_mmf_boost(exposure, targets, strength, step)
    assert mixed == pytest.approx(straight[order], rel=1e-9, abs=1e-9)
    mixed = fair_co_boost(exposure[order], targets[order], strength)
    assert (mixed == fair_co_boost(exposure, targets, strength)[order]).all()


@given(shops(), strengths, steps, st.integers(0, 12), st.floats(0, 1e6))
def test_a_provider_without_a_target_is_as_if_it_were_not_there(
    shop: tuple[np.ndarray, np.ndarray], strength: float, step: float, at: int, seen: float
) -> None:
    exposure, targets = shop
    at = min(at, len(targets))
    more, aims = np.insert(exposure, at, seen), np.insert(targets, at, 0.0)
    for wide, narrow in (
        (p_mmf_boost(more, aims, strength, step), p_mmf_boost(exposure, targets, strength, step)),
        (fair_co_boost(more, aims, strength), fair_co_boost(exposure, targets, strength)),
    ):
        assert wide[at] == 0
        assert (np.delete(wide, at) == narrow).all()


@given(shops(), strengths)
def test_fair_co_gives_the_best_treated_nothing_and_closes_each_gap_in_proportion(
    shop: tuple[np.ndarray, np.ndarray], strength: float
) -> None:
    exposure, targets = shop
    boost = fair_co_boost(exposure, targets, strength)
    gaps = [
        max(float(exposure[q] / targets[q] - exposure[p] / targets[p]) for q in range(len(boost)))
        for p in range(len(boost))
    ]
    assert boost.tolist() == [strength * gap for gap in gaps]
    assert boost.min() == 0


@pytest.mark.parametrize(("strength", "step"), [(0.0, 0.1), (0.1, 0.0), (-1.0, 0.1), (0.1, -1.0)])
def test_no_strength_or_no_step_is_no_boost(strength: float, step: float) -> None:
    targets = np.array([0.5, 0.5])
    assert p_mmf_boost(np.array([0.0, 9.0]), targets, strength, step).tolist() == [0, 0]


def test_no_target_at_all_and_nothing_shown_yet_are_no_boost() -> None:
    none = np.zeros(3)
    assert p_mmf_boost(np.ones(3), none, 1.0, 1.0).tolist() == [0, 0, 0]
    assert fair_co_boost(np.ones(3), none, 1.0).tolist() == [0, 0, 0]
    assert p_mmf_boost(none, np.full(3, 1 / 3), 1.0, 1.0).tolist() == [0, 0, 0]


# Counters


@pytest.mark.parametrize("groups", [[0, 3], [0, 4], [2, 1_000_000], [-1], [1, -2], [0] * 11])
def test_a_list_that_does_not_fit_the_counters_is_refused_whole(groups: list[int]) -> None:
    exposure = np.zeros(3)
    with pytest.raises(IndexError):
        accumulate(exposure, np.array(groups, np.int32), WEIGHTS.copy())
    assert not exposure.any()


class Workers(RuleBasedStateMachine):
    """Several workers count, are merged in any order and restart; one dictionary knows the truth."""

    targets = np.array([0.4, 0.3, 0.2, 0.1])

    @initialize(n_workers=st.integers(2, 4))
    def start(self, n_workers: int) -> None:
        self.workers = [np.zeros(4) for _ in range(n_workers)]
        self.single = np.zeros(4)
        self.truth: dict[int, Fraction] = dict.fromkeys(range(4), Fraction(0))

    @rule(data=st.data(), groups=st.lists(st.integers(0, 3), max_size=10), times=st.integers(1, 99))
    def serve(self, data: st.DataObject, groups: list[int], times: int) -> None:
        worker = data.draw(st.integers(0, len(self.workers) - 1))
        rows = np.array(groups, np.int32)
        for _ in range(times):
            accumulate(self.workers[worker], rows, WEIGHTS.copy())
            accumulate(self.single, rows, WEIGHTS.copy())
        for group, discount in zip(groups, WEIGHTS.tolist(), strict=False):
            self.truth[group] += times * Fraction(round(Fraction(discount) / Fraction(GRID)))

    @precondition(lambda self: len(self.workers) > 1)
    @rule(data=st.data())
    def merge(self, data: st.DataObject) -> None:
        gone = self.workers.pop(data.draw(st.integers(0, len(self.workers) - 1)))
        self.workers[data.draw(st.integers(0, len(self.workers) - 1))] += gone

    @rule()
    def join(self) -> None:
        self.workers.append(np.zeros(4))

    @rule(data=st.data())
    def restart(self, data: st.DataObject) -> None:
        worker = data.draw(st.integers(0, len(self.workers) - 1))
        text = [repr(value) for value in self.workers[worker].tolist()]
        self.workers[worker] = np.array([float(value) for value in text])

    @rule(data=st.data(), strength=strengths, step=steps)
    def boosts_are_those_of_one_worker(
        self, data: st.DataObject, strength: float, step: float
    ) -> None:
        total = np.zeros(4)
        for worker in data.draw(st.permutations(self.workers)):
            total += worker
        for boost in (
            lambda e: p_mmf_boost(e, self.targets, strength, step),
            lambda e: fair_co_boost(e, self.targets, strength),
        ):
            assert boost(total).tolist() == boost(self.single).tolist()

    @invariant()
    def totals_are_exact(self) -> None:
        for total in (sum(self.workers), sum(reversed(self.workers)), self.single):
            units = [Fraction(value) / Fraction(GRID) for value in total.tolist()]
            assert units == list(self.truth.values())


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)


# A shop

Boost = Callable[[np.ndarray, np.ndarray], np.ndarray]


def simulate(boost: Boost, n_lists: int = 2_000) -> tuple[np.ndarray, np.ndarray, float]:
    """A shop whose providers' supply is Zipf's, and who has more is better liked too.

    Returns the exposure per target after each list `[lists, P]`, the shares and the DCG kept.
    """
    rng = np.random.default_rng(2023)
    supply = np.maximum(1, 120 // np.arange(1, 21))
    n = len(supply)
    owner = np.repeat(np.arange(n, dtype=np.int32), supply)
    liked = 0.5 + 0.2 * (n - owner) / n
    targets = np.sqrt(supply) / np.sqrt(supply).sum()
    weights = WEIGHTS.copy()
    exposure, history = np.zeros(n), np.empty((n_lists, n))
    got = ideal = 0.0
    for number in range(n_lists):
        scores = liked + 0.15 * rng.standard_normal(len(owner))
        raised = scores + boost(exposure, targets)[owner]
        shown = np.argsort(-raised, kind="stable")[:SIZE]
        accumulate(exposure, owner[shown], weights)
        history[number] = exposure / targets
        got += float(scores[shown] @ weights)
        ideal += float(np.sort(scores)[::-1][:SIZE] @ weights)
    return history, targets, got / ideal


def worst(history: np.ndarray) -> float:
    """The least exposure per target, where 1 is a share that is met."""
    return float(history[-1].min() / (len(history) * WEIGHTS.sum()))


def test_p_mmf_raises_the_worst_provider_of_a_shop_at_a_price_that_strength_sets() -> None:
    plain, _, kept = simulate(lambda e, t: np.zeros(len(e)))
    rows = {"no boost": (worst(plain), kept)}
    for strength in (0.02, 0.1):
        history, _, kept = simulate(lambda e, t, s=strength: p_mmf_boost(e, t, s, 1e-4))
        rows[f"strength {strength}"] = (worst(history), kept)
    print({name: (round(low, 3), round(kept, 4)) for name, (low, kept) in rows.items()})
    lows, kept_dcg = zip(*rows.values(), strict=True)
    assert lows[0] < 0.1
    assert lows[0] < lows[1] < lows[2]
    assert lows[2] > 0.9
    assert kept_dcg[0] == 1
    assert 1 > kept_dcg[1] > kept_dcg[2] > 0.94


def test_fair_cos_gap_shrinks_as_one_over_the_number_of_lists() -> None:
    history, _, kept = simulate(lambda e, t: fair_co_boost(e, t, 0.01))
    mean = history / np.arange(1, len(history) + 1)[:, np.newaxis]
    gaps = mean.max(axis=1) - mean.min(axis=1)
    at = np.array([250, 500, 1_000, 2_000])
    print("FairCo: gap times lists", (gaps[at - 1] * at).round(1).tolist(), "DCG kept", kept)
    assert (gaps[at - 1] * at).max() < 3 * (gaps[at - 1] * at).min()
    assert gaps[1_999] < gaps[249] / 4
    plain, _, _ = simulate(lambda e, t: np.zeros(len(e)))
    assert gaps[1_999] < 0.05 * (plain[-1].max() - plain[-1].min()) / 2_000
    assert worst(history) > 0.95


def test_p_mmf_online_comes_near_the_best_that_could_be_known_afterwards() -> None:
    """Against the linear program over all lists at once, for sums of scores plus strength * min."""
    rng = np.random.default_rng(7)
    n_lists, n_items, size, strength = 600, 12, 3, 0.25
    owner = np.repeat(np.arange(4, dtype=np.int32), [6, 3, 2, 1])
    targets = np.array([0.4, 0.3, 0.2, 0.1])
    scores = rng.random((n_lists, n_items)) + np.array([0.6, 0.3, 0.1, 0.0])[owner]
    ones = np.ones(size)

    def value(boosted: bool) -> float:
        exposure, total = np.zeros(4), 0.0
        for row in scores:
            boost = p_mmf_boost(exposure, targets, strength, 0.004) if boosted else np.zeros(4)
            shown = np.argsort(-(row + boost[owner]), kind="stable")[:size].astype(np.int32)
            accumulate(exposure, owner[shown], ones)
            total += row[shown].sum()
        return total + strength * float((exposure / targets).min())

    # Columns: x[list, item] and the minimum m. Rows: size items a list; m <= e_p / target_p.
    n = scores.size
    lists, items = np.divmod(np.arange(n), n_items)
    each = coo_array((np.ones(n), (lists, np.arange(n))), (n_lists, n + 1))
    shares = coo_array((-1 / targets[owner[items]], (owner[items], np.arange(n))), (4, n + 1))
    least = coo_array((np.ones(4), (np.arange(4), np.full(4, n))), (4, n + 1))
    best = linprog(
        -np.append(scores.ravel(), strength),
        A_ub=shares + least,
        b_ub=np.zeros(4),
        A_eq=each,
        b_eq=np.full(n_lists, float(size)),
        bounds=[(0, 1)] * n + [(0, None)],
        method="highs",
    )
    plain, online = value(False), value(True)
    print("plain", plain, "online", online, "best", -best.fun)
    assert plain < online <= -best.fun * (1 + 1e-9)
    assert -best.fun - online < 0.1 * (-best.fun - plain)
