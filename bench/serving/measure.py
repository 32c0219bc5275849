"""Server CPU per list, latency and where a list's time goes, by the way it is asked for.

The server is a process of its own, on a synthetic bundle with a sequence model; the caller another.
CPU is that of the server's process tree: throughput on shared cores depends on the neighbours, what
a list costs does not. Rounds are interleaved, and each figure is the median of its rounds.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.demo.serving import Live, equipoise, server
from bench.refused import InputRefused
from bench.serving.drive import PHASES, Run, Way, as_arguments

Progress = Callable[[float], None]
ITEMS = 20_000
WARM_LISTS = 400
EMPTY_CALLS = 500


@dataclass(frozen=True)
class Load:
    """A row of the table."""

    way: Way
    in_flight: int
    lists: int
    candidates: int = 200

    @property
    def name(self) -> str:
        ways = {"unary": "Recommend", "stream": "RecommendStream", "batch": "BatchRecommend of 16"}
        return f"{ways[self.way]}, {self.in_flight} in flight"


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
        """Of the server's CPU, what no phase has: gRPC, event loop, queue, encoding."""
        return self.cpu_us - sum(us for name, us in self.phases_us.items() if name != "queue_ns")


@dataclass(frozen=True)
class Measured:
    """costs: of each load, in order. empty_call_us: the median time of a unary call that does
    nothing, one in flight."""

    costs: tuple[Cost, ...]
    empty_call_us: float


LOADS: tuple[Load, ...] = (
    Load("unary", 1, 1_500),
    Load("unary", 16, 3_000),
    Load("unary", 64, 3_000),
    Load("stream", 16, 3_000),
    Load("stream", 64, 3_000),
    Load("batch", 16, 3_008),
    Load("batch", 64, 3_008),
)


def make_bundle(folder: Path, items: int = ITEMS) -> Path:
    """A synthetic bundle, made by the project's own command."""
    bundle = folder / f"bundle-{items}"
    command = equipoise("bundle", "synthetic", "--items", str(items), "--out", bundle)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InputRefused("bundle synthetic", "", done.stderr.strip() or "failed")
    return bundle


def measure(
    folder: Path, loads: tuple[Load, ...], rounds: int, seed: int, progress: Progress
) -> Measured:
    """The cost of each load, and of a call that does nothing."""
    bundle = make_bundle(folder)
    progress(0.1)
    with server(bundle, folder / "events.db", folder / "server.log") as live:
        _round(live, bundle, Load("unary", 8, WARM_LISTS), seed)
        taken: list[list[dict[str, Any]]] = [[] for _ in loads]
        for turn in range(rounds):
            for place, load in enumerate(loads):
                taken[place].append(_round(live, bundle, load, seed + turn))
                done = (turn * len(loads) + place + 1) / (rounds * len(loads))
                progress(0.1 + 0.9 * done)
        empty_us = empty_call_us(live)
    costs = tuple(_cost(load, own) for load, own in zip(loads, taken, strict=True))
    return Measured(costs, empty_us)


def empty_call_us(live: Live) -> float:
    """A health check: no work, and all that a call costs."""
    with grpc.insecure_channel(live.target) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        taken = []
        for _ in range(EMPTY_CALLS):
            asked_ns = time.perf_counter_ns()
            check(health_pb2.HealthCheckRequest(), timeout=5)
            taken.append(time.perf_counter_ns() - asked_ns)
    # The first of them open the connection and warm up.
    return median(taken[EMPTY_CALLS // 10 :]) / 1e3


def _round(live: Live, bundle: Path, load: Load, seed: int) -> dict[str, Any]:
    run = Run(
        live.target, str(bundle), load.way, load.in_flight, load.lists, seed,
        candidates=load.candidates,
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
            before = cpu_us(live.pid)
            caller.stdin.write("\n")
            caller.stdin.flush()
            told = caller.stdout.readline()
            spent = cpu_us(live.pid) - before
        except BaseException:
            caller.kill()
            raise
    if caller.returncode or not told:
        raise RuntimeError(f"{load.name}: a wrong answer, or none; see above")
    result: dict[str, Any] = json.loads(told)
    return result | {"cpu_us": spent / result["lists"]}


def cpu_us(pid: int) -> float:
    """User and system time of a process and its children."""
    process = psutil.Process(pid)
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(own.user + own.system for own in times) * 1e6


def _cost(load: Load, rounds: list[dict[str, Any]]) -> Cost:
    def middle(pick: Callable[[dict[str, Any]], float]) -> float:
        return median(map(pick, rounds))

    return Cost(
        load=replace(load, lists=sum(one["lists"] for one in rounds)),
        cpu_us=middle(lambda one: one["cpu_us"]),
        p50_us=middle(lambda one: one["latency_us"][0]),
        p99_us=middle(lambda one: one["latency_us"][1]),
        lists_per_s=middle(lambda one: one["lists"] / one["seconds"]),
        phases_us={name: middle(lambda one, name=name: one["phases_us"][name]) for name in PHASES},  # type: ignore[misc]
        caller_cpu_us=middle(lambda one: one["caller_cpu_us"]),
    )
