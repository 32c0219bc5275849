"""The admin port: what it tells, to whom, and that there is none unless it is asked for."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_channelz.v1 import channelz_pb2, channelz_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from equipoise.v1.serving_pb2 import GetServingInfoRequest
from equipoise.v1.serving_pb2_grpc import ServingServiceStub
from strategies.live import LiveServer, live_server
from strategies.workers import ALONE, ask, log, pids

pytestmark = pytest.mark.slow


def admin_port(live: LiveServer) -> int:
    port: int = json.loads((live.log.parent / "ready.json").read_text())["admin_port"]
    return port


@pytest.fixture(scope="module")
def open_to_all(
    tmp_path_factory: pytest.TempPathFactory, bundle_path: Path
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("admin")
    with live_server(folder, bundle_path, "--admin-port", "0", "--host", "0.0.0.0") as server:
        yield server


@pytest.fixture(scope="module")
def admin(open_to_all: LiveServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{admin_port(open_to_all)}") as channel:
        yield channel


def servers(channel: grpc.Channel) -> list[channelz_pb2.Server]:
    stub = channelz_pb2_grpc.ChannelzStub(channel)
    return list(stub.GetServers(channelz_pb2.GetServersRequest(), timeout=10).server)


def test_channelz_tells_the_servers_calls_and_its_callers_connections(
    open_to_all: LiveServer, admin: grpc.Channel
) -> None:
    (before,) = servers(admin)
    for _ in range(3):
        ask(open_to_all.channel)
    with pytest.raises(grpc.RpcError):
        ask(open_to_all.channel, count=0)
    (after,) = servers(admin)
    assert after.ref.server_id == before.ref.server_id
    assert after.data.calls_started - before.data.calls_started == 4
    stub = channelz_pb2_grpc.ChannelzStub(admin)
    question = channelz_pb2.GetServerSocketsRequest(server_id=after.ref.server_id)
    (connection,) = stub.GetServerSockets(question, timeout=10).socket_ref
    told = stub.GetSocket(channelz_pb2.GetSocketRequest(socket_id=connection.socket_id), timeout=10)
    assert told.socket.data.streams_started >= 4


def test_the_port_tells_its_services_health_and_what_is_served(
    open_to_all: LiveServer, admin: grpc.Channel
) -> None:
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    stub = reflection_pb2_grpc.ServerReflectionStub(admin)
    answer = next(iter(stub.ServerReflectionInfo(iter([question]), timeout=10)))
    assert {service.name for service in answer.list_services_response.service} == {
        "grpc.channelz.v1.Channelz",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "equipoise.v1.ServingService",
    }
    for service in answer.list_services_response.service:
        # What command-line clients need to call it.
        question = reflection_pb2.ServerReflectionRequest(file_containing_symbol=service.name)
        found = next(iter(stub.ServerReflectionInfo(iter([question]), timeout=10)))
        assert found.file_descriptor_response.file_descriptor_proto
    health = health_pb2_grpc.HealthStub(admin)
    told = health.Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert told.status == health_pb2.HealthCheckResponse.SERVING
    own = ServingServiceStub(admin).GetServingInfo(GetServingInfoRequest(), timeout=10)
    assert own == open_to_all.serving.GetServingInfo(GetServingInfoRequest(), timeout=10)


def test_callers_find_no_channelz_and_operators_no_lists(
    open_to_all: LiveServer, admin: grpc.Channel
) -> None:
    for call in (lambda: servers(open_to_all.channel), lambda: ask(admin)):
        with pytest.raises(grpc.RpcError) as refused:
            call()
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_the_port_is_on_the_loopback_address_though_the_server_is_on_all(
    open_to_all: LiveServer,
) -> None:
    listening = {
        one.laddr.port: one.laddr.ip
        for one in psutil.Process(open_to_all.process.pid).net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    }
    assert listening[open_to_all.port] in ("0.0.0.0", "::")
    assert listening[admin_port(open_to_all)] in ("127.0.0.1", "::ffff:127.0.0.1")


def test_there_is_no_admin_port_unless_it_is_asked_for(live: LiveServer) -> None:
    listening = [
        one.laddr.port
        for one in psutil.Process(live.process.pid).net_connections("tcp")
        if one.status == psutil.CONN_LISTEN
    ]
    assert sorted(listening) == sorted([live.port, live.metrics_port])
    with pytest.raises(grpc.RpcError) as refused:
        servers(live.channel)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


def start(bundle: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """A start that fails."""
    return subprocess.run(
        [sys.executable, "-m", "server.cli", "serve", "--bundle", bundle, *flags],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_a_taken_admin_port_is_one_line(bundle_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        flags = ("--port", "0", "--metrics-port", "off", "--admin-port", port)
        run = start(bundle_path, *flags)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"Error: cannot open the admin port 127.0.0.1:{port}")


def test_a_port_that_only_a_spare_would_have_and_is_taken_is_one_line_at_once(
    bundle_path: Path,
) -> None:
    last = _free_ports(3) + 2
    with socket.create_server(("127.0.0.1", last)):
        flags = ("--port", "0", "--admin-port", str(last - 2), "--workers", "2")
        run = start(bundle_path, *flags)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"Error: cannot open the admin port 127.0.0.1:{last}")


def test_more_workers_than_ports_are_refused(bundle_path: Path) -> None:
    flags = ("--port", "0", "--metrics-port", "off", "--admin-port", "65534", "--workers", "2")
    run = start(bundle_path, *flags)
    assert run.returncode == 2
    assert "admin_port: got 65534" in run.stderr
    assert "allowed: 65533 or less" in run.stderr


def test_each_worker_has_a_port_after_the_first_and_tells_it(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_SPARE_WORKERS", "0")
    first = _free_ports(2)
    flags = ("--workers", "2", "--admin-port", str(first))
    with live_server(tmp_path, bundle_path, *flags) as server:
        told = {
            line["pid"]: line["admin_port"]
            for line in log(server, "serving")
            if "admin_port" in line
        }
        assert set(told) == set(pids(server))
        assert set(told.values()) == {first, first + 1}
        for _ in range(6):
            # Connections of their own, so that either worker may get them.
            with grpc.insecure_channel(server.target, options=[ALONE]) as channel:
                ask(channel)
        counted = 0
        for port in told.values():
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                (of_one,) = servers(channel)
                counted += of_one.data.calls_started
        assert counted == 6


def _free_ports(count: int) -> int:
    """The first of so many in a row."""
    while True:
        with contextlib.ExitStack() as held:
            one = held.enter_context(socket.create_server(("127.0.0.1", 0)))
            port: int = one.getsockname()[1]
            try:
                for after in range(1, count):
                    held.enter_context(socket.create_server(("127.0.0.1", port + after)))
            except (OSError, OverflowError):
                continue
            return port
