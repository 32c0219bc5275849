"""Candidate against baseline: paired by user, with a margin, never with itself by accident."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bench.gate import Result, Status
from bench.gate.means import mean_limits, mean_of, paired_ratio, ratio_limits
from strategies.results import budget, decided
from strategies.users import before, evaluated

NDCG = "ndcg_at_20"
MARGIN = budget(
    f"quality.{NDCG}", on="interval", margin=0.01, min_n=100, extra='margin_is = "absolute"'
)
RELATIVE = MARGIN.replace("absolute", "relative").replace("0.01", "0.05")


def status(line: str, ours: Result, *theirs: Result) -> Status:
    return decided(line, ours, baseline=theirs).lines[-1].status


def users(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).beta(1, 3, n)


def test_a_candidate_that_is_no_worse_passes_and_one_that_is_fails() -> None:
    theirs = users(2000)
    noise = np.random.default_rng(1).normal(0, 0.05, 2000)
    assert status(MARGIN, evaluated({NDCG: theirs + noise}), before({NDCG: theirs})) is Status.PASS
    worse = theirs + noise - 0.03
    assert status(MARGIN, evaluated({NDCG: worse}), before({NDCG: theirs})) is Status.FAIL
    near = theirs + noise - 0.0095
    verdict = decided(MARGIN, evaluated({NDCG: near}), baseline=[before({NDCG: theirs})])
    line = verdict.lines[-1]
    assert line.status is Status.NOT_ENOUGH
    assert (line.kind, line.low_bound, line.high_bound) == ("margin", -0.01, None)
    assert line.value == pytest.approx(float((near - theirs).mean()))


def test_the_interval_is_students_of_the_paired_difference() -> None:
    theirs, ours = users(300), users(300, 1)
    line = decided(MARGIN, evaluated({NDCG: ours}), baseline=[before({NDCG: theirs})]).lines[-1]
    oracle = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    assert (line.low, line.high) == (pytest.approx(oracle.low), pytest.approx(oracle.high))
    assert (line.alpha_low, line.alpha_high) == (0.025, 0.025)


def test_students_limits_agree_with_a_bca_bootstrap_of_users() -> None:
    values = np.where(np.random.default_rng(3).random(1500) < 0.6, 0.0, users(1500)) - 0.05
    low, high = mean_limits(mean_of(values), 0.025, 0.025)
    oracle = stats.bootstrap((values,), np.mean, n_resamples=3000, rng=4).confidence_interval
    assert (low, high) == (
        pytest.approx(oracle.low, abs=2e-3),
        pytest.approx(oracle.high, abs=2e-3),
    )


def test_limits_of_a_ratio_are_where_the_test_of_the_difference_turns() -> None:
    """Fieller: r is inside iff c - r b is not told from 0."""
    ours, theirs = users(200, 5), users(200, 6)
    ours = 0.7 * theirs + 0.3 * ours
    low, high = ratio_limits(*paired_ratio(ours, theirs), 0.025, 0.01)
    for limit, alpha, side in ((low, 0.025, "greater"), (high, 0.01, "less")):
        p = stats.ttest_1samp(ours - limit * theirs, 0.0, alternative=side).pvalue
        assert p == pytest.approx(alpha, rel=1e-6)


def test_a_relative_margin_is_a_share_of_the_baseline() -> None:
    theirs = users(4000) + 0.1
    noise = 0.01 * (users(4000, 1) - 0.25)
    assert (
        status(RELATIVE, evaluated({NDCG: theirs * 0.99 + noise}), before({NDCG: theirs}))
        is Status.PASS
    )
    assert status(RELATIVE, evaluated({NDCG: theirs * 0.9}), before({NDCG: theirs})) is Status.FAIL
    line = decided(
        RELATIVE, evaluated({NDCG: theirs * 0.9}), baseline=[before({NDCG: theirs})]
    ).lines[-1]
    assert line.value == pytest.approx(-0.1)
    assert line.relative
    assert line.bound == "worse than the baseline by at most 5%"


def test_users_are_joined_by_id_and_not_by_place() -> None:
    theirs, order = users(500), np.random.default_rng(7).permutation(500)
    ids = [f"u{place:05}" for place in range(500)]
    same = evaluated({NDCG: theirs[order] + 1e-3 * users(500)}, ids=[ids[p] for p in order])
    line = decided(MARGIN, same, baseline=[before({NDCG: theirs}, ids=ids)]).lines[-1]
    assert line.status is Status.PASS
    assert line.high - line.low < 1e-3  # type: ignore[operator]


def test_users_on_one_side_only_fail_and_are_named() -> None:
    theirs = users(300)
    ours = evaluated({NDCG: theirs[:299] + 0.1}, ids=[f"u{p:05}" for p in range(299)])
    line = decided(MARGIN, ours, baseline=[before({NDCG: theirs})]).lines[-1]
    assert line.status is Status.FAIL
    assert "1 users are only in the baseline's arrays, such as 'u00299'" in line.why


def test_a_value_on_one_side_only_fails_instead_of_being_dropped() -> None:
    theirs, ours = users(300), users(300)
    ours[7] = np.nan
    line = decided(MARGIN, evaluated({NDCG: ours}), baseline=[before({NDCG: theirs})]).lines[-1]
    assert line.status is Status.FAIL
    assert "1 users have a value on one side only" in line.why


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"dataset": {"digest": "f" * 64}}, "measured on other data"),
        ({"dataset": {}}, "does not tell the digest"),
        ({"protocol": {"on": "test", "n_users": 300, "k": 10}}, "differs"),
    ],
)
def test_another_data_set_or_cut_is_no_baseline(changes: dict[str, object], told: str) -> None:
    theirs = users(300)
    ours = evaluated({NDCG: theirs + 0.1 * users(300, 1)})
    line = decided(MARGIN, ours, baseline=[before({NDCG: theirs}, **changes)]).lines[-1]
    assert line.status is Status.FAIL
    assert told in line.why


def test_a_margin_without_a_baseline_fails() -> None:
    verdict = decided(MARGIN, evaluated({NDCG: users(300)}))
    assert [line.status for line in verdict.lines] == [Status.PASS, Status.FAIL, Status.FAIL]
    assert verdict.lines[1].metric == "baseline"


def test_the_candidate_as_its_own_baseline_is_noticed_and_no_pass() -> None:
    ours = evaluated({NDCG: users(300)})
    verdict = decided(MARGIN, ours, baseline=[ours])
    assert verdict.lines[1].status is Status.FAIL
    assert "the baseline is the candidate itself" in verdict.lines[1].why
    declared = MARGIN.replace("[[budget]]", "baseline_may_be_candidate = true\n[[budget]]")
    assert decided(declared, ours, baseline=[ours]).status is Status.PASS


def test_a_difference_of_nothing_between_two_bundles_is_no_evidence() -> None:
    theirs = users(300)
    verdict = decided(MARGIN, evaluated({NDCG: theirs}), baseline=[before({NDCG: theirs})])
    assert verdict.lines[-1].status is Status.NOT_ENOUGH


def test_arrays_of_another_run_than_the_document_fail() -> None:
    stale = evaluated(
        {NDCG: users(300)}, metrics={NDCG: {"value": 0.9, "low": 0.9, "high": 0.9, "n_users": 300}}
    )
    line = decided(budget(f"quality.{NDCG}", on="interval", at_least=0.1), stale).lines[-1]
    assert line.status is Status.FAIL
    assert "they are of different runs" in line.why


def test_the_users_still_needed_would_decide() -> None:
    theirs = users(400)
    ours = theirs + np.random.default_rng(8).normal(-0.002, 0.15, 400)
    line = decided(MARGIN, evaluated({NDCG: ours}), baseline=[before({NDCG: theirs})]).lines[-1]
    assert line.status is Status.NOT_ENOUGH
    assert line.needed is not None
    times = line.needed / 400
    for copies, expected in ((np.floor(times), Status.NOT_ENOUGH), (np.ceil(times), Status.PASS)):
        many = evaluated({NDCG: np.tile(ours, int(copies))})
        got = status(MARGIN, many, before({NDCG: np.tile(theirs, int(copies))}))
        assert got is expected


def test_linked_requests_at_the_margin_pass_no_oftener_than_they_may() -> None:
    """50 users with 20 requests each, who agree among themselves: by requests 29 % pass."""
    rng, passed, naive = np.random.default_rng(9), 0, 0
    for _ in range(400):
        own = rng.normal(-0.01, 0.1, 50)
        requests = own[:, None] + rng.normal(0, 0.05, (50, 20))
        difference = requests.mean(axis=1)
        low, _ = mean_limits(mean_of(difference), 0.025, 0.025)
        passed += low >= -0.01
        naive += mean_limits(mean_of(requests.ravel()), 0.025, 0.025)[0] >= -0.01
    assert passed / 400 <= 0.05
    assert naive / 400 > 0.2, "the trap is there"


def test_other_forms_of_a_metric_are_paired_too() -> None:
    theirs, rule = users(600), users(600, 2)
    lead = MARGIN.replace(NDCG, f"{NDCG}_minus_popularity")
    known = {NDCG: theirs, f"popularity/{NDCG}": rule}
    told = {
        f"{NDCG}_minus_popularity": {
            "value": float((theirs - rule).mean()),
            "low": None,
            "high": None,
            "n_users": 600,
        }
    }
    ours = evaluated(
        {NDCG: theirs + 0.01 * users(600, 3), f"popularity/{NDCG}": rule}, metrics=told
    )
    assert status(lead, ours, before(known)) is Status.PASS
    price = MARGIN.replace(NDCG, "price_of_fairness_p")
    both = {**known, f"p/{NDCG}": theirs * 0.9}
    line = decided(price, evaluated(both, metrics={"price_of_fairness_p": told[f"{NDCG}_minus_popularity"]}), baseline=[before(both)]).lines[-1]  # fmt: skip
    assert line.status is Status.FAIL
    assert "no paired difference" in line.why


def test_what_the_arrays_hold_is_decided_at_the_lines_own_error_rate() -> None:
    values = users(900)
    lines = [budget(f"quality.{NDCG}", on="interval", at_least=0.1)] * 10
    verdict = decided("\n".join(lines), evaluated({NDCG: values}))
    low, high = mean_limits(mean_of(values), 0.025, 0.005)
    assert {(line.low, line.high) for line in verdict.lines[1:]} == {(low, high)}


def test_price_of_fairness_is_one_minus_a_paired_ratio() -> None:
    plain = users(900) + 0.1
    fair = plain * 0.98 + 0.001 * users(900, 4)
    value = 1 - fair.mean() / plain.mean()
    told = {"price_of_fairness_p": {"value": value, "low": value, "high": value, "n_users": 900}}
    ours = evaluated({NDCG: plain, f"p/{NDCG}": fair}, metrics=told)
    line = decided(budget("quality.price_of_fairness_p", on="interval", at_most=0.03), ours).lines[
        -1
    ]
    assert line.status is Status.PASS
    assert line.low < value < line.high  # type: ignore[operator]
    p = stats.ttest_1samp(fair - (1 - line.high) * plain, 0.0, alternative="greater").pvalue  # type: ignore[operator]
    assert p == pytest.approx(0.025, rel=1e-6)


@pytest.mark.parametrize("n", [50, 150, 400, 2000])
def test_where_no_user_differs_the_margin_must_hold_of_those_who_could_have_been_missed(
    n: int,
) -> None:
    """Of n users nobody differs: with a share p of users who do, that happens in (1 - p)^n of draws."""
    theirs = users(n)
    line = decided(MARGIN, evaluated({NDCG: theirs}), baseline=[before({NDCG: theirs})]).lines[-1]
    clopper_pearson = stats.binomtest(0, n).proportion_ci(0.95, method="exact").high
    assert line.low is not None
    assert line.low == pytest.approx(-clopper_pearson)
    assert line.value == 0
    assert line.status is (Status.PASS if n >= 400 else Status.NOT_ENOUGH)


def test_groups_in_which_no_user_differs_are_held_to_their_own_size() -> None:
    worst = budget(
        f"quality.groups.income.{NDCG}.worst", on="interval", margin=0.05, min_n=20,
        extra='margin_is = "absolute"',
    )  # fmt: skip
    for small, expected in ((60, Status.NOT_ENOUGH), (300, Status.PASS)):
        theirs, labels = users(1000 + small), ["low"] * small + ["high"] * 1000
        ours, other = (made({NDCG: theirs}, {"income": labels}) for made in (evaluated, before))
        line = decided(worst, ours, baseline=[other]).lines[-1]
        assert line.status is expected, line.why
        assert {cell.label: cell.n for cell in line.cells} == {"low": small, "high": 1000}
