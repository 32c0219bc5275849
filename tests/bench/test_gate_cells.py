"""Groups: the worst of them with an interval that knows it was searched for."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import confint_proportions_2indep

from bench.gate import Result, Status
from bench.gate.cells import compared, holm
from bench.gate.measured import Broken
from strategies.results import budget, decided
from strategies.users import before, evaluated

RECALL = "recall_at_20"


def line(how: str, extra: str = "", **bounds: float) -> str:
    return budget(f"quality.groups.income.{RECALL}.{how}", on="interval", extra=extra, **bounds)


RATIO = line("worst_ratio", at_least=0.8)


def of_groups(cells: Mapping[str, np.ndarray], **changes: object) -> Result:
    labels = [label for label, values in cells.items() for _ in values]
    return evaluated({RECALL: np.concatenate(list(cells.values()))}, {"income": labels}, **changes)  # type: ignore[arg-type]


def rates(sizes: Mapping[str, tuple[int, float]], seed: int = 0) -> dict[str, np.ndarray]:
    """0 or 1 a user, exactly that share of ones."""
    rng = np.random.default_rng(seed)
    return {
        label: rng.permutation((np.arange(n) < round(n * rate)).astype(np.float64))
        for label, (n, rate) in sizes.items()
    }


def scores(sizes: Mapping[str, tuple[int, float]], seed: int = 0) -> dict[str, np.ndarray]:
    """A beta score a user, of that mean."""
    rng = np.random.default_rng(seed)
    return {label: rng.beta(2 * m, 2 * (1 - m), n) for label, (n, m) in sizes.items()}


def test_holm_is_holms() -> None:
    p_values = [0.01, 0.04, 0.03, 0.5]
    by_hand, worst = {}, 0.0
    for rank, place in enumerate(np.argsort(p_values)):
        worst = max(worst, min(1.0, p_values[place] * (len(p_values) - rank)))
        by_hand[int(place)] = worst
    assert holm(p_values) == pytest.approx([by_hand[place] for place in range(4)])


def test_two_groups_of_zeros_and_ones_take_the_score_interval_of_statsmodels() -> None:
    cells = rates({"a": (400, 0.30), "b": (300, 0.20)})
    (value, low, high), found = compared(cells, "worst_ratio", 0.8, 0.025, 0.05)
    oracle = confint_proportions_2indep(60, 300, 120, 400, method="score", compare="ratio")
    assert value == pytest.approx(0.2 / 0.3)
    # Two ordered pairs share the 5 % of the high end: each has 2.5 %, as in a 95 % interval.
    assert (low, high) == (pytest.approx(oracle[0], rel=1e-4), pytest.approx(oracle[1], rel=1e-4))
    assert [cell.positives for cell in found] == [120, 60]


def test_a_gap_of_scores_takes_welchs_limits() -> None:
    cells = scores({"a": (400, 0.30), "b": (300, 0.20)})
    (value, low, high), _ = compared(cells, "worst_gap", 0.05, 0.05, 0.025)
    oracle = stats.ttest_ind(cells["a"], cells["b"], equal_var=False).confidence_interval(0.95)
    assert value == pytest.approx(cells["a"].mean() - cells["b"].mean())
    # The lesser of the two variances is raised to the pooled one, so they are near, and not inside.
    assert oracle.low - 0.003 < low <= oracle.low
    assert oracle.high <= high < oracle.high + 0.003


def test_one_group_takes_the_exact_interval() -> None:
    one = budget("quality.groups.income.low.recall_at_20", on="interval", at_least=0.1)
    cells = rates({"low": (200, 0.3), "high": (200, 0.3)})
    told = {
        label: {RECALL: {"value": 0.3, "low": None, "high": None, "n_users": 200}}
        for label in cells
    }
    got = decided(one, of_groups(cells, groups={"income": told})).lines[1]
    oracle = stats.binomtest(60, 200).proportion_ci(0.95, "exact")
    assert (got.low, got.high) == (pytest.approx(oracle.low), pytest.approx(oracle.high))


def test_a_ratio_that_is_kept_passes_and_one_that_is_broken_fails_and_names_the_group() -> None:
    fair = scores({"a": (3000, 0.30), "b": (3000, 0.30), "c": (3000, 0.29)})
    assert decided(RATIO, of_groups(fair)).status is Status.PASS
    unfair = scores({"a": (3000, 0.30), "b": (3000, 0.30), "c": (3000, 0.18)})
    got = decided(RATIO, of_groups(unfair)).lines[1]
    assert got.status is Status.FAIL
    assert "group 'c'" in got.why
    holms = {cell.label: cell.p_holm for cell in got.cells}
    assert holms["c"] is not None
    assert holms["c"] < 1e-6
    assert holms["a"] == holms["b"] == pytest.approx(1)
    assert {cell.n for cell in got.cells} == {3000}


def test_a_gap_can_be_bounded_too() -> None:
    gap = line("worst_gap", at_most=0.05)
    assert (
        decided(gap, of_groups(scores({"a": (3000, 0.3), "b": (3000, 0.29)}))).status is Status.PASS
    )
    assert (
        decided(gap, of_groups(scores({"a": (3000, 0.3), "b": (3000, 0.2)}))).status is Status.FAIL
    )


def alarms(
    sizes: Mapping[str, tuple[int, float]], of: object, runs: int, text: str
) -> dict[Status, float]:
    gc.freeze()  # multipletests collects garbage each time; there is none
    try:
        got = [decided(text, of_groups(of(sizes, seed))).status for seed in range(runs)]  # type: ignore[operator]
    finally:
        gc.unfreeze()
    return {status: got.count(status) / runs for status in Status}


def drawn(sizes: Mapping[str, tuple[int, float]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {label: (rng.random(n) < rate) * 1.0 for label, (n, rate) in sizes.items()}


def test_a_fair_model_on_small_groups_raises_no_alarm_where_four_fifths_of_points_do() -> None:
    sizes = {f"g{place}": (200, 0.1) for place in range(4)}
    got = alarms(sizes, drawn, 60, RATIO)
    points = 0
    for seed in range(60):
        means = [values.mean() for values in drawn(sizes, seed).values()]
        points += min(means) / max(means) < 0.8
    assert points / 60 > 0.7, "the trap is there"
    assert got[Status.FAIL] <= 0.05
    assert got[Status.PASS] <= 0.05, "nor is it taken for fair"


def test_a_true_gap_in_small_groups_is_not_passed() -> None:
    """A ratio of .7 at 300 users and 5 %: points of four fifths pass it in 3 of 10."""
    got = alarms({"a": (300, 0.05), "b": (300, 0.035)}, drawn, 100, RATIO)
    assert got[Status.PASS] == 0


def test_twelve_fair_groups_alarm_seldom_without_correction_half_the_time() -> None:
    # The bound is a ratio of 1, which all keep: the error rate is used up whole.
    exact = line("worst_ratio", at_least=0.999)
    got = alarms({f"g{place:02}": (60, 0.4) for place in range(12)}, scores, 150, exact)
    assert got[Status.FAIL] <= 0.05


def test_twenty_groups_of_five_are_not_enough() -> None:
    small = scores({f"g{place:02}": (5, 0.3) for place in range(20)})
    got = decided(RATIO, of_groups(small)).lines[1]
    assert got.status is Status.NOT_ENOUGH
    assert "needed: 10" in got.why


def test_few_positives_are_no_pass_however_many_users() -> None:
    rare = rates({"a": (4000, 0.002), "b": (4000, 0.002)})
    loose = line("worst_gap", at_most=0.05)
    got = decided(loose, of_groups(rare)).lines[1]
    assert got.status is Status.NOT_ENOUGH
    assert "8" in got.why
    assert (
        decided(line("worst_gap", "min_positives = 5", at_most=0.05), of_groups(rare)).status
        is Status.PASS
    )


def test_a_group_in_which_nobody_is_served_fails_rather_than_lacking_positives() -> None:
    dead = rates({"a": (500, 0.4), "b": (500, 0.4), "c": (500, 0.0)})
    assert decided(RATIO, of_groups(dead)).status is Status.FAIL


def test_users_who_happen_to_be_alike_are_not_known_to_be_at_0() -> None:
    few = scores({"a": (900, 0.3)}) | {"b": np.zeros(6)}
    assert decided(RATIO, of_groups(few)).status is Status.NOT_ENOUGH


def test_all_at_zero_has_no_ratio_and_an_empty_cell_fails() -> None:
    with pytest.raises(Broken, match="no ratio"):
        compared({"a": np.zeros(9), "b": np.zeros(9)}, "worst_ratio", 0.8, 0.025, 0.025)
    cells = scores({"a": (300, 0.3), "b": (300, 0.3)})
    cells["b"] = np.full(300, np.nan)
    got = decided(RATIO, of_groups(cells)).lines[1]
    assert got.status is Status.FAIL
    assert "an empty group" in got.why
    listed = {label: {RECALL: {"value": 0.3, "n_users": 9}} for label in ("a", "b", "gone")}
    got = decided(
        RATIO, of_groups(scores({"a": (300, 0.3), "b": (300, 0.3)}), groups={"income": listed})
    ).lines[1]
    assert got.status is Status.FAIL
    assert "'gone'" in got.why


def test_half_of_the_users_without_a_value_is_another_metric_than_the_document_told() -> None:
    cells = scores({"a": (300, 0.3), "b": (300, 0.3)})
    told = {
        label: {RECALL: {"value": float(v.mean()), "low": None, "high": None, "n_users": 300}}
        for label, v in cells.items()
    }
    cells["b"][:150] = np.nan
    got = decided(RATIO, of_groups(cells, groups={"income": told})).lines[1]
    assert got.status is Status.FAIL


def test_groups_below_the_k_anonymity_floor_stay_withheld_and_can_be_left_out() -> None:
    cells = scores({"a": (2000, 0.3), "b": (2000, 0.3), "few": (9, 0.3)})
    got = decided(RATIO, of_groups(cells, min_users=20)).lines[1]
    assert got.status is Status.NOT_ENOUGH
    assert "withheld: 9 users, fewer than 20" in got.why
    out = line("worst_ratio", 'leave_out = ["few"]', at_least=0.8)
    assert decided(out, of_groups(cells, min_users=20)).status is Status.PASS
    typo = line("worst_ratio", 'leave_out = ["fwe"]', at_least=0.8)
    assert decided(typo, of_groups(cells)).status is Status.FAIL


def test_crossed_groups_show_what_neither_attribute_does() -> None:
    """Gerrymandering: alike by income, alike by age, not alike in the corners."""
    rng = np.random.default_rng(2)
    income, age = rng.integers(0, 2, 8000), rng.integers(0, 2, 8000)
    mean = np.where(income == age, 0.35, 0.2)
    values = rng.beta(2 * mean, 2 * (1 - mean))
    groups = {"income": [f"i{i}" for i in income], "age": [f"a{a}" for a in age]}
    result = evaluated({RECALL: values}, groups)
    assert decided(RATIO, result).status is Status.PASS
    crossed = RATIO.replace(".income.", ".income+age.")
    got = decided(crossed, result).lines[1]
    assert got.status is Status.FAIL
    assert {cell.label for cell in got.cells} == {"i0 & a0", "i0 & a1", "i1 & a0", "i1 & a1"}


WORST = line("worst", 'margin_is = "absolute"', margin=0.05)
WHOLE = budget(f"quality.{RECALL}", on="interval", margin=0.005, extra='margin_is = "absolute"')


def test_a_small_group_that_loses_fails_while_the_whole_gains() -> None:
    rng = np.random.default_rng(3)
    labels = ["few"] * 100 + ["rest"] * 1900
    theirs = rng.beta(1, 2, 2000)
    ours = theirs + rng.normal(0, 0.05, 2000) + np.where(np.arange(2000) < 100, -0.3, 0.02)
    groups = {"income": labels}
    verdict = decided(
        WHOLE + WORST,
        evaluated({RECALL: ours}, groups),
        baseline=[before({RECALL: theirs}, groups)],
    )
    whole, worst = verdict.lines[-2:]
    assert (whole.status, worst.status) == (Status.PASS, Status.FAIL)
    assert "group 'few'" in worst.why
    assert verdict.status is Status.FAIL


def test_simpson_each_slice_worse_while_the_whole_looks_better() -> None:
    """The mix shifted: other users, or other labels. Both are told, neither passes."""
    rng = np.random.default_rng(4)
    easy, hard = rng.normal(0.6, 0.05, 4000), rng.normal(0.2, 0.05, 4000)
    theirs = np.concatenate([easy[:1000], hard[:3000]])
    ours = np.concatenate([easy[:3000], hard[:1000]]) - 0.06
    assert ours.mean() > theirs.mean() + 0.1, "the whole looks better"
    old = {"income": ["easy"] * 1000 + ["hard"] * 3000}
    new = {"income": ["easy"] * 3000 + ["hard"] * 1000}
    other_users = [f"v{place}" for place in range(4000)]
    verdict = decided(
        WHOLE + WORST,
        evaluated({RECALL: ours}, new, ids=other_users),
        baseline=[before({RECALL: theirs}, old)],
    )
    assert [told.status for told in verdict.lines[-2:]] == [Status.FAIL, Status.FAIL]
    assert all("needs every user on both sides" in told.why for told in verdict.lines[-2:])
    verdict = decided(
        WHOLE + WORST, evaluated({RECALL: ours}, new), baseline=[before({RECALL: theirs}, old)]
    )
    assert verdict.status is Status.FAIL
    assert "2000 users are in another group of income than before" in verdict.lines[-1].why


def test_nine_positives_beside_twelve_are_no_pass_though_the_interval_would_allow_it() -> None:
    scarce = rates({"a": (400, 0.03), "b": (400, 0.0225)})
    loose = line("worst_gap", at_most=0.2)
    got = decided(loose, of_groups(scarce)).lines[1]
    assert got.high < 0.2  # type: ignore[operator]
    assert got.status is Status.NOT_ENOUGH
    assert "group 'b' has 9 users with a value above 0, needed: 10" in got.why


def test_a_group_that_varies_by_chance_too_little_is_taken_to_vary_as_all_do() -> None:
    """40 users at 0.2 each are not known to be at 0.2: their like differ by 0.2."""
    cells = scores({"a": (4000, 0.3)}) | {"b": np.full(40, 0.2) + 1e-3 * np.arange(40) / 40}
    (_, low, high), _ = compared(cells, "worst_ratio", 0.8, 0.025, 0.05)
    error = cells["a"].std() / np.sqrt(40) / cells["a"].mean()
    assert high - low == pytest.approx(2 * stats.t.isf(0.025, 40) * error, rel=0.1)
