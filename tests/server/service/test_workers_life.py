"""How a server of several workers begins and ends, and what it refuses."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.config import ServerSettings
from server.supervisor.link import Orders, Word
from strategies.live import LiveServer, live_server
from strategies.workers import ask, channel_to, log, metrics, pids, spare, until

pytestmark = pytest.mark.slow

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
WORKERS = ("--workers", "2")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which servers make theirs."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def processes(live: LiveServer) -> list[psutil.Process]:
    """The supervisor and all that it started."""
    supervisor = psutil.Process(live.process.pid)
    return [supervisor, *supervisor.children(recursive=True)]


def gone(found: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in found)


def refused(*flags: str | Path) -> list[str]:
    """What a server that will not start writes."""
    command = [sys.executable, "-m", "server.cli", "serve", "--metrics-port", "off", *flags]
    run = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr
    return run.stderr.splitlines()


def test_sigterm_drains_all_workers_and_leaves_nothing(
    tmp_path: Path, bundle_path: Path, temporary: Path
) -> None:
    with live_server(tmp_path, bundle_path, *WORKERS) as server, contextlib.ExitStack() as opened:
        ready = json.loads((tmp_path / "ready.json").read_text())
        assert list(ready) == ["pid", "port", "metrics_port", "workers"]
        assert ready["pid"] == server.process.pid
        everyone = processes(server)
        watches, calls = [], []
        for pid in pids(server):
            channel = opened.enter_context(channel_to(server, pid))
            watch = health_pb2_grpc.HealthStub(channel).Watch(
                health_pb2.HealthCheckRequest(), timeout=30
            )
            assert next(watch).status == SERVING
            watches.append(watch)
            stub = RecommendationServiceStub(channel)
            calls += [stub.Recommend.future(pb.RecommendRequest(count=10)) for _ in range(30)]
        assert server.terminate() == 0
        assert [next(watch).status for watch in watches] == [NOT_SERVING] * 2
        # A call is finished or was never taken: none is cut in the middle.
        assert {call.code() for call in calls} <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
        assert gone(everyone)
        assert log(server, "stopped")[-1]["pid"] == server.process.pid
        assert {line["pid"] for line in log(server, "draining")} >= set(ready["workers"])
    assert not (tmp_path / "ready.json").exists()
    assert list(temporary.glob("equipoise-*")) == []


def test_a_sigterm_to_every_process_is_one_order_and_not_two(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As systemd stops a service: the workers hear of it from two sides."""
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "2")
    with live_server(tmp_path, bundle_path, *WORKERS) as server, contextlib.ExitStack() as opened:
        channels = [opened.enter_context(channel_to(server, pid)) for pid in pids(server)]
        for process in processes(server):
            process.terminate()
        for pid in pids(server):
            psutil.Process(pid).terminate()
        for channel in channels:
            stub = health_pb2_grpc.HealthStub(channel)
            until(lambda stub=stub: stub.Check(health_pb2.HealthCheckRequest()).status != SERVING)
            # Balancers have not noticed yet.
            assert len(ask(channel).items) == 10
        assert server.process.wait(30) == 0


def test_a_worker_that_is_killed_while_it_drains_is_not_replaced(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "300")
    with live_server(tmp_path, bundle_path, *WORKERS) as server:
        everyone = processes(server)
        victim, other = pids(server)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: {line["pid"] for line in log(server, "draining")} >= {victim, other})
        psutil.Process(victim).kill()
        until(lambda: any(line["worker"] == victim for line in log(server, "worker ended")))
        # Asked again it does not wait for the rest of those minutes.
        assert server.terminate() == 0
        assert gone(everyone)
        assert len(log(server, "worker serving")) == 2


def test_workers_whose_supervisor_is_killed_drain_and_leave_nothing(
    tmp_path: Path, bundle_path: Path, temporary: Path
) -> None:
    with live_server(tmp_path, bundle_path, *WORKERS) as server:
        everyone = processes(server)
        server.process.kill()
        until(lambda: gone(everyone))
        assert len(log(server, "stopped")) == 2
        assert list(temporary.glob("equipoise-*")) == []
        socket.create_server(("127.0.0.1", server.port)).close()


def test_a_port_that_is_held_is_refused_to_every_other_server(
    tmp_path: Path, bundle_path: Path
) -> None:
    with live_server(tmp_path, bundle_path, *WORKERS) as server:
        for workers in ("1", "2"):
            (line,) = refused(
                "--bundle", bundle_path, "--port", str(server.port), "--workers", workers
            )
            assert line.startswith(f"Error: cannot listen on 127.0.0.1:{server.port}")
        assert len(ask(server.channel).items) == 10


def test_a_taken_port_is_one_line_before_any_worker_starts(
    bundle_path: Path, temporary: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (line,) = refused("--bundle", bundle_path, "--port", str(port), *WORKERS)
        assert line.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
        flags = ("--port", "0", "--metrics-port", str(port), *WORKERS)
        (line,) = refused("--bundle", bundle_path, *flags)
        assert line.startswith(f"Error: cannot open the metrics port 127.0.0.1:{port}")
    assert list(temporary.glob("equipoise-*")) == []


def test_a_bundle_that_workers_refuse_is_the_servers_own_error(
    tmp_path: Path, bundle_path: Path, temporary: Path
) -> None:
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_path, copy)
    model = copy / "model.onnx"
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(damaged)
    told = refused("--bundle", copy, "--port", "0", *WORKERS)
    assert [line for line in told if not line.startswith("{")] == [told[-1]]
    assert told[-1].startswith("Error: bundle refused: model.onnx: ")
    assert list(temporary.glob("equipoise-*")) == []


def test_a_stop_that_comes_while_workers_load_is_obeyed(
    tmp_path: Path, bundle_path: Path, temporary: Path
) -> None:
    flags = ("--bundle", bundle_path, "--port", "0", "--metrics-port", "off", *WORKERS)
    with (tmp_path / "log").open("w+") as out:
        command = [sys.executable, "-m", "server.cli", "serve", *map(str, flags)]
        process = subprocess.Popen(command, stderr=out)
        until(lambda: "worker started" in (tmp_path / "log").read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert "worker serving" not in (tmp_path / "log").read_text()
    assert list(temporary.glob("equipoise-*")) == []


def test_a_shared_folder_that_is_removed_is_told_and_made_again(
    tmp_path: Path, bundle_path: Path, temporary: Path
) -> None:
    with live_server(tmp_path, bundle_path, *WORKERS) as server:
        (folder,) = temporary.glob("equipoise-*")
        key = (folder / "page-key").read_text()
        shutil.rmtree(folder)
        before = psutil.Process(server.process.pid).children()
        for worker in before:
            worker.kill()
        dead = {worker.pid for worker in before}
        until(lambda: len(pids(server)) == 2 and not dead & {*pids(server)})
        (told,) = log(server, "shared files were removed and are made again")
        assert told["missing"][0] == str(folder)
        assert (folder / "page-key").read_text() == key
        assert folder.stat().st_mode & 0o777 == 0o700
        assert server.terminate() == 0
    assert list(temporary.glob("equipoise-*")) == []


def test_a_shared_folder_that_cannot_be_made_again_is_named_in_the_log(
    tmp_path: Path, bundle_path: Path, temporary: Path
) -> None:
    with live_server(tmp_path, bundle_path, *WORKERS) as server:
        victim, other = pids(server)
        spare(server)
        shutil.rmtree(temporary)
        for worker in psutil.Process(server.process.pid).children():
            if worker.pid != other:
                worker.kill()
        told = until(lambda: log(server, "worker not started"))
        assert str(temporary) in told[0]["error"]
        temporary.mkdir()
        until(lambda: len(pids(server)) == 2 and victim not in pids(server))


def test_a_worker_without_its_folder_tells_why_unless_it_is_an_orphan(
    tmp_path: Path, bundle_path: Path
) -> None:
    gone = tmp_path / "gone"
    for orphan in (False, True):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            Orders(ServerSettings(bundle=bundle_path), 0, gone).give(ours)
            worker = subprocess.Popen(
                [sys.executable, "-m", "server.service.worker", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
            )
            theirs.close()
            if orphan:
                ours.close()
                assert worker.wait(60) == 0
            else:
                word, why = json.loads(ours.makefile().readline())
                assert word == Word.REFUSED
                assert str(gone) in why
                assert worker.wait(60) == 2


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of a few MiB, in which servers make their folders."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount")
    monkeypatch.setenv("TMPDIR", str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, leave_bytes: int) -> None:
    with (disk / "filler").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - leave_bytes)


def test_a_full_disk_costs_no_worker(tmp_path: Path, bundle_path: Path, small: Path) -> None:
    with live_server(tmp_path, bundle_path, *WORKERS) as server:
        first = pids(server)
        waiting = spare(server)
        fill(small, 0)
        for pid in first:
            with channel_to(server, pid) as channel:
                for surface in range(400):  # new labels, for which the files would have to grow
                    assert len(ask(channel, surface=f"s{surface}").items) == 10
        assert pids(server) == first
        assert metrics(server)["equipoise_workers"] == 2
        # Whoever starts now has no more room.
        for pid in (*first, waiting):
            psutil.Process(pid).kill()
        until(lambda: len(pids(server)) == 2 and not {*first, waiting} & {*pids(server)})
        for pid in pids(server):
            with channel_to(server, pid) as channel:
                assert len(ask(channel).items) == 10
        assert not [line for line in log(server, "worker died") if line.get("signal") == "SIGBUS"]
        assert metrics(server)["equipoise_workers"] == 2


def test_no_room_for_the_counts_is_refused_at_the_start(bundle_path: Path, small: Path) -> None:
    fill(small, 256 * 1024)
    (line,) = refused("--bundle", bundle_path, "--port", "0", *WORKERS)
    assert "No space left on device" in line
    assert "TMPDIR" in line
    assert [path.name for path in small.iterdir()] == ["filler"]
