"""The Open Inference Protocol when there is no room, and when the server stops."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import grpc
import numpy as np
import pytest

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from server.config import ServerSettings
from server.engine import Outcome
from server.exposures import ExposureLedger
from server.features import N_FEATURES
from server.service.decode import Limits
from server.service.lists import Call, ListMaker
from server.service.metrics import ServerMetrics
from server.service.oip import follower
from server.service.oip.infer import Inference
from server.service.release import Current, Job, ReleaseMaker, run_jobs
from strategies.live import live_server
from strategies.tensors import count, infer, outputs

pytestmark = pytest.mark.slow


def test_a_full_queue_refuses_at_once_and_background_work_makes_room(bundle_path: Path) -> None:
    """The model is held until all of them have come."""
    settings = ServerSettings(bundle=bundle_path, max_queue=1, max_batch=1)
    held, running = threading.Event(), threading.Event()

    def run(jobs: Sequence[Job]) -> Sequence[Outcome | BaseException]:
        running.set()
        assert held.wait(60)
        return run_jobs(jobs)

    def asked(priority: int = 0) -> pb.ModelInferRequest:
        request = infer("ranker", {"features": np.ones((1, 3, N_FEATURES), np.float32)})
        request.parameters["priority"].uint64_param = priority
        return request

    async def scenario() -> tuple[list[object], pb.ModelStatistics]:
        maker = ReleaseMaker(settings, None, ExposureLedger(None), b"k" * 32)
        current = Current(maker.make(bundle_path), settings, run)
        batcher = current.batcher
        batcher.start()
        lists = ListMaker(current, Limits.of(settings), ServerMetrics(1))
        inference = Inference(follower(current, lists), settings)

        async def call(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
            return await inference.infer(request, Call.begun("", None))

        first = asyncio.create_task(call(asked()))
        await asyncio.to_thread(running.wait, 60)
        rest = [asyncio.create_task(call(asked(priority))) for priority in (2, 1, 0, 2)]
        # The third and the fourth are refused, and the second makes the first go, all at once.
        done, _ = await asyncio.wait({rest[0], rest[2], rest[3]}, timeout=60)
        assert len(done) == 3
        held.set()
        outcomes = await asyncio.gather(first, *rest, return_exceptions=True)
        await batcher.close()
        return list(outcomes), inference.figures["ranker"].message()

    outcomes, told = asyncio.run(scenario())
    kinds = [type(outcome).__name__ for outcome in outcomes]
    assert kinds == ["ModelInferResponse", "QueueFull", "ModelInferResponse"] + 2 * ["QueueFull"]
    assert (told.inference_count, told.inference_stats.fail.count) == (2, 3)


def test_a_server_that_drains_is_not_ready_and_ends_streams_after_their_answers(
    tmp_path: Path, bundle_path: Path
) -> None:
    settings = tmp_path / "server.toml"
    settings.write_text("drain_delay_s = 2\n")
    with live_server(tmp_path, bundle_path, "--settings", settings) as server:
        stub = GRPCInferenceServiceStub(server.channel)
        stop_asking = False

        def requests() -> object:
            yield infer("recommend", {"count": count(2)})
            while not stop_asking:
                yield infer("recommend", {"count": count(3)})

        answers = stub.ModelStreamInfer(requests(), timeout=60)
        assert len(outputs(next(answers).infer_response)["item_ids"]) == 2
        server.process.send_signal(signal.SIGTERM)
        ready = [True]
        while ready[-1]:
            ready.append(stub.ServerReady(pb.ServerReadyRequest()).ready)
        assert stub.ServerLive(pb.ServerLiveRequest()).live
        assert not stub.ModelReady(pb.ModelReadyRequest(name="ranker")).ready
        index = stub.RepositoryIndex(pb.RepositoryIndexRequest()).models
        assert {one.state for one in index} == {"UNAVAILABLE"}
        assert not stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True)).models
        # What is asked for is still answered, until calls are refused.
        assert len(outputs(stub.ModelInfer(infer("recommend", {"count": count(2)})))) == 3
        rest: list[str] = []
        with pytest.raises(grpc.RpcError) as ended:
            rest.extend(answer.error_message for answer in answers)
        assert not any(rest)
        stop_asking = True
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert server.process.wait(30) == 0
