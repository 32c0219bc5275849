"""Budgets before the run: sealed, no weaker without a reason, covering what they must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.gate import Status, evaluate, parse_budgets
from bench.gate.intervals import percentile_limits
from bench.gate.levels import levels
from bench.gate.seal import Seal, canonical, digest_of, read_seal
from bench.refused import InputRefused
from strategies.results import TODAY, budget, budgets, decided, invariants, load, quality

HEAD = 'schema_version = 1\nname = "t"\n'
NDCG = budget("quality.ndcg_at_20", on="interval", at_least=0.3, min_n=1000)
RATIO = budget("quality.groups.income.recall_at_20.worst_ratio", on="interval", at_least=0.2)


def test_a_seal_is_of_what_the_budgets_say_and_not_of_how() -> None:
    other = f"# a comment\nname = 't'\nschema_version = 1\nlooks = 1\n{NDCG}min_positives = 10\n"
    assert digest_of(parse_budgets(HEAD + NDCG, "b")) == digest_of(parse_budgets(other, "b"))
    for old, new in (("0.3", "0.299"), ("1000", "999"), ("made for a test", "another reason")):
        changed = parse_budgets(HEAD + NDCG.replace(old, new), "b")
        assert digest_of(changed) != digest_of(parse_budgets(HEAD + NDCG, "b"))


def test_the_canonical_form_does_not_change_unnoticed() -> None:
    """A seal of last year must fit next year: FORM is raised where this test has to change."""
    told = json.loads(canonical(parse_budgets(HEAD + NDCG, "b")))
    assert told == {"form": 1, "budgets": {"schema_version": 1, "name": "t", "budget": [{
        "metric": "quality.ndcg_at_20", "at_least": 0.3, "decide_on": "interval", "min_n": 1000,
        "reason": "made for a test"}]}}  # fmt: skip


def test_budgets_that_differ_from_their_seal_fail() -> None:
    digest = digest_of(budgets(NDCG))
    assert decided(NDCG, quality(), seal=Seal(digest)).status is Status.PASS
    weakened = decided(NDCG.replace("0.3", "0.2"), quality(), seal=Seal(digest))
    assert weakened.status is Status.FAIL
    assert [line.kind for line in weakened.lines if line.status is Status.FAIL] == ["seal"]


def test_results_from_before_the_seal_fail() -> None:
    seal = Seal(digest_of(budgets(NDCG)), made_unix_ms=2_000)
    assert decided(NDCG, quality(made_unix_ms=3_000), seal=seal).status is Status.PASS
    early = decided(NDCG, quality(made_unix_ms=1_999), seal=seal)
    assert early.status is Status.FAIL
    assert "before the budgets were sealed" in early.lines[1].why
    p99 = budget("load.latency_ms.p99", on="interval", at_most=50)
    first_request = decided(p99, load([1.0] * 9), seal=Seal(digest_of(budgets(p99)), 1))
    assert "was made before" in first_request.lines[1].why


def test_a_result_that_does_not_tell_when_it_was_made_is_no_evidence_under_a_seal() -> None:
    both = budgets(NDCG, budget("invariants.violations", at_most=0))
    seal = Seal(digest_of(both), made_unix_ms=2_000)
    told = quality(made_unix_ms=3_000)
    verdict = evaluate(both, [told, invariants()], today=TODAY, seal=seal)
    assert verdict.lines[1].status is Status.NOT_ENOUGH
    assert "does not tell when" in verdict.lines[1].why
    assert (
        evaluate(both, [told, invariants(made_unix_ms=3_000)], today=TODAY, seal=seal).status
        is Status.PASS
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "no digest and no file"),
        ("", "not JSON"),
        ("{}", "kind: is missing"),
        ('{"kind": "seal", "schema_version": 1, "budgets": "t", "budgets_sha256": "ff", "made_unix_ms": 1}', "budgets_sha256: got 'ff'"),
    ],
)  # fmt: skip
def test_a_seal_that_is_none_is_refused(content: str | None, told: str, tmp_path: Path) -> None:
    path = tmp_path / "seal.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputRefused, match=told):
        read_seal(str(path))


WEAKER = [
    ("at_least = 0.3", "at_least = 0.2", "at_least 0.3 -> 0.2"),
    ("at_least = 0.3", "at_most = 0.9", "at_least 0.3 is no more"),
    ("min_n = 1000", "min_n = 10", "min_n 1000 -> 10"),
    ('decide_on = "interval"', 'decide_on = "value"', "decide_on interval -> value"),
    ('decide_on = "interval"', 'decide_on = "interval"\nleave_out = ["a"]', "leave_out now has a"),
    ('decide_on = "interval"', 'decide_on = "interval"\nmin_positives = 1', "min_positives 10 -> 1"),
    ('decide_on = "interval"', 'decide_on = "interval"\nmin_blocks = 3', "min_blocks default -> 3"),
    ("[[budget]]", "confidence = 0.9\n[[budget]]", "confidence 0.95 -> 0.9"),
    ("[[budget]]", "baseline_may_be_candidate = true\n[[budget]]", "may now be the candidate"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "told"), WEAKER)
def test_a_weaker_line_needs_a_written_reason(old: str, new: str, told: str) -> None:
    last = parse_budgets(HEAD + NDCG, "last")
    weak = HEAD + NDCG.replace(old, new)

    def failing(document: str) -> list[str]:
        verdict = evaluate(
            parse_budgets(document, "b"), [quality()], today=TODAY, last_release=last
        )
        return [line.why for line in verdict.lines if line.kind == "weaker" and line.status is Status.FAIL]  # fmt: skip

    (why,) = failing(weak)
    assert told in why
    reason = 'weaker_because = "the data set is smaller now"\n'
    assert failing(reason + weak if old == "[[budget]]" else weak + reason) == []
    assert failing(HEAD + NDCG) == []


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("min_blocks = 2000", "", "min_blocks 2000 -> default"),
        ('direction = "lower"', 'direction = "higher"', "direction lower -> higher"),
        ("expires = 2026-02-01", "expires = 2027-02-01", "expires 2026-02-01 -> 2027-02-01"),
        ("expires = 2026-02-01", "", "expires 2026-02-01 -> never"),
    ],
)
def test_what_a_line_loses_or_turns_round_is_weaker(old: str, new: str, told: str) -> None:
    extra = 'margin_is = "relative"\ndirection = "lower"\nmin_blocks = 2000\nexpires = 2026-02-01'
    line = budget("load.unheard_of", on="interval", margin=0.1, extra=extra)
    last = budgets(line)
    verdict = evaluate(budgets(line.replace(old, new)), [quality()], today=TODAY, last_release=last)
    (why,) = [line.why for line in verdict.lines if line.kind == "weaker"]
    assert told in why
    sooner = line.replace("2026-02-01", "2026-01-15")
    again = evaluate(budgets(sooner), [quality()], today=TODAY, last_release=last)
    assert not [line for line in again.lines if line.kind == "weaker"]


def test_a_wider_margin_is_weaker_and_a_stricter_line_is_not() -> None:
    line = budget("quality.ndcg_at_20", on="interval", margin=0.01, extra='margin_is = "absolute"')
    last = budgets(line, NDCG)

    def whys(*lines: str) -> list[str]:
        verdict = evaluate(budgets(*lines), [quality()], today=TODAY, last_release=last)
        return [told.why for told in verdict.lines if told.kind == "weaker"]

    assert whys(line, NDCG.replace("0.3", "0.32")) == []
    assert whys(line.replace("0.01", "0.001"), NDCG) == []
    assert "margin 0.01 -> 0.02" in whys(line.replace("0.01", "0.02"), NDCG)[0]
    assert "not comparable" in whys(line.replace("absolute", "relative"), NDCG)[0]


def test_a_dropped_line_fails_unless_its_reason_is_written() -> None:
    last = budgets(NDCG, RATIO)
    bare = evaluate(budgets(NDCG), [quality()], today=TODAY, last_release=last)
    assert bare.status is Status.FAIL
    assert [line.metric for line in bare.lines if line.kind == "weaker"] == [
        "quality.groups.income.recall_at_20.worst_ratio"
    ]
    told = (
        f'[[dropped]]\nmetric = "{bare.lines[1].metric}"\nweaker_because = "no income any more"\n'
    )
    verdict = evaluate(budgets(NDCG + told), [quality()], today=TODAY, last_release=last)
    assert verdict.status is Status.PASS
    assert verdict.lines[1].weaker_because == "no income any more"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (budget("quality.ndcg_at_20", at_least=0.0), "at_least 0 can never fail"),
        (budget("quality.ndcg_at_20", at_least=-1e9, at_most=0.5), "at_least -1e+09 can never fail"),
        (budget("quality.ndcg_at_20_minus_ease", at_least=-1.0), "at_least -1 can never fail"),
        (budget("quality.groups.a.recall_at_20.worst_ratio", at_least=0.0), "can never fail"),
        (budget("quality.groups.a.recall_at_20.worst_gap", at_most=1.0), "can never fail"),
        (budget("quality.price_of_fairness_p", at_most=1.0), "at_most 1 can never fail"),
        (budget("load.error_ratio", at_most=1.0), "at_most 1 can never fail"),
        (budget("load.latency_ms.p99", at_least=0.0), "at_least 0 can never fail"),
        (budget("invariants.violations", at_least=0), "can never fail"),
        (budget("quality.ndcg_at_20", on="interval", margin=1.0, extra='margin_is = "absolute"'), "a margin of 1 can never fail"),
        (budget("quality.ndcg_at_20", on="interval", margin=1.0, extra='margin_is = "relative"'), "allows a fall to 0"),
        (budget("quality.unheard_of", on="interval", margin=2.0, extra='margin_is = "relative"'), "can never fail"),
        (budget("quality.ndcg_at_20", on="interval", margin=0.1), "belong together"),
        (budget("quality.ndcg_at_20", margin=0.1, extra='margin_is = "absolute"'), "decided on its interval"),
        (budget("load.latency_ms.p99", at_most=50, extra='unit = "s"'), "unit 's': load.latency_ms.p99 is in 'ms'"),
    ],
)  # fmt: skip
def test_a_bound_that_cannot_fail_or_means_another_unit_is_refused(line: str, told: str) -> None:
    with pytest.raises(InputRefused) as refused:
        budgets(line)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "line",
    [
        budget("quality.ndcg_at_20_minus_ease", at_least=0.0),
        budget("load.error_ratio", at_most=0.0),
        budget("load.latency_ms.p99", at_most=50, extra='unit = "ms"'),
        budget("load.latency_ms.p99", on="interval", margin=2.0, extra='margin_is = "relative"'),
    ],
)  # fmt: skip
def test_bounds_at_a_possible_value_are_allowed(line: str) -> None:
    assert budgets(line).budget


def covering(metrics: str = "[]", groups: str = "{}") -> str:
    return f"[coverage]\nmetrics = {metrics}\ngroups = {groups}\n"


@pytest.mark.parametrize(
    ("coverage", "told"),
    [
        (covering('["quality.ndcg_at_20"]', '{income = ["under 35K", "35-74K"]}'), []),
        (covering('["load.latency_ms.p99"]'), ["no line decides it"]),
        (covering(groups="{age = []}"), ["no line looks at the groups of age"]),
        (covering(groups='{income = ["over 75K"]}'), ["no line looks at over 75K"]),
    ],
)
def test_what_must_be_covered_and_is_not_fails(coverage: str, told: list[str]) -> None:
    verdict = decided(coverage + NDCG + RATIO, quality())
    assert [line.why for line in verdict.lines if line.status is Status.FAIL] == told


def test_a_group_left_out_is_not_covered_nor_is_one_that_was_not_measured() -> None:
    coverage = covering(groups='{income = ["unknown"]}')
    out = RATIO + 'leave_out = ["unknown"]\n'
    assert decided(coverage + RATIO, quality()).status is Status.PASS
    assert decided(coverage + out, quality()).status is Status.FAIL
    verdict = decided(covering('["load.latency_ms.p99"]') + budget("load.latency_ms.p99", on="interval", at_most=9), quality())  # fmt: skip
    assert "nothing was measured" in verdict.lines[-1].why


def test_error_rates_are_split_over_the_lines_that_test_and_paid_for_by_look() -> None:
    counted = budget("invariants.violations", at_most=0)
    one, two = levels(budgets(NDCG, counted)), levels(budgets(NDCG, RATIO, counted))
    ten = levels(budgets(*[NDCG] * 10))
    assert (one.of_pass, one.of_fail) == (0.025, 0.025)
    assert (two.of_pass, two.of_fail) == (0.025, 0.025)
    assert (ten.of_pass, ten.of_fail) == (0.025, 0.005)
    looks = levels(parse_budgets(HEAD + "looks = 4\n" + NDCG * 10, "b"))
    assert (looks.of_pass, looks.of_fail) == (0.025 / 4, 0.005 / 4)


def test_a_look_that_was_not_declared_is_refused() -> None:
    declared = NDCG.replace("[[budget]]", "looks = 2\n[[budget]]")
    verdict = decided(declared, quality(), look=2)
    assert (verdict.look, verdict.looks) == (2, 2)
    for look in (0, 3):
        with pytest.raises(InputRefused, match="declare looks = 2"):
            decided(declared, quality(), look=look)


def test_a_declared_look_widens_what_is_decided() -> None:
    (once,) = (line for line in decided(NDCG, quality()).lines if line.kind == "budget")
    (thrice,) = (
        line
        for line in decided(NDCG.replace("[[budget]]", "looks = 3\n[[budget]]"), quality()).lines
        if line.kind == "budget"
    )
    assert thrice.low < once.low <= once.value <= once.high < thrice.high  # type: ignore[operator]


def test_a_verdict_names_the_digest_of_its_budgets() -> None:
    line = budget("invariants.violations", at_most=0)
    assert decided(line, invariants()).budgets_sha256 == digest_of(budgets(line))


def test_peeking_is_paid_for() -> None:
    """A true 1 % late, looked at every 500 requests till it passes: declared looks keep the promise."""
    rng = np.random.default_rng(1)
    looks = range(500, 8001, 500)
    once = levels(budgets(NDCG)).of_pass
    paid = levels(parse_budgets(HEAD + f"looks = {len(looks)}\n" + NDCG, "b")).of_pass

    def passes(late: np.ndarray, alpha: float) -> bool:
        return any(percentile_limits(late[:n], 0.99, alpha, alpha)[1] < 1 for n in looks)

    runs = [(rng.random(8000) < 0.01).astype(np.float64) for _ in range(300)]
    assert sum(passes(late, once) for late in runs) / 300 > 0.05, "the trap is there"
    assert sum(passes(late, paid) for late in runs) / 300 <= 0.025 + 0.015
