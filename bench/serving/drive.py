"""The caller of the measurements, a process of its own: so many lists, so many in flight.

A closed loop: cost per list is asked for, not behaviour under a given rate. Every answer is looked
at; one that is empty, of another request, another length, unfair or, where the lists are known
beforehand, another list ends the run. "empty" asks for nothing: a health check.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.serving.calls import COUNT, Calls, Shape
from bench.serving.drawn import FAIR, as_requests, by_number, draw, item_ids
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.process import run_in_loop

Way = Literal["unary", "stream", "batch", "empty"]
BATCH = 16
DRAWN = 512
PHASES = ("decode_ns", "queue_ns", "history_ns", "features_ns", "model_ns", "fair_ns")


@dataclass(frozen=True)
class Run:
    """What to ask: so many lists, or fewer where `seconds` (0: any time) are over before.

    calls: a file of requests and the lists that they must get; drawn here from the seed if empty.
    channels: connections, which workers that share a port share among them. text: items by id
    instead of by number.
    """

    target: str
    bundle: str
    way: Way
    in_flight: int
    lists: int
    seed: int
    history: int = 50
    candidates: int = 200
    seconds: float = 0.0
    calls: str = ""
    channels: int = 1
    text: bool = False


class _Wrong(RuntimeError):
    """An answer that does not belong to its request."""


class _Driver:
    """One run: what was asked, and what is known of the answers."""

    def __init__(self, run: Run) -> None:
        self._run = run
        ids = item_ids(Path(run.bundle))
        self._expected: list[list[str]] = []
        if run.calls:
            calls = Calls.load(run.calls)
            self._requests = as_requests(ids, calls.history, calls.candidates, str(run.seed))
            self._expected = [[ids[item] for item in row] for row in calls.expected.tolist()]
        else:
            shape = Shape(run.history, run.candidates)
            self._requests = draw(ids, shape, DRAWN, run.seed)
        if not run.text:
            manifest = Path(run.bundle) / "manifest.json"
            bundle_id = json.loads(manifest.read_text(encoding="utf-8"))["bundle_id"]
            self._requests = by_number(self._requests, ids, bundle_id)
        self.latency_ns: list[int] = []
        self.phases_ns = dict.fromkeys(PHASES, 0.0)

    def request(self, number: int) -> pb.RecommendRequest:
        return self._requests[number % len(self._requests)]

    def numbers(self, step: int = 1) -> Iterator[int]:
        """Of the lists to ask for, as long as there is time."""
        until_ns = time.perf_counter_ns() + int((self._run.seconds or 1e6) * 1e9)
        for number in range(0, self._run.lists, step):
            if time.perf_counter_ns() >= until_ns:
                return
            yield number

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
        if self._expected:
            expected = self._expected[number % len(self._expected)]
            got = [item.item_id for item in response.items]
            if got != expected:
                raise _Wrong(f"request {number} got {got}, expected {expected}")
        for name in PHASES:
            spent = getattr(response.phases, name)
            self.phases_ns[name] += spent / (
                response.phases.batch_size if name == "model_ns" else 1
            )

    def outcome(self, number: int, outcome: pb.RecommendOutcome, asked_ns: int) -> None:
        if outcome.HasField("error"):
            raise _Wrong(f"request {number}: {outcome.error.message}")
        self.seen(number, outcome.response, asked_ns)

    async def unary(self, services: Sequence[Any]) -> None:
        numbers = self.numbers()

        async def caller(service: Any) -> None:
            for number in numbers:
                asked_ns = time.perf_counter_ns()
                self.seen(number, await service.Recommend(self.request(number)), asked_ns)

        await _all(caller, services, self._run.in_flight)

    async def empty(self, services: Sequence[Any]) -> None:
        numbers = self.numbers()

        async def caller(service: Any) -> None:
            for _ in numbers:
                asked_ns = time.perf_counter_ns()
                await service.Check(health_pb2.HealthCheckRequest())
                self.latency_ns.append(time.perf_counter_ns() - asked_ns)

        await _all(caller, services, self._run.in_flight)

    async def batch(self, services: Sequence[Any]) -> None:
        size = min(BATCH, self._run.in_flight)
        starts = self.numbers(size)

        async def caller(service: Any) -> None:
            for start in starts:
                numbers = range(start, start + size)
                asked_ns = time.perf_counter_ns()
                answer = await service.BatchRecommend(
                    pb.BatchRecommendRequest(requests=map(self.request, numbers))
                )
                for number, outcome in zip(numbers, answer.outcomes, strict=True):
                    self.outcome(number, outcome, asked_ns)

        await _all(caller, services, max(1, self._run.in_flight // size))

    async def stream(self, services: Sequence[Any]) -> None:
        numbers = self.numbers()
        each = self._run.in_flight // len(services)
        await asyncio.gather(*(self._one_stream(one, numbers, each) for one in services))

    async def _one_stream(self, service: Any, numbers: Iterator[int], in_flight: int) -> None:
        call = service.RecommendStream()
        asked_ns: dict[int, int] = {}

        async def ask(number: int) -> None:
            asked_ns[number] = time.perf_counter_ns()
            await call.write(pb.RecommendStreamRequest(id=number, request=self.request(number)))

        for number in itertools.islice(numbers, in_flight):
            await ask(number)
        while asked_ns:
            answer = await call.read()
            self.outcome(answer.id, answer.outcome, asked_ns.pop(answer.id))
            for number in itertools.islice(numbers, 1):
                await ask(number)
        await call.done_writing()


async def _all(
    caller: Callable[[Any], Awaitable[None]], services: Sequence[Any], callers: int
) -> None:
    await asyncio.gather(*(caller(services[i % len(services)]) for i in range(callers)))


async def _drive(run: Run) -> dict[str, Any]:
    driver = _Driver(run)
    ways: dict[Way, Callable[[Sequence[Any]], Awaitable[None]]] = {
        "unary": driver.unary, "stream": driver.stream, "batch": driver.batch,
        "empty": driver.empty,
    }  # fmt: skip
    stub = health_pb2_grpc.HealthStub if run.way == "empty" else RecommendationServiceStub
    async with contextlib.AsyncExitStack() as stack:
        # Without a pool of its own each would be the same connection.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            await stack.enter_async_context(grpc.aio.insecure_channel(run.target, options=options))
            for _ in range(run.channels)
        ]
        for channel in channels:
            await asyncio.wait_for(channel.channel_ready(), 10)
        services = [stub(channel) for channel in channels]
        # What is measured begins when the parent says so, and ends with this line's answer.
        print("ready", flush=True)
        sys.stdin.readline()
        started_ns = time.perf_counter_ns()
        caller_ns = time.process_time_ns()
        await ways[run.way](services)
        spent_ns = time.perf_counter_ns() - started_ns
        caller_ns = time.process_time_ns() - caller_ns
    lists = len(driver.latency_ns)
    return {
        "lists": lists,
        "seconds": spent_ns / 1e9,
        "latency_us": (np.percentile(driver.latency_ns, (50, 99)) / 1e3).tolist(),
        "phases_us": {name: total / lists / 1e3 for name, total in driver.phases_ns.items()},
        "caller_cpu_us": caller_ns / 1e3 / lists,
    }


def as_arguments(run: Run) -> list[str]:
    """The command that makes this run, in a process of its own."""
    return [sys.executable, "-m", "bench.serving.drive", json.dumps(asdict(run))]


def main() -> None:
    run = Run(**json.loads(sys.argv[1]))
    print(json.dumps(run_in_loop(_drive(run))), flush=True)


if __name__ == "__main__":
    main()
