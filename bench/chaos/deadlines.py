"""T8: calls whose time ends, or whose caller leaves, at every stage.

From outside: a storm of calls with deadlines from none to plenty and of callers who cancel, alone, in
batches and on streams. Afterwards nothing may be left of them, and the server answers as before.
That no model runs after a deadline is shown from within, by `tests/server/engine/test_fallback.py`
and `tests/server/test_batcher_door.py`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from bench.chaos.marks import Mark, at_most, none_of
from bench.served import Served
from bench.serving.calls import COUNT, Shape
from bench.serving.drawn import draw, item_ids
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub

QUIET_S = 20.0
SLACK_MS = 250.0
"""What a call may take beyond its deadline, on a caller that shares the server's cores."""
MORE_MIB = 64.0
"""What the first lists of every kind leave in memory, for good."""
SENDING = "ended while the caller sent"
ALLOWED = {"OK", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", SENDING}
AT_ONCE = 64
HELD = ("equipoise_queue_depth", "equipoise_calls_under_way", "equipoise_bytes_in_flight",
        "equipoise_bytes_unread")  # fmt: skip


@dataclass
class _Storm:
    """What became of the calls."""

    ended: Counter[str] = field(default_factory=Counter)
    late_ms: float = 0.0


async def _one(
    service: Any,
    request: pb.RecommendRequest,
    way: str,
    timeout_ms: float,
    leave: bool,
    storm: _Storm,
) -> None:
    begun_s = time.perf_counter()
    call: Any = None
    try:
        async with asyncio.timeout(timeout_ms / 1e3 if leave else None):
            timeout_s = 30.0 if leave else timeout_ms / 1e3
            if way == "unary":
                call = service.Recommend(request, timeout=timeout_s)
                await call
            elif way == "batch":
                asked = pb.BatchRecommendRequest(requests=[request] * 4)
                call = service.BatchRecommend(asked, timeout=timeout_s)
                await call
            else:

                async def asked_for() -> AsyncIterator[pb.RecommendStreamRequest]:
                    for number in range(4):
                        yield pb.RecommendStreamRequest(id=number, request=request)

                call = service.RecommendStream(asked_for(), timeout=timeout_s)
                async for _ in call:
                    pass
        storm.ended["OK"] += 1
    except TimeoutError:
        call.cancel()
        storm.ended["CANCELLED"] += 1
    except asyncio.CancelledError:
        storm.ended["CANCELLED"] += 1
    except grpc.aio.AioRpcError as error:
        # grpc.aio's word for a message that a caller sends on a stream which has ended meanwhile.
        own = str(error.details()).startswith("Internal error from Core")
        storm.ended[SENDING if own else error.code().name] += 1
    storm.late_ms = max(storm.late_ms, (time.perf_counter() - begun_s) * 1e3 - timeout_ms)


async def _storm(
    served: Served, requests: list[pb.RecommendRequest], calls: int, seed: int,
    progress: Callable[[float], None],
) -> _Storm:  # fmt: skip
    rng, storm = np.random.default_rng(seed), _Storm()
    numbers = iter(range(calls))
    async with grpc.aio.insecure_channel(served.target) as channel:
        service = RecommendationServiceStub(channel)

        async def caller() -> None:
            for number in numbers:
                # Most end in the door, the queue or the model; a few in time.
                timeout_ms = float(rng.exponential(30)) + 0.05
                way = str(rng.choice(["unary", "batch", "stream"]))
                leave = bool(rng.random() < 0.5)
                request = requests[number % len(requests)]
                await _one(service, request, way, timeout_ms, leave, storm)
                progress(number / calls)

        await asyncio.gather(*(caller() for _ in range(AT_ONCE)))
    return storm


def run(
    served: Served,
    bundle: Path,
    *,
    calls: int,
    seed: int = 1,
    progress: Callable[[float], None] = lambda _: None,
) -> list[Mark]:
    """All rows."""
    requests = draw(item_ids(bundle), Shape(50, 200), 64, seed)
    with served.channel() as channel:
        service = RecommendationServiceStub(channel)
        before = [_list(service, request) for request in requests[:8]]
        rss_mib = _settled_rss_mib(served)
        storm = asyncio.run(_storm(served, requests, calls, seed, progress))
        left = _left_after_a_while(served)
        after = [_list(service, request) for request in requests[:8]]
    strange = {code: n for code, n in storm.ended.items() if code not in ALLOWED}
    told = served.metrics()
    internal = sum(
        value
        for name, value in told.items()
        if name.startswith("grpc_server_handled_total") and 'grpc_code="INTERNAL"' in name
    )
    return [
        none_of(
            "calls that ended in a way that nobody asked for", sum(strange.values()), str(strange)
        ),
        none_of("calls that the server calls its own defect", int(internal)),
        none_of("left in the queue, under way, or bytes in flight", left),
        none_of(
            "lists that differ from before", sum(a != b for a, b in zip(before, after, strict=True))
        ),
        Mark("calls ended with", ", ".join(f"{code} {n:,}" for code, n in storm.ended.items())),
        at_most("ended after its time, at most", storm.late_ms, SLACK_MS, " ms"),
        at_most("memory, more than before", served.rss_mib() - rss_mib, MORE_MIB, " MiB"),
    ]


def _list(service: Any, request: pb.RecommendRequest) -> list[str]:
    answer = service.Recommend(request, timeout=30)
    assert len(answer.items) == COUNT
    return [item.item_id for item in answer.items]


def _settled_rss_mib(served: Served) -> float:
    """Its memory, when it grows no more: a spare worker may still load."""
    until_s, rss_mib, quiet = time.monotonic() + QUIET_S, 0.0, 0
    while quiet < 20 and time.monotonic() < until_s:
        now_mib = served.rss_mib()
        quiet = quiet + 1 if abs(now_mib - rss_mib) < 1 else 0
        rss_mib = now_mib
        time.sleep(0.05)
    return rss_mib


def _left_after_a_while(served: Served) -> int:
    """What is still there when nothing was for half a second, or after all patience."""
    until_s, quiet, left = time.monotonic() + QUIET_S, 0, 0
    while quiet < 10 and time.monotonic() < until_s:
        left = _left(served)
        quiet = 0 if left else quiet + 1
        time.sleep(0.05)
    return left


def _left(served: Served) -> int:
    told = served.metrics()
    return int(sum(told[name] for name in HELD))
