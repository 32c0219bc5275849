"""Samples -> the load result that the gate reads: a pure function.

A failed request is infinitely slow: `latency_ms` is over all requests from when they were due, and a
percentile that falls on a failure is null. `service_ms` counts from when they were sent, as a closed
loop sees it: where the two differ, a stall was left out (coordinated omission). `latency_ok_ms` is over
the right answers alone, for reading, not for deciding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hdrh.histogram import HdrHistogram
from numpy.typing import NDArray

from bench.load.samples import OK, Samples
from bench.load.scenario import Scenario
from bench.load.validity import Validity
from equipoise.v1 import recommendation_pb2 as pb

SCHEMA_VERSION = 1
QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p999": 0.999}
HISTOGRAM_MAX_US = 600_000_000
HISTOGRAM_DIGITS = 3


@dataclass(frozen=True)
class Run:
    """What is known of a load beside its samples.

    server_cpu_s: user and system seconds of the server's process tree while it ran; None when
    its process is not known. requests_sha256: of the request file.
    """

    target: str
    bundle_id: str
    model_digest: str
    driver: str
    processes: int
    scenario: Scenario
    requests_sha256: str
    validity: Validity
    started_unix_ms: int
    server_cpu_s: float | None = None


def receipt_counts(samples: Samples) -> dict[str, int]:
    """Right answers by their receipts' status, such as {"MET": 9, "INFEASIBLE": 1}."""
    statuses = samples.numbers("receipt")[samples.succeeded()]
    return {
        name.removeprefix("RECEIPT_STATUS_"): int((statuses == value).sum())
        for name, value in pb.ReceiptStatus.items()
        if value
    }


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
    measured_s = 0.0
    if n:
        first, last = samples.numbers("due_ns").min(), samples.numbers("ended_ns").max()
        measured_s = float(last - first) / 1e9
    good = int((latencies <= run.scenario.deadline_ms).sum())
    receipts = receipt_counts(samples)
    cpu_us = None
    if run.server_cpu_s is not None and lists:
        cpu_us = round(run.server_cpu_s * 1e6 / lists, 3)
    return {
        "kind": "load",
        "schema_version": SCHEMA_VERSION,
        "bundle_id": run.bundle_id,
        "model_digest": run.model_digest,
        "target": run.target,
        "driver": run.driver,
        "processes": run.processes,
        "scenario": run.scenario.model_dump(mode="json"),
        "requests_sha256": run.requests_sha256,
        "started_unix_ms": run.started_unix_ms,
        "deadline_ms": run.scenario.deadline_ms,
        **run.validity.as_json(),
        "measured_s": round(measured_s, 6),
        "requests": n,
        "errors": n - lists,
        "error_ratio": (n - lists) / n if n else None,
        "by_status": samples.by_outcome(),
        "answers_compared": int(samples.frame["checked"].sum()),
        "latency_ms": latency_table(latencies),
        "service_ms": latency_table(samples.service_ms()),
        "latency_ok_ms": latency_table(latencies[succeeded]),
        "rows": _rows(samples),
        "throughput_rps": round(lists / measured_s, 3) if measured_s > 0 else None,
        "goodput_rps": round(good / measured_s, 3) if measured_s > 0 else None,
        "receipts": receipts,
        "groups": {attribute: _groups(samples, attribute) for attribute in samples.attributes},
        "exposure": {
            table: _exposure(samples, groups, run.scenario.deadline_ms)
            for table, groups in samples.exposure().items()
        },
        "server_cpu_us_per_list": cpu_us,
        "histogram_us": _histogram(latencies[succeeded]),
    }


def _rows(samples: Samples) -> dict[str, Any]:
    """Method and outcome -> how long such calls took: fast refusals and slow answers apart."""
    taken_ms = (samples.numbers("ended_ns") - samples.numbers("due_ns")) / 1e6
    names = np.array(
        [f"{m} {o}" for m, o in zip(samples.texts("method"), samples.texts("outcome"), strict=True)]
    )
    return {name: latency_table(taken_ms[names == name]) for name in sorted(set(names.tolist()))}


def _groups(samples: Samples, attribute: str) -> dict[str, Any]:
    """Of the callers of each group: how many requests failed, how many of them by being refused."""
    of, outcomes = samples.groups(attribute), np.array(samples.texts("outcome"))
    latencies = samples.latencies_ms()
    found = {}
    for label in sorted(set(of.tolist())):
        members = of == label
        found[label or "unknown"] = {
            "requests": int(members.sum()),
            "errors": int((members & (outcomes != OK)).sum()),
            "refused": int((members & samples.refused()).sum()),
            "latency_ms": latency_table(latencies[members]),
        }
    return found


def _exposure(
    samples: Samples, groups: Mapping[str, NDArray[np.float64]], deadline_ms: int
) -> dict[str, Any]:
    """Of the exposure that lists would have given each group of items, the share that was delivered."""
    latencies = samples.latencies_ms()
    found: dict[str, Any] = {}
    for group, asked in groups.items():
        whole = np.nansum(asked)
        shares = {
            "accepted": ~samples.refused(),
            "answered": np.isfinite(latencies),
            "in_time": latencies <= deadline_ms,
        }
        found[group] = {"asked": round(float(whole), 6)} | {
            name: round(float(np.nansum(asked[good]) / whole), 6) if whole > 0 else None
            for name, good in shares.items()
        }
    return found
