"""A live server of several workers for tests: who they are, and calls that one of them answers."""

from __future__ import annotations

import contextlib
import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
from prometheus_client.parser import text_string_to_metric_families

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from strategies.live import LiveServer

CONNECTIONS = 64
ALONE = ("grpc.use_local_subchannel_pool", 1)
"""Gives a channel a connection of its own."""
RETRYING = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{}],
                "waitForReady": True,
                "retryPolicy": {
                    "maxAttempts": 5,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)


def until(condition: Callable[[], Any], timeout_s: float = 90.0) -> Any:
    """Wait until it is true; what it gave then."""
    end = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < end, "it did not come to be in time"
        time.sleep(0.01)
    return found


def pids(live: LiveServer) -> list[int]:
    """The workers that serve, as the ready file tells."""
    found: list[int] = json.loads((live.log.parent / "ready.json").read_text())["workers"]
    return found


def log(live: LiveServer, event: str) -> list[dict[str, Any]]:
    """The log lines of one event."""
    written = live.log.read_text().splitlines()
    lines = [json.loads(line) for line in written if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def spare(live: LiveServer) -> int:
    """The worker that waits for a place, once it is warm."""

    def found() -> int | None:
        warm = [line["worker"] for line in log(live, "worker warm")]
        alive = [pid for pid in warm if pid not in pids(live) and psutil.pid_exists(pid)]
        return alive[0] if alive else None

    waiting: int = until(found)
    return waiting


def ledger_of(pid: int) -> Path | None:
    """The exposure ledger that a process has open."""
    with contextlib.suppress(psutil.Error):
        for file in psutil.Process(pid).open_files():
            if file.path.endswith("exposures.db"):
                return Path(file.path)
    return None


@contextlib.contextmanager
def channel_to(live: LiveServer, pid: int) -> Iterator[grpc.Channel]:
    """A channel whose connection is with that worker: the kernel picks one, so ask it again."""
    for _ in range(CONNECTIONS):
        with grpc.insecure_channel(live.target, options=[ALONE]) as channel:
            grpc.channel_ready_future(channel).result(10)
            if _ports(psutil.Process(), "laddr") & _ports(psutil.Process(pid), "raddr"):
                yield channel
                return
    raise AssertionError(f"none of {CONNECTIONS} connections came to worker {pid}")


def _ports(process: psutil.Process, end: str) -> set[int]:
    connections = process.net_connections("tcp")
    return {getattr(one, end).port for one in connections if one.status == "ESTABLISHED"}


def ask(channel: grpc.Channel, timeout_s: float = 10.0, **fields: Any) -> pb.RecommendResponse:
    """One list."""
    stub = RecommendationServiceStub(channel)
    request = pb.RecommendRequest(**{"count": 10} | fields)
    return stub.Recommend(request, timeout=timeout_s)


def metrics(live: LiveServer) -> dict[str, float]:
    """All samples of a scrape, by name and labels."""
    with urllib.request.urlopen(
        f"http://127.0.0.1:{live.metrics_port}/metrics", timeout=10
    ) as page:
        text = page.read().decode()
    return {
        sample.name
        + "".join(f" {key}={sample.labels[key]}" for key in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
