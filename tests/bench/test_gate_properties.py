"""The verdict as a function: worse data never helps, exact intervals are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import quantile_test

from bench.gate import Result, Status, evaluate
from bench.gate.intervals import (
    percentile,
    percentile_interval,
    requests_needed,
    share_interval,
)
from strategies.results import TODAY, budget, budgets, decided, estimate, invariants, load, quality

RANK = {Status.FAIL: 0, Status.NOT_ENOUGH: 1, Status.PASS: 2}
VALUES = st.floats(-1, 1)
WIDTHS = st.one_of(st.just(0.0), st.floats(1e-6, 0.5))
LATENCIES = st.lists(st.one_of(st.floats(0.1, 100), st.just(math.inf)), min_size=1, max_size=600)


def of_metric(value: float, below: float, above: float, n: int) -> Result:
    return quality(metrics={"m": estimate(value, value - below, value + above, n)})


@given(
    value=VALUES, below=WIDTHS, above=WIDTHS, n=st.integers(1, 50),
    bound=VALUES, drop=st.floats(0, 1), on=st.sampled_from(["value", "interval"]),
    min_n=st.integers(1, 60),
)  # fmt: skip
def test_a_worse_value_never_improves_the_status(
    value: float, below: float, above: float, n: int, bound: float, drop: float, on: str, min_n: int
) -> None:
    line = budget("quality.m", on=on, at_least=bound, min_n=min_n)
    better = decided(line, of_metric(value, below, above, n)).status
    worse = decided(line, of_metric(value - drop, below, above, n)).status
    assert RANK[worse] <= RANK[better]


@given(
    value=VALUES, below=st.floats(0.001, 0.5), above=st.floats(0.001, 0.5), bound=VALUES,
    wider=st.floats(1, 4), fewer=st.integers(0, 40),
)  # fmt: skip
def test_less_evidence_never_turns_into_a_pass(
    value: float, below: float, above: float, bound: float, wider: float, fewer: int
) -> None:
    line = budget("quality.m", on="interval", at_least=bound, min_n=30)
    full = decided(line, of_metric(value, below, above, 50)).status
    less = decided(line, of_metric(value, below * wider, above * wider, 50 - fewer)).status
    assert not (full is not Status.PASS and less is Status.PASS)


@given(latencies=LATENCIES, limit=st.floats(1, 90), data=st.data())
def test_slower_or_failed_requests_never_improve_a_percentile_line(
    latencies: list[float], limit: float, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(latencies) - 1))
    slower = list(latencies)
    slower[place] = data.draw(st.sampled_from([math.inf, slower[place] * 3]))
    line = budget("load.latency_ms.p90", on="interval", at_most=limit)
    before, after = decided(line, load(latencies)).status, decided(line, load(slower)).status
    assert RANK[after] <= RANK[before]


@given(
    statuses=st.lists(st.sampled_from(["pass", "fail", "open"]), min_size=1, max_size=6),
    order=st.randoms(),
)
def test_the_whole_verdict_is_the_worst_line_in_any_order(
    statuses: list[str], order: object
) -> None:
    lines = {
        "pass": budget("quality.ndcg_at_20", at_least=0.01),
        "fail": budget("quality.ndcg_at_20", at_least=0.99),
        "open": budget("quality.ndcg_at_20", at_least=0.01, min_n=10**6),
    }
    order.shuffle(statuses)  # type: ignore[attr-defined]
    verdict = evaluate(budgets(*map(lines.__getitem__, statuses)), [quality()], today=TODAY)
    expected = (
        Status.FAIL if "fail" in statuses
        else Status.NOT_ENOUGH if "open" in statuses else Status.PASS
    )  # fmt: skip
    assert verdict.status is expected
    assert verdict == evaluate(budgets(*map(lines.__getitem__, statuses)), [quality()], today=TODAY)


@given(count=st.integers(0, 5), more=st.integers(1, 5), checks=st.integers(0, 100))
def test_more_violations_never_help(count: int, more: int, checks: int) -> None:
    line = budget("invariants.violations", at_most=2, min_n=50)
    fewer = decided(line, invariants(count, checks)).status
    assert RANK[decided(line, invariants(count + more, checks)).status] <= RANK[fewer]


@given(values=st.lists(st.floats(0, 1000), min_size=1, max_size=60), q=st.floats(0.01, 0.99))
def test_a_percentile_is_the_smallest_value_that_enough_do_not_exceed(
    values: list[float], q: float
) -> None:
    found = percentile(values, q)
    reached = [v for v in sorted(values) if sum(w <= v for w in values) >= q * len(values) - 1e-9]
    assert found == reached[0]


@given(n=st.integers(1, 400), q=st.sampled_from([0.5, 0.9, 0.99]), seed=st.integers(0, 99))
def test_percentile_intervals_agree_with_scipys_exact_test(n: int, q: float, seed: int) -> None:
    values = np.random.default_rng(seed).gamma(2.0, 10.0, n)
    low, high = percentile_interval(values, q, 0.95)
    # scipy's one-sided intervals at 97.5 % are the ends of the two-sided one at 95 %.
    upper = quantile_test(values, p=q, alternative="less").confidence_interval(0.975).high
    lower = quantile_test(values, p=q, alternative="greater").confidence_interval(0.975).low
    assert high == (math.inf if math.isnan(upper) else upper)
    assert low == (-math.inf if math.isnan(lower) else lower)


@pytest.mark.parametrize(("late", "needed"), [(0, 459), (1, 662), (10, 2010), (100, 12571)])
def test_the_upper_end_is_mlperfs_early_stopping_rule(late: int, needed: int) -> None:
    """The published least n at p99, P <= .01, for so many late requests."""
    for n, passes in ((needed - 1, False), (needed, True)):
        values = [1.0] * (n - late) + [9.0] * late
        _, high = percentile_interval(values, 0.99, 0.98)
        assert (high <= 5) is passes


def test_the_requests_still_needed_are_just_enough() -> None:
    n = requests_needed(2, 400, 0.99, 0.025)
    assert n is not None
    for size, passes in ((n, True), (n - 1, False)):
        late = math.ceil(2 / 400 * size)
        values = [1.0] * (size - late) + [9.0] * late
        assert (percentile_interval(values, 0.99, 0.95)[1] <= 5) is passes
    assert requests_needed(4, 400, 0.99, 0.025) is None


def test_a_share_of_zero_has_the_exact_upper_end() -> None:
    low, high = share_interval(0, 100, 0.95)
    assert low == 0
    assert high == pytest.approx(1 - 0.025 ** (1 / 100))
