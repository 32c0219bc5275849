"""The caller of the measurements, a process of its own: so many lists, so many in flight.

A closed loop: cost per list is asked for, not behaviour under a given rate. Every answer is looked
at; one that is empty, of another request, another length or unfair ends the run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np

from bench.serving.drawn import COUNT, Shape, draw, item_ids
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub

Way = Literal["unary", "stream", "batch"]
BATCH = 16
DRAWN = 512
FAIR = (pb.RECEIPT_STATUS_MET, pb.RECEIPT_STATUS_SKIPPED)
PHASES = ("decode_ns", "queue_ns", "history_ns", "features_ns", "model_ns", "fair_ns")


@dataclass(frozen=True)
class Run:
    """What to ask."""

    target: str
    bundle: str
    way: Way
    in_flight: int
    lists: int
    seed: int
    history: int = 50
    candidates: int = 200


class _Wrong(RuntimeError):
    """An answer that does not belong to its request."""


class _Driver:
    """One run: what was asked, and what is known of the answers."""

    def __init__(self, run: Run) -> None:
        self._run = run
        shape = Shape(run.history, run.candidates)
        self._requests = draw(item_ids(Path(run.bundle)), shape, DRAWN, run.seed)
        self.latency_ns: list[int] = []
        self.phases_ns = dict.fromkeys(PHASES, 0.0)

    def request(self, number: int) -> pb.RecommendRequest:
        return self._requests[number % DRAWN]

    def seen(self, number: int, response: pb.RecommendResponse, asked_ns: int) -> None:
        self.latency_ns.append(time.perf_counter_ns() - asked_ns)
        if (
            response.request_id != self.request(number).request_id
            or len(response.items) != COUNT
            or response.receipt.status not in FAIR
        ):
            raise _Wrong(
                f"request {number} got {response.request_id!r}, {len(response.items)} items"
            )
        for name in PHASES:
            spent = getattr(response.phases, name)
            self.phases_ns[name] += spent / (
                response.phases.batch_size if name == "model_ns" else 1
            )

    def outcome(self, number: int, outcome: pb.RecommendOutcome, asked_ns: int) -> None:
        if outcome.HasField("error"):
            raise _Wrong(f"request {number}: {outcome.error.message}")
        self.seen(number, outcome.response, asked_ns)

    async def unary(self, service: Any) -> None:
        numbers = iter(range(self._run.lists))

        async def caller() -> None:
            for number in numbers:
                asked_ns = time.perf_counter_ns()
                self.seen(number, await service.Recommend(self.request(number)), asked_ns)

        await asyncio.gather(*(caller() for _ in range(self._run.in_flight)))

    async def batch(self, service: Any) -> None:
        size = min(BATCH, self._run.in_flight)
        starts = iter(range(0, self._run.lists, size))

        async def caller() -> None:
            for start in starts:
                numbers = range(start, start + size)
                asked_ns = time.perf_counter_ns()
                answer = await service.BatchRecommend(
                    pb.BatchRecommendRequest(requests=map(self.request, numbers))
                )
                for number, outcome in zip(numbers, answer.outcomes, strict=True):
                    self.outcome(number, outcome, asked_ns)

        await asyncio.gather(*(caller() for _ in range(max(1, self._run.in_flight // size))))

    async def stream(self, service: Any) -> None:
        call = service.RecommendStream()
        asked_ns: dict[int, int] = {}
        numbers = iter(range(self._run.lists))

        async def ask(number: int) -> None:
            asked_ns[number] = time.perf_counter_ns()
            await call.write(pb.RecommendStreamRequest(id=number, request=self.request(number)))

        for number in itertools.islice(numbers, self._run.in_flight):
            await ask(number)
        while asked_ns:
            answer = await call.read()
            self.outcome(answer.id, answer.outcome, asked_ns.pop(answer.id))
            for number in itertools.islice(numbers, 1):
                await ask(number)
        await call.done_writing()


async def _drive(run: Run) -> dict[str, Any]:
    driver = _Driver(run)
    ways: dict[Way, Callable[[Any], Awaitable[None]]] = {
        "unary": driver.unary, "stream": driver.stream, "batch": driver.batch,
    }  # fmt: skip
    async with grpc.aio.insecure_channel(run.target) as channel:
        await asyncio.wait_for(channel.channel_ready(), 10)
        # What is measured begins when the parent says so, and ends with this line's answer.
        print("ready", flush=True)
        sys.stdin.readline()
        started_ns = time.perf_counter_ns()
        await ways[run.way](RecommendationServiceStub(channel))
        spent_ns = time.perf_counter_ns() - started_ns
    lists = len(driver.latency_ns)
    return {
        "lists": lists,
        "seconds": spent_ns / 1e9,
        "latency_us": (np.percentile(driver.latency_ns, (50, 99)) / 1e3).tolist(),
        "phases_us": {name: total / lists / 1e3 for name, total in driver.phases_ns.items()},
        "caller_cpu_us": time.process_time_ns() / 1e3 / lists,
    }


def as_arguments(run: Run) -> list[str]:
    """The command that makes this run, in a process of its own."""
    return [sys.executable, "-m", "bench.serving.drive", json.dumps(asdict(run))]


def main() -> None:
    run = Run(**json.loads(sys.argv[1]))
    factory: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ModuleNotFoundError:
        pass
    with asyncio.Runner(loop_factory=factory) as runner:
        print(json.dumps(runner.run(_drive(run))), flush=True)


if __name__ == "__main__":
    main()
