"""What is made before a load begins: its requests, and what a quiet server answers to them.

Asks the server one request after the other, so that what comes under load can be compared with it.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np

from bench.load.answers import Answers, Exposure, Served, exposure_of, fingerprint
from bench.load.draw import draw_requests
from bench.load.requests import LoadRequest, read_requests, write_requests
from bench.load.scenario import Scenario
from bench.load.work import Work, body_of
from bench.refused import InputRefused
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub

SETUP_TIMEOUT_S = 10.0
DRAWN_REQUESTS = 200
GONE = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""A quiet server that does not answer now is not asked again hundreds of times."""
COMPARED = 512
"""Requests whose answers are known beforehand; more would only take longer to ask for."""


def prepare(
    scenario: Scenario,
    target: str,
    folder: Path,
    *,
    processes: int,
    progress: Callable[[float], None] = lambda share: None,
) -> Work:
    """The work of a load against a live server, with its files in `folder`.

    progress: told the share that is done.

    Raises:
        InputRefused: the request file is refused, or the server does not answer as one of Equipoise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with grpc.insecure_channel(target) as channel:
        try:
            info = ServingServiceStub(channel).GetServingInfo(
                serving_pb2.GetServingInfoRequest(), timeout=SETUP_TIMEOUT_S
            )
            requests = _requests(scenario, folder, channel, info)
            as_of_ms = time.time_ns() // 1_000_000
            answers = _answers(scenario, channel, requests, as_of_ms, progress)
        except grpc.RpcError as error:
            raise InputRefused(
                "--target", "", f"{target}: {error.code().name} {error.details()}: is it a server of "
                "Equipoise, and healthy?",
            ) from error  # fmt: skip
    answers.write(folder / "answers.json")
    return Work(
        target=target,
        scenario=scenario.model_dump_json(),
        requests=str((folder / "requests.jsonl").resolve()),
        answers=str((folder / "answers.json").resolve()),
        served=Served.of(info),
        run_id=uuid.uuid4().hex[:8],
        as_of_ms=as_of_ms,
        out=str((folder / "samples").resolve()),
        processes=processes,
    )


def _requests(
    scenario: Scenario,
    folder: Path,
    channel: grpc.Channel,
    info: serving_pb2.GetServingInfoResponse,
) -> list[LoadRequest]:
    """Those of the file, or drawn; they are kept beside the results."""
    kept = folder / "requests.jsonl"
    if scenario.requests.file is not None:
        requests = read_requests(scenario.requests.file)
        if not (kept.exists() and kept.samefile(scenario.requests.file)):
            shutil.copyfile(scenario.requests.file, kept)
        return requests
    stub = RecommendationServiceStub(channel)
    requests = draw_requests(
        lambda request: stub.Recommend(request, timeout=SETUP_TIMEOUT_S),
        info, n=DRAWN_REQUESTS, seed=scenario.seed,
    )  # fmt: skip
    if not requests:
        raise InputRefused(
            "--target", "", "the server returned no item to draw requests from; give a request file"
        )
    write_requests(kept, requests)
    return requests


def _answers(
    scenario: Scenario,
    channel: grpc.Channel,
    requests: list[LoadRequest],
    as_of_ms: int,
    progress: Callable[[float], None],
) -> Answers:
    if not scenario.check.share:
        return Answers({})
    rng = np.random.default_rng((scenario.seed, len(requests)))
    places = rng.permutation(len(requests))[:COMPARED].tolist()
    recommend = RecommendationServiceStub(channel).Recommend
    known: dict[int, str] = {}
    exposure: dict[int, Exposure] = {}
    for done, place in enumerate(places):
        body = body_of(requests[place], as_of_ms)
        try:
            quiet = [recommend(body, timeout=SETUP_TIMEOUT_S) for _ in range(2)]
        except grpc.RpcError as error:
            if error.code() in GONE:
                raise
            continue  # fails under load as well, and is counted there
        exposure[place] = exposure_of(quiet[0])
        first, second = map(fingerprint, quiet)
        if first == second:
            known[place] = first
        progress((done + 1) / len(places))
    return Answers(known, exposure)
