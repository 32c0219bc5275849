"""Calls that wait, over a real socket: who makes room for whom, who leaves, and who is told to go.

The server is in this process, so that its model runs when the test lets it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.config import ServerSettings
from server.service import wire
from server.service.app import Server
from server.service.priority import BATCH, INTERACTIVE, METADATA
from server.service.release import Job, run_jobs

LIST = pb.RecommendRequest(count=3)
OF_ONE = {
    "Recommend": LIST,
    "BatchRecommend": pb.BatchRecommendRequest(requests=[LIST]),
    "RecommendStream": pb.RecommendStreamRequest(request=LIST),
    "Rerank": pb.RerankRequest(
        count=1, candidates=[pb.ScoredCandidate(item_id="item-001", score=1.0)]
    ),
}
"""For each way to ask, a call with one list."""


class Held:
    """A server whose model runs when `let`, and its callers."""

    def __init__(self, server: Server, channel: grpc.aio.Channel, let: threading.Event) -> None:
        self.server = server
        self.batcher = server._current.batcher
        self.ran = 0
        self._let, self._running = let, threading.Event()
        self.service = RecommendationServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.batcher._run_batch = self._run

    def _run(self, jobs: Sequence[Job]) -> Sequence[Any]:
        self._running.set()
        assert self._let.wait(60)
        self.ran += len(jobs)
        return run_jobs(jobs)

    def let(self) -> None:
        self._let.set()

    async def hold(self) -> asyncio.Task[str]:
        """Call for a list with which the model begins; whoever comes later waits."""
        first = asyncio.create_task(self.ask("Recommend"))
        assert await asyncio.to_thread(self._running.wait, 60)
        return first

    async def ask(self, way: str, priority: str = "", message: Any = None) -> str:
        """Why the request was refused, or nothing if it was answered."""
        metadata = ((METADATA, priority),) if priority else None
        message = message or OF_ONE[way]
        method = getattr(self.service, way)
        try:
            if way == "RecommendStream":
                call = method(metadata=metadata)
                await call.write(message)
                return _refusal((await call.read()).outcome)
            response = await method(message, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            return str(error.details())
        return _refusal(response.outcomes[0]) if way == "BatchRecommend" else ""


def _refusal(outcome: pb.RecommendOutcome) -> str:
    return outcome.error.message


async def until(true: Callable[[], bool]) -> None:
    until_s = time.monotonic() + 90
    while not true():
        assert time.monotonic() < until_s
        await asyncio.sleep(0.001)


@contextlib.asynccontextmanager
async def held_server(bundle_path: Path, **settings: int) -> AsyncIterator[Held]:
    """With batches of one list."""
    hurry, let = asyncio.Event(), threading.Event()
    server = Server(
        ServerSettings.model_validate(
            {"bundle": bundle_path, "port": 0, "metrics_port": None, "max_batch": 1, **settings}
        )
    )
    port = (await server.start()).port
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            yield Held(server, channel, let)
        finally:
            let.set()
            hurry.set()
            await server.stop(hurry)


@pytest.mark.parametrize("way", OF_ONE)
def test_what_a_call_says_is_background_work_has_its_part_of_the_queue_and_makes_room(
    bundle_path: Path, way: str
) -> None:
    async def main() -> None:
        async with held_server(bundle_path, max_queue=1, max_background_queue=1) as held:
            first = await held.hold()
            back = asyncio.create_task(held.ask(way, BATCH))
            await until(lambda: held.batcher.depth == 1)
            assert "1 background requests wait already" in await held.ask(way, BATCH)
            front = asyncio.create_task(held.ask(way, INTERACTIVE))
            done, _ = await asyncio.wait((back, front), return_when=asyncio.FIRST_COMPLETED)
            assert "go first" in back.result()
            assert done == {back}
            held.let()
            assert (await first, await front) == ("", "")
            assert f"{INTERACTIVE} or {BATCH}" in await held.ask(way, "urgent")

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("way", OF_ONE)
def test_the_requests_of_a_call_that_is_cancelled_leave_the_queue(
    bundle_path: Path, way: str
) -> None:
    message = pb.BatchRecommendRequest(requests=[LIST] * 3) if way == "BatchRecommend" else None

    async def main() -> None:
        async with held_server(bundle_path) as held:
            first = await held.hold()
            call = asyncio.create_task(held.ask(way, message=message))
            await until(lambda: held.batcher.depth == (1 if message is None else 3))
            call.cancel()
            await until(lambda: held.batcher.depth == 0)
            held.let()
            assert (await first, await held.ask("Recommend")) == ("", "")
            # Nobody made the lists in between.
            assert held.ran == 2

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("parts", [True, False])
def test_what_a_closing_server_refuses_is_held_until_it_parts_or_for_a_while(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch, parts: bool
) -> None:
    """Or one who asks again at once would be among those that gRPC cancels without a word."""
    monkeypatch.setattr(wire, "HOLD_S", 600 if parts else 0.01)

    async def main() -> None:
        async with held_server(bundle_path) as held:
            door = held.server._door
            door.closing.set()
            call = asyncio.create_task(held.ask("Recommend"))
            await until(lambda: door.refused == 1)
            if parts:
                # Calls behind which a refusal would have come.
                for _ in range(3):
                    await held.health.Check(health_pb2.HealthCheckRequest())
                assert not call.done()
                door.parted.set()
            assert "shutting down: try another replica" in await call

    asyncio.run(asyncio.wait_for(main(), 60))
