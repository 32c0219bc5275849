"""The chaos runs in short: what they count is right, and what must hold on any machine does."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from bench.chaos import crashes, deadlines, overload, rolling
from bench.chaos.marks import Mark
from bench.chaos.openloop import WRONG, Spec, arrivals_s
from bench.chaos.samples import Generator, Samples, asked
from bench.served import serving, synthetic_bundle
from strategies.bundles import tiny_bundle

SHORT = {"history": 10, "candidates": 40}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("chaos") / "bundle"
    tiny_bundle(path)
    return path


def missed(rows: list[Mark], *anywhere: str) -> list[Mark]:
    """The rows that must hold on the slowest machine, and do not."""
    return [row for row in rows if row.missed and any(word in row.what for word in anywhere)]


def samples(codes: list[int], took_ms: list[float], late_ms: float = 0.0) -> Samples:
    n = len(codes)
    at_ns = np.arange(n, dtype=np.int64) * 10_000_000
    sent_ns = at_ns + int(late_ms * 1e6)
    return Samples(
        at_ns, sent_ns, sent_ns + np.int64(np.array(took_ms) * 1e6), np.int16(codes),
        np.zeros(n, np.bool_), 10**8,
    )  # fmt: skip


def test_arrivals_are_those_of_the_rate_and_of_the_seed() -> None:
    times = arrivals_s(1000, 20, 3)
    assert times.tolist() == arrivals_s(1000, 20, 3).tolist()
    assert times.tolist() != arrivals_s(1000, 20, 4).tolist()
    assert len(times) == pytest.approx(20_000, rel=0.03)


def test_what_failed_or_is_wrong_is_not_good_and_late_calls_count_from_their_time() -> None:
    seen = samples([0, 8, 4, WRONG, 0], [5, 1, 100, 5, 6], late_ms=50)
    assert (seen.ok.sum(), seen.wrong, len(seen)) == (2, 1, 5)
    assert seen.took_ms.tolist() == [55, 51, 150, 55, 56]
    assert seen.answered_ms.tolist() == [5, 1, 100, 5, 6]
    assert seen.by_code() == {-1: 1, 0: 2, 4: 1, 8: 1}
    assert len(seen.between(0.01, 0.03)) == 2


def test_overload_rows_tell_what_is_missed_and_a_caller_that_did_not_keep_up() -> None:
    over = samples([0] * 40 + [8] * 60, [50.0] * 40 + [30.0] * 60)
    well, ill = samples([0] * 1000, [5.0] * 1000), samples([8] * 1000, [5.0] * 1000)
    peak = overload.Peak(100, 120)
    rows = {row.what: row for row in overload.marks_of("x", over, 1.0, peak, well)}
    assert rows["x: goodput, of the peak"].missed == "50 % too little"
    assert rows["x: answered or too late, 99th percentile"].verdict == "PASS"
    assert rows["x: refused, 99th percentile"].missed == "20 ms too much"
    assert rows["x: all well again after"].measured == "0.0 s"
    assert "VOID" not in rows["x: the caller"].measured
    late = dataclasses.replace(over, sent_ns=over.sent_ns + 10**8)
    rows = {row.what: row for row in overload.marks_of("x", late, 1.0, peak, ill)}
    assert "VOID" in rows["x: the caller"].measured
    for what in (
        "goodput, of the peak",
        "answered or too late, 99th percentile",
        "refused, 99th percentile",
    ):
        assert (rows[f"x: {what}"].verdict, rows[f"x: {what}"].met) == ("void", False)
    assert rows["x: all well again after"].missed


@pytest.mark.slow
def test_an_open_loop_counts_every_request_and_checks_each_answer(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(tmp_path / "s.log", "--bundle", str(bundle)) as served:
        spec = Spec(served.target, str(bundle), 100, 1, 1, "", deadline_ms=5_000, **SHORT)
        seen = asked(spec)
        assert len(seen) == len(arrivals_s(100, 1, 1))
        assert (seen.ok.all(), seen.wrong) == (True, 0)
        # Lists of another length than it asked for are none: this server gives at most 20 of 10.
        short = asked(dataclasses.replace(spec, candidates=10))
        assert short.wrong == len(short)
        stranger = asked(dataclasses.replace(spec, policy="nonsense"))
        assert stranger.by_code() == {5: len(stranger)}


@pytest.mark.slow
def test_under_overload_answers_stay_right_and_nothing_breaks(bundle: Path, tmp_path: Path) -> None:
    with serving(tmp_path / "s.log", "--bundle", str(bundle)) as served:
        rows = overload.run(served, bundle, seconds=1.5, factors=(2,))
    assert missed(rows, "answers that are none") == []
    assert len(rows) == 9


@pytest.mark.slow
def test_what_a_flood_leaves_behind_is_seen(bundle: Path, tmp_path: Path) -> None:
    """A server that stands still when the flood ends, for a second, is well after a second."""
    with serving(tmp_path / "s.log", "--bundle", str(bundle)) as served:
        spec = Spec(served.target, str(bundle), 50, 1, 1, "", **SHORT)
        calm = dataclasses.replace(spec, seconds=4, seed=2)

        def stand_still() -> None:
            os.kill(served.process.pid, signal.SIGSTOP)
            threading.Timer(1.5, os.kill, (served.process.pid, signal.SIGCONT)).start()

        timer = threading.Timer(0.5, stand_still)
        real = Generator.begin
        begun: list[Generator] = []

        def begin(self: Generator) -> None:
            begun.append(self)
            if len(begun) == 1:
                timer.start()
            real(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Generator, "begin", begin)
            flood, after = overload.one_after_the_other(spec, calm)
    assert len(flood) == len(arrivals_s(50, 1, 1))
    assert 0.5 < overload.recovered_s(after, 4) < 3


@pytest.mark.slow
def test_a_declared_fallback_is_seen_in_the_answers(tmp_path: Path) -> None:
    bundle = synthetic_bundle(tmp_path / "bundle", items=2_000, history_length=500)
    settings = tmp_path / "s.toml"
    settings.write_text("max_pending_calls = 48\n", encoding="utf-8")
    flags = ("--bundle", str(bundle), "--settings", str(settings))
    with serving(tmp_path / "s.log", *flags) as served:
        rows = overload.run(served, bundle, seconds=1, factors=(4,), fallback=True)
    assert missed(rows, "fallback lists", "answers that are none") == []
    assert sum("fallback lists" in row.what for row in rows) == 1


@pytest.mark.slow
def test_rolling_restarts_fail_no_call(bundle: Path, tmp_path: Path) -> None:
    rows = rolling.run(tmp_path, rolling.Roll(bundle, 2, 30, 1))
    assert missed(rows, "failed calls", "replaced", "NOT_SERVING", "exit code") == []


@pytest.mark.slow
def test_killed_and_stopped_workers_are_replaced_and_no_answer_is_wrong(
    bundle: Path, tmp_path: Path
) -> None:
    rows = crashes.run(tmp_path, bundle, times=1, rate=30)
    assert missed(rows, "replaced", "answers that are none", "counters that fell") == []


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_is_left_of_calls_whose_time_ended(
    bundle: Path, tmp_path: Path, workers: int
) -> None:
    flags = ("--bundle", str(bundle), "--workers", str(workers))
    with serving(tmp_path / "s.log", *flags) as served:
        rows = deadlines.run(served, bundle, calls=300)
    # How late an end is seen depends on the machine.
    assert [row for row in rows if row.missed and "after its time" not in row.what] == []
