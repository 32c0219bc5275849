"""The Open Inference Protocol when there is no room, and when the server stops."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from server.features import N_FEATURES
from strategies.live import live_server
from strategies.tensors import count, infer, outputs

pytestmark = pytest.mark.slow

CALLERS = 24


def test_a_full_queue_refuses_as_in_a_recommend(tmp_path: Path, bundle_path: Path) -> None:
    heavy = infer("ranker", {"features": np.ones((1, 10_000, N_FEATURES), np.float32)}, raw=True)
    with live_server(tmp_path, bundle_path, "--max-queue", "1", "--max-batch", "1") as server:
        stub = GRPCInferenceServiceStub(server.channel)
        with ThreadPoolExecutor(CALLERS) as callers:
            futures = [callers.submit(stub.ModelInfer, heavy, timeout=60) for _ in range(CALLERS)]
        errors = [error for future in futures if (error := future.exception())]
        assert len(errors) < CALLERS
        assert errors, "nobody was refused"
        for error in errors:
            assert isinstance(error, grpc.RpcError)
            assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        told = rpc_status.from_call(errors[0])
        info = error_details_pb2.ErrorInfo()
        assert told.details[0].Unpack(info)
        assert info.reason == "QUEUE_FULL"
        (own,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="ranker")).model_stats
        assert own.inference_stats.fail.count == len(errors)
        assert own.inference_count == CALLERS - len(errors)


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
