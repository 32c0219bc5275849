"""What is counted of worker processes, for Prometheus, and how their own counts become one.

Each worker counts in files of the shared folder (prometheus_client's multiprocess mode); a scrape
of the supervisor adds them up. The files are named by the worker's slot, not by its pid: a
replacement goes on with the counts of the worker before it, so that totals never fall and a worker
that dies again and again leaves no files behind.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

TRIES = 50
WAIT_S = 0.01


class Reason(StrEnum):
    """Why a worker was replaced."""

    EXITED = "exited"
    KILLED = "killed"
    SILENT = "silent"


class WorkerCounts:
    """How many workers serve, and how many were replaced."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.serving = Gauge("equipoise_workers", "Worker processes that serve", registry=registry)
        restarts = Counter(
            "equipoise_worker_restarts",
            "Worker processes that were replaced: they exited, were killed, or fell silent and "
            "were killed by the supervisor",
            ["reason"],
            registry=registry,
        )
        # From 0 on, so that the first death is an increase.
        self.restarts = {reason: restarts.labels(reason) for reason in Reason}


class SwapCounts:
    """How many releases that were to be served were taken up, and how many were not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        swaps = Counter(
            "equipoise_bundle_swaps",
            "Releases that were to be served, by what became of them: swapped or refused",
            ["outcome"],
            registry=registry,
        )
        # From 0 on, so that the first is an increase.
        self._outcomes = {outcome: swaps.labels(outcome) for outcome in ("swapped", "refused")}

    def count(self, outcome: str) -> None:
        """One more became this."""
        self._outcomes[outcome].inc()


def count_in_files(folder: Path, slot: int) -> None:
    """From now on what this process counts goes to the files of its slot. Call it before the first
    metric is made, in one process of a slot at a time."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


class Sums(Collector):
    """The sums over all workers that count in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._files = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        for _ in range(TRIES):
            try:
                return self._read()
            except struct.error:
                # A worker that starts has opened a file and not yet written its head.
                time.sleep(WAIT_S)
        return self._read()

    def _read(self) -> list[Metric]:
        return list(self._files.collect())  # type: ignore[no-untyped-call]


def forget_present(folder: Path, slot: int) -> None:
    """A worker is dead: what it told of the present (a queue's depth) is no longer so."""
    mark_process_dead(slot, path=str(folder))  # type: ignore[no-untyped-call]
