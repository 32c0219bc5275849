"""Server CPU per list, latency and where a list's time goes, by the way Equipoise is asked.

The server is a process of its own, on a synthetic bundle with a sequence model; the caller another.
CPU is that of the server's process tree: throughput on shared cores depends on the neighbours, what
a list costs does not. Who runs the rounds, and beside what, is `bench.serving.compare`'s.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.served import Served
from bench.serving.drive import Run, Way, as_arguments
from bench.serving.processes import Tree, foreign_listeners

ITEMS = 20_000
MANY = 1_000_000
"""More lists than any load makes in its time; a whole number of batches."""


@dataclass(frozen=True)
class Load:
    """A row of the table: so many lists, or fewer where the seconds are over before (0: any time).

    text: items are named by id and not by number.
    """

    way: Way
    in_flight: int
    lists: int = MANY
    candidates: int = 200
    seconds: float = 0.0
    channels: int = 1
    text: bool = False

    @property
    def name(self) -> str:
        ways = {
            "unary": "Recommend",
            "stream": "RecommendStream",
            "batch": f"BatchRecommend of {min(16, self.in_flight)}",
            "empty": "health check",
        }
        return f"{ways[self.way]}, {self.in_flight} in flight{', ids as text' if self.text else ''}"


@dataclass(frozen=True)
class Cost:
    """What a load was measured to cost, of the medians of its rounds. Microseconds a list."""

    load: Load
    cpu_us: float
    p50_us: float
    p99_us: float
    lists_per_s: float
    phases_us: dict[str, float]
    caller_cpu_us: float

    @property
    def rest_us(self) -> float:
        """Of the server's CPU, what no phase has: gRPC and the event loop."""
        return self.cpu_us - sum(us for name, us in self.phases_us.items() if name != "queue_ns")


LOADS: tuple[Load, ...] = (
    Load("unary", 1),
    Load("unary", 16),
    Load("unary", 64),
    Load("stream", 16),
    Load("stream", 64),
    Load("batch", 16),
    Load("batch", 64),
    Load("unary", 64, text=True),
    Load("batch", 64, text=True),
)


def flags_of(bundle: Path, store: Path) -> tuple[str | Path, ...]:
    """Of the server that is measured: of this bundle, with an event store of its own."""
    return ("--bundle", bundle, "--events", store, "--clock", "data-end")


def check_port(live: Served, tree: Tree) -> None:
    """See that the port is this server's and nobody else's."""
    foreign = foreign_listeners(live.port, tree.members())
    if foreign:
        raise RuntimeError(f"port {live.port} is listened on by {foreign}, not by the server alone")


def take(
    live: Served, tree: Tree, bundle: Path, load: Load, seed: int, calls: Path | None = None
) -> dict[str, Any]:
    """One measurement: what the caller found, and the server's `cpu_us` a list.

    calls: requests and the lists that they must get; drawn from the seed, and only looked at, if
    there are none.
    """
    run = Run(
        live.target, str(bundle), load.way, load.in_flight, load.lists, seed,
        candidates=load.candidates, seconds=load.seconds,
        calls="" if calls is None else str(calls), channels=load.channels, text=load.text,
    )  # fmt: skip
    caller = subprocess.Popen(
        as_arguments(run), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with caller:
        assert caller.stdin is not None
        assert caller.stdout is not None
        try:
            if caller.stdout.readline() != "ready\n":
                raise RuntimeError(f"the caller of {load.name} did not start")
            encode_us = _encode_us(live)
            before = tree.cpu_us()
            caller.stdin.write("\n")
            caller.stdin.flush()
            told = caller.stdout.readline()
            spent = tree.cpu_us() - before
            encode_us = _encode_us(live) - encode_us
        except BaseException:
            caller.kill()
            raise
    if caller.returncode or not told:
        raise RuntimeError(f"{load.name}: a wrong answer, or none; see above")
    result: dict[str, Any] = json.loads(told)
    result["phases_us"]["encode_ns"] = encode_us / result["lists"]
    return result | {"cpu_us": spent / result["lists"]}


def _encode_us(live: Served) -> float:
    """What the server has spent on answers as messages: no answer can tell it of itself."""
    return live.metrics()['equipoise_phase_seconds_sum{phase="encode"}'] * 1e6


def cost(load: Load, rounds: Sequence[dict[str, Any]]) -> Cost:
    """The medians of a load's rounds."""

    def middle(pick: Callable[[dict[str, Any]], float]) -> float:
        return median(map(pick, rounds))

    return Cost(
        load=replace(load, lists=sum(one["lists"] for one in rounds)),
        cpu_us=middle(lambda one: one["cpu_us"]),
        p50_us=middle(lambda one: one["latency_us"][0]),
        p99_us=middle(lambda one: one["latency_us"][1]),
        lists_per_s=middle(lambda one: one["lists"] / one["seconds"]),
        phases_us={
            name: median(one["phases_us"][name] for one in rounds)
            for name in rounds[0]["phases_us"]
        },
        caller_cpu_us=middle(lambda one: one["caller_cpu_us"]),
    )
