"""Many calls at one instant: those that the queue has room for are answered, the others told why."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from strategies.live import live_server

pytestmark = pytest.mark.slow
MAX_QUEUE = 256


async def _burst(target: str, calls: int) -> Counter[str]:
    async with grpc.aio.insecure_channel(target) as channel:
        service = RecommendationServiceStub(channel)

        async def one() -> str:
            try:
                await service.Recommend(pb.RecommendRequest(count=3), timeout=60)
            except grpc.aio.AioRpcError as error:
                return error.code().name
            return "OK"

        return Counter(await asyncio.gather(*(one() for _ in range(calls))))


def test_a_burst_that_the_queue_has_room_for_is_answered(tmp_path: Path, bundle_path: Path) -> None:
    with live_server(tmp_path, bundle_path) as live:
        for calls in (MAX_QUEUE // 2, MAX_QUEUE) * 3:
            assert asyncio.run(_burst(live.target, calls)) == {"OK": calls}
