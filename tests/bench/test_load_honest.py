"""A server that is frozen for two seconds: both drivers of the open loop see what queueing theory says,
and a closed loop, which does not, says so.

Requests come at a known rate of r a second and would each take s seconds of the server, so that it is
busy for u = r s of the time. One that comes x seconds into a freeze of F waits for its end and for the
r x before it: F - x (1 - u). After the end that goes on until the queue is empty, F / (1 - u) after the
freeze began. So of a run of T seconds a share (F - l) / ((1 - u) T) waits longer than l, and the
percentile q is F - (1 - q) T (1 - u).
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from bench.load.runner import Driver, Plan, run_load
from bench.load.scenario import Scenario
from strategies.live import LiveServer

pytestmark = [pytest.mark.slow, pytest.mark.alone]

RATE, SECONDS, FREEZE_S, FROM_S = 45.0, 10.0, 2.0, 3.0
"""So many as come in the freeze fit before the server's door."""


class Freezer:
    """Stops the server for a while, once the load is under way. frozen_s: how long it really was."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._since = 0.0
        self.frozen_s = 0.0

    def __call__(self, elapsed_s: float) -> None:
        now = time.monotonic()
        if not self._since and elapsed_s >= FROM_S:
            self._since = time.monotonic()
            os.kill(self._pid, signal.SIGSTOP)
        elif self._since and not self.frozen_s and now - self._since >= FREEZE_S:
            os.kill(self._pid, signal.SIGCONT)
            self.frozen_s = time.monotonic() - self._since


def frozen(
    live: LiveServer, out: Path, driver: Driver, **loop: Any
) -> tuple[dict[str, Any], float]:
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "frozen", "deadline_ms": 10_000, "steady": False,
         "check": {"share": 0.2}} | loop
    )  # fmt: skip
    freezer = Freezer(live.process.pid)
    result = run_load(
        Plan(live.target, out, scenario, driver, server_pid=live.process.pid), progress=freezer
    )
    assert freezer.frozen_s >= FREEZE_S
    return result, freezer.frozen_s


@pytest.mark.parametrize("driver", ["client", "locust"])
def test_a_freeze_is_seen_as_theory_says(live: LiveServer, tmp_path: Path, driver: Driver) -> None:
    stage = {"kind": "constant", "rate_rps": RATE, "duration_s": SECONDS}
    result, frozen_s = frozen(live, tmp_path, driver, stage=[stage])
    # On a machine that has other work the run may be void for late sends; it counts from when they were due.
    assert {c["name"] for c in result["checks"] if c["voids"] and c["ok"] is False} <= {"punctual"}
    assert (result["errors"], result["requests"]) == (0, RATE * SECONDS)
    busy = RATE * result["server_cpu_us_per_list"] / 1e6
    wanted_ms = 1e3 * (frozen_s - 0.05 * SECONDS * (1 - busy))
    assert result["latency_ms"]["p95"] == pytest.approx(wanted_ms, rel=0.1)
    assert result["latency_ms"]["max"] == pytest.approx(1e3 * frozen_s, rel=0.1)
    # Requests went out while the server stood still.
    assert result["latency_ms"]["p50"] < 200


def test_a_closed_loop_does_not_see_it_and_says_so(live: LiveServer, tmp_path: Path) -> None:
    result, frozen_s = frozen(
        live, tmp_path, "locust", loop="closed", stage=[{"users": 4, "duration_s": SECONDS}]
    )
    assert result["latency_ms"]["p95"] < 200
    (omitted,) = (check for check in result["checks"] if check["name"] == "omitted")
    assert omitted["ok"] is False
    # About the freeze's share of the run, as far as the rate of the rest was one.
    assert 0.25 * frozen_s / SECONDS < omitted["value"] < 2 * frozen_s / SECONDS
    assert "were not made" in omitted["told"]
    (page,) = (row for name, row in result["rows"].items() if name == "Recommend OK")
    assert page["max"] >= 1e3 * FREEZE_S * 0.9
