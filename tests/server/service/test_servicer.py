"""What the servicer hands to the batcher: with a real batcher, and a context that tells the time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.batcher import Batcher
from server.bundle import load_bundle
from server.config import ServerSettings
from server.engine import Engine
from server.service.decode import Limits
from server.service.metrics import ServerMetrics
from server.service.pages import PageTokens
from server.service.servicer import RecommendationServicer

REQUESTS = {
    "Recommend": pb.RecommendRequest(count=3),
    "Rerank": pb.RerankRequest(
        count=1, candidates=[pb.ScoredCandidate(item_id="item-001", score=1.0)]
    ),
}


class Aborted(Exception):
    """What grpc raises to end a call."""


class Context:
    """The part of a servicer's context that is asked: how long the caller still waits."""

    def __init__(self, remaining_s: float | None) -> None:
        self.remaining_s = remaining_s
        self.code: grpc.StatusCode | None = None

    def time_remaining(self) -> float | None:
        return self.remaining_s

    async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
        self.code = code
        raise Aborted


@pytest.mark.parametrize("method", REQUESTS)
def test_no_work_is_started_for_a_call_that_nobody_waits_for(
    bundle_path: Path, method: str
) -> None:
    bundle = load_bundle(bundle_path)
    engine = Engine(bundle)
    ran: list[int] = []

    def run_batch(queries: Sequence[Any]) -> Sequence[Any]:
        ran.append(len(queries))
        return engine.run_batch(queries)

    async def call(remaining_s: float | None) -> tuple[grpc.StatusCode | None, Any]:
        batcher: Batcher[Any, Any] = Batcher(run_batch, max_batch=4, max_queue=4)
        batcher.start()
        metrics = ServerMetrics(bundle, 32, lambda: batcher.depth)
        limits = Limits.of(ServerSettings(bundle=bundle_path))
        servicer = RecommendationServicer(
            bundle, batcher, None, limits, metrics, PageTokens(bundle, b"k" * 32, 60)
        )
        context = Context(remaining_s)
        try:
            return None, await getattr(servicer, method)(REQUESTS[method], context)
        except Aborted:
            return context.code, None
        finally:
            await batcher.close()

    assert asyncio.run(call(0.0))[0] is grpc.StatusCode.DEADLINE_EXCEEDED
    assert ran == []
    code, response = asyncio.run(call(None))
    assert (code, len(response.items) > 0, ran) == (None, True, [1])
