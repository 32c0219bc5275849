"""A run judges itself first: each check is seen to fail on the fault that it is for, and not otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest

from bench.load.samples import SCHEMA, Samples
from bench.load.scenario import Scenario
from bench.load.schedule import schedule_of
from bench.load.validity import Checked, Validity, judged
from bench.load.work import Facts

SECOND = 10**9


def scenario(rate: float = 200, seconds: float = 20, **changes: Any) -> Scenario:
    stage = {"rate_rps": rate, "duration_s": seconds}
    return Scenario.model_validate(
        {"schema_version": 1, "name": "some", "stage": [stage]} | changes
    )


def run(of: Scenario, *, late_ms: Any = None, took_ms: Any = None, seed: int = 0) -> Samples:
    """What a generator would leave that sends so late to a server that takes so long."""
    made = schedule_of(of, 10)
    n, rng = len(made), np.random.default_rng(seed)
    late = rng.uniform(0, 0.3, n) if late_ms is None else late_ms
    took = rng.lognormal(1, 0.3, n) if took_ms is None else took_ms
    sent = made.due_ns + (np.asarray(late) * 1e6).astype(np.int64)
    ended = sent + (np.asarray(took) * 1e6).astype(np.int64)
    columns = {
        "due_ns": made.due_ns, "sent_ns": sent, "ended_ns": ended, "method": ["Recommend"] * n,
        "outcome": ["OK"] * n, "items": [20] * n, "receipt": [1] * n, "request": made.request,
        "request_id": [f"r{i}" for i in range(n)], "stage": made.stage, "checked": made.checked,
        "process": [0] * n,
    }  # fmt: skip
    return Samples(pl.DataFrame(columns).cast(SCHEMA))  # type: ignore[arg-type]


def facts(samples: Samples, **changes: Any) -> Facts:
    return Facts(
        **{
            "due": len(samples), "cpu_s": 2.0, "start_ns": 0, "end_ns": 20 * SECOND,
            "start_unix_ns": 100 * SECOND, "end_unix_ns": 120 * SECOND,
        } | changes
    )  # fmt: skip


def judge(of: Scenario, samples: Samples, **changes: Any) -> Validity:
    return judged(samples, of, [facts(samples, **changes)], 10)


def check(found: Validity, name: str) -> Checked:
    (one,) = (one for one in found.checks if one.name == name)
    return one


def test_an_honest_run_is_valid() -> None:
    of = scenario()
    found = judge(of, run(of))
    assert found.valid
    assert found.why == ""
    assert {one.name: one.ok for one in found.checks} == {
        "all sent": True, "punctual": True, "arrivals": True, "generator": True, "clock": True,
        "steady": True, "independent": True, "answers": True,
    }  # fmt: skip


def test_of_a_hundred_honest_runs_none_is_void() -> None:
    """At one in a thousand of a test, two voids among forty would be a wrong test."""
    void = 0
    for seed in range(40):
        of = scenario(rate=100, seconds=12, seed=seed)
        void += not judge(of, run(of, seed=seed)).valid
    assert void <= 1


def test_a_request_that_never_went_out_voids() -> None:
    of = scenario()
    samples = run(of)
    found = judge(of, samples, due=len(samples) + 1)
    assert not found.valid
    assert "went out" in found.why


def test_a_generator_that_waits_for_answers_is_found_out() -> None:
    """Planted coordinated omission: one call at a time, and the server stalls for two seconds."""
    of = scenario(rate=100, seconds=20)
    due = schedule_of(of, 10).due_ns / 1e6
    late, free = np.zeros(len(due)), 0.0
    took = np.full(len(due), 3.0)
    took[len(due) // 2] = 2_000.0
    for number, at in enumerate(due):
        late[number] = max(0.0, free - at)
        free = at + late[number] + took[number]
    samples = run(of, late_ms=late, took_ms=took)
    found = judge(of, samples)
    assert not found.valid
    assert check(found, "punctual").ok is False
    assert "cannot keep up" in found.why
    # Both views: what was sent late is slow from when it was due, and was not from when it was sent.
    assert np.quantile(samples.latencies_ms(), 0.95) > 500
    assert np.quantile(samples.service_ms(), 0.95) < 5


def test_sends_in_batches_are_no_poisson_arrivals() -> None:
    of = scenario(rate=100)
    samples = run(of)
    every_100_ms = -(-samples.numbers("due_ns") // 10**8) * 10**8
    batched = Samples(samples.frame.with_columns(pl.Series("sent_ns", every_100_ms)))
    one = check(judge(of, batched), "arrivals")
    assert one.ok is False
    assert "not those of the schedule" in one.told
    # Evenly spaced is none either.
    even = np.linspace(0, 20 * SECOND, len(samples)).astype(np.int64)
    spaced = Samples(samples.frame.with_columns(pl.Series("sent_ns", even)))
    assert check(judge(of, spaced), "arrivals").ok is False


def test_arrivals_of_a_ramp_are_tested_in_its_own_rate() -> None:
    of = scenario(stage=[{"rate_rps": 20, "to_rps": 400, "duration_s": 20}], steady=False)
    found = judge(of, run(of))
    assert check(found, "arrivals").ok is True
    assert check(found, "steady").ok is None
    # The same requests, taken for those of an even rate.
    flat = scenario(rate=210)
    assert check(judged(run(of), flat, [facts(run(of))], 10), "arrivals").ok is False


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"cpu_s": 19.0}, "generator"),
        ({"end_unix_ns": 121 * SECOND}, "clock"),
        ({"end_unix_ns": 119 * SECOND}, "clock"),
    ],
)
def test_a_busy_generator_and_a_clock_that_jumps_void(changes: dict[str, Any], name: str) -> None:
    of = scenario()
    found = judge(of, run(of), **changes)
    assert not found.valid
    assert [one.name for one in found.checks if one.ok is False] == [name]


def test_a_server_that_grows_slower_is_in_no_one_state() -> None:
    of = scenario()
    n = len(schedule_of(of, 10))
    rng = np.random.default_rng(1)
    drifting = rng.lognormal(1, 0.2, n) * np.linspace(1, 3, n)
    found = judge(of, run(of, took_ms=drifting))
    assert not found.valid
    assert "latency drifts" in found.why
    # As slow at the end as it is here on the whole: noise, and no drift.
    assert check(judge(of, run(of, took_ms=rng.permutation(drifting))), "steady").ok is True
    assert judge(scenario(steady=False), run(of, took_ms=drifting)).valid


def test_linked_neighbours_are_told_and_void_nothing() -> None:
    of = scenario()
    n = len(schedule_of(of, 10))
    rng = np.random.default_rng(2)
    waves = np.repeat(rng.lognormal(1, 0.6, n // 20 + 1), 20)[:n]
    found = judge(of, run(of, took_ms=waves))
    one = check(found, "independent")
    assert one.ok is False
    assert "count blocks of time" in one.told
    assert found.valid


def test_a_closed_loop_tells_what_it_omitted() -> None:
    of = scenario(loop="closed", stage=[{"users": 4, "duration_s": 20, "rate_rps": 200}])
    samples = run(of)
    assert check(judge(of, samples), "omitted").ok is True
    sent = samples.numbers("sent_ns").copy()
    sent[len(sent) // 2 :] += 2 * SECOND
    stalled = Samples(
        samples.frame.with_columns(pl.Series("sent_ns", sent), pl.Series("due_ns", sent))
    )
    one = check(judge(of, stalled), "omitted")
    assert one.ok is False
    assert one.value == pytest.approx(2 / 22, rel=0.1)
    assert "2.0" in one.told
    assert "were not made" in one.told
