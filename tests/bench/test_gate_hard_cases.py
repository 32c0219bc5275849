"""The cases in which other gates pass: no data, all failed, empty cells, NaN, foreign results."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from bench.gate import Status, evaluate
from bench.gate.facts import facts_of
from bench.refused import InputRefused
from strategies.results import (
    TODAY,
    budget,
    budgets,
    decided,
    estimate,
    invariants,
    load,
    quality,
)

P99 = budget("load.latency_ms.p99", on="interval", at_most=50)
NDCG = budget("quality.ndcg_at_20_minus_recency_frequency", on="interval", at_least=0)
RATIO = budget("quality.groups.income.recall_at_20.worst_ratio", on="interval", at_least=0.8)


def test_good_results_pass() -> None:
    verdict = evaluate(
        budgets(P99, NDCG, budget("invariants.violations", at_most=0, min_n=1000)),
        [load([10.0] * 2000), quality(), invariants()],
        today=TODAY,
    )
    assert verdict.status is Status.PASS
    assert verdict.exit_code == 0


def test_a_load_that_logged_nothing_fails_instead_of_having_a_p99_of_zero() -> None:
    verdict = decided(P99, load([]))
    assert verdict.status is Status.FAIL
    assert "no request was made" in verdict.lines[1].why


def test_a_load_of_which_every_request_failed_fails() -> None:
    verdict = decided(P99, load([math.inf] * 5000))
    assert verdict.status is Status.FAIL


def test_fast_rejects_do_not_hide_the_tail() -> None:
    ninety_percent_rejected = load([math.inf] * 900 + [2.0] * 100)
    assert decided(P99, ninety_percent_rejected).status is Status.FAIL
    median = budget("load.latency_ms.p50", on="interval", at_most=50)
    assert decided(median, ninety_percent_rejected).status is Status.FAIL


def test_a_few_fast_requests_are_not_enough_evidence_for_a_p99() -> None:
    assert decided(P99, load([2.0] * 100)).status is Status.NOT_ENOUGH
    assert decided(P99, load([2.0] * 2000)).status is Status.PASS


def test_a_p99_without_samples_is_not_enough_for_an_interval() -> None:
    lost = load(None, requests=5000, errors=0, error_ratio=0.0, latency_ms={"p99": 3.0})
    assert decided(P99, lost).status is Status.NOT_ENOUGH
    assert "no samples" in decided(P99, lost).lines[1].why


def test_a_p99_that_falls_on_a_failure_fails_by_value_too() -> None:
    lost = load(None, requests=100, errors=9, error_ratio=0.09, latency_ms={"p99": None})
    assert decided(budget("load.latency_ms.p99", at_most=50), lost).status is Status.FAIL


@pytest.mark.parametrize("broken", [math.nan, math.inf, None, "0.3", True])
def test_a_value_that_is_no_finite_number_fails(broken: object) -> None:
    result = quality(metrics={"m": estimate(broken, 0.1, 0.2)})
    for on in ("value", "interval"):
        verdict = decided(budget("quality.m", on=on, at_least=-1e9, at_most=1e9), result)
        assert verdict.status is Status.FAIL


@pytest.mark.parametrize(
    ("low", "high"), [(math.nan, 0.2), (0.1, math.nan), (0.1, None), (0.3, 0.1)]
)
def test_a_damaged_interval_is_never_a_pass(low: object, high: object) -> None:
    result = quality(metrics={"m": estimate(0.15, low, high)})
    verdict = decided(budget("quality.m", on="interval", at_least=0), result)
    assert verdict.status is Status.FAIL


def test_a_metric_without_an_interval_is_not_enough_where_intervals_decide() -> None:
    verdict = decided(budget("quality.item_exposure_gini", on="interval", at_most=0.99), quality())
    assert verdict.status is Status.NOT_ENOUGH


def test_an_unknown_metric_fails_and_names_the_near_miss() -> None:
    verdict = decided(budget("quality.ndgc_at_20", at_least=0), quality())
    assert verdict.status is Status.FAIL
    assert "did you mean 'ndcg_at_20'" in verdict.lines[1].why


def test_a_budget_on_a_kind_that_was_not_measured_fails() -> None:
    verdict = decided(P99, quality())
    assert verdict.status is Status.FAIL
    assert "no load result" in verdict.lines[1].why


@pytest.mark.parametrize(
    "cell",
    [
        {"recall_at_20": estimate(None, None, None, 0)},
        {"recall_at_20": estimate(math.nan, math.nan, math.nan, 12)},
        {"recall_at_20": estimate(0.9, 0.8, 1.0, 0)},
        {},
        None,
    ],
)
def test_an_empty_cell_fails_instead_of_being_skipped(cell: object) -> None:
    groups = {"income": {
        "a": {"recall_at_20": estimate(0.25, 0.24, 0.26)},
        "b": {"recall_at_20": estimate(0.25, 0.24, 0.26)},
        "empty": cell,
    }}  # fmt: skip
    verdict = decided(RATIO, quality(groups=groups))
    assert verdict.status is Status.FAIL
    assert "empty" in verdict.lines[1].why


def test_groups_that_all_score_zero_have_no_ratio() -> None:
    zero = {"recall_at_20": estimate(0.0, 0.0, 0.0)}
    verdict = decided(RATIO, quality(groups={"income": {"a": zero, "b": zero}}))
    assert verdict.status is Status.FAIL


def test_a_single_group_cannot_be_compared() -> None:
    one = {"income": {"a": {"recall_at_20": estimate(0.2, 0.1, 0.3)}}}
    assert decided(RATIO, quality(groups=one)).status is Status.FAIL


def test_the_worst_group_decides_and_its_size_is_the_evidence() -> None:
    verdict = decided(RATIO, quality())
    line = verdict.lines[1]
    assert line.status is Status.FAIL
    assert line.value == pytest.approx(0.10 / 0.25)
    # The low end as it stands; the high one is that of a search among three: a third of the error.
    wider = norm.isf(0.025 / 3) / norm.isf(0.025)
    assert line.low == pytest.approx(0.09 / 0.27)
    assert line.high == pytest.approx((0.10 + 0.01 * wider) / (0.25 - 0.02 * wider))
    assert line.n == 190


def test_left_out_groups_are_named_in_the_budget_or_refused() -> None:
    out = budget(
        "quality.groups.income.recall_at_20.worst_ratio", on="interval", at_least=0.8,
        extra='leave_out = ["unknown"]',
    )  # fmt: skip
    assert decided(out, quality()).lines[1].value == pytest.approx(0.24 / 0.25)
    typo = out.replace('"unknown"', '"unknwon"')
    assert decided(typo, quality()).status is Status.FAIL


def test_a_fair_model_on_small_groups_is_not_enough_evidence_rather_than_unfair() -> None:
    small = {f"g{n}": {"recall_at_20": estimate(0.2 + n / 100, 0.05, 0.4, 5)} for n in range(20)}
    assert decided(RATIO, quality(groups={"income": small})).status is Status.NOT_ENOUGH


def test_a_group_withheld_for_its_few_users_is_never_a_pass() -> None:
    withheld = {"value": None, "low": None, "high": None, "n_users": 9, "better": "higher",
                "withheld": "9 users, fewer than 20"}  # fmt: skip
    good = {"recall_at_20": estimate(0.25, 0.24, 0.26)}
    groups = {"income": {"a": good, "b": good, "few": {"recall_at_20": withheld}}}
    for line in (
        RATIO,
        budget("quality.groups.income.recall_at_20.worst", on="interval", at_least=0.1),
        budget("quality.groups.income.few.recall_at_20", on="value", at_least=0.01, min_n=1),
    ):
        verdict = decided(line, quality(groups=groups))
        assert verdict.status is Status.NOT_ENOUGH
        assert "withheld: 9 users, fewer than 20" in verdict.lines[1].why
    out = budget(
        "quality.groups.income.recall_at_20.worst_ratio", on="interval", at_least=0.8,
        extra='leave_out = ["few"]',
    )  # fmt: skip
    assert decided(out, quality(groups=groups)).status is Status.PASS, "a person said so"


def test_a_difference_that_is_zero_for_every_user_is_no_evidence() -> None:
    same = quality(metrics={"ndcg_at_20_minus_recency_frequency": estimate(0.0, 0.0, 0.0)})
    assert decided(NDCG, same).status is Status.NOT_ENOUGH


def test_the_bound_inside_the_interval_is_not_enough_evidence_and_says_how_much_would_be() -> None:
    result = quality(metrics={"m": estimate(0.01, -0.01, 0.03, 400)})
    line = decided(budget("quality.m", on="interval", at_least=0), result).lines[1]
    assert line.status is Status.NOT_ENOUGH
    assert "about 1,600 users" in line.why


def test_an_interval_made_with_less_confidence_than_asked_is_not_enough() -> None:
    assert decided(NDCG, quality(intervals={"confidence": 0.8})).status is Status.NOT_ENOUGH


def test_too_few_users_are_not_enough_however_good_the_value() -> None:
    line = budget("quality.ndcg_at_20", on="interval", at_least=0.01, min_n=2000)
    assert decided(line, quality()).status is Status.NOT_ENOUGH


def test_an_expired_line_fails_from_the_day_after() -> None:
    def on(day: str) -> Status:
        line = budget("quality.ndcg_at_20", at_least=0.01, extra=f"expires = {day}")
        return decided(line, quality()).status

    assert on("2026-11-24") is Status.PASS
    assert on("2026-11-23") is Status.FAIL


def test_results_of_different_bundles_never_pass_together() -> None:
    other = invariants(bundle_id="shop-ffffffffffff")
    verdict = evaluate(budgets(NDCG), [quality(), other], today=TODAY)
    assert verdict.status is Status.FAIL
    assert verdict.lines[0].metric == "bundle_id"
    assert "shop-ffffffffffff" in verdict.lines[0].why


def test_results_of_another_bundle_than_the_one_to_release_fail() -> None:
    assert decided(NDCG, quality(), bundle_id="shop-0123456789ab").status is Status.PASS
    assert decided(NDCG, quality(), bundle_id="shop-ffffffffffff").status is Status.FAIL


def test_results_of_one_bundle_name_but_different_models_fail() -> None:
    verdict = evaluate(budgets(NDCG), [quality(), load([1.0], model_digest="e" * 64)], today=TODAY)
    assert verdict.status is Status.FAIL


def test_one_violation_decides_whatever_the_evidence() -> None:
    line = budget("invariants.violations", at_most=0, min_n=100_000)
    assert decided(line, invariants(violations=1)).status is Status.FAIL
    assert decided(line, invariants()).status is Status.NOT_ENOUGH


def test_invariants_that_checked_nothing_fail() -> None:
    line = budget("invariants.violations", at_most=0)
    assert decided(line, invariants(checks=0)).status is Status.FAIL
    assert decided(line, invariants(checked={})).status is Status.FAIL
    assert decided(line, invariants(checked=None)).status is Status.FAIL


def test_a_run_of_some_properties_only_is_no_evidence_of_all() -> None:
    line = budget("invariants.violations", at_most=0)
    assert decided(line, invariants(only="")).status is Status.PASS
    assert decided(line, invariants(only="Rerank")).status is Status.FAIL


def test_a_violation_count_that_contradicts_its_list_fails() -> None:
    line = budget("invariants.violations", at_most=0)
    assert decided(line, invariants(violations=3, violation_count=0)).status is Status.FAIL


def test_an_error_ratio_that_contradicts_its_counts_fails() -> None:
    line = budget("load.error_ratio", at_most=0.5)
    assert decided(line, load([math.inf] * 50 + [1.0] * 50)).status is Status.PASS
    assert decided(line, load([math.inf] * 50 + [1.0] * 50, error_ratio=0.0)).status is Status.FAIL


def test_zero_errors_of_few_requests_are_not_enough_for_a_small_ratio_by_interval() -> None:
    line = budget("load.error_ratio", on="interval", at_most=0.001)
    assert decided(line, load([1.0] * 1000)).status is Status.NOT_ENOUGH
    assert decided(line, load([1.0] * 10_000)).status is Status.PASS


def test_any_fail_outweighs_all_else() -> None:
    not_enough = budget("quality.item_exposure_gini", on="interval", at_most=0.99)
    verdict = evaluate(
        budgets(NDCG, not_enough, budget("quality.ndcg_at_20", at_least=0.5)),
        [quality()],
        today=TODAY,
    )
    assert [line.status for line in verdict.lines[1:]] == [
        Status.PASS,
        Status.NOT_ENOUGH,
        Status.FAIL,
    ]
    assert (verdict.status, verdict.exit_code) == (Status.FAIL, 1)


def test_no_result_and_two_of_a_kind_are_refused() -> None:
    with pytest.raises(InputRefused, match="there is none"):
        evaluate(budgets(NDCG), [], today=TODAY)
    with pytest.raises(InputRefused, match="one of a kind"):
        evaluate(budgets(NDCG), [quality(), quality()], today=TODAY)


def test_plain_numbers_of_a_result_can_be_bounded() -> None:
    line = budget("quality.policies.provider_tiers.floor_violations_after", at_most=0, min_n=1000)
    assert decided(line, quality()).status is Status.PASS
    assert (
        decided(line.replace("floor_violations_after", "infeasible"), quality()).status
        is Status.FAIL
    )
    one_group = budget("quality.groups.income.under 35K.recall_at_20", on="interval", at_least=0.2)
    assert decided(one_group, quality()).status is Status.PASS


@pytest.mark.parametrize("decide_on", ["value", "interval"])
def test_a_value_outside_its_own_interval_fails(decide_on: str) -> None:
    line = budget("quality.ndcg_at_20", on=decide_on, at_least=0.3)
    broken = quality(metrics={"ndcg_at_20": estimate(9.5, 0.44, 0.51)})
    assert decided(line, broken).status is Status.FAIL
    assert "not in its own interval" in decided(line, broken).lines[1].why


@pytest.mark.parametrize("intervals", [{}, {"confidence": "0.5"}, {"confidence": True}])
def test_intervals_of_a_confidence_that_nobody_told_decide_nothing(intervals: object) -> None:
    assert decided(NDCG, quality(intervals=intervals)).status is Status.NOT_ENOUGH


@pytest.mark.parametrize("protocol", [{"n_users": 9, "on": "validation"}, {"n_users": 9}, None])
def test_what_was_measured_where_choices_were_made_is_no_evidence(protocol: object) -> None:
    line = decided(NDCG, quality(protocol=protocol)).lines[1]
    assert line.status is Status.FAIL
    assert "which no choice was made on" in line.why


def test_theorems_that_were_never_checked_do_not_hide_behind_one_that_was() -> None:
    line = budget("invariants.violations", at_most=0)
    checked = {"no_duplicates": 5000, "floors": 0}
    assert decided(line, invariants(checked=checked)).status is Status.FAIL
    assert "'floors'" in decided(line, invariants(checked=checked)).lines[1].why
    assert decided(line, invariants(tables_known=False)).status is Status.FAIL
    assert decided(line, invariants()).status is Status.PASS


def test_the_interval_of_the_worst_group_is_that_of_the_smallest_ends() -> None:
    """Not of the group with the smallest value: the worst of several noisy ones is lower still."""
    line = budget("quality.groups.income.recall_at_20.worst", on="interval", at_least=0.01)
    cells = {
        "a": {"recall_at_20": estimate(0.25, 0.20, 0.40, 190)},
        "b": {"recall_at_20": estimate(0.24, 0.23, 0.25, 330)},
        "c": {"recall_at_20": estimate(0.30, 0.29, 0.31, 330)},
    }
    got = decided(line, quality(groups={"income": cells})).lines[1]
    wider = norm.isf(0.025 / 3) / norm.isf(0.025)
    assert (got.value, got.low, got.n) == (0.24, 0.20, 190)
    assert got.high == pytest.approx(0.24 + 0.01 * wider)


def test_a_run_of_invariants_that_ended_half_way_decides_nothing_but_what_it_found() -> None:
    line = budget("invariants.violations", at_most=0)
    void = {"valid": False, "void_because": "the server stopped to answer"}
    assert decided(line, invariants(**void)).status is Status.NOT_ENOUGH
    assert decided(line, invariants(violations=1, **void)).status is Status.FAIL


OPEN = {"loop": "open", "stage": [{"rate_rps": 40.0}], "requests": {"file": "a.jsonl"}}


@pytest.mark.parametrize("metric", ["load.latency_ms.p99", "load.service_ms.p99"])
def test_a_closed_loop_decides_on_no_latency(metric: str) -> None:
    """Its users wait while the server stalls, so those who would have been late are not there."""
    on = "interval" if "latency" in metric else "value"
    line = budget(metric, on=on, at_most=50, extra="min_blocks = 2")
    times = {"service_ms": {"p99": 2.0}}
    assert decided(line, load([2.0] * 500, scenario=OPEN, **times)).status is Status.PASS
    closed = decided(line, load([2.0] * 500, scenario=OPEN | {"loop": "closed"}, **times))
    assert closed.status is Status.NOT_ENOUGH
    assert "--rate" in closed.lines[1].why


def test_a_busy_load_is_not_diluted_by_idle_ones() -> None:
    line = budget("load.latency_ms.p99", on="interval", at_most=50, extra="min_blocks = 2")
    idle = OPEN | {"stage": [{"rate_rps": 1.0}]}
    busy = load([90.0] * 50, scenario=OPEN, samples_sha256="a")
    calm = load([2.0] * 9_000, scenario=idle, samples_sha256="b")
    assert decided(line, busy, calm).status is Status.FAIL
    assert "no single sample: scenario differs" in decided(line, busy, calm).lines[1].why
    again = load([2.0] * 500, scenario=OPEN | {"seed": 2}, samples_sha256="c")
    other_file = OPEN | {"requests": {"file": "b.jsonl"}}
    same = load([2.0] * 500, scenario=other_file, samples_sha256="d")
    assert decided(line, again, same).status is Status.PASS


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (budget("load.goodput_rps", on="interval", margin=0.1, extra='margin_is = "relative"'),
         "which way load.goodput_rps is better"),
        (budget("quality.groups.age.inferred_income.worst", on="interval", at_most=0.5),
         "which way"),
        (budget("quality.groups.age.inferred_income.worst", on="interval", at_most=0.5,
                extra='direction = "lower"'), "worst is the lowest group"),
        (budget("quality.ndcg_at_20", on="interval", margin=0.1,
                extra='margin_is = "absolute"\ndirection = "lower"'), "higher is better"),
    ],
)  # fmt: skip
def test_a_margin_on_the_wrong_side_is_refused(line: str, told: str) -> None:
    with pytest.raises(InputRefused, match=told):
        budgets(line)


@pytest.mark.parametrize(
    "metric", ["load.service_ms.p99", "load.groups.income.low.latency_ms.p99", "load.rows.Recommend OK.p99"]
)  # fmt: skip
def test_times_are_better_lower(metric: str) -> None:
    facts = facts_of(metric)
    assert facts is not None
    assert facts.better == "lower"
