"""What one process of a load does, whatever drives it: its part of the schedule, and its requests.

The runner writes `Work` as JSON; each driver reads it, makes the same schedule of it, and takes every
n-th request. Bodies are made before the first is sent: what is measured is the server.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import grpc
import numpy as np

from bench.load.answers import Answers, Served, wrong_with
from bench.load.requests import LoadRequest, read_requests
from bench.load.samples import OK, Sample
from bench.load.scenario import Scenario
from bench.load.schedule import COLD, Schedule, schedule_of
from bench.whole import write_whole
from equipoise.v1 import recommendation_pb2 as pb

METHOD = "Recommend"
PATH = "/equipoise.v1.RecommendationService/Recommend"
SERVICE_CONFIG = Path(pb.__file__).with_name("service_config.json")
# gRPC's own second of waiting before it connects again is longer than most deadlines.
RECONNECT = (("grpc.initial_reconnect_backoff_ms", 50), ("grpc.min_reconnect_backoff_ms", 50))


@dataclass(frozen=True)
class Work:
    """One load, for all its processes.

    scenario: as JSON. requests, answers: files; answers may be "". as_of_ms: the instant that requests
    are asked for, which makes answers repeatable. out: where the parts of `Part` are left.
    """

    target: str
    scenario: str
    requests: str
    answers: str
    served: Served
    run_id: str
    as_of_ms: int
    out: str
    processes: int = 1

    def write(self, path: Path) -> None:
        """As a file for the driver."""
        write_whole(path, json.dumps(asdict(self)))

    @staticmethod
    def read(path: Path) -> Work:
        """What `write` wrote."""
        found = json.loads(path.read_text(encoding="utf-8"))
        return Work(**(found | {"served": Served(**found["served"])}))


@dataclass(frozen=True)
class Part:
    """Where one process leaves its samples and what it says of itself."""

    samples: Path
    facts: Path

    @staticmethod
    def of(work: Work, process: int) -> Part:
        """Those of a process, numbered from 0."""
        base = Path(work.out)
        return Part(
            base.with_name(f"{base.name}.{process}.parquet"),
            base.with_name(f"{base.name}.{process}.json"),
        )


@dataclass
class Facts:
    """What a process knows of its own run; see `bench.load.validity`.

    cpu_s, wall_s: what it used while requests were sent. start_unix_ns, start_ns, end_unix_ns, end_ns:
    both clocks at both ends. due: how many requests were its own.
    """

    due: int = 0
    cpu_s: float = 0.0
    start_unix_ns: int = 0
    start_ns: int = 0
    end_unix_ns: int = 0
    end_ns: int = 0

    def begin(self) -> None:
        """Both clocks, and the processor time until now."""
        self.start_unix_ns, self.start_ns = time.time_ns(), time.monotonic_ns()
        self._cpu_ns = time.process_time_ns()

    def end(self) -> None:
        """The same at the end."""
        self.cpu_s = (time.process_time_ns() - self._cpu_ns) / 1e9
        self.end_unix_ns, self.end_ns = time.time_ns(), time.monotonic_ns()

    def write(self, path: Path) -> None:
        """Beside the samples."""
        write_whole(path, json.dumps(asdict(self)))


class Calls:
    """The requests of one process: when each is due, its body, and what its answer was worth."""

    def __init__(self, work: Work, process: int) -> None:
        self.scenario = Scenario.model_validate_json(work.scenario)
        self._requests = read_requests(Path(work.requests))
        self._answers = Answers.read(Path(work.answers)) if work.answers else Answers({})
        self._served = work.served
        self._as_of_ms = work.as_of_ms
        self._prefix = f"load-{work.run_id}"
        self.process = process
        self.deadline_s = self.scenario.deadline_ms / 1000
        # A message's bytes after another's are both in one.
        self._bodies = [
            body_of(request, work.as_of_ms).SerializeToString() for request in self._requests
        ]
        self.schedule: Schedule | None = None
        self.numbers = np.empty(0, np.int64)
        if self.scenario.loop == "open":
            self.schedule = schedule_of(self.scenario, len(self._requests))
            self.numbers = np.arange(process, len(self.schedule), work.processes)

    @property
    def n_requests(self) -> int:
        """Lines of the request file."""
        return len(self._requests)

    def channel_options(self) -> list[tuple[str, str | int]]:
        """Of every channel: a connection of its own, and the shipped retries where they are asked for."""
        options: list[tuple[str, str | int]] = [("grpc.use_local_subchannel_pool", 1)]
        if self.scenario.retries:
            config = SERVICE_CONFIG.read_text(encoding="utf-8")
            options += [("grpc.service_config", config), *RECONNECT]
        return options

    def request_id(self, name: str) -> str:
        """Of one call of this run."""
        return f"{self._prefix}-{name}"

    def body(self, place: int, request_id: str) -> bytes:
        """The request of a line of the file, or COLD, with this id."""
        if place == COLD:
            return cold(request_id, self._as_of_ms).SerializeToString()
        return self._bodies[place] + pb.RecommendRequest(request_id=request_id).SerializeToString()

    def count(self, place: int) -> int:
        """How many items it asks for."""
        return (
            LoadRequest.model_fields["count"].default
            if place == COLD
            else self._requests[place].count
        )

    def sample(
        self, place: int, request_id: str, answer: bytes | grpc.StatusCode, times_ns: tuple[int, int, int],
        *, stage: int = 0, checked: bool = False,
    ) -> Sample:  # fmt: skip
        """What became of a call: an answer, which is judged, or the status it failed with."""
        items = receipt = 0
        checked = checked and place in self._answers
        if isinstance(answer, grpc.StatusCode):
            outcome: str = answer.name
        else:
            outcome, items, receipt = self._judged(place, request_id, answer, checked)
        return Sample(
            *times_ns,
            METHOD,
            outcome,
            items,
            receipt,
            place,
            request_id,
            stage,
            checked,
            self.process,
        )

    def _judged(
        self, place: int, request_id: str, answer: bytes, checked: bool
    ) -> tuple[str, int, int]:
        try:
            response = pb.RecommendResponse.FromString(answer)
        except ValueError:
            return "NOT_A_RESPONSE", 0, 0
        wrong = wrong_with(request_id, self.count(place), response, self._served)
        if wrong is None and checked:
            wrong = self._answers.wrong_with(place, response)
        return wrong or OK, len(response.items), response.receipt.status


def body_of(request: LoadRequest, as_of_ms: int) -> pb.RecommendRequest:
    """The message without an id, asked for an instant that does not move."""
    message = request.message()
    message.as_of_unix_ms = message.as_of_unix_ms or as_of_ms
    return message


def cold(request_id: str, as_of_ms: int) -> pb.RecommendRequest:
    """Somebody whom nobody knows."""
    return pb.RecommendRequest(
        request_id=request_id, user_id=request_id,
        count=LoadRequest.model_fields["count"].default, as_of_unix_ms=as_of_ms, surface="load",
    )  # fmt: skip
