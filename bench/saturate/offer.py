"""Offering a rate to a server, and what the generator can offer to one that does nothing."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from bench.load.prepare import prepare
from bench.load.requests import read_requests
from bench.load.runner import Plan, run_load
from bench.load.scenario import Scenario
from bench.saturate.search import Repeat
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub

TIMEOUT_S = 10.0
FIRST_RPS = 200.0
MOST_RPS = 50_000.0
STEP = 2.0
CEILING_S = 2.0


@dataclass(frozen=True)
class Offering:
    """How a rate is offered. out: a folder for each load's files."""

    target: str
    out: Path
    seconds: float
    deadline_ms: int
    requests: Path
    processes: int = 1
    seed: int = 1

    def offer(self, rate_rps: float, number: int) -> Repeat:
        """One load of independent callers."""
        scenario = Scenario.model_validate(
            {
                "schema_version": 1,
                "name": "saturate",
                "seed": self.seed + number,
                "deadline_ms": self.deadline_ms,
                "steady": False,  # beyond the knee a queue grows: that is what is looked for
                "stage": [{"rate_rps": rate_rps, "duration_s": self.seconds}],
                "requests": {"file": self.requests},
                "check": {"share": 0.0},
            }
        )
        result = run_load(Plan(self.target, self.out / "load", scenario, processes=self.processes))
        n = max(1, result["requests"])
        return Repeat(
            rate_rps,
            result["throughput_rps"] or 0.0,
            result["goodput_rps"] or 0.0,
            result["latency_ms"]["p50"],
            result["latency_ms"]["p99"],
            result["by_status"].get("RESOURCE_EXHAUSTED", 0) / n,
            result["errors"] / n,
            result["void_because"],
        )


def drawn_requests(target: str, folder: Path, seed: int) -> Path:
    """A request file of histories of the server's own items."""
    scenario = Scenario.model_validate(
        {"schema_version": 1, "name": "drawn", "seed": seed, "check": {"share": 0.0},
         "stage": [{"rate_rps": 1, "duration_s": 1}]}
    )  # fmt: skip
    return Path(prepare(scenario, target, folder, processes=1).requests)


def ceiling_rps(offering: Offering) -> float:
    """The highest rate that the generator keeps up with, against an echo with the server's own answer;
    grown in steps of `STEP`, so it may be as much higher."""
    with tempfile.TemporaryDirectory() as folder, _echo(offering, Path(folder)) as target:
        best, rate = 0.0, FIRST_RPS
        asked = Offering(
            target, Path(folder), CEILING_S, offering.deadline_ms, offering.requests,
            offering.processes, offering.seed,
        )  # fmt: skip
        while rate <= MOST_RPS and not asked.offer(rate, 0).void:
            best, rate = rate, rate * STEP
        return best


@contextmanager
def _echo(offering: Offering, folder: Path) -> Iterator[str]:
    """A server that gives one answer of the real one, which costs the generator as much to read."""
    with grpc.insecure_channel(offering.target) as channel:
        info = ServingServiceStub(channel).GetServingInfo(
            serving_pb2.GetServingInfoRequest(), timeout=TIMEOUT_S
        )
        request = read_requests(offering.requests)[0].message("echo")
        answer = RecommendationServiceStub(channel).Recommend(request, timeout=TIMEOUT_S)
    for name, message in (("info", info), ("answer", answer)):
        (folder / name).write_bytes(message.SerializeToString())
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.saturate.echo", str(folder / "info"), str(folder / "answer")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.communicate(timeout=TIMEOUT_S)
