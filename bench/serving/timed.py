"""The median latency of a call, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median


def latency_us(call: Callable[[], object], times: int) -> float:
    """Microseconds; the first tenth of the calls do not count."""
    taken = []
    for _ in range(times):
        started_ns = time.perf_counter_ns()
        call()
        taken.append(time.perf_counter_ns() - started_ns)
    return median(taken[times // 10 :]) / 1e3
