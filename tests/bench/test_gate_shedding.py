"""Who is turned away under overload: one group more than another fails, and noise alone does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.gate import Result, Status, Verdict
from strategies.results import budget, decided, load

GAP = "load.groups.income.accepted.worst_gap"


def overloaded(
    seed: int, *, more: float = 0.0, seconds: int = 60, rate: int = 40, linked: float = 0.25
) -> Result:
    """Half of the requests of a server that is asked for twice what it takes, second by second.

    more: how much likelier a request of "low" is refused. linked: how far seconds differ.
    """
    rng = np.random.default_rng(seed)
    n = seconds * rate
    starts_ns = np.sort(rng.integers(0, seconds * 10**9, n))
    in_second = np.clip(0.5 + linked * rng.standard_normal(seconds), 0.05, 0.9)
    labels = rng.choice(["low", "high", ""], n, p=[0.3, 0.6, 0.1])
    chance = in_second[starts_ns // 10**9] + np.where(labels == "low", more, 0.0)
    refused = rng.random(n) < chance
    latencies = np.where(refused, np.inf, rng.lognormal(3, 0.5, n))
    made = load(latencies, deadline_ms=100)
    return replace(
        made, latencies_ms=latencies, starts_ns=starts_ns, refused=refused,
        groups={"income": labels.astype(np.str_)},
    )  # fmt: skip


def line(verdict: Verdict) -> Status:
    (one,) = (line for line in verdict.lines if line.metric.startswith("load.groups"))
    return one.status


def verdict(result: Result, metric: str = GAP, extra: str = "", **bounds: float) -> Verdict:
    return decided(budget(metric, on="interval", extra=extra, **bounds), result)


def test_a_fair_overload_passes_and_tells_its_cells() -> None:
    found = verdict(overloaded(1, seconds=240), at_most=0.15)
    assert line(found) is Status.PASS
    (one,) = (line for line in found.lines if line.metric == GAP)
    assert {cell.label for cell in one.cells} == {"low", "high"}
    assert one.blocks is not None
    assert one.blocks >= 200
    assert one.value is not None
    assert one.value < 0.05


def test_a_group_that_is_turned_away_more_fails() -> None:
    assert line(verdict(overloaded(2, more=0.35, seconds=120), at_most=0.1)) is Status.FAIL


def test_noise_alone_fails_no_more_than_its_rate() -> None:
    """The truth stands on the bound; seconds differ far more than independent requests would."""
    runs, fails, passes = 60, 0, 0
    for seed in range(runs):
        status = line(verdict(overloaded(seed, more=0.08, seconds=60), at_most=0.08))
        fails += status is Status.FAIL
        passes += status is Status.PASS
    assert fails / runs <= 0.05
    assert passes / runs <= 0.05


@pytest.mark.parametrize("what", ["accepted", "answered", "in_time"])
def test_each_share_is_that_of_its_requests(what: str) -> None:
    result = overloaded(3)
    assert result.latencies_ms is not None
    good = {
        "accepted": ~result.refused, "answered": np.isfinite(result.latencies_ms),
        "in_time": result.latencies_ms <= 100,
    }[what]  # fmt: skip
    metric = f"load.groups.income.{what}.worst"
    (one,) = (line for line in verdict(result, metric, at_least=0.1).lines if line.metric == metric)
    labels = result.groups["income"]
    assert one.value == pytest.approx(
        min(good[labels == of].mean() for of in ("low", "high")), abs=0.02
    )


@pytest.mark.parametrize(
    ("result", "metric", "status", "told"),
    [
        (overloaded(4), "load.groups.sex.accepted.worst_gap", Status.FAIL, "there are groups of: income"),
        (replace(overloaded(4), groups={}), GAP, Status.FAIL, "there are groups of: none"),
        (replace(overloaded(4), latencies_ms=None), GAP, Status.FAIL, "no samples"),
        (overloaded(4, seconds=9), GAP, Status.NOT_ENOUGH, "blocks of time, needed: 20"),
        (load([1.0], valid=False, void_because="late"), GAP, Status.NOT_ENOUGH, "is void: late"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_no_pass(
    result: Result, metric: str, status: Status, told: str
) -> None:
    found = verdict(result, metric, at_most=0.9)
    assert line(found) is status
    assert any(told in one.why for one in found.lines)


def test_one_group_is_nothing_to_compare_and_a_group_can_be_left_out() -> None:
    result = overloaded(5)
    left = verdict(result, extra='leave_out = ["low"]', at_most=0.9)
    assert line(left) is Status.FAIL
    assert any("has 1 groups to compare" in one.why for one in left.lines)
    wrong = verdict(result, extra='leave_out = ["lower"]', at_most=0.9)
    assert any("leave_out names 'lower'" in one.why for one in wrong.lines)


MAKERS = "load.exposure.tier.accepted.worst_gap"


def shed(seed: int, *, unfair: bool, seconds: int = 120, rate: int = 40) -> Result:
    """Half is refused; unfair: lists that give much to small makers more than others."""
    rng = np.random.default_rng(seed)
    n = seconds * rate
    small = rng.uniform(0, 2, n)
    refused = rng.random(n) < (small / 2 if unfair else 0.5)
    latencies = np.where(refused, np.inf, 10.0)
    known = rng.random(n) < 0.9
    exposure = {
        group: np.where(known, own, np.nan)
        for group, own in (("small", small), ("large", 4 - small))
    }
    return replace(
        load(latencies, deadline_ms=100), latencies_ms=latencies, refused=refused,
        starts_ns=np.sort(rng.integers(0, seconds * 10**9, n)), exposure={"tier": exposure},
    )  # fmt: skip


def of_makers(result: Result, metric: str = MAKERS, **bounds: float) -> Any:
    (one,) = (x for x in verdict(result, metric, **bounds).lines if x.metric == metric)
    return one


def test_makers_who_pay_for_the_overload_are_seen() -> None:
    fair = of_makers(shed(1, unfair=False), at_most=0.1)
    assert fair.status is Status.PASS
    unfair = of_makers(shed(1, unfair=True), at_most=0.1)
    assert unfair.status is Status.FAIL
    # E[small (1 - small / 2)] / E[small] = 1/3; of large (4 - small): (2 - 1/3) / 3.
    gap = pytest.approx(5 / 9 - 1 / 3, abs=0.02)
    assert unfair.value == gap
    assert {cell.label: cell.value for cell in unfair.cells}["small"] == gap
    assert unfair.n == pytest.approx(0.9 * 4800, rel=0.02)


def test_without_quiet_lists_nothing_is_known_of_makers() -> None:
    line = of_makers(overloaded(1), at_most=0.1)
    assert line.status is Status.FAIL
    assert "share = 0 asks the quiet server nothing" in line.why


def test_a_group_of_makers_can_be_left_out_by_name() -> None:
    result = shed(1, unfair=True)
    exposure = {**result.exposure["tier"], "unknown": np.where(result.refused, 4.0, 0.0)}
    three = replace(result, exposure={"tier": exposure})
    seen = verdict(three, MAKERS, at_most=0.5, extra='leave_out = ["unknown"]')
    (line,) = (x for x in seen.lines if x.metric == MAKERS)
    assert {cell.label for cell in line.cells} == {"small", "large"}
    assert line.value == pytest.approx(5 / 9 - 1 / 3, abs=0.02)
