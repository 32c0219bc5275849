"""Connections that mean harm or are broken: others are served as before, and nothing stays of them."""

from __future__ import annotations

import contextlib
import queue
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from strategies.live import LiveServer, failure_of, live_server

pytestmark = pytest.mark.slow
CODE = grpc.StatusCode
IDLE_STREAMS = 800
CONNECTIONS = 4


@pytest.fixture
def server(tmp_path: Path, bundle_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, bundle_path) as live:
        yield live


def serves(live: LiveServer) -> bool:
    answer = live.recommendation.Recommend(pb.RecommendRequest(count=3), timeout=10)
    return len(answer.items) == 3


def metric(live: LiveServer, name: str) -> float:
    url = f"http://127.0.0.1:{live.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


@contextlib.contextmanager
def channel(live: LiveServer) -> Iterator[grpc.Channel]:
    """A connection of its own."""
    alone = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(live.target, options=alone) as opened:
        yield opened


def test_metadata_of_a_megabyte_is_refused_and_the_connection_goes_on(server: LiveServer) -> None:
    request = pb.RecommendRequest(count=3)
    error, _ = failure_of(
        lambda: server.recommendation.Recommend(
            request, metadata=(("x-noise", "n" * 2**20),), timeout=10
        )
    )
    assert error.code() is CODE.RESOURCE_EXHAUSTED
    assert serves(server)


def test_thousands_of_idle_streams_take_nothing_from_others_and_leave_nothing(
    server: LiveServer,
) -> None:
    with contextlib.ExitStack() as opened:
        ends: queue.SimpleQueue[Any] = queue.SimpleQueue()
        calls = []
        for _ in range(CONNECTIONS):
            service = RecommendationServiceStub(opened.enter_context(channel(server)))
            for _ in range(IDLE_STREAMS // CONNECTIONS):
                # Opened and never written to: `get` waits, in a thread of grpc's.
                calls.append(service.RecommendStream(iter(ends.get, None)))
                if len(calls) % 200 == 0:
                    assert serves(server)
        assert serves(server)
        for call in calls:
            call.cancel()
        for _ in calls:
            ends.put(None)
    while metric(server, "equipoise_calls_under_way"):
        assert serves(server)
    assert metric(server, "equipoise_queue_depth") == 0


@pytest.mark.parametrize(
    "said", [b"", b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00" * 4096]
)
def test_connections_that_say_nothing_or_nonsense_take_nothing_from_others(
    server: LiveServer, said: bytes
) -> None:
    with contextlib.ExitStack() as opened:
        for _ in range(50):
            raw = opened.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            with contextlib.suppress(OSError):
                raw.sendall(said)
        assert serves(server)
    assert serves(server)


def test_calls_beyond_a_connections_share_wait_with_the_caller(
    tmp_path: Path, bundle_path: Path
) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text("max_connection_calls = 2\n")
    with live_server(tmp_path, bundle_path, "--settings", settings) as live:
        ends: list[queue.SimpleQueue[Any]] = [queue.SimpleQueue() for _ in range(2)]
        asked = pb.RecommendStreamRequest(request=pb.RecommendRequest(count=3))
        with channel(live) as full:
            service = RecommendationServiceStub(full)
            streams = [service.RecommendStream(iter(end.get, None)) for end in ends]
            for end, stream in zip(ends, streams, strict=True):
                end.put(asked)
                next(stream)
            error, _ = failure_of(
                lambda: service.Recommend(pb.RecommendRequest(count=3), timeout=0.5)
            )
            assert error.code() is CODE.DEADLINE_EXCEEDED
            assert serves(live)  # On a connection of its own.
            for end in ends:
                end.put(None)
            assert len(service.Recommend(pb.RecommendRequest(count=3), timeout=10).items) == 3
