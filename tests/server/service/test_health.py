"""grpc.health.v1: each watcher is told of each change, whatever the others do."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.serving_pb2 import GetServingInfoRequest
from equipoise.v1.serving_pb2_grpc import ServingServiceStub
from strategies.live import LiveServer, failure_of, live_server
from strategies.raw_http2 import call_without_window

pytestmark = pytest.mark.slow
CODE = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
WATCH = "/grpc.health.v1.Health/Watch"
STREAM = "/equipoise.v1.RecommendationService/RecommendStream"
STREAMED = pb.RecommendStreamRequest(request=pb.RecommendRequest(count=5)).SerializeToString()


@pytest.fixture
def server(tmp_path: Path, bundle_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, bundle_path, "--admin-port", "0") as live:
        yield live


def watch(live: LiveServer, service: str = "") -> Any:
    stub = health_pb2_grpc.HealthStub(live.channel)
    return stub.Watch(health_pb2.HealthCheckRequest(service=service), timeout=60)


def test_a_watcher_who_does_not_read_holds_up_no_drain(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "0")
    monkeypatch.setenv("EQUIPOISE_DRAIN_GRACE_S", "300")
    with (
        live_server(tmp_path, bundle_path) as live,
        call_without_window(live.port, WATCH, b""),
        # Nor does one who never says a word.
        socket.create_connection(("127.0.0.1", live.port)),
    ):
        reads = watch(live)
        assert next(reads).status == SERVING
        live.process.send_signal(signal.SIGTERM)
        assert next(reads).status == NOT_SERVING
        assert live.process.wait(30) == 0
        assert "stopped" in live.log.read_text()


def test_when_one_watcher_leaves_the_others_are_still_told(server: LiveServer) -> None:
    first, second, third = watch(server), watch(server), watch(server)
    for one in (first, second, third):
        assert next(one).status == SERVING
    second.cancel()
    with pytest.raises(grpc.RpcError):
        next(second)
    # What comes after on the same connection is answered after the server knew of the cancellation.
    assert next(watch(server, "no.such.Service")).status == UNKNOWN
    server.process.send_signal(signal.SIGTERM)
    for one in (first, third):
        assert next(one).status == NOT_SERVING


def test_a_watch_ends_with_the_server_and_says_so(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "0")
    monkeypatch.setenv("EQUIPOISE_DRAIN_GRACE_S", "300")  # Which a watch would otherwise use up.
    with live_server(tmp_path, bundle_path) as live:
        watching = watch(live)
        assert next(watching).status == SERVING
        assert live.terminate() == 0
        assert next(watching).status == NOT_SERVING
        error, _ = failure_of(lambda: next(watching))
        assert error.code() is CODE.UNAVAILABLE
        assert "shutting down" in str(error.details())


def test_check_of_an_unknown_service_names_those_that_are(server: LiveServer) -> None:
    stub = health_pb2_grpc.HealthStub(server.channel)
    request = health_pb2.HealthCheckRequest(service="equipoise.Recommendation")
    error, _ = failure_of(lambda: stub.Check(request, timeout=10))
    assert error.code() is CODE.NOT_FOUND
    assert "'equipoise.Recommendation'" in str(error.details())
    assert "'equipoise.v1.RecommendationService'" in str(error.details())


@pytest.mark.parametrize("kept", ["service", "a field that health does not know"])
def test_who_watches_may_not_hold_a_message_for_as_long(server: LiveServer, kept: str) -> None:
    watched = health_pb2_grpc.HealthStub(server.channel)
    size = 509  # With two bytes that say how long and one that says what, 512.

    def request(length: int) -> health_pb2.HealthCheckRequest:
        if kept == "service":
            return health_pb2.HealthCheckRequest(service="n" * length)
        of_fifteen = bytes([15 << 3 | 2, length & 127 | 128, length >> 7]) + b"n" * length
        return health_pb2.HealthCheckRequest.FromString(of_fifteen)

    error, _ = failure_of(lambda: next(watched.Watch(request(size + 1), timeout=10)))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert "allowed: a request of at most 512 bytes" in str(error.details())
    watching = watched.Watch(request(size), timeout=10)
    assert next(watching).status == (UNKNOWN if kept == "service" else SERVING)
    watching.cancel()


def test_the_admin_port_answers_while_callers_are_refused(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "0")
    monkeypatch.setenv("EQUIPOISE_DRAIN_GRACE_S", "6")
    with (
        live_server(tmp_path, bundle_path, "--admin-port", "0") as live,
        admin(tmp_path) as operators,
        # Which lasts as long as the grace.
        call_without_window(live.port, STREAM, STREAMED),
    ):
        own, callers = ServingServiceStub(operators), ServingServiceStub(live.channel)
        watching = health_pb2_grpc.HealthStub(operators).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert next(watching).status == SERVING
        live.process.send_signal(signal.SIGTERM)
        assert next(watching).status == NOT_SERVING
        error, _ = failure_of(lambda: callers.GetServingInfo(GetServingInfoRequest(), timeout=10))
        assert error.code() is CODE.UNAVAILABLE
        assert own.GetServingInfo(GetServingInfoRequest(), timeout=10).bundle_id


def test_whoever_asks_the_admin_port_all_the_time_does_not_keep_a_server(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "0")
    monkeypatch.setenv("EQUIPOISE_DRAIN_GRACE_S", "200")  # Half of it would pass as well.
    with live_server(tmp_path, bundle_path, "--admin-port", "0") as live, admin(tmp_path) as asked:
        live.process.send_signal(signal.SIGTERM)
        begun_s = time.monotonic()
        while live.process.poll() is None:
            with contextlib.suppress(grpc.RpcError):
                ServingServiceStub(asked).GetServingInfo(GetServingInfoRequest(), timeout=10)
            assert time.monotonic() < begun_s + 60
        assert live.process.returncode == 0


@contextlib.contextmanager
def admin(folder: Path) -> Iterator[grpc.Channel]:
    """A connection to the admin port."""
    port = json.loads((folder / "ready.json").read_text())["admin_port"]
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
