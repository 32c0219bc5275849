"""Several workers on one port: one server to its callers, whatever happens to a worker."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.deadlines import HELD
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.bundle import load_bundle
from server.exposures import ExposureLedger
from server.fairness.discount import discounts
from strategies.live import LiveServer, live_server
from strategies.workers import (
    ALONE,
    RETRYING,
    ask,
    channel_to,
    ledger_of,
    log,
    metrics,
    pids,
    spare,
    until,
)

pytestmark = pytest.mark.slow

HEAVY = ("numpy", "numba", "onnxruntime", "grpc", "sqlite")
EVERYTHING = [f"item-{n:03}" for n in range(60)]
OK = "grpc_server_handled_total grpc_code=OK grpc_method=Recommend grpc_service=equipoise.v1.RecommendationService grpc_type=unary"


@pytest.fixture(scope="module")
def crew(tmp_path_factory: pytest.TempPathFactory, bundle_path: Path) -> Iterator[LiveServer]:
    """Two workers and a spare. Tests may kill them: it is the server's task to have others."""
    folder = tmp_path_factory.mktemp("crew")
    (folder / "tmp").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setenv("EQUIPOISE_EXPOSURES_FLUSH_S", "0.02")
        flags = ("--workers", "2", "--events", folder / "events.db", "--clock", "data-end")
        with live_server(folder, bundle_path, *flags) as server:
            yield server


def replaced(live: LiveServer, pid: int) -> int:
    """Wait until a worker's place is taken: how long that took by the log, in ms."""
    until(lambda: pid not in pids(live))
    (line,) = (line for line in log(live, "worker serving") if line.get("replaces") == pid)
    assert line["worker"] in pids(live)
    took: int = line["respawn_ms"]
    print(f"respawned in {took} ms")
    return took


def test_all_workers_answer_and_one_port_tells_their_sums(crew: LiveServer) -> None:
    first, second = pids(crew)
    before = metrics(crew)
    with channel_to(crew, first) as one, channel_to(crew, second) as other:
        for channel in (one, one, one, other, other):
            assert len(ask(channel).items) == 10
    after = metrics(crew)
    assert after[OK] - before.get(OK, 0) == 5
    assert after["equipoise_batch_size_count"] - before["equipoise_batch_size_count"] == 5
    assert after["equipoise_workers"] == 2
    (info,) = (value for name, value in after.items() if name.startswith("equipoise_serving_info"))
    assert info == 1


def test_one_worker_and_several_show_the_same_metrics(tmp_path: Path, bundle_path: Path) -> None:
    told = []
    for workers in ("1", "2"):
        folder = tmp_path / workers
        folder.mkdir()
        flags = ("--clock", "data-end", "--workers", workers)
        with live_server(folder, bundle_path, *flags) as server:
            for policy in ("tiers", "brands", "varied"):
                # A channel of its own for each, so that several workers get them.
                with grpc.insecure_channel(server.target, options=[ALONE]) as channel:
                    ask(channel, policy=policy, candidate_item_ids=EVERYTHING, surface="home")
                    with pytest.raises(grpc.RpcError):
                        ask(channel, count=0)
            # What workers hold is told ten times a second.
            until(lambda: not any(metrics(server)[name] for name in HELD))
            told.append(metrics(server))
    assert set(told[0]) == set(told[1])
    counted = [name for name in told[0] if "_seconds_" not in name and name != "equipoise_workers"]
    assert len(counted) > 10
    assert {name: told[0][name] for name in counted} == {name: told[1][name] for name in counted}
    assert [page["equipoise_workers"] for page in told] == [1, 2]


def test_exposure_is_the_exact_sum_over_all_workers(crew: LiveServer, bundle_path: Path) -> None:
    ledgers = {ledger_of(pid) for pid in pids(crew)}
    (path,) = ledgers
    assert path is not None
    answers: list[pb.RecommendResponse] = []

    def call(channel: grpc.Channel) -> None:
        asked = {"policy": "over-time", "candidate_item_ids": EVERYTHING}
        answers.extend(ask(channel, **asked) for _ in range(40))

    bundle = load_bundle(bundle_path)
    compiled = bundle.policies["over-time"]
    assert compiled.amortisation is not None
    key = (compiled.policy.digest, compiled.amortisation.labels)
    first, second = pids(crew)
    with channel_to(crew, first) as one, channel_to(crew, second) as other:
        callers = [threading.Thread(target=call, args=(channel,)) for channel in (one, other)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(answers) == 80
    expected = ExposureLedger(None).account(*key)
    for answer in answers:
        rows = [bundle.items.index[item.item_id] for item in answer.items]
        expected.charge(bundle.groups["provider_tier"].codes[rows], discounts(len(rows)))
    with ExposureLedger(path) as ledger:
        account = ledger.account(*key)

        def merged() -> bool:
            ledger.flush()
            return account.lists == len(answers)

        until(merged)
        assert np.array_equal(account.totals(), expected.totals())


def test_a_page_token_is_good_at_every_worker_and_after_a_respawn(crew: LiveServer) -> None:
    first, second = pids(crew)
    request = {"count": 20, "page_size": 5, "candidate_item_ids": EVERYTHING}
    with channel_to(crew, first) as one, channel_to(crew, second) as other:
        whole = [item.item_id for item in ask(one, count=20, candidate_item_ids=EVERYTHING).items]
        page = ask(one, **request)
        found = [item.item_id for item in page.items]
        page = ask(other, **request, page_token=page.next_page_token)
        found += [item.item_id for item in page.items]
    for pid in (first, second):
        waiting = spare(crew)
        psutil.Process(pid).kill()
        replaced(crew, pid)
        assert waiting in pids(crew)
    page = ask(crew.channel, **request, page_token=page.next_page_token)
    found += [item.item_id for item in page.items]
    assert found == whole[:15]


def test_a_killed_worker_costs_a_retrying_caller_nothing_and_no_count_is_lost(
    crew: LiveServer,
) -> None:
    spare(crew)
    stop = threading.Event()
    answered, failed, totals = itertools.count(), list[str](), list[float]()

    def keep_calling() -> None:
        options = [
            ("grpc.service_config", RETRYING),
            ("grpc.enable_retries", 1),
            ALONE,
        ]
        with grpc.insecure_channel(crew.target, options=options) as channel:
            while not stop.is_set():
                try:
                    ask(channel, timeout_s=20.0)
                    next(answered)
                except grpc.RpcError as error:
                    failed.append(str(error.code()))

    def keep_scraping() -> None:
        while not stop.is_set():
            totals.append(metrics(crew).get(OK, 0))

    before = metrics(crew)
    calling = [threading.Thread(target=keep_calling) for _ in range(6)]
    threads = [*calling, threading.Thread(target=keep_scraping)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            waiting = spare(crew)
            victim = pids(crew)[0]
            seen = len(totals)
            until(lambda seen=seen: len(totals) > seen + 2)
            psutil.Process(victim).kill()
            assert replaced(crew, victim) <= 10_000
            assert waiting in pids(crew)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    after = metrics(crew)
    assert failed == []
    assert totals == sorted(totals)
    # A call that was answered and whose caller never heard of it is counted too.
    assert after[OK] - before.get(OK, 0) >= next(answered) > 0
    killed = "equipoise_worker_restarts_total reason=killed"
    assert after[killed] - before[killed] == 3
    told = {line["worker"]: line for line in log(crew, "worker died")}
    assert told[victim]["signal"] == "SIGKILL"


def test_a_worker_that_is_asked_to_end_drains_and_is_replaced(crew: LiveServer) -> None:
    spare(crew)
    victim = pids(crew)[0]
    with channel_to(crew, victim) as channel:
        calls = [
            RecommendationServiceStub(channel).Recommend.future(pb.RecommendRequest(count=10))
            for _ in range(20)
        ]
        calls[0].result()
        psutil.Process(victim).terminate()
        codes = {call.code() for call in calls}
    assert codes <= {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    replaced(crew, victim)
    told = {line["worker"]: line for line in log(crew, "worker died")}
    assert (told[victim]["reason"], told[victim]["exit_code"]) == ("exited", 0)


def test_a_stopped_worker_is_replaced_and_none_of_its_calls_hangs(crew: LiveServer) -> None:
    spare(crew)
    victim = pids(crew)[1]
    with channel_to(crew, victim) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=30
        )
        next(watch)
        psutil.Process(victim).suspend()
        stopped_s = time.monotonic()
        with pytest.raises(grpc.RpcError):
            ask(channel, timeout_s=2.0)
        assert time.monotonic() - stopped_s <= 2.1
        with pytest.raises(grpc.RpcError) as ended:
            next(watch)
        print(f"its callers knew after {(time.monotonic() - stopped_s) * 1e3:.0f} ms")
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    assert replaced(crew, victim) <= 10_000
    assert log(crew, "worker silent")[-1]["worker"] == victim
    assert metrics(crew)["equipoise_worker_restarts_total reason=silent"] >= 1
    assert len(ask(crew.channel).items) == 10


def test_the_supervisor_is_light_and_its_folder_private(crew: LiveServer) -> None:
    loaded = [
        line.split()[-1] for line in Path(f"/proc/{crew.process.pid}/maps").read_text().splitlines()
    ]
    assert [path for path in loaded if any(f"/{name}" in path for name in HEAVY)] == []
    (folder,) = (crew.log.parent / "tmp").glob("equipoise-*")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "page-key").stat().st_mode & 0o777 == 0o600
    for pid in pids(crew):
        assert "bundle" not in " ".join(psutil.Process(pid).cmdline())
