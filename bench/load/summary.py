"""Samples -> the load result that the gate reads: a pure function.

A failed request is infinitely slow: `latency_ms` is over all requests, and a
percentile that falls on a failure is null. `latency_ok_ms` is over the right
answers alone, for reading, not for deciding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from bench.load.samples import Samples
from equipoise.v1 import recommendation_pb2 as pb

SCHEMA_VERSION = 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
HISTOGRAM_MAX_US = 600_000_000
HISTOGRAM_DIGITS = 3


@dataclass(frozen=True)
class Run:
    """What is known of a load beside its samples.

    server_cpu_s: user and system seconds of the server's process tree while it ran; None when
    its process is not known.
    """

    target: str
    bundle_id: str
    model_digest: str
    users: int
    duration_s: float
    spawn_rate: float
    seed: int
    deadline_ms: int
    server_cpu_s: float | None = None


def latency_table(latencies_ms: NDArray[np.float64]) -> dict[str, float | int | None]:
    """Exact percentiles (nearest rank), maximum and mean; null where a failure decides."""
    ordered = np.sort(latencies_ms)
    n = len(ordered)
    table: dict[str, float | int | None] = {"n": n}
    for name, quantile in QUANTILES.items():
        rank = max(math.ceil(quantile * n - 1e-9), 1)
        table[name] = _finite(float(ordered[rank - 1])) if n else None
    table["max"] = _finite(float(ordered[-1])) if n else None
    table["mean"] = _finite(float(ordered.mean())) if n else None
    return table


def _finite(value: float) -> float | None:
    return round(value, 6) if math.isfinite(value) else None


def _histogram(latencies_ms: NDArray[np.float64]) -> str:
    """The right answers' latencies in microseconds, HdrHistogram V2, base64: runs can be added."""
    histogram = HdrHistogram(1, HISTOGRAM_MAX_US, HISTOGRAM_DIGITS)
    for latency_ms in latencies_ms.tolist():
        histogram.record_value(min(max(round(latency_ms * 1000), 1), HISTOGRAM_MAX_US))
    encoded: bytes = histogram.encode()
    return encoded.decode("ascii")


def summarise(samples: Samples, run: Run) -> dict[str, Any]:
    """The load result, without the name of the samples' file."""
    succeeded = samples.succeeded()
    n, lists = len(samples), int(succeeded.sum())
    latencies = samples.latencies_ms()
    start_ns = samples.column("start_ns").astype(np.int64)
    end_ns = start_ns + samples.column("latency_ns").astype(np.int64)
    measured_s = float(end_ns.max() - start_ns.min()) / 1e9 if n else 0.0
    statuses = samples.column("receipt")[succeeded].astype(np.int64)
    receipts = {
        name.removeprefix("RECEIPT_STATUS_"): int((statuses == value).sum())
        for name, value in pb.ReceiptStatus.items()
        if value
    }
    cpu_us = None
    if run.server_cpu_s is not None and lists:
        cpu_us = round(run.server_cpu_s * 1e6 / lists, 3)
    return {
        "kind": "load",
        "schema_version": SCHEMA_VERSION,
        "bundle_id": run.bundle_id,
        "model_digest": run.model_digest,
        "target": run.target,
        "driver": "locust, closed loop: latency counts from the real send",
        "users": run.users,
        "spawn_rate": run.spawn_rate,
        "duration_s": run.duration_s,
        "measured_s": round(measured_s, 6),
        "deadline_ms": run.deadline_ms,
        "seed": run.seed,
        "requests": n,
        "errors": n - lists,
        "error_ratio": (n - lists) / n if n else None,
        "by_status": samples.by_outcome(),
        "latency_ms": latency_table(latencies),
        "latency_ok_ms": latency_table(latencies[succeeded]),
        "throughput_rps": round(lists / measured_s, 3) if measured_s > 0 else None,
        "receipts": receipts,
        "server_cpu_us_per_list": cpu_us,
        "histogram_us": _histogram(latencies[succeeded]),
    }
