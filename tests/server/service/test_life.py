"""A server's life: health, metrics, feedback that closes the loop, drain, refusals at start."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.events import SqliteEventStore
from strategies.live import LiveServer, live_server
from strategies.raw_http2 import call_without_window

pytestmark = pytest.mark.slow

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = [
    "",
    "equipoise.v1.RecommendationService",
    "equipoise.v1.ServingService",
    "inference.GRPCInferenceService",
]


def purchase(user: str, item: str, number: int, **fields: Any) -> pb.FeedbackEvent:
    defaults = {"event_id": f"{user}-{number}", "user_id": user, "item_id": item, "kind": 4,
                "time_unix_ms": 1_500_000_000_000 + number}  # fmt: skip
    return pb.FeedbackEvent(**{**defaults, **fields})


def record(live: LiveServer, *events: pb.FeedbackEvent) -> pb.RecordFeedbackResponse:
    return live.recommendation.RecordFeedback(pb.RecordFeedbackRequest(events=events), timeout=10)


def ask(live: LiveServer, user: str) -> pb.RecommendResponse:
    return live.recommendation.Recommend(pb.RecommendRequest(user_id=user, count=10), timeout=10)


@pytest.mark.parametrize("service", SERVICES)
def test_health_is_serving_for_the_server_and_each_service(live: LiveServer, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(live.channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5).status == SERVING


def test_reflection_lists_the_services(live: LiveServer) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(live.channel)
    question = reflection_pb2.ServerReflectionRequest(list_services="")
    answer = next(iter(stub.ServerReflectionInfo(iter([question]), timeout=5)))
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {*SERVICES[1:], "grpc.health.v1.Health"}


def test_a_recorded_purchase_changes_the_next_list(
    live: LiveServer, known_items: list[str]
) -> None:
    before = ask(live, "loop")
    assert list(before.degraded_reasons) == [pb.DEGRADED_REASON_NON_PERSONAL]
    answer = record(live, *(purchase("loop", known_items[-1], n) for n in range(3)))
    assert (answer.recorded, answer.duplicates, answer.unknown_items) == (3, 0, 0)
    after = ask(live, "loop")
    assert list(after.degraded_reasons) == []
    assert known_items[-1] in [i.item_id for i in after.items]
    assert {i.source for i in after.items if i.item_id == known_items[-1]} == {
        pb.CANDIDATE_SOURCE_HISTORY
    }


def test_feedback_sent_twice_counts_once(live: LiveServer, known_items: list[str]) -> None:
    events = [purchase("twice", known_items[0], n) for n in range(4)]
    assert record(live, *events).recorded == 4
    again = record(live, *events, purchase("twice", "unheard-of", 9))
    assert (again.recorded, again.duplicates, again.unknown_items) == (1, 4, 1)


def test_metrics_count_calls_phases_lists_and_exposure_and_carry_no_user(
    live: LiveServer,
) -> None:
    ask(live, "metrics-user")
    with contextlib.suppress(grpc.RpcError):
        live.recommendation.Recommend(pb.RecommendRequest(count=0), timeout=5)
    url = f"http://127.0.0.1:{live.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=5) as page:
        text = page.read().decode()
    for line in (
        r'grpc_server_handled_total\{grpc_code="OK",grpc_method="Recommend"',
        r'grpc_server_handled_total\{grpc_code="INVALID_ARGUMENT",grpc_method="Recommend"',
        r'equipoise_phase_seconds_count\{phase="model"\} [1-9]',
        r"equipoise_batch_size_count [1-9]",
        r"equipoise_queue_depth 0",
        r'equipoise_lists_total\{.*receipt_status="MET"',
        r'equipoise_group_exposure_total\{group=".+",policy=".+"\} [0-9.]+',
        r'equipoise_degraded_lists_total\{reason="NON_PERSONAL"\} [1-9]',
        r'equipoise_serving_info\{bundle_id="tiny-',
    ):
        assert re.search(line, text), line
    assert "metrics-user" not in text
    assert "metrics-user" not in live.log.read_text()


@pytest.fixture
def own(tmp_path: Path, bundle_path: Path) -> Iterator[LiveServer]:
    with live_server(tmp_path, bundle_path, "--events", tmp_path / "events.db") as server:
        yield server


def test_sigterm_says_not_serving_finishes_and_exits_zero(own: LiveServer) -> None:
    stub = health_pb2_grpc.HealthStub(own.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICES[1]), timeout=30)
    assert next(watch).status == SERVING
    calls = [
        own.recommendation.Recommend.future(pb.RecommendRequest(count=10), timeout=20)
        for _ in range(50)
    ]
    calls[0].result()
    assert own.terminate() == 0
    codes = {call.code() for call in calls}
    # A call is finished or was never taken: none is cut in the middle.
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert next(watch).status == NOT_SERVING
    log = [json.loads(line) for line in own.log.read_text().splitlines()]
    assert [line["event"] for line in log] == ["serving", "draining", "stopped"]


def test_a_second_sigterm_hastens(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_DRAIN_DELAY_S", "0")
    monkeypatch.setenv("EQUIPOISE_DRAIN_GRACE_S", "300")
    with live_server(tmp_path, bundle_path) as server:
        watch = health_pb2_grpc.HealthStub(server.channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=60
        )
        assert next(watch).status == SERVING
        # One who takes no answers has a call that never ends by itself.
        asked = pb.RecommendStreamRequest(request=pb.RecommendRequest(count=10)).SerializeToString()
        stream = "/equipoise.v1.RecommendationService/RecommendStream"
        with call_without_window(server.port, stream, asked):
            server.process.send_signal(signal.SIGTERM)
            assert next(watch).status == NOT_SERVING
            with pytest.raises(grpc.RpcError):
                next(watch)
            assert server.process.poll() is None
            assert server.terminate() == 0


def test_a_drain_under_traffic_cuts_no_call(own: LiveServer, known_items: list[str]) -> None:
    """Callers that never stop asking are refused in words, and nothing that was taken is lost."""
    told: list[grpc.StatusCode] = []
    acknowledged: list[str] = []

    def keep_calling(worker: int) -> None:
        with grpc.insecure_channel(own.target) as channel:
            stub = RecommendationServiceStub(channel)
            for number in itertools.count():
                event = purchase(f"busy-{worker}", known_items[0], number)
                try:
                    stub.Recommend(pb.RecommendRequest(count=5), timeout=20)
                    stub.RecordFeedback(pb.RecordFeedbackRequest(events=[event]), timeout=20)
                    acknowledged.append(event.event_id)
                except grpc.RpcError as error:
                    # Asks again at once, until the server is gone.
                    told.append(error.code())
                    if gone.is_set():
                        return
                if len(acknowledged) >= 40:
                    busy.set()

    busy, gone = threading.Event(), threading.Event()
    callers = [threading.Thread(target=keep_calling, args=(n,)) for n in range(8)]
    for caller in callers:
        caller.start()
    assert busy.wait(60)
    assert own.terminate() == 0
    gone.set()
    for caller in callers:
        caller.join()
    assert set(told) == {grpc.StatusCode.UNAVAILABLE}
    with SqliteEventStore(own.log.parent / "events.db", create=False) as store:
        assert store.stats().events >= len(acknowledged) >= 40


def test_feedback_outlives_a_kill_and_another_server_sees_it(
    tmp_path: Path, bundle_path: Path, known_items: list[str]
) -> None:
    store = tmp_path / "events.db"
    with live_server(tmp_path, bundle_path, "--events", store) as first:
        assert record(first, *(purchase("kept", known_items[3], n) for n in range(5))).recorded == 5
        first.process.kill()
        first.process.wait()
    with live_server(tmp_path, bundle_path, "--events", store) as second:
        again = record(second, *(purchase("kept", known_items[3], n) for n in range(5)))
        assert (again.recorded, again.duplicates) == (0, 5)
        assert known_items[3] in [item.item_id for item in ask(second, "kept").items]


def test_an_event_recorded_at_one_worker_is_seen_by_the_next_call_at_another(
    tmp_path: Path, bundle_path: Path, known_items: list[str]
) -> None:
    store = tmp_path / "events.db"
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    with (
        live_server(folders[0], bundle_path, "--events", store) as one,
        live_server(folders[1], bundle_path, "--events", store) as two,
    ):
        for number, item in enumerate(known_items[10:16]):
            writer, reader = (one, two) if number % 2 else (two, one)
            ask(reader, "both")
            record(writer, purchase("both", item, number))
            history = {
                i.item_id
                for i in ask(reader, "both").items
                if i.source == pb.CANDIDATE_SOURCE_HISTORY
            }
            assert item in history


def test_a_server_without_a_store_serves_and_says_that_it_takes_no_feedback(
    tmp_path: Path, bundle_path: Path, known_items: list[str]
) -> None:
    with live_server(tmp_path, bundle_path) as server:
        assert len(ask(server, "anyone").items) == 10
        with pytest.raises(grpc.RpcError) as failed:
            record(server, purchase("u", known_items[0], 1))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "--events" in failed.value.details()


def _serve(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "server.cli", "serve", *map(str, flags)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_taken_port_is_one_line_and_a_non_zero_exit(bundle_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = _serve("--bundle", bundle_path, "--port", str(port), "--metrics-port", "off")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
    assert "Traceback" not in run.stderr


def test_a_taken_metrics_port_is_named(bundle_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = _serve("--bundle", bundle_path, "--port", "0", "--metrics-port", str(port))
    assert run.returncode == 2
    assert f"metrics port 127.0.0.1:{port}" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_damaged_bundle_is_refused_before_serving_with_exit_code_2(
    tmp_path: Path, bundle_path: Path
) -> None:
    copy = tmp_path / "bundle"
    subprocess.run(["cp", "-r", str(bundle_path), str(copy)], check=True)
    model = copy / "model.onnx"
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(damaged)
    run = _serve("--bundle", copy, "--port", "0", "--metrics-port", "off")
    assert run.returncode == 2
    assert re.search(r"Error: bundle refused: model\.onnx: ", run.stderr)
    assert "Traceback" not in run.stderr


def test_an_unknown_setting_in_the_environment_is_refused(bundle_path: Path) -> None:
    command = [sys.executable, "-m", "server.cli", "serve", "--bundle", str(bundle_path)]
    run = subprocess.run(
        command,
        env={"PATH": "/usr/bin:/bin", "EQUIPOISE_PROT": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert "did you mean 'port'" in run.stderr


def test_it_starts_where_neither_the_package_nor_home_is_writable(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/proc/nowhere")
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/nowhere")
    with live_server(tmp_path, bundle_path) as server:
        assert len(ask(server, "anyone").items) == 10


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_server_starts_with_is_never_searched_for_garbage(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    # Else each full collection holds up every call for as long as it takes to go through it all.
    code = (
        "import atexit, gc, sys\n"
        "atexit.register(lambda: print('frozen', gc.get_freeze_count(), file=sys.stderr))\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with live_server(tmp_path, bundle_path, "--workers", str(workers)) as server:
        assert server.terminate() == 0
    frozen = [int(count) for count in re.findall(r"^frozen (\d+)$", server.log.read_text(), re.M)]
    assert sum(count > 10_000 for count in frozen) == workers, frozen
