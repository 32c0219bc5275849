"""`make gate-selftest` in short: the gate errs as seldom as it says, and a gate that does not is seen."""

from __future__ import annotations

import pytest

from bench.gate import paired
from bench.gate.levels import levels
from bench.gate.means import Limits, Mean, mean_limits
from bench.gate.selftest import ALPHA, BUDGETS, POWER, Rate, rates_of, selftest, subjects

pytestmark = pytest.mark.slow


def test_every_promise_is_kept_in_a_short_run() -> None:
    lines: list[str] = []
    assert selftest(25, 1, lines.append), "\n".join(lines)
    assert len(lines) == 3 + len(subjects(BUDGETS)) + 3


def test_a_gate_whose_intervals_are_too_narrow_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrow(mean: Mean, alpha_low: float, alpha_high: float) -> Limits:
        low, high = mean_limits(mean, alpha_low, alpha_high)
        return mean.value - (mean.value - low) / 3, mean.value + (high - mean.value) / 3

    rates, subject = levels(BUDGETS), subjects(BUDGETS)[0]
    honest = rates_of(subject, 150, 1, rates.of_pass, rates.of_fail)
    assert honest.alarms.kept
    assert honest.false_passes.kept
    monkeypatch.setattr(paired, "mean_limits", narrow)
    broken = rates_of(subject, 150, 1, rates.of_pass, rates.of_fail)
    assert not broken.alarms.kept
    assert not broken.false_passes.kept


def test_a_gate_that_never_decides_is_caught() -> None:
    assert not Rate(0, 100, least=POWER).kept
    assert Rate(78, 100, least=POWER).kept
    assert Rate(7, 100, most=ALPHA).kept
    assert not Rate(15, 100, most=ALPHA).kept
