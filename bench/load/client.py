"""The open loop's own client, one process of it: requests at times that were fixed beforehand.

Each goes out when it is due, whatever became of the others, and its latency counts from then: a server
that stalls is asked as much as ever, and what waited for it is seen. Knows nothing of locust, whose
`import` would change this process.

    python -m bench.load.client WORK.json PROCESS

says "ready" when its connections stand, begins at the instant (monotonic ns) of the line that it reads
then, and leaves samples and facts.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import grpc

from bench.load.samples import Recorder
from bench.load.work import PATH, Calls, Facts, Part, Work
from bench.refused import InputRefused
from server.errors import EquipoiseError, in_one_line
from server.process import run_in_loop

CONNECT_S = 15.0
SPIN_NS = 300_000
"""The loop's timers have milliseconds: what is due sooner than this is waited for by asking the clock."""


class _Client:
    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self.recorder = Recorder()

    async def run(
        self, start_ns: int, channels: list[grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]]
    ) -> None:
        schedule = self._calls.schedule
        assert schedule is not None
        numbers = self._calls.numbers.tolist()
        due_ns = schedule.due_ns[self._calls.numbers].tolist()
        tasks: set[asyncio.Task[None]] = set()
        for place, (number, due) in enumerate(zip(numbers, due_ns, strict=True)):
            await _until(start_ns + due)
            task = asyncio.create_task(
                self._ask(number, due, start_ns, channels[place % len(channels)])
            )
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def _ask(
        self, number: int, due: int, start_ns: int,
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes],
    ) -> None:  # fmt: skip
        calls, schedule = self._calls, self._calls.schedule
        assert schedule is not None
        place, request_id = int(schedule.request[number]), calls.request_id(str(number))
        body = calls.body(place, request_id)
        sent = time.monotonic_ns() - start_ns
        answer: bytes | grpc.StatusCode
        try:
            answer = await call(body, timeout=calls.deadline_s)
        except grpc.aio.AioRpcError as error:
            answer = error.code()
        ended = time.monotonic_ns() - start_ns
        self.recorder.add(
            calls.sample(
                place, request_id, answer, (due, sent, ended),
                stage=int(schedule.stage[number]), checked=bool(schedule.checked[number]),
            )
        )  # fmt: skip


async def _until(at_ns: int) -> None:
    while True:
        left_ns = at_ns - time.monotonic_ns()
        if left_ns <= 0:
            return
        await asyncio.sleep(max(0, left_ns - SPIN_NS) / 1e9 if left_ns > SPIN_NS else 0)


async def _drive(work: Work, process: int) -> None:
    calls = Calls(work, process)
    options = calls.channel_options()
    channels = [
        grpc.aio.insecure_channel(work.target, options=options)
        for _ in range(calls.scenario.connections)
    ]
    try:
        await asyncio.gather(
            *(asyncio.wait_for(channel.channel_ready(), CONNECT_S) for channel in channels)
        )
    except TimeoutError as error:
        raise InputRefused("--target", work.target, f"no connection in {CONNECT_S:g} s") from error
    print("ready", flush=True)
    start_ns = int(sys.stdin.readline())
    client, facts = _Client(calls), Facts(due=len(calls.numbers))
    facts.begin()
    await client.run(start_ns, [channel.unary_unary(PATH) for channel in channels])
    facts.end()
    await asyncio.gather(*(channel.close() for channel in channels))
    part = Part.of(work, process)
    client.recorder.samples().write(part.samples)
    facts.write(part.facts)


def main() -> None:
    """One process of a load."""
    try:
        run_in_loop(_drive(Work.read(Path(sys.argv[1])), int(sys.argv[2])))
    except (EquipoiseError, OSError) as error:
        sys.exit(in_one_line(error))


if __name__ == "__main__":
    main()
