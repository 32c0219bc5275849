"""The caller of the chaos runs, a process of its own: requests at times that were fixed beforehand.

An open loop: each request goes out at its own time, whatever became of the others, and counts from
the time at which it should have gone out. So a server that stalls is asked as much as ever, and
what waited for it is seen. A call that fails counts as failed, never as absent.

Times are those of `bench.load`; its client is not: this one stops when it is told to, brings candidates
and asks several addresses, tells fallback lists, and makes no body and row for each of a flood's calls.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from bench.load.scenario import Stage
from bench.load.schedule import Float64, times_s
from bench.load.work import PATH, RECONNECT
from bench.serving.calls import COUNT, Shape
from bench.serving.drawn import FAIR, draw, item_ids
from equipoise.v1 import recommendation_pb2 as pb
from server.process import run_in_loop

DRAWN = 256
WRONG = -1
"""The code of an answer that came with OK and is none: of another request, too short, or unfair."""


@dataclass(frozen=True)
class Spec:
    """What to ask.

    rate: requests a second, on average; the gaps between them are exponential. policy: whose list.
    service_config: a file, or empty: no call is tried again. channels: connections. candidates: 0
    leaves them to the server. priority: as metadata, if any. balancing: gRPC's policy where the
    target has several addresses.
    """

    target: str
    bundle: str
    rate: float
    seconds: float
    seed: int
    out: str
    deadline_ms: int = 100
    history: int = 50
    candidates: int = 200
    policy: str = ""
    service_config: str = ""
    channels: int = 4
    priority: str = ""
    balancing: str = ""


def arrivals_s(rate: float, seconds: float, seed: int) -> Float64:
    """The times of a Poisson stream, `[n]`."""
    stage = Stage.model_validate({"rate_rps": rate, "duration_s": seconds})
    return times_s(stage, np.random.default_rng(seed))


class _Caller:
    def __init__(self, spec: Spec, at_s: Float64) -> None:
        self._spec = spec
        self.times_ns = (at_s * 1e9).astype(np.int64)
        n = len(at_s)
        self.sent_ns, self.ended_ns = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.codes = np.full(n, grpc.StatusCode.UNKNOWN.value[0], np.int16)
        self.fallback = np.zeros(n, np.bool_)
        shape = Shape(spec.history, spec.candidates)
        requests = draw(item_ids(Path(spec.bundle)), shape, DRAWN, spec.seed)
        for request in requests:
            request.policy = spec.policy
        self._ids = [request.request_id for request in requests]
        # Made beforehand: what is measured is the server, and this process shares its cores.
        self._bodies = [request.SerializeToString() for request in requests]
        self.stop = asyncio.Event()
        self.asked = 0
        self._metadata = (("equipoise-priority", spec.priority),) if spec.priority else ()

    async def run(self, calls: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]) -> None:
        began_ns = time.perf_counter_ns()
        tasks = set()
        for number, at_ns in enumerate(self.times_ns.tolist()):
            if self.stop.is_set():
                break
            self.asked = number + 1
            ahead_ns = at_ns - (time.perf_counter_ns() - began_ns)
            if ahead_ns > 0:
                await asyncio.sleep(ahead_ns / 1e9)
            elif number % 16 == 0:
                await asyncio.sleep(0)
            task = asyncio.create_task(self._ask(number, began_ns, calls[number % len(calls)]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _ask(
        self, number: int, began_ns: int, call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
    ) -> None:
        self.sent_ns[number] = time.perf_counter_ns() - began_ns
        body = self._bodies[number % DRAWN]
        try:
            answer = await call(body, timeout=self._spec.deadline_ms / 1e3, metadata=self._metadata)
            self.codes[number] = self._judged(number, answer)
        except grpc.aio.AioRpcError as error:
            self.codes[number] = error.code().value[0]
        self.ended_ns[number] = time.perf_counter_ns() - began_ns

    def _judged(self, number: int, answer: bytes) -> int:
        response = pb.RecommendResponse.FromString(answer)
        right = (
            response.request_id == self._ids[number % DRAWN]
            and len(response.items) == COUNT
            and response.receipt.status in FAIR
        )
        self.fallback[number] = response.receipt.fallback
        return 0 if right else WRONG


async def _drive(spec: Spec) -> None:
    options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
    if spec.service_config:
        config = Path(spec.service_config).read_text(encoding="utf-8")
        options.append(("grpc.service_config", config))
        options += RECONNECT
    if spec.balancing:
        options.append(("grpc.lb_policy_name", spec.balancing))
    channels = [
        grpc.aio.insecure_channel(spec.target, options=options) for _ in range(spec.channels)
    ]
    caller = _Caller(spec, arrivals_s(spec.rate, spec.seconds, spec.seed))
    await asyncio.gather(*(asyncio.wait_for(channel.channel_ready(), 10) for channel in channels))
    print("ready", flush=True)
    sys.stdin.readline()
    # The next word on the line, or its end: nothing more is asked.
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), caller.stop.set)
    cpu_ns = time.process_time_ns()
    await caller.run([channel.unary_unary(PATH) for channel in channels])
    cpu_ns = time.process_time_ns() - cpu_ns
    await asyncio.gather(*(channel.close() for channel in channels))
    part = slice(caller.asked)
    np.savez(
        spec.out,
        at_ns=caller.times_ns[part],
        sent_ns=caller.sent_ns[part],
        ended_ns=caller.ended_ns[part],
        codes=caller.codes[part],
        fallback=caller.fallback[part],
        cpu_ns=np.array(cpu_ns),
    )


def as_arguments(spec: Spec) -> list[str]:
    """The command that makes this run, in a process of its own."""
    return [sys.executable, "-m", "bench.chaos.openloop", json.dumps(asdict(spec))]


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    run_in_loop(_drive(spec))


if __name__ == "__main__":
    main()
