"""What callers of the gateway see when servers are busy, hang, stop and are gone."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from strategies.gateways import HttpAnswer, live_gateway
from strategies.live import LiveServer, failure_of, live_server
from strategies.workers import until

pytestmark = pytest.mark.slow

LIST = pb.RecommendRequest(count=3).SerializeToString()


def test_overload_is_429_and_says_when_to_try_again(tmp_path: Path, bundle_path: Path) -> None:
    """Callers beside the gateway keep the only place of the queue taken."""
    with (
        live_server(tmp_path, bundle_path, "--max-queue", "1", "--max-batch", "1") as server,
        live_gateway(tmp_path, "--server", server.target) as gateway,
        ThreadPoolExecutor(8) as callers,
    ):
        enough = threading.Event()

        def call_on() -> None:
            while not enough.is_set():
                with contextlib.suppress(grpc.RpcError):
                    server.recommendation.Recommend(pb.RecommendRequest(count=50), timeout=10)

        def refused() -> HttpAnswer | None:
            answer = gateway.json("Recommend", {"count": 3})
            return answer if answer.status == 429 else None

        flood = [callers.submit(call_on) for _ in range(8)]
        try:
            answer: HttpAnswer = until(refused, 60)
        finally:
            enough.set()
        for one in flood:
            one.result(60)
        assert gateway.counted("upstream_rq_retry") == 0, "the caller waits, not the gateway"
    assert answer.json["code"] == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in answer.json["details"]}
    assert kinds["ErrorInfo"]["reason"] == "QUEUE_FULL"
    assert 0.025 <= float(kinds["RetryInfo"]["retry_delay"].rstrip("s")) <= 0.1


@pytest.mark.parametrize("deadline", ["0S", "0m"])
def test_a_deadline_that_is_over_is_told_as_one(
    tmp_path: Path, live: LiveServer, deadline: str
) -> None:
    with live_gateway(tmp_path, "--server", live.target) as gateway:
        answer = gateway.json("Recommend", {"count": 3}, grpc_timeout=deadline)
        web = gateway.web("Recommend", LIST, grpc_timeout=deadline)
    assert (answer.status, answer.json["code"]) == (504, 4)
    assert (web.status, web.headers["grpc-status"]) == (200, "4")


def test_a_full_door_is_told_as_a_full_queue(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """gRPC itself turns calls away there, as CANCELLED and without a word."""
    monkeypatch.setenv("EQUIPOISE_MAX_PENDING_CALLS", "1")
    with (
        live_server(tmp_path, bundle_path, "--max-batch", "1") as server,
        live_gateway(tmp_path, "--server", server.target) as gateway,
        ThreadPoolExecutor(24) as callers,
    ):

        def refused() -> list[HttpAnswer]:
            calls = [callers.submit(gateway.json, "Recommend", {"count": 3}) for _ in range(48)]
            return [answer for call in calls if (answer := call.result(60)).status != 200]

        def refused_on_the_web() -> list[HttpAnswer]:
            calls = [callers.submit(gateway.web, "Recommend", LIST) for _ in range(48)]
            return [
                answer for call in calls if "grpc-status" in (answer := call.result(60)).headers
            ]

        told: list[HttpAnswer] = until(refused, 60)
        on_the_web: list[HttpAnswer] = until(refused_on_the_web, 60)
    exhausted = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    assert {answer.status for answer in told} == {429}
    for answer in told:
        assert answer.json["code"] == exhausted
        kinds = {detail["@type"].rpartition(".")[2]: detail for detail in answer.json["details"]}
        assert kinds["ErrorInfo"]["reason"] == "QUEUE_FULL"
        assert 0.025 <= float(kinds["RetryInfo"]["retry_delay"].rstrip("s")) <= 0.1
    assert {answer.headers["grpc-status"] for answer in on_the_web} == {str(exhausted)}
    assert all(25 <= int(answer.headers["grpc-retry-pushback-ms"]) <= 100 for answer in on_the_web)


def test_a_server_that_hangs_costs_a_deadline_and_is_then_left_alone(
    tmp_path: Path, bundle_path: Path
) -> None:
    with (
        live_server(tmp_path, bundle_path) as server,
        live_gateway(tmp_path, "--server", server.target, "--timeout-s", "0.3") as gateway,
        grpc.insecure_channel(gateway.target) as channel,
    ):
        service = RecommendationServiceStub(channel)

        def grpc_code(timeout_s: float) -> grpc.StatusCode:
            request = pb.RecommendRequest(count=3)
            return failure_of(lambda: service.Recommend(request, timeout=timeout_s))[0].code()

        def all_are_late() -> bool:
            """The gateway's deadline, and the caller's own. False where a health check was quicker."""
            server.process.send_signal(signal.SIGSTOP)
            try:
                answers = [
                    gateway.json("Recommend", {"count": 3}),
                    gateway.json("Recommend", {"count": 3}, grpc_timeout="50m"),
                ]
                web = gateway.web("Recommend", LIST, grpc_timeout="50m")
                late = grpc_code(0.05)
            finally:
                server.process.send_signal(signal.SIGCONT)
                until(gateway.serves)
            codes = [answer.json["code"] for answer in answers]
            return (
                [answer.status for answer in answers] == [504, 504]
                and [*codes, int(web.headers["grpc-status"])] == [4, 4, 4]
                and (web.status, late) == (200, grpc.StatusCode.DEADLINE_EXCEEDED)
            )

        until(all_are_late, 120)

        server.process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: gateway.json("Recommend", {"count": 3}).status == 503)
            assert not gateway.healthy()
            assert gateway.json("Recommend", {"count": 3}).json["code"] == 14
            assert gateway.web("Recommend", LIST).headers["grpc-status"] == "14"
            assert grpc_code(20) is grpc.StatusCode.UNAVAILABLE
        finally:
            server.process.send_signal(signal.SIGCONT)
        until(gateway.serves)
        assert gateway.healthy()
        server.process.kill()
        server.process.wait()
        assert gateway.json("Recommend", {"count": 3}).status == 503
        until(lambda: not gateway.healthy())


def test_no_call_fails_while_one_of_two_servers_stops(
    tmp_path: Path, bundle_path: Path, live: LiveServer
) -> None:
    """It refuses new calls from the first moment, before a health check tells: they are tried again."""
    settings = tmp_path / "server.toml"
    settings.write_text("drain_delay_s = 0\n")
    with (
        live_server(tmp_path, bundle_path, "--settings", settings) as server,
        live_gateway(tmp_path, "--server", server.target, "--server", live.target) as gateway,
        ThreadPoolExecutor(4) as callers,
    ):
        until(lambda: gateway.counted("membership_healthy") == 2)
        stopped = threading.Event()

        def call_on() -> Counter[str]:
            seen: Counter[str] = Counter()
            while not stopped.is_set():
                answer = gateway.json("Recommend", {"count": 3}, grpc_timeout="30S")
                seen["" if answer.status == 200 else answer.body.decode()] += 1
            return seen

        calls = [callers.submit(call_on) for _ in range(4)]
        try:
            assert server.terminate() == 0
        finally:
            stopped.set()
        assert gateway.counted("upstream_rq_retry") > 0
        assert sum((call.result(60) for call in calls), Counter()).keys() == {""}
