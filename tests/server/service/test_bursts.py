"""Many calls at one instant: those that the door has room for are answered, the others told why."""

from __future__ import annotations

import asyncio
import urllib.request
from collections import Counter
from pathlib import Path

import grpc
import pytest

from bench.chaos.rolling import SERVICE_CONFIG
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.config import ServerSettings
from strategies.live import LiveServer, live_server
from strategies.workers import until

pytestmark = pytest.mark.slow
AT_THE_DOOR = ServerSettings(bundle=Path("b")).max_pending_calls
ALONE = ("grpc.use_local_subchannel_pool", 1)
RETRIES = ("grpc.service_config", SERVICE_CONFIG.read_text(encoding="utf-8"))


def metric(live: LiveServer, name: str) -> float:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{live.metrics_port}/metrics", timeout=10
    ) as page:
        lines = page.read().decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


async def _burst(
    target: str, calls: int, connections: int = 1, *options: tuple[str, str | int]
) -> Counter[str]:
    channels = [
        grpc.aio.insecure_channel(target, options=[ALONE, *options]) for _ in range(connections)
    ]
    await asyncio.gather(*(channel.channel_ready() for channel in channels))
    services = [RecommendationServiceStub(channel) for channel in channels]

    async def one(number: int) -> str:
        try:
            await services[number % connections].Recommend(pb.RecommendRequest(count=3), timeout=60)
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"

    told = Counter(await asyncio.gather(*(one(number) for number in range(calls))))
    await asyncio.gather(*(channel.close() for channel in channels))
    return told


@pytest.mark.parametrize("connections", [1, 4])
def test_a_burst_that_the_door_has_room_for_is_answered(
    tmp_path: Path, bundle_path: Path, connections: int
) -> None:
    with live_server(tmp_path, bundle_path) as live:
        for calls in (AT_THE_DOOR // 2, AT_THE_DOOR) * 3:
            assert asyncio.run(_burst(live.target, calls, connections)) == {"OK": calls}


@pytest.mark.parametrize("connections", [1, 4])
def test_a_larger_one_is_answered_to_callers_with_the_shipped_service_config(
    tmp_path: Path, bundle_path: Path, connections: int
) -> None:
    with live_server(tmp_path, bundle_path) as live:
        calls = 2 * AT_THE_DOOR
        assert asyncio.run(_burst(live.target, calls, connections, RETRIES)) == {"OK": calls}


def test_what_the_door_has_no_room_for_is_refused_and_the_rest_answered(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_MAX_PENDING_CALLS", "4")
    with live_server(tmp_path, bundle_path) as live:
        told = asyncio.run(_burst(live.target, 400, 4))
        assert set(told) == {"OK", "CANCELLED"}
        assert told["OK"] >= 4
        # Nothing else tells an operator of them.
        until(lambda: metric(live, "equipoise_unseen_calls_total") >= told["CANCELLED"])
        assert metric(live, "equipoise_unseen_calls_total") <= told["CANCELLED"] + 40
        assert asyncio.run(_burst(live.target, 4)) == {"OK": 4}
