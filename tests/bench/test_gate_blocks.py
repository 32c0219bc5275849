"""Latency over blocks of time: dependent requests are no thousand witnesses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import quantile_test

from bench.gate import Result, Status, evaluate
from bench.gate.blocks import Clock, blocks_without_a_stall, dependence
from bench.gate.intervals import percentile, percentile_limits
from bench.refused import InputRefused
from strategies.results import TODAY, budget, budgets, decided, load
from strategies.users import BEFORE

P99 = budget("load.latency_ms.p99", on="interval", at_most=50)
SECOND = 1_000_000_000


def run(latencies: np.ndarray, starts_s: np.ndarray, **changes: object) -> Result:
    found = load(latencies, **changes)  # type: ignore[arg-type]
    return replace(found, starts_ns=(starts_s * SECOND).astype(np.int64))


def stalled(seed: int, seconds: int = 400, rate: int = 50, share: float = 0.01) -> Result:
    """That share of requests is late, all of it in 5 % of the seconds."""
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.random(seconds * rate) * seconds)
    stall = rng.random(seconds) < 0.05
    late = (rng.random(len(starts)) < share / 0.05) & stall[starts.astype(int)]
    return run(np.where(late, 100.0, 5.0) + rng.random(len(starts)), starts)


def alone(seed: int, share: float, seconds: int = 400, rate: int = 50) -> Result:
    rng = np.random.default_rng(seed)
    starts = np.sort(rng.random(seconds * rate) * seconds)
    late = rng.random(len(starts)) < share
    return run(np.where(late, 100.0, 5.0) + rng.random(len(starts)), starts)


def test_stalls_are_seen_as_such_and_independent_requests_too() -> None:
    for result, least, most in ((stalled(1), 3.0, 50.0), (alone(1, 0.01), 1.0, 1.3)):
        assert result.latencies_ms is not None
        assert result.starts_ns is not None
        clock = Clock(result.starts_ns, np.zeros(len(result.starts_ns), np.int64))
        seen = dependence(result.latencies_ms > 50, clock, 1.0)
        assert least <= seen.design_effect <= most
        assert seen.blocks == 400


def test_the_design_effect_is_that_of_whole_blocks() -> None:
    """Blocks of 20 requests, each wholly late or not: 20 requests count for one."""
    late = np.repeat(np.random.default_rng(1).random(2000) < 0.1, 20)
    clock = Clock((np.arange(40_000) * SECOND // 20).astype(np.int64), np.zeros(40_000, np.int64))
    seen = dependence(late, clock, 1.0)
    assert seen.design_effect == pytest.approx(20, rel=0.01)
    assert seen.effective_n(0.025) == pytest.approx(2000, rel=0.02)


def test_neighbours_that_go_together_are_joined_into_longer_blocks() -> None:
    late = np.repeat(np.random.default_rng(1).random(200) < 0.1, 40)
    clock = Clock((np.arange(8000) * SECOND // 10).astype(np.int64), np.zeros(8000, np.int64))
    seen = dependence(late, clock, 1.0)
    assert seen.joined
    assert seen.block_s >= 4
    assert seen.design_effect > 20


def test_blocks_do_not_span_runs() -> None:
    starts = np.array([0.2, 0.4, 1.3, 0.1, 0.9]) * SECOND
    clock = Clock(starts.astype(np.int64), np.array([0, 0, 0, 1, 1]))
    assert clock.blocks(1.0).tolist() == [0, 0, 1, 2, 2]


@pytest.mark.parametrize("quantile", [0.5, 0.9, 0.99])
def test_independent_requests_have_scipys_exact_limits(quantile: float) -> None:
    values = np.random.default_rng(5).gamma(2.0, 10.0, 3000)
    low, high = percentile_limits(values, quantile, 0.01, 0.002)
    lower = quantile_test(values, p=quantile, alternative="greater").confidence_interval(0.99).low
    upper = quantile_test(values, p=quantile, alternative="less").confidence_interval(0.998).high
    assert (low, high) == (lower, upper)


def test_fewer_requests_worth_is_a_wider_interval() -> None:
    values = np.random.default_rng(5).gamma(2.0, 10.0, 5000)
    whole = percentile_limits(values, 0.99, 0.025, 0.025)
    part = percentile_limits(values, 0.99, 0.025, 0.025, (1000, 1000))
    assert part[0] < whole[0] < percentile(values, 0.99) < whole[1] < part[1]


@pytest.mark.parametrize(("quantile", "least"), [(0.9, 44), (0.99, 459), (0.999, 4603)])
def test_the_blocks_needed_are_loadgens_requests_needed(quantile: float, least: int) -> None:
    """The table's entries for no late one at P <= .01, counted in blocks."""
    assert blocks_without_a_stall(quantile, 0.01) == least


def test_a_minute_is_no_evidence_for_a_p99_however_many_requests() -> None:
    fast = run(np.full(60_000, 2.0), np.arange(60_000) / 1000)
    line = decided(P99, fast).lines[1]
    assert line.status is Status.NOT_ENOUGH
    assert "60 blocks of 1 s, needed: 368" in line.why
    declared = P99 + "min_blocks = 20\n"
    assert decided(declared, fast).status is Status.PASS
    slow = run(np.full(60_000, 90.0), np.arange(60_000) / 1000)
    assert decided(P99, slow).status is Status.FAIL, "to fail, the minute is enough"


def test_a_true_1_percent_in_stalls_passes_seldom_while_by_requests_it_often_would() -> None:
    passed = naive = 0
    for seed in range(120):
        result = stalled(seed)
        passed += decided(P99, result).status is Status.PASS
        assert result.latencies_ms is not None
        naive += percentile_limits(result.latencies_ms, 0.99, 0.025, 0.025)[1] <= 50
    assert passed / 120 <= 0.075
    assert naive / 120 > 0.2, "the trap is there"


def test_a_share_well_inside_the_limit_passes_and_one_beyond_it_fails() -> None:
    assert decided(P99, alone(1, 0.004)).status is Status.PASS
    assert decided(P99, alone(1, 0.02)).status is Status.FAIL


def test_a_slow_two_percent_fails_though_every_middle_rank_is_alike() -> None:
    """2 % of requests twenty times slower: a rank test of all latencies misses 86 % of these."""
    rng = np.random.default_rng(6)
    times = rng.gamma(4.0, 1.0, 20_000)
    times[rng.random(20_000) < 0.02] *= 20
    line = budget("load.latency_ms.p99", on="interval", at_most=15)
    assert decided(line, run(times, np.arange(20_000) / 50)).status is Status.FAIL


def test_a_second_mode_at_the_percentile_is_not_enough_evidence_rather_than_a_coin() -> None:
    got = [decided(P99, alone(seed, 0.01)).status for seed in range(40)]
    assert got.count(Status.NOT_ENOUGH) >= 35


def test_errors_that_come_together_are_worth_less() -> None:
    line = budget("load.error_ratio", on="interval", at_most=0.02)
    starts = np.arange(20_000) / 50
    burst, spread = np.full(20_000, 2.0), np.full(20_000, 2.0)
    burst[(starts % 100) < 1.0] = np.inf
    spread[::100] = np.inf
    wide, narrow = (decided(line, run(seen, starts)).lines[1] for seen in (burst, spread))
    assert wide.value == narrow.value == pytest.approx(0.01)
    assert narrow.status is Status.PASS
    assert wide.status is Status.NOT_ENOUGH
    assert wide.effective_n < narrow.effective_n  # type: ignore[operator]


def test_several_runs_are_one_sample_and_the_same_run_twice_is_refused() -> None:
    half = run(np.full(2000, 2.0), np.arange(2000) / 10, samples_sha256="a")
    other = run(np.full(2000, 2.0), np.arange(2000) / 10, samples_sha256="b")
    assert decided(P99, half).status is Status.NOT_ENOUGH
    assert decided(P99, half, other).lines[1].n == 4000
    assert decided(P99, half, other).status is Status.PASS
    with pytest.raises(InputRefused, match="count once"):
        decided(P99, half, half)


MACHINE = {"processor": "a", "cores": 2}
AB = budget(
    "load.latency_ms.p99", on="interval", margin=0.1, extra='margin_is = "relative"\nmin_pairs = 5'
)


def turns(
    pairs: int, slower: float = 1.0, seed: int = 0, noise: float = 0.02, **changes: object
) -> tuple[list[Result], list[Result]]:
    """Candidate and baseline by turns on a machine that drifts to half its speed."""
    rng = np.random.default_rng(seed)
    sides: tuple[list[Result], list[Result]] = ([], [])
    for place in range(2 * pairs):
        side = place % 2
        level = 10.0 * (1 + place / (2 * pairs)) * np.exp(rng.normal(0, noise))
        times = rng.gamma(4.0, level / 4, 2000) * (slower if side == 0 else 1.0)
        known: dict[str, object] = {
            "machine": MACHINE,
            "scenario": {"users": 8, "seed": place},
            "samples_sha256": f"{seed}-{place}",
        }
        sides[side].append(
            run(times, place * 60 + np.arange(2000) / 50, bundle_id=f"shop-{side}" if side else "shop-0123456789ab",
                model_digest=str(side), **(known | changes))
        )  # fmt: skip
    return sides


def ab(line: str, sides: tuple[list[Result], list[Result]]) -> object:
    return evaluate(budgets(line), sides[0], today=TODAY, baseline=sides[1]).lines[-1]


def test_interleaved_runs_see_through_a_machine_that_drifts() -> None:
    line = ab(AB, turns(8))
    assert (line.status, line.n, line.unit) == (Status.PASS, 8, "pairs of runs")  # type: ignore[attr-defined]
    slow = ab(AB, turns(8, slower=1.3))
    assert slow.status is Status.FAIL  # type: ignore[attr-defined]
    assert slow.value == pytest.approx(0.3, abs=0.08)  # type: ignore[attr-defined]


def test_a_noisy_machine_is_not_enough_evidence_and_seldom_an_alarm() -> None:
    got = [ab(AB, turns(5, seed=seed, noise=0.3)).status for seed in range(40)]  # type: ignore[attr-defined]
    assert got.count(Status.FAIL) <= 2
    assert got.count(Status.NOT_ENOUGH) > 20


@pytest.mark.parametrize(
    ("break_it", "told"),
    [
        (lambda a, b: (a, b[:-1]), "interleaved runs come in pairs"),
        (lambda a, b: ([*a[:-1], replace(a[-1], starts_ns=None)], b), "no times of requests"),
        (lambda a, b: ([replace(r, document={**r.document, "scenario": {"users": 9, "seed": 1}}) for r in a], b), "scenario differs"),
    ],
)  # fmt: skip
def test_runs_that_are_no_pairs_fail(break_it: object, told: str) -> None:
    line = ab(AB, break_it(*turns(8)))  # type: ignore[operator]
    assert line.status is Status.FAIL  # type: ignore[attr-defined]
    assert told in line.why  # type: ignore[attr-defined]


def test_one_after_the_other_is_not_by_turns() -> None:
    ours, theirs = turns(6)
    first = [
        replace(r, starts_ns=r.starts_ns - 3600 * SECOND) for r in ours if r.starts_ns is not None
    ]
    line = ab(AB, (first, theirs))
    assert line.status is Status.FAIL  # type: ignore[attr-defined]
    assert "run by turns" in line.why  # type: ignore[attr-defined]


def test_another_machine_or_none_named_is_no_comparison() -> None:
    ours, theirs = turns(6)
    other = [replace(r, document={**r.document, "machine": {"processor": "b"}}) for r in theirs]
    assert "machine differs" in ab(AB, (ours, other)).why  # type: ignore[attr-defined]
    unnamed = ab(AB, turns(6, machine=None))
    assert unnamed.status is Status.NOT_ENOUGH  # type: ignore[attr-defined]
    assert "on which machine" in unnamed.why  # type: ignore[attr-defined]
    assert "needed: 5" in ab(AB, turns(4)).why  # type: ignore[attr-defined]


def test_a_baseline_of_another_bundle_is_needed_for_turns() -> None:
    ours, theirs = turns(6)
    assert BEFORE not in {result.bundle_id for result in theirs}
    same = [replace(result, bundle_id=ours[0].bundle_id) for result in theirs]
    verdict = evaluate(budgets(AB), ours, today=TODAY, baseline=same)
    assert verdict.lines[1].status is Status.FAIL


def test_a_void_run_decides_nothing_and_one_that_does_not_say_fails() -> None:
    fast = alone(1, 0.0)
    for told, status in (
        ({"valid": False, "void_because": "the generator fell behind"}, Status.NOT_ENOUGH),
        ({"valid": None}, Status.FAIL),
    ):
        run_of = replace(fast, document={**fast.document, **told})
        for line in (P99, budget("load.error_ratio", at_most=0.0)):
            assert decided(line, run_of).lines[1].status is status


def test_a_run_that_is_too_short_is_told_what_a_pass_takes_at_once() -> None:
    """Ten good seconds: who then measures 20, as a failure takes, would be sent back for 368."""
    good = run(np.full(1000, 2.0), np.arange(1000) / 100)
    assert "10 blocks of 1 s, needed: 368" in decided(P99, good).lines[1].why
    bad = run(np.full(1000, 90.0), np.arange(1000) / 100)
    assert "10 blocks of 1 s, needed: 20" in decided(P99, bad).lines[1].why
