"""What a line needs before any run: published sample sizes and simulated power as oracles."""

from __future__ import annotations

import numpy as np
import pytest

from bench.gate import parse_budgets
from bench.gate.asked import Evidence
from bench.gate.blocks import Clock, dependence
from bench.gate.explain import as_json, explained, head_text, need_text
from bench.gate.means import mean_limits, mean_of
from bench.gate.power import (
    percentile_power,
    requests_for_percentile,
    users_for_mean,
    users_per_group_for_gap,
    users_per_group_for_ratio,
    users_per_group_for_shares,
)
from strategies.results import budget, budgets
from strategies.users import before, evaluated


@pytest.mark.parametrize(
    ("rate", "users"), [(0.02, 17_341), (0.05, 6_745), (0.10, 3_213), (0.30, 859)]
)
def test_users_for_a_ratio_of_four_fifths_are_the_published_ones(rate: float, users: int) -> None:
    assert users_per_group_for_shares(rate, 0.8 * rate, 0.025, 0.8) == pytest.approx(
        users, rel=2e-3
    )


def test_users_for_a_gap_of_a_hundredth_are_the_published_ones() -> None:
    assert users_per_group_for_gap(0.3, 0.01, 0.025, 0.8) == pytest.approx(14_128, rel=1e-3)


@pytest.mark.parametrize(("n", "power"), [(2_000, 0.46), (5_000, 0.95), (10_000, 1.0)])
def test_requests_have_the_power_that_loadgens_rule_was_seen_to_have(n: int, power: float) -> None:
    got = percentile_power(n, 0.99, 0.005, 0.01, passes=True)
    assert got == pytest.approx(power, abs=0.01)


def test_fifty_thousand_requests_tell_eight_in_a_thousand_from_ten() -> None:
    assert percentile_power(50_000, 0.99, 0.008, 0.01, passes=True) == pytest.approx(0.99, abs=0.01)


def test_the_requests_needed_are_enough_and_not_far_too_many() -> None:
    for passes, late in ((True, 0.005), (False, 0.015)):
        n = requests_for_percentile(0.99, late, 0.025, 0.8, passes=passes)
        assert n is not None
        assert percentile_power(n, 0.99, late, 0.025, passes=passes) >= 0.8
        assert percentile_power(n * 4 // 5, 0.99, late, 0.025, passes=passes) < 0.8
    assert requests_for_percentile(0.99, 0.01, 0.025, 0.8, passes=True) is None


def test_the_users_needed_give_the_power_that_was_declared() -> None:
    n = users_for_mean(0.3, 0.03, 0.01, 0.8)
    rng = np.random.default_rng(1)
    means = rng.normal(0.03, 0.3, (2000, n))
    told = [mean_limits(mean_of(row), 0.01, 0.01)[0] >= 0 for row in means]
    assert np.mean(told) == pytest.approx(0.8, abs=0.03)


def test_the_users_needed_for_a_ratio_give_the_power_that_was_declared() -> None:
    n = users_per_group_for_ratio(0.3, 0.25, 0.8, 0.1, 0.025, 0.8)
    rng = np.random.default_rng(2)
    first = rng.normal(0.9 * 0.25, 0.3, (1000, n)).mean(axis=1)
    second = rng.normal(0.25, 0.3, (1000, n)).mean(axis=1)
    z = (first - 0.8 * second) / (0.3 * np.sqrt(1 + 0.64) / np.sqrt(n))
    assert np.mean(z > 1.96) == pytest.approx(0.8, abs=0.04)


MARGIN = budget(
    "quality.ndcg_at_20", on="interval", margin=0.005, min_n=1000,
    extra='margin_is = "absolute"\nspread = 0.1\nowner = "shelf"\nexpires = 2027-01-01',
)  # fmt: skip


def words(*lines: str, pilot: Evidence | None = None) -> list[str]:
    read = budgets(*lines)
    found = explained(read, pilot or Evidence(()))
    return [
        f"{one.means}|{one.passes}|{one.fails}|{one.evidence}|{need_text(one)}" for one in found
    ]


def test_a_line_is_told_in_plain_words_with_its_own_error_rates() -> None:
    p99 = budget("load.latency_ms.p99", on="interval", at_most=50, min_n=1000)
    counted = budget("invariants.violations", at_most=0, min_n=5000)
    margin, tail, count = words(MARGIN, p99, counted)
    assert "may be worse than the baseline by at most 0.005" in margin
    assert "lower limit (97.5 % sure) is at least -0.005" in margin
    assert "upper limit (97.5 % sure) is below -0.005" in margin
    assert "3,142 users to pass" in margin
    assert "368 blocks of time to pass" in tail
    assert "at least 1,000 requests" in tail
    assert "counted, not estimated" in count
    assert "99.5 % sure" in words(*[MARGIN] * 10)[0]
    assert "10 lines, one look" in head_text(budgets(*[MARGIN] * 10))


def test_a_guess_is_told_as_one_and_a_pilot_replaces_it() -> None:
    bare = MARGIN.replace("spread = 0.1\n", "")
    assert "a guess" in words(bare)[0]
    rng = np.random.default_rng(3)
    theirs = rng.beta(1, 3, 4000)
    ours = theirs + rng.normal(0, 0.05, 4000)
    pilot = Evidence([evaluated({"ndcg_at_20": ours})], [before({"ndcg_at_20": theirs})])
    (told,) = words(bare, pilot=pilot)
    assert "a spread of 0.0486" in told
    assert "of the results given" in told


def test_what_cannot_be_reckoned_says_what_to_declare() -> None:
    ratio = budget("quality.groups.income.recall_at_20.worst_ratio", on="interval", at_least=0.8)
    assert "declare effect" in words(ratio)[0]
    assert "declare expected" in words(ratio + "effect = 0.1\n")[0]
    assert "users in each group to pass" in words(ratio + "effect = 0.1\nexpected = 0.25\n")[0]


def test_the_json_has_the_same_numbers() -> None:
    read = parse_budgets('schema_version = 1\nname = "t"\n' + MARGIN, "b")
    document = as_json(read, explained(read, Evidence(())))
    (line,) = document["lines"]
    assert line["need"]["to_pass"] == users_for_mean(0.1, 0.005, 0.025, 0.8)
    assert line["told"].startswith("3,142 users to pass")
    assert (line["owner"], line["expires"]) == ("shelf", "2027-01-01")


def test_a_design_effect_of_ten_needs_ten_times_the_requests() -> None:
    """What `explain` says of independent requests, over blocks: 10 late together count once."""
    late = np.repeat(np.random.default_rng(4).random(4000) < 0.02, 10)
    clock = Clock(np.arange(40_000) * 100_000_000, np.zeros(40_000, np.int64))
    assert dependence(late, clock, 1.0).design_effect == pytest.approx(10, rel=0.02)
