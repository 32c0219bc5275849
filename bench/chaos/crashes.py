"""T7: workers are killed and stopped under load, and a whole server stands still.

Nothing may hang: every call ends by its deadline and a little. A killed worker is replaced within
seconds, and who asks for health learns of it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.marks import Mark, all_of, at_most, none_of
from bench.chaos.openloop import Spec
from bench.chaos.overload import counts
from bench.chaos.samples import Samples, generator
from bench.load.work import SERVICE_CONFIG
from bench.served import Served, serving

DEADLINE_MS = 500
HANG_MS = DEADLINE_MS + 100
RESPAWN_MS = 2_000
SETTLE_S = 1.0
REPLACED_S = 60.0
CHECK_S = 0.2
LOOK_S = 0.005


def run(
    folder: Path,
    bundle: Path,
    *,
    times: int,
    rate: float,
    seed: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Mark]:
    """All rows."""
    rows: list[Mark] = []
    kinds = (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP))
    for number, (name, how) in enumerate(kinds):
        with serving(folder / name / "server.log", "--bundle", bundle, "--workers", "2") as served:
            seen, respawn_ms, fell = _hurt(served, bundle, how, times, rate, seed)
        rows += [
            all_of(f"workers {name}: replaced", len(respawn_ms), times),
            at_most(
                f"workers {name}: from then until its place is filled, longest",
                max(respawn_ms, default=0), RESPAWN_MS, " ms",
            ),
            at_most(
                f"workers {name}: longest call, deadline {DEADLINE_MS} ms",
                float(seen.answered_ms.max()), HANG_MS, " ms",
            ),
            none_of(f"workers {name}: counters that fell", fell),
            none_of(f"workers {name}: answers that are none", seen.wrong),
            Mark(f"workers {name}: calls ended with", counts(seen)),
        ]  # fmt: skip
        progress((number + 1) / 4)
    with serving(folder / "all" / "server.log", "--bundle", bundle, "--workers", "2") as served:
        rows.append(
            at_most(
                "every worker and the spare killed at once: until all places are filled",
                _all_anew_ms(served), RESPAWN_MS, " ms",
            )
        )  # fmt: skip
    progress(3 / 4)
    with serving(folder / "alone" / "server.log", "--bundle", bundle) as served:
        rows.append(
            Mark(
                f"a server that stands still: a check of health with {CHECK_S * 1e3:.0f} ms has failed",
                f"{_flip_s(served):.2f} s",
            )
        )
    progress(1.0)
    return rows


def _hurt(
    served: Served, bundle: Path, how: signal.Signals, times: int, rate: float, seed: int
) -> tuple[Samples, Sequence[float], int]:
    """What callers saw, how long after each signal the ready file named another worker in the
    victim's place, and how many counters fell."""
    spec = Spec(
        served.target, str(bundle), rate, times * REPLACED_S, seed, "",
        deadline_ms=DEADLINE_MS, service_config=str(SERVICE_CONFIG),
    )  # fmt: skip
    fell, respawn_ms = 0, []
    with generator(spec) as caller:
        caller.begin()
        before = _totals(served)
        for number in range(times):
            time.sleep(SETTLE_S)
            _spare_is_warm(served, number)
            workers = served.workers
            victim = workers[number % len(workers)]
            os.kill(victim, how)
            begun_s = time.monotonic()
            while victim in served.workers and time.monotonic() < begun_s + REPLACED_S:
                time.sleep(LOOK_S)
            if victim not in served.workers:
                respawn_ms.append((time.monotonic() - begun_s) * 1e3)
            now = _totals(served)
            fell += sum(now.get(name, 0) < value for name, value in before.items())
            before = now
        time.sleep(SETTLE_S)
        seen = caller.end()
    return seen, respawn_ms, fell


def _all_anew_ms(served: Served) -> float:
    """How long after the death of all of them others serve; infinite if not in a minute."""
    _spare_is_warm(served, 0)
    victims = [one.pid for one in psutil.Process(served.pid).children()]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    begun_s = time.monotonic()
    while set(victims) & set(served.workers):
        if time.monotonic() > begun_s + REPLACED_S:
            return float("inf")
        time.sleep(LOOK_S)
    return (time.monotonic() - begun_s) * 1e3


def _spare_is_warm(served: Served, replaced: int) -> None:
    """Wait until the place of the next victim can be taken: two that serve, and one that waits."""
    until_s = time.monotonic() + REPLACED_S
    while time.monotonic() < until_s:
        if sum(event["event"] == "worker warm" for event in served.events()) >= 3 + replaced:
            return
        time.sleep(0.05)


def _totals(served: Served) -> dict[str, float]:
    return {
        name: value
        for name, value in served.metrics().items()
        if name.partition("{")[0].endswith(("_total", "_count", "_sum"))
    }


def _flip_s(served: Served) -> float:
    """How long after SIGSTOP a check of health, as a load balancer makes it, says other than SERVING."""
    request = health_pb2.HealthCheckRequest()
    with served.channel() as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        check(request, timeout=10)
        os.kill(served.process.pid, signal.SIGSTOP)
        begun_s = time.monotonic()
        try:
            while time.monotonic() < begun_s + 10:
                with contextlib.suppress(grpc.RpcError):
                    answer = check(request, timeout=CHECK_S)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        continue
                return time.monotonic() - begun_s
            return float("inf")
        finally:
            os.kill(served.process.pid, signal.SIGCONT)
