"""The locust side of a load: users that ask a server for lists and check every answer.

With locust's page: `locust -f bench/load/locustfile.py --host 127.0.0.1:50051 --scenario F.toml`;
without: `equipoise load --driver locust`, which runs this file in a process of its own. Rows are named
by method and outcome, since fast refusals would hide a slow tail.

In a closed loop a user waits for each answer, and a latency counts from the real send: it does not show
how long requests would have waited to be sent. In an open loop one user of each process sends what is
due when it is due, and a latency counts from then.
"""

from __future__ import annotations

import logging
import time
import uuid
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

import gevent
import grpc
import grpc.experimental.gevent as grpc_gevent
import numpy as np
from gevent.pool import Pool
from locust import LoadTestShape, User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import WorkerRunner

from bench.load.prepare import prepare
from bench.load.samples import OK, Recorder, Sample
from bench.load.scenario import Scenario, read_scenario
from bench.load.schedule import drawn
from bench.load.work import PATH, Calls, Facts, Part, Work
from bench.target import check_target

# Before any channel: grpc waits in gevent's loop, or one call would stop all users.
grpc_gevent.init_gevent()

CLOSED = Scenario.model_validate(
    {"schema_version": 1, "name": "page", "loop": "closed", "deadline_ms": 5000,
     "stage": [{"duration_s": 86_400, "users": 1}]}
)  # fmt: skip
"""What is asked where the page decides how many users there are."""

DRAWN = 1 << 16

LOG = logging.getLogger("equipoise.load")


class Session:
    """What the users of one process share in one run."""

    def __init__(self, work: Work, process: int) -> None:
        self.work = work
        self.calls = Calls(work, process)
        self.recorder = Recorder()
        self.facts = Facts(due=len(self.calls.numbers))
        self.users = 0
        # Of a closed loop: whoever asks next, until all were asked and it begins anew.
        scenario = self.calls.scenario
        rng = np.random.default_rng((scenario.seed, process))
        places = drawn(scenario.requests, self.calls.n_requests, DRAWN, rng).tolist()
        checked = (rng.random(DRAWN) < scenario.check.share).tolist()
        self.next = cycle(zip(places, checked, strict=True))
        # Last of all: what is made before would make the first requests late.
        self.facts.begin()

    def now_ns(self) -> int:
        """Since the run began."""
        return time.monotonic_ns() - self.facts.start_ns

    def leave(self) -> None:
        """Samples and facts, as files."""
        self.facts.end()
        part = Part.of(self.work, self.calls.process)
        self.recorder.samples().write(part.samples)
        self.facts.write(part.facts)


def add_arguments(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Equipoise")
    group.add_argument("--scenario", default="", help="What arrives, and who asks (TOML)")
    group.add_argument("--work", default="", help="Written by 'equipoise load'; has all the rest")
    group.add_argument("--allow-remote", action="store_true", help="The target may be elsewhere")


def _work(environment: Environment) -> Work:
    options: Any = environment.parsed_options
    if options.work:
        return Work.read(Path(options.work))
    target = (environment.host or "127.0.0.1:50051").removeprefix("http://")
    check_target(target, allow_remote=options.allow_remote)
    scenario = read_scenario(Path(options.scenario)) if options.scenario else CLOSED
    folder = Path("out") / "locust" / uuid.uuid4().hex[:8]
    return prepare(scenario, target, folder, processes=1)


def _renew(environment: Environment) -> None:
    try:
        runner = environment.runner
        process = runner.worker_index if isinstance(runner, WorkerRunner) else 0
        Shopper.session = Session(_work(environment), process)
    except Exception as error:
        LOG.error("the load cannot start: %s", error)
        Shopper.session = None
        environment.process_exit_code = 2
        if environment.runner is not None:
            environment.runner.quit()


def start(environment: Environment, **_: Any) -> None:
    """A run begins: from the page, its host may be another than that of the last."""
    if not _only_master(environment):
        _renew(environment)


def stop(environment: Environment, **_: Any) -> None:
    """A run has ended: its users have stopped."""
    if Shopper.session is not None:
        Shopper.session.leave()
        Shopper.session = None


def quitting(environment: Environment, **_: Any) -> None:
    """Failed requests are in the samples; the exit code says whether the run was whole."""
    options: Any = environment.parsed_options
    if options.work and environment.process_exit_code is None:
        environment.process_exit_code = 0


def shape(environment: Environment, **_: Any) -> None:
    """A closed loop of a scenario has its own number of users at each time."""
    options: Any = environment.parsed_options
    if isinstance(environment.runner, WorkerRunner) or options is None:
        return
    scenario = None
    if options.work:
        scenario = Scenario.model_validate_json(Work.read(Path(options.work)).scenario)
    elif options.scenario:
        scenario = read_scenario(Path(options.scenario))
    if scenario is not None and scenario.loop == "closed":
        environment.shape_class = Stages(scenario)


class Stages(LoadTestShape):
    """As many users as the stage says."""

    abstract = True

    def __init__(self, scenario: Scenario) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._scenario = scenario

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many of them are started a second; None: it is over."""
        left_s = self.get_run_time()  # type: ignore[no-untyped-call]
        for stage in self._scenario.stage:
            if left_s < stage.duration_s:
                assert stage.users is not None
                return stage.users, stage.users
            left_s -= stage.duration_s
        return None


def _only_master(environment: Environment) -> bool:
    options: Any = environment.parsed_options
    return bool(getattr(options, "processes", None)) and not isinstance(
        environment.runner, WorkerRunner
    )


class Shopper(User):
    """Asks for lists: one after the other, or when they are due."""

    session: ClassVar[Session | None] = None
    """What the run under way shares; a process has one run at a time."""

    wait_time = constant(0)

    def on_start(self) -> None:
        session = self.session
        if session is None:
            raise StopUser
        self.under_way = session
        session.users += 1
        self.name = f"{session.calls.process}-{session.users}"
        self.asked = 0
        options = session.calls.channel_options()
        count = session.calls.scenario.connections if session.calls.schedule is not None else 1
        self.channels = [
            grpc.insecure_channel(session.work.target, options=options) for _ in range(count)
        ]
        self.ready: list[grpc.UnaryUnaryMultiCallable[bytes, bytes]] = [
            channel.unary_unary(PATH) for channel in self.channels
        ]
        self.pool = Pool()

    def on_stop(self) -> None:
        for channel in getattr(self, "channels", ()):
            channel.close()

    @task
    def ask(self) -> None:
        session = self.under_way
        if session.calls.schedule is not None:
            self._all_that_is_due()
        self.asked += 1
        calls = session.calls
        place, checked = next(session.next)
        request_id = calls.request_id(f"{self.name}-{self.asked}")
        self._call(place, request_id, None, 0, checked, self.ready[0])

    def _all_that_is_due(self) -> None:
        calls = self.under_way.calls
        schedule = calls.schedule
        assert schedule is not None
        for place, number in enumerate(calls.numbers.tolist()):
            due = int(schedule.due_ns[number])
            ahead_ns = due - self.under_way.now_ns()
            gevent.sleep(max(0, ahead_ns) / 1e9)
            self.pool.spawn(
                self._call, int(schedule.request[number]), calls.request_id(str(number)), due,
                int(schedule.stage[number]), bool(schedule.checked[number]),
                self.ready[place % len(self.ready)],
            )  # fmt: skip
        self.pool.join()
        raise StopUser

    def _call(
        self, place: int, request_id: str, due: int | None, stage: int, checked: bool,
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes],
    ) -> None:  # fmt: skip
        calls = self.under_way.calls
        body = calls.body(place, request_id)
        sent = self.under_way.now_ns()
        answer: bytes | grpc.StatusCode
        try:
            answer = call(body, timeout=calls.deadline_s)
        except grpc.RpcError as failed:
            answer = failed.code()
        ended = self.under_way.now_ns()
        due = sent if due is None else due
        self._record(
            calls.sample(
                place, request_id, answer, (due, sent, ended), stage=stage, checked=checked
            ),
            len(answer) if isinstance(answer, bytes) else 0,
        )

    def _record(self, sample: Sample, length: int) -> None:
        self.under_way.recorder.add(sample)
        wrong = (
            None if sample.outcome == OK else ValueError(f"{sample.outcome}: {sample.request_id}")
        )
        self.environment.events.request.fire(
            request_type="grpc",
            name=f"{sample.method} {sample.outcome}",
            response_time=(sample.ended_ns - sample.due_ns) / 1e6,
            response_length=length,
            exception=wrong,
            context={},
        )


events.init_command_line_parser.add_listener(add_arguments)  # type: ignore[no-untyped-call]
events.init.add_listener(shape)  # type: ignore[no-untyped-call]
events.test_start.add_listener(start)  # type: ignore[no-untyped-call]
events.test_stop.add_listener(stop)  # type: ignore[no-untyped-call]
events.quitting.add_listener(quitting)  # type: ignore[no-untyped-call]
