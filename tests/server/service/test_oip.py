"""The Open Inference Protocol over a real connection, with plain stubs: what is right is answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
from google.protobuf import json_format

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from equipoise.v1 import recommendation_pb2
from server.bundle import Bundle, load_bundle, ports_of, write_bundle
from server.model import OnnxScorer
from strategies.bundles import DATA_UNTIL_MS, HISTORY_LENGTH, N_ITEMS, sequence_parts
from strategies.live import LiveServer, failure_of, live_server
from strategies.tensors import count, infer, outputs

pytestmark = pytest.mark.slow

HISTORY = ["item-003", "item-007", "item-003"]
TIMES = np.array([1, 2, 3], np.int64) * 86_400_000 + DATA_UNTIL_MS - 10 * 86_400_000


@pytest.fixture(scope="module")
def stub(live: LiveServer) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(live.channel)


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


def figures(stub: GRPCInferenceServiceStub, name: str) -> pb.ModelStatistics:
    (own,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name=name)).model_stats
    return own


@pytest.mark.parametrize("raw", [False, True])
def test_recommend_makes_the_list_that_the_native_call_makes(
    stub: GRPCInferenceServiceStub, live: LiveServer, raw: bool
) -> None:
    candidates = [f"item-{number:03}" for number in range(25)]
    got = stub.ModelInfer(
        infer(
            "recommend",
            {
                "policy": ["tiers"],
                "count": count(6),
                "candidate_item_ids": candidates,
                "history_times_ms": TIMES,
                "history_item_ids": HISTORY,
                "user_id": ["somebody"],
            },
            raw=raw,
            id="mine",
        )
    )
    native = live.recommendation.Recommend(
        recommendation_pb2.RecommendRequest(
            count=6,
            policy="tiers",
            candidate_item_ids=candidates,
            history=[
                recommendation_pb2.HistoryEvent(item_id=item, time_unix_ms=time_ms)
                for item, time_ms in zip(HISTORY, TIMES.tolist(), strict=True)
            ],
        )
    )
    made = outputs(got)
    assert made["item_ids"] == [item.item_id for item in native.items]
    assert made["scores"].tolist() == [item.score for item in native.items]
    receipt = recommendation_pb2.FairnessReceipt()
    json_format.Parse(made["receipt"][0], receipt)
    assert receipt == native.receipt
    assert (got.model_name, got.model_version, got.id) == ("recommend", "1", "mine")
    assert got.parameters["bundle_id"].string_param == native.bundle_id
    assert got.parameters["request_id"].string_param == "mine"
    assert "degraded_reasons" not in got.parameters
    assert bool(got.raw_output_contents) == raw


def test_only_count_is_needed_and_outputs_may_be_chosen(stub: GRPCInferenceServiceStub) -> None:
    got = stub.ModelInfer(
        infer(
            "recommend",
            {"count": count(3)},
            model_version="1",
            outputs=[{"name": "scores"}, {"name": "item_ids"}],
        )
    )
    assert [output.name for output in got.outputs] == ["scores", "item_ids"]
    assert len(outputs(got)["item_ids"]) == 3
    assert got.parameters["degraded_reasons"].string_param == "DEGRADED_REASON_NON_PERSONAL"
    assert got.parameters["request_id"].string_param


@pytest.mark.parametrize("raw", [False, True])
def test_ranker_gives_what_the_model_gave_when_the_bundle_was_made(
    stub: GRPCInferenceServiceStub, bundle: Bundle, raw: bool
) -> None:
    feed = {name: array[:2] for name, array in bundle.golden_inputs.items()}
    got = outputs(stub.ModelInfer(infer("ranker", feed, raw=raw)))
    assert np.allclose(got["scores"], bundle.golden_outputs[:2], atol=1e-6)


def test_inputs_of_any_company_get_the_same_bits(
    stub: GRPCInferenceServiceStub, bundle: Bundle
) -> None:
    rng = np.random.default_rng(3)
    (port,) = ports_of(bundle.manifest.model)
    feeds = [
        {port.name: rng.random((1 + n % 3, 1 + 7 * n, port.axes[2]), dtype=np.float32)}
        for n in range(12)
    ]
    alone = [outputs(stub.ModelInfer(infer("ranker", feed)))["scores"] for feed in feeds]
    own = OnnxScorer(bundle.model, (port,))
    with ThreadPoolExecutor(len(feeds)) as callers:
        lists = [
            callers.submit(stub.ModelInfer, infer("recommend", {"count": count(5)})) for _ in feeds
        ]
        together = callers.map(lambda feed: stub.ModelInfer(infer("ranker", feed, raw=True)), feeds)
        for feed, one, got in zip(feeds, alone, together, strict=True):
            assert np.array_equal(outputs(got)["scores"], one)
            assert np.allclose(one, own.score(feed), atol=1e-6)
    assert {len(outputs(one.result())["item_ids"]) for one in lists} == {5}


def test_what_is_told_of_models_is_what_they_take(
    stub: GRPCInferenceServiceStub, bundle: Bundle
) -> None:
    told = stub.ModelMetadata(pb.ModelMetadataRequest(name="ranker", version="1"))
    (port,) = ports_of(bundle.manifest.model)
    assert (told.platform, list(told.versions)) == ("onnxruntime_onnx", ["1"])
    assert [(one.name, one.datatype, list(one.shape)) for one in told.inputs] == [
        (port.name, "FP32", [-1, -1, port.axes[2]])
    ]
    assert [(one.name, one.datatype, list(one.shape)) for one in told.outputs] == [
        ("scores", "FP32", [-1, -1])
    ]
    config = stub.ModelConfig(pb.ModelConfigRequest(name="ranker")).config
    assert config.max_batch_size == bundle.manifest.model.best_batch
    assert list(config.input[0].dims) == [-1, port.axes[2]]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert config.parameters["bundle_id"].string_value == bundle.manifest.bundle_id
    whole = stub.ModelConfig(pb.ModelConfigRequest(name="recommend")).config
    assert whole.max_batch_size == 0
    assert [one.name for one in whole.input if not one.optional] == ["count"]
    index = stub.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert [(one.name, one.version, one.state) for one in index.models] == [
        ("ranker", "1", "READY"),
        ("recommend", "1", "READY"),
    ]


def test_the_server_says_that_it_lives_and_what_is_ready(stub: GRPCInferenceServiceStub) -> None:
    assert stub.ServerLive(pb.ServerLiveRequest()).live
    assert stub.ServerReady(pb.ServerReadyRequest()).ready
    assert stub.ServerMetadata(pb.ServerMetadataRequest()).name == "equipoise"
    ready = [
        stub.ModelReady(pb.ModelReadyRequest(name=name, version=version)).ready
        for name, version in (("ranker", ""), ("recommend", "1"), ("ranker", "2"), ("other", ""))
    ]
    assert ready == [True, True, False, False]


def test_statistics_count_what_was_done(stub: GRPCInferenceServiceStub, bundle: Bundle) -> None:
    (port,) = ports_of(bundle.manifest.model)
    feed = {port.name: np.zeros((3, 5, port.axes[2]), np.float32)}
    before, other = figures(stub, "ranker"), figures(stub, "recommend")
    for _ in range(4):
        stub.ModelInfer(infer("ranker", feed))
    failure_of(lambda: stub.ModelInfer(infer("ranker", {})))
    after = figures(stub, "ranker")
    assert after.inference_count - before.inference_count == 12
    assert after.execution_count - before.execution_count == 4
    stats, earlier = after.inference_stats, before.inference_stats
    assert stats.success.count - earlier.success.count == 4
    assert stats.fail.count - earlier.fail.count == 1
    assert stats.compute_infer.ns > earlier.compute_infer.ns
    spent_ns = stats.success.ns - earlier.success.ns
    parts = ("queue", "compute_input", "compute_infer", "compute_output")
    told_ns = sum(getattr(stats, part).ns - getattr(earlier, part).ns for part in parts)
    assert 0 < told_ns <= spent_ns
    for own in (after, figures(stub, "recommend")):
        batches = own.batch_stats
        assert sum(one.batch_size * one.compute_infer.count for one in batches) == (
            own.inference_count
        )
        assert sum(one.compute_infer.count for one in batches) == own.execution_count
    assert figures(stub, "recommend") == other


def test_a_stream_answers_in_order_and_an_error_is_one_requests_own(
    stub: GRPCInferenceServiceStub,
) -> None:
    mark = {"triton_enable_empty_final_response": pb.InferParameter(bool_param=True)}
    requests = [
        infer("recommend", {"count": count(2)}, id="a"),
        infer("recommend", {"count": count(0)}, id="b"),
        infer("other", {}, id="c"),
        infer("recommend", {"count": count(4)}, id="d", parameters=mark),
    ]
    answers = list(stub.ModelStreamInfer(iter(requests)))
    assert [answer.infer_response.id for answer in answers] == ["a", "b", "c", "d"]
    assert [bool(answer.error_message) for answer in answers] == [False, True, True, False]
    assert "got 0, allowed: 1 to 200" in answers[1].error_message
    told = answers[2].infer_response.parameters
    assert told["error_code"].string_param == "NOT_FOUND"
    assert told["error_reason"].string_param == "UNKNOWN_MODEL"
    assert len(outputs(answers[3].infer_response)["item_ids"]) == 4
    assert answers[3].infer_response.parameters["triton_final_response"].bool_param


def test_bytes_that_are_no_message_end_a_stream_after_what_came_before(live: LiveServer) -> None:
    raw_stream = live.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    good = infer("recommend", {"count": count(2)}).SerializeToString()
    answers = raw_stream(iter([good, b"\xff\xff\xff"]), timeout=30)
    first = pb.ModelStreamInferResponse.FromString(next(answers))
    assert len(outputs(first.infer_response)["item_ids"]) == 2
    error, details = failure_of(lambda: next(answers))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details[0].reason == "INVALID_FIELD"


@pytest.fixture(scope="module")
def history_stub(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GRPCInferenceServiceStub]:
    folder = tmp_path_factory.mktemp("sequence")
    write_bundle(sequence_parts(), folder / "bundle")
    with live_server(folder, folder / "bundle", "--clock", "data-end") as server:
        yield GRPCInferenceServiceStub(server.channel)


def test_a_model_over_histories_reads_item_numbers_that_exist(
    history_stub: GRPCInferenceServiceStub,
) -> None:
    good = {
        "history": np.full((1, HISTORY_LENGTH), N_ITEMS, np.int32),
        "candidates": np.arange(1, 5, dtype=np.int32)[None],
    }
    assert outputs(history_stub.ModelInfer(infer("ranker", good)))["scores"].shape == (1, 4)
    for wrong in (N_ITEMS + 1, -1):
        bad = {**good, "candidates": np.array([[1, wrong]], np.int32)}
        error, _ = failure_of(lambda bad=bad: history_stub.ModelInfer(infer("ranker", bad)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert f"element [0, 1]: got {wrong}, allowed: 0 to {N_ITEMS}" in error.details()


def test_the_receipt_is_json_that_any_reader_reads(stub: GRPCInferenceServiceStub) -> None:
    (receipt,) = outputs(stub.ModelInfer(infer("recommend", {"count": count(3)})))["receipt"]
    assert json.loads(receipt)["status"] == "RECEIPT_STATUS_MET"
