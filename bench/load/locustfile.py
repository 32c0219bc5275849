"""The locust side of a load: users that ask a server for lists and check every answer.

With locust's page: `locust -f bench/load/locustfile.py --host 127.0.0.1:50051`;
without: `equipoise load`, which runs this file in a process of its own. Rows
are named by method and outcome, since fast refusals would hide a slow tail. A
user waits for each answer (a closed loop): latency counts from the real send,
so this driver does not show how long requests would have waited to be sent.
"""

from __future__ import annotations

import logging
import random
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import grpc
import grpc.experimental.gevent as grpc_gevent
from locust import User, constant, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser

from bench.load.answers import Served, wrong_with
from bench.load.draw import draw_requests
from bench.load.requests import LoadRequest, read_requests, read_users
from bench.load.samples import OK, Recorder, Sample
from bench.target import check_target
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub

# Before any channel: grpc waits in gevent's loop, or one call would stop all users.
grpc_gevent.init_gevent()

METHOD = "Recommend"
SETUP_TIMEOUT_S = 10.0
DRAWN_REQUESTS = 200
# One connection per user; without it all channels of a process share one.
CHANNEL_OPTIONS = (("grpc.use_local_subchannel_pool", 1),)

LOG = logging.getLogger("equipoise.load")


@dataclass
class Session:
    """What the users of one run share."""

    target: str
    served: Served
    requests: list[LoadRequest]
    deadline_s: float
    run_id: str
    seed: int
    recorder: Recorder
    users: int = 0


def add_arguments(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Equipoise")
    group.add_argument("--requests", default="", help="Request file (JSON lines) to draw from")
    group.add_argument("--users-file", default="", help="File of user ids, one a line")
    group.add_argument("--samples-out", default="", help="Write raw samples (.npz) when it stops")
    group.add_argument("--deadline-ms", type=int, default=5000, help="Deadline of each call")
    group.add_argument("--seed", type=int, default=1, help="Of the order of requests")
    group.add_argument("--allow-remote", action="store_true", help="The target may be elsewhere")


def _requests(options: Any, channel: grpc.Channel, info: Any) -> list[LoadRequest]:
    if options.requests:
        return read_requests(Path(options.requests))
    if options.users_file:
        return read_users(Path(options.users_file))
    stub = RecommendationServiceStub(channel)
    return draw_requests(
        lambda request: stub.Recommend(request, timeout=SETUP_TIMEOUT_S),
        info,
        n=DRAWN_REQUESTS,
        seed=options.seed,
    )


def _begin(environment: Environment) -> Session:
    options: Any = environment.parsed_options
    target = (environment.host or "127.0.0.1:50051").removeprefix("http://")
    check_target(target, allow_remote=options.allow_remote)
    with grpc.insecure_channel(target) as channel:
        info = ServingServiceStub(channel).GetServingInfo(
            serving_pb2.GetServingInfoRequest(), timeout=SETUP_TIMEOUT_S
        )
        requests = _requests(options, channel, info)
    if not requests:
        raise ValueError("the server returned no item to draw requests from; give --requests")
    return Session(
        target=target,
        served=Served.of(info),
        requests=requests,
        deadline_s=options.deadline_ms / 1000,
        run_id=uuid.uuid4().hex[:8],
        seed=options.seed,
        recorder=Recorder(),
    )


def prepare(environment: Environment, **_: Any) -> None:
    """Learn of the server and draw requests before the clock of a headless run starts."""
    options: Any = environment.parsed_options
    if options is not None and options.headless:
        _renew(environment)


def start(environment: Environment, **_: Any) -> None:
    """From the page, every run begins anew: its host may be another."""
    options: Any = environment.parsed_options
    if not options.headless:
        _renew(environment)
    if Shopper.session is None and environment.runner is not None:
        environment.runner.quit()


def _renew(environment: Environment) -> None:
    try:
        Shopper.session = _begin(environment)
    except Exception as error:
        LOG.error("the load cannot start: %s", error)
        Shopper.session = None
        environment.process_exit_code = 2


def keep_samples(environment: Environment, **_: Any) -> None:
    options: Any = environment.parsed_options
    out = options.samples_out
    if Shopper.session is not None and out:
        Shopper.session.recorder.samples().write(Path(out))
        # Failed requests are in the samples; locust's exit code says that the run was whole.
        environment.process_exit_code = 0


class Shopper(User):
    """Asks for lists, one after the other, with varied requests."""

    session: ClassVar[Session | None] = None
    """What the run under way shares; a process has one run at a time."""

    wait_time = constant(0)

    def on_start(self) -> None:
        session = self.session
        if session is None:
            raise StopUser
        self.under_way = session
        session.users += 1
        self.name = f"{session.run_id}-{session.users}"
        self.draw = random.Random(f"{session.seed}-{session.users}")
        self.calls = 0
        self.channel = grpc.insecure_channel(session.target, options=CHANNEL_OPTIONS)
        self.recommend = RecommendationServiceStub(self.channel).Recommend

    def on_stop(self) -> None:
        if hasattr(self, "channel"):
            self.channel.close()

    @task
    def ask(self) -> None:
        self.calls += 1
        chosen = self.draw.choice(self.under_way.requests)
        request = chosen.message(f"load-{self.name}-{self.calls}")
        response: pb.RecommendResponse | None = None
        error: Exception | None = None
        start_ns, before_ns = time.time_ns(), time.perf_counter_ns()
        try:
            response = self.recommend(request, timeout=self.under_way.deadline_s)
        except grpc.RpcError as failed:
            error = failed
            outcome = failed.code().name
        latency_ns = time.perf_counter_ns() - before_ns
        if response is not None:
            wrong = wrong_with(request, response, self.under_way.served)
            outcome = wrong or OK
            if wrong:
                error = ValueError(f"{wrong}: request {request.request_id}")
        self._record(request, response, outcome, error, start_ns, latency_ns)

    def _record(
        self,
        request: pb.RecommendRequest,
        response: pb.RecommendResponse | None,
        outcome: str,
        error: Exception | None,
        start_ns: int,
        latency_ns: int,
    ) -> None:
        self.under_way.recorder.add(
            Sample(
                start_ns=start_ns,
                latency_ns=latency_ns,
                method=METHOD,
                outcome=outcome,
                items=len(response.items) if response is not None else 0,
                receipt=response.receipt.status if response is not None else 0,
                request_id=request.request_id,
            )
        )
        self.environment.events.request.fire(
            request_type="grpc",
            name=f"{METHOD} {outcome}",
            response_time=latency_ns / 1e6,
            response_length=response.ByteSize() if response is not None else 0,
            exception=error,
            context={},
        )


events.init_command_line_parser.add_listener(add_arguments)  # type: ignore[no-untyped-call]
events.init.add_listener(prepare)  # type: ignore[no-untyped-call]
events.test_start.add_listener(start)  # type: ignore[no-untyped-call]
events.quitting.add_listener(keep_samples)  # type: ignore[no-untyped-call]
