"""Answers that a caller does not read: bounded for each connection, seen, and let go with it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.config import ServerSettings
from server.service import unseen
from server.service.app import Server
from strategies.live import LiveServer, live_server
from strategies.raw_http2 import connection_without_window
from strategies.workers import metrics, until

pytestmark = pytest.mark.slow

BATCH = "/equipoise.v1.RecommendationService/BatchRecommend"
LIMIT = 100_000


def refused(told: dict[str, float]) -> float:
    return sum(
        value
        for name, value in told.items()
        if name.startswith("grpc_server_handled_total") and "RESOURCE_EXHAUSTED" in name
    )


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("unread")
    settings = folder / "server.toml"
    settings.write_text(f"max_unread_bytes = {LIMIT}\nkeepalive_s = 1\n")
    with live_server(folder, bundle_path, "--settings", settings) as server:
        yield server


def test_a_connection_that_reads_nothing_gets_no_more_than_its_share(live: LiveServer) -> None:
    request = pb.BatchRecommendRequest(
        requests=[pb.RecommendRequest(count=20, with_candidates=True)] * 16
    )
    answer = live.recommendation.BatchRecommend(request, timeout=30).ByteSize()
    assert answer < LIMIT
    with connection_without_window(live.port) as lazy:
        for _ in range(3 * LIMIT // answer):
            lazy.call(BATCH, request.SerializeToString())
        told = metrics(live)
        assert LIMIT < told["equipoise_bytes_unread"] <= LIMIT + answer + 1_000
        assert told["equipoise_calls_under_way"] == 0
        assert refused(told) >= 1
        # Another connection is not held back.
        assert len(live.recommendation.BatchRecommend(request, timeout=30).outcomes) == 16
    until(lambda: metrics(live)["equipoise_bytes_unread"] == 0)


def test_one_that_answers_no_ping_is_closed(live: LiveServer) -> None:
    request = pb.RecommendRequest(count=20).SerializeToString()
    with connection_without_window(live.port) as gone:
        gone.call("/equipoise.v1.RecommendationService/Recommend", request)
        begun_s = time.monotonic()
        # It reads what comes, and answers nothing; the end of what comes is the end of it.
        while gone.raw.recv(4096):
            pass
        assert time.monotonic() - begun_s < 20


def test_a_call_whose_answer_is_not_read_was_seen(
    bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = unseen.ended_unseen

    def looked(under_way: int) -> int:
        seen.append(real(under_way))
        return seen[-1]

    monkeypatch.setattr(unseen, "ended_unseen", looked)
    monkeypatch.setattr(unseen, "LOOK_S", 0.01)

    async def two_looks() -> int:
        """What the second of them finds: the first may come while a call is on its way in."""
        wanted = len(seen) + 2
        while len(seen) < wanted:
            await asyncio.sleep(0.01)
        return seen[-1]

    async def story() -> None:
        port = (await server.start()).port
        before = await two_looks()
        with contextlib.ExitStack() as opened:
            lazy = opened.enter_context(connection_without_window(port))
            message = pb.RecommendRequest(count=20).SerializeToString()
            await asyncio.to_thread(
                lazy.call, "/equipoise.v1.RecommendationService/Recommend", message
            )
            assert server._door.unread.held > 0
            assert await two_looks() == before
        await server.stop(asyncio.Event())

    server = Server(ServerSettings(bundle=bundle_path, port=0, metrics_port=None))
    asyncio.run(asyncio.wait_for(story(), 60))
