"""What is counted of worker processes, for Prometheus, and how their own counts become one.

Each worker counts in files of the shared folder (prometheus_client's multiprocess mode); a scrape
of the supervisor adds them up. The files are named by the worker's slot, not by its pid: a
replacement goes on with the counts of the worker before it, so that totals never fall and a worker
that dies again and again leaves no files behind.
"""

from __future__ import annotations

import functools
import os
import struct
import time
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric, values
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

TRIES = 50
WAIT_S = 0.01
FILE_BYTES = 1 << 16
"""What prometheus_client makes a file of at first."""
ENTRY_BYTES = 4 + 8 + 16
"""What an entry takes at most beside its key: its length, what fills it up, a value and a time."""
KINDS = 6
"""How many files a worker counts in: one for counters, for histograms, and for each kind of gauge."""


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


class _Counts(MmapedDict):
    """The file of one kind of metric, whose room on the disk is taken before it is written to.

    prometheus_client makes files with holes, and a write into a hole is SIGBUS where the disk is
    full. What there is no room for is counted beside the file, where no scrape sees it.
    """

    def __init__(self, filename: str) -> None:
        self._beside: dict[str, tuple[float, float]] = {}
        self._has_file = False
        self._positions: dict[str, int] = {}
        try:
            with open(filename, "ab") as file:
                size = os.fstat(file.fileno()).st_size
                try:
                    # Also what there is already, for it may have holes.
                    os.posix_fallocate(file.fileno(), 0, max(size, FILE_BYTES))
                except OSError:
                    if size == 0:
                        os.unlink(filename)  # no scrape can read an empty one
                    raise
            super().__init__(filename)  # type: ignore[no-untyped-call]
            self._has_file = True
        except OSError as error:
            _tell_once(error)

    def read_value(self, key: str) -> tuple[float, float]:
        if not self._has_room(key):
            return self._beside.setdefault(key, (0.0, 0.0))
        value: tuple[float, float] = super().read_value(key)  # type: ignore[no-untyped-call]
        return value

    def write_value(self, key: str, value: float, timestamp: float) -> None:
        if self._has_room(key):
            super().write_value(key, value, timestamp)  # type: ignore[no-untyped-call]
        else:
            self._beside[key] = (value, timestamp)

    def _has_room(self, key: str) -> bool:
        if key in self._positions:
            return True
        if not self._has_file or key in self._beside:
            return False
        needed, capacity = self._used + len(key.encode()) + ENTRY_BYTES, self._capacity
        while capacity < needed:
            capacity *= 2
        try:
            if capacity > self._capacity:
                os.posix_fallocate(self._f.fileno(), 0, capacity)
        except OSError as error:
            _tell_once(error)
            return False
        return True


@functools.cache
def _log_once(why: str) -> None:
    structlog.get_logger("server").error(
        "some metrics are lost: TMPDIR has no room for them", error=why
    )


def _tell_once(error: OSError) -> None:
    _log_once(error.strerror or str(error))


def count_in_files(folder: Path, slot: int) -> None:
    """From now on what this process counts goes to the files of its slot. Call it before the first
    metric is made, in one process of a slot at a time."""
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)
    values.MmapedDict = _Counts  # type: ignore[attr-defined,assignment]
    values.ValueClass = values.MultiProcessValue(lambda: slot)  # type: ignore[no-untyped-call]


class Sums(Collector):
    """The sums over all workers that count in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._files = MultiProcessCollector(None, path=str(folder))  # type: ignore[no-untyped-call]

    def collect(self) -> Iterable[Metric]:
        for _ in range(TRIES):
            try:
                return self._read()
            except (struct.error, FileNotFoundError):
                # A worker that starts has opened a file and not yet written its head, or has
                # removed it again for want of room.
                time.sleep(WAIT_S)
        return self._read()

    def _read(self) -> list[Metric]:
        return list(self._files.collect())  # type: ignore[no-untyped-call]


def forget_present(folder: Path, slot: int) -> None:
    """A worker is dead: what it told of the present (a queue's depth) is no longer so."""
    mark_process_dead(slot, path=str(folder))  # type: ignore[no-untyped-call]
