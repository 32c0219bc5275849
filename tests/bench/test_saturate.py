"""The knee: found where a known server has it, with void loads told apart; and one real, short run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from bench.saturate.__main__ import document, main, text
from bench.saturate.picture import picture
from bench.saturate.search import Knee, Probe, Repeat, knee
from strategies.live import LiveServer


class Queue:
    """An M/M/1 server of a known capacity: its sojourn is exponential, so p99 = ln(100) / (c - r)."""

    def __init__(self, capacity: float, ceiling: float = math.inf) -> None:
        self.capacity, self.ceiling = capacity, ceiling
        self.asked: list[float] = []

    def offer(self, rate: float, number: int) -> Repeat:
        self.asked.append(rate)
        spare = self.capacity - rate
        p99 = None if spare <= 0 else 1e3 * math.log(100) / spare
        void = "the generator cannot keep up" if rate > self.ceiling else ""
        done = min(rate, self.capacity)
        return Repeat(rate, done, done, p99, p99, 1 - done / rate, 1 - done / rate, void)


def search(queue: Queue, budget_ms: float = 50, most: float = 1e4, repeats: int = 3) -> Knee:
    return knee(
        queue.offer, budget_ms=budget_ms, start_rps=10, most_rps=most, precision=0.05,
        repeats=repeats,
    )  # fmt: skip


@pytest.mark.parametrize("capacity", [150.0, 700.0, 5_000.0])
@pytest.mark.parametrize("budget_ms", [20.0, 200.0])
def test_the_knee_of_a_known_queue_is_found(capacity: float, budget_ms: float) -> None:
    true = capacity - 1e3 * math.log(100) / budget_ms
    if true <= 10:
        assert search(Queue(capacity), budget_ms).rate_rps == 0
        return
    found = search(Queue(capacity), budget_ms)
    assert found.above_rps is not None
    assert found.rate_rps <= true <= found.above_rps
    assert found.above_rps / found.rate_rps <= 1.05
    assert not found.by_generator
    # What comes beyond the knee is shown as well.
    assert max(probe.rate_rps for probe in found.probes) >= 1.9 * found.rate_rps
    assert all(len(probe.repeats) == 3 for probe in found.probes)


def test_nothing_is_offered_twice_and_nothing_above_the_most() -> None:
    queue = Queue(1e9)
    found = search(queue, most=500, repeats=1)
    assert found.above_rps is None
    assert max(queue.asked) <= 500
    assert len(set(queue.asked)) == len(queue.asked)


def test_where_the_generator_gives_out_first_the_knee_is_not_the_servers() -> None:
    found = search(Queue(5_000, ceiling=300))
    assert found.by_generator
    assert found.rate_rps <= 300


def test_one_bad_repeat_of_three_does_not_move_the_knee() -> None:
    queue = Queue(700)

    def offer(rate: float, number: int) -> Repeat:
        made = queue.offer(rate, number)
        return made if number else Repeat(rate, 0, 0, None, None, 1, 1)

    found = knee(offer, budget_ms=50, start_rps=10, most_rps=1e4, precision=0.05, repeats=3)
    assert found.rate_rps == search(Queue(700)).rate_rps


def test_a_rate_that_is_kept_above_the_knee_is_told() -> None:
    """Other work on the machine makes a rate too much that is none a minute later."""
    queue = Queue(700)

    def offer(rate: float, number: int) -> Repeat:
        made = queue.offer(rate, number)
        return replace(made, p99_ms=99.0) if 300 < rate < 350 else made

    found = knee(offer, budget_ms=50, start_rps=10, most_rps=1e4, precision=0.05, repeats=3)
    made = document(found, "shop-1", 1e4, 50, 1000, 8, 1)
    assert found.above_rps is not None
    assert found.rate_rps < 300 < found.above_rps < 350
    assert made["kept_above_rps"] == [
        probe.rate_rps for probe in found.probes if 350 < probe.rate_rps < 608
    ]
    assert f"kept as well: {made['kept_above_rps'][0]:,.0f}" in text(made)
    assert document(search(queue), "shop-1", 1e4, 50, 1000, 8, 1)["kept_above_rps"] == []


def test_the_row_of_a_rate_is_of_its_middle_load_where_failures_are_the_slowest() -> None:
    loads = [Repeat(40, 40 - n, 40 - n, 5.0, None, n / 40, n / 40) for n in (9, 1, 5)]
    made = document(
        Knee(0, 40, (Probe(40, tuple(loads)),), False), "shop-1", 1e4, 50, 1000, 8, 1
    )  # fmt: skip
    assert " 35 " in text(made)


@pytest.mark.slow
def test_a_live_server_is_saturated_and_drawn(live: LiveServer, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main,
        ["--target", live.target, "--budget-ms", "2000", "--seconds", "1", "--repeats", "1",
         "--start", "20", "--most", "40", "--out", str(tmp_path)],
        catch_exceptions=False,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    made = json.loads((tmp_path / "saturate.json").read_text())
    # On a machine with other work the first may be void, and then no higher one is offered.
    assert [probe["rate_rps"] for probe in made["probes"]] in ([20], [20, 40])
    assert (tmp_path / "saturate.txt").read_text() == text(made) + "\n"
    assert (tmp_path / "saturate.png").read_bytes()[:4] == picture(made)[:4] == b"\x89PNG"
    assert made["generator_ceiling_rps"] > 0
    assert "against an echo" in result.stdout


def test_bundle_and_target_exclude_each_other(tmp_path: Path) -> None:
    for more in ([], ["--target", "127.0.0.1:1", "--bundle", str(tmp_path)]):
        result = CliRunner().invoke(main, [*more, "--out", str(tmp_path)])
        assert result.exit_code == 2
        assert "one of them" in result.output
