"""The caller of a peer, a process of its own: a closed loop with so many in flight.

Runs in the peer's environment. Told on standard input what to do, a JSON document a line:

    {"calls": "calls.npz", "in_flight": 16, "seconds": 4}

and answers each with one. Every answer is compared with the list that was expected; the first wrong
one ends the process. The clock of a call stops before it is looked at.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import numpy as np

from bench.serving.calls import Calls

START_TIMEOUT_S = 150.0
CALL_TIMEOUT_S = 60.0


class WrongAnswer(RuntimeError):
    """A list that is not the one that was to come."""


class Caller(Protocol):
    """How one server is asked."""

    def prepare(self, calls: Calls) -> None:
        """Make the messages, so that it need not be done while the clock runs."""

    async def ask(self, number: int) -> Any:
        """Send a message and wait for the answer."""

    def read(self, answer: Any) -> list[int]:
        """The items of an answer, best first."""

    async def close(self) -> None:
        """Close the connections."""


Make = Callable[[dict[str, Any]], Awaitable[Caller]]
"""Of what the command line told: the server's `name` and `port`, and `texts`, a file of all items'
ids, where items are named by them."""


async def drive(
    caller: Caller, calls: Calls, in_flight: int, seconds: float, lists: int = sys.maxsize
) -> dict[str, Any]:
    """Ask until the time is over or so many lists came.

    Raises:
        WrongAnswer: at the first.
    """
    expected = calls.expected.tolist()
    numbers = iter(range(lists))
    latency_ns: list[int] = []
    started_ns = time.perf_counter_ns()
    until_ns = started_ns + int(seconds * 1e9)

    async def one() -> None:
        for number in numbers:
            asked_ns = time.perf_counter_ns()
            if asked_ns >= until_ns:
                return
            place = number % len(expected)
            answer = await asyncio.wait_for(caller.ask(place), CALL_TIMEOUT_S)
            latency_ns.append(time.perf_counter_ns() - asked_ns)
            got = caller.read(answer)
            if got != expected[place]:
                raise WrongAnswer(f"call {place}: got {got}, expected {expected[place]}")

    await asyncio.gather(*(one() for _ in range(in_flight)))
    spent_ns = time.perf_counter_ns() - started_ns
    return {
        "lists": len(latency_ns),
        "seconds": spent_ns / 1e9,
        "latency_us": (np.percentile(latency_ns, (50, 99)) / 1e3).tolist(),
    }


async def until_served(caller: Caller, expected: list[int]) -> None:
    """Wait for the first answer of a server that starts.

    Raises:
        WrongAnswer: it is another list.
        TimeoutError: none came in time; the reason of the last failure is its cause.
    """
    ends = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            got = caller.read(await asyncio.wait_for(caller.ask(0), 10))
        except Exception as error:
            if time.monotonic() > ends:
                raise TimeoutError(f"no answer in {START_TIMEOUT_S:.0f} s: {error}") from error
            await asyncio.sleep(0.1)
            continue
        if got != expected:
            raise WrongAnswer(f"the first call: got {got}, expected {expected}")
        return


async def _serve_commands(make: Make) -> None:
    told = json.loads(sys.argv[1])
    caller = await make(told)
    calls = Calls.load(told["calls"])
    caller.prepare(calls)
    await until_served(caller, calls.expected[0].tolist())
    print("ready", flush=True)
    # Read in the loop's own thread: nothing else happens between two commands.
    while line := sys.stdin.readline():
        command = json.loads(line)
        cpu_ns = time.process_time_ns()
        found = await drive(caller, calls, command["in_flight"], command["seconds"])
        spent = (time.process_time_ns() - cpu_ns) / 1e3 / max(1, found["lists"])
        print(json.dumps(found | {"caller_cpu_us": spent}), flush=True)
    await caller.close()


def main(make: Make) -> None:
    """Run the caller that `make` gives."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve_commands(make))
