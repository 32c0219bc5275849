"""What the servicer hands to the batcher: with a real batcher, and a context that tells the time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.config import ServerSettings
from server.exposures import ExposureLedger
from server.service.inflight import BytesInFlight
from server.service.metrics import ServerMetrics
from server.service.release import Current, Job, ReleaseMaker, run_jobs
from server.service.servicer import RecommendationServicer

REQUESTS = {
    "Recommend": pb.RecommendRequest(count=3),
    "Rerank": pb.RerankRequest(
        count=1, candidates=[pb.ScoredCandidate(item_id="item-001", score=1.0)]
    ),
}
BATCH = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(count=3)])


class Aborted(Exception):
    """What grpc raises to end a call."""


class Context:
    """The part of a servicer's context that is asked: how long the caller still waits."""

    def __init__(self, remaining_s: float | None) -> None:
        self.remaining_s = remaining_s
        self.code: grpc.StatusCode | None = None

    def time_remaining(self) -> float | None:
        return self.remaining_s

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    async def abort(self, code: grpc.StatusCode, *_: Any) -> None:
        self.code = code
        raise Aborted


def _called(
    bundle_path: Path, method: str, remaining_s: float | None
) -> tuple[grpc.StatusCode | None, Any, int]:
    """The code that the call was aborted with, its response, and how many queries were run."""
    ran = 0

    def run(jobs: Sequence[Job]) -> Sequence[Any]:
        nonlocal ran
        ran += len(jobs)
        return run_jobs(jobs)

    request = {**REQUESTS, "BatchRecommend": BATCH}[method]

    async def call() -> tuple[grpc.StatusCode | None, Any]:
        settings = ServerSettings(bundle=bundle_path, max_batch=4, max_queue=4)
        maker = ReleaseMaker(settings, None, ExposureLedger(None), b"k" * 32)
        current = Current(maker.make(bundle_path), settings, run)
        current.batcher.start()
        servicer = RecommendationServicer(
            current, None, settings, ServerMetrics(32), asyncio.Event(), BytesInFlight(1 << 20)
        )
        context = Context(remaining_s)
        try:
            return None, await getattr(servicer, method)(request, context)
        except Aborted:
            return context.code, None
        finally:
            await current.batcher.close()

    code, response = asyncio.run(call())
    return code, response, ran


@pytest.mark.parametrize("method", REQUESTS)
def test_no_work_is_started_for_a_call_that_nobody_waits_for(
    bundle_path: Path, method: str
) -> None:
    late = _called(bundle_path, method, 0.0)
    assert late == (grpc.StatusCode.DEADLINE_EXCEEDED, None, 0)
    code, response, ran = _called(bundle_path, method, None)
    assert (code, len(response.items) > 0, ran) == (None, True, 1)


def test_no_work_is_started_for_a_batch_that_nobody_waits_for(bundle_path: Path) -> None:
    code, response, ran = _called(bundle_path, "BatchRecommend", 0.0)
    (outcome,) = response.outcomes
    assert (code, outcome.error.code, ran) == (None, 4, 0)
    _, response, ran = _called(bundle_path, "BatchRecommend", None)
    assert (len(response.outcomes[0].response.items), ran) == (3, 1)
