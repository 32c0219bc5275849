"""A response is of one release, also where another takes its place while the request is read."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.config import ServerSettings
from server.service.app import Server
from server.service.lists import ListMaker
from strategies.bundles import tiny_bundle

SIZE = 32


def test_a_batch_is_of_one_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [tiny_bundle(tmp_path / str(n), seed=n).bundle_id for n in (1, 2)]
    server = Server(ServerSettings(bundle=tmp_path / "1", port=0, metrics_port=None))
    real, asked = ListMaker.ask, Counter[str]()

    def ask(self: ListMaker, *arguments: Any) -> Any:
        asked["lists"] += 1
        if asked["lists"] == SIZE // 2:
            server.exchange.take()
        return real(self, *arguments)

    monkeypatch.setattr(ListMaker, "ask", ask)

    async def story() -> Counter[str]:
        address = await server.start()
        await server.exchange.prepare(tmp_path / "2", ids[1])
        async with grpc.aio.insecure_channel(f"127.0.0.1:{address.port}") as channel:
            service = RecommendationServiceStub(channel)
            batch = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(count=5)] * SIZE)
            answer = await service.BatchRecommend(batch, timeout=60)
            then = await service.Recommend(pb.RecommendRequest(count=5), timeout=60)
        assert then.bundle_id == ids[1]
        await server.stop(asyncio.Event())
        return Counter(one.response.bundle_id for one in answer.outcomes)

    assert asyncio.run(story()) == {ids[0]: SIZE}
