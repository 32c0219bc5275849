"""Answers that a caller does not read: bounded for each connection, seen, and let go with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from equipoise.v1 import recommendation_pb2 as pb
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
        # Another connection is not held back, and what is unread was seen by the process.
        assert len(live.recommendation.BatchRecommend(request, timeout=30).outcomes) == 16
        until(lambda: metrics(live)["equipoise_unseen_calls_total"] == 0)
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
