"""What is wrong with a request of the Open Inference Protocol is told by name, and reaches no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from server.features import N_FEATURES
from strategies.live import LiveServer, failure_of
from strategies.tensors import count, infer

pytestmark = pytest.mark.slow

CODE = grpc.StatusCode
Change = Callable[[pb.ModelInferRequest], Any]


@pytest.fixture(scope="module")
def stub(live: LiveServer) -> GRPCInferenceServiceStub:
    return GRPCInferenceServiceStub(live.channel)


def features(*shape: int, fill: float = 0.5) -> dict[str, np.ndarray]:
    return {"features": np.full((*shape, N_FEATURES), fill, np.float32)}


def changed(request: pb.ModelInferRequest, change: Change) -> pb.ModelInferRequest:
    change(request)
    return request


def scored(change: Change = lambda _: None, *, raw: bool = False) -> pb.ModelInferRequest:
    return changed(infer("ranker", features(1, 2), raw=raw), change)


def listed(
    change: Change = lambda _: None, *, raw: bool = False, **more: Any
) -> pb.ModelInferRequest:
    return changed(infer("recommend", {"count": count(2), **more}, raw=raw), change)


def with_parameter(name: str, **value: Any) -> Change:
    return lambda r: r.parameters[name].CopyFrom(pb.InferParameter(**value))


def with_shape(*shape: int) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        del request.inputs[0].shape[:]
        request.inputs[0].shape.extend(shape)

    return change


def twice(request: pb.ModelInferRequest) -> None:
    request.inputs.append(request.inputs[0])


def raw_is(content: bytes) -> Change:
    def change(request: pb.ModelInferRequest) -> None:
        request.raw_input_contents[-1] = content

    return change


HUGE = 2**62
BYTES = 4 * 2 * N_FEATURES
"""Of a list of two candidates."""
ONE_TEXT = b"\x01\x00\x00\x00a"


@pytest.mark.parametrize(
    ("request_", "field", "seen", "allowed"),
    [
        (scored(lambda r: r.inputs[0].__setattr__("name", "feature")),
         "inputs[0].name", "'feature'", "features"),
        (scored(twice), "inputs[1].name", "'features'", "no input twice"),
        (scored(lambda r: r.inputs.pop()), "inputs", "no 'features'", "with features"),
        (scored(lambda r: r.inputs[0].__setattr__("datatype", "FP16")),
         "inputs[0].datatype", "'FP16'", "FP32"),
        (scored(lambda r: r.inputs[0].__setattr__("datatype", "")),
         "inputs[0].datatype", "''", "FP32"),
        (scored(with_shape(1, 2)), "inputs[0].shape", "[1, 2]", f"{N_FEATURES}]"),
        (scored(with_shape(1, 2, N_FEATURES - 1)), "inputs[0].shape", f"[1, 2, {N_FEATURES - 1}]", f"{N_FEATURES}]"),
        (scored(with_shape(0, 2, N_FEATURES)), "inputs[0].shape", "[0, 2,", "batch from 1"),
        (scored(with_shape(1, -2, N_FEATURES)), "inputs[0].shape", "[1, -2,", "n from 1"),
        (scored(with_shape(1, HUGE, N_FEATURES)), "inputs[0].shape", str(HUGE), "to 10000"),
        (scored(with_shape(1, HUGE, N_FEATURES), raw=True), "inputs[0].shape", str(HUGE), "10000"),
        (scored(with_shape(1, 3, N_FEATURES)), "inputs[0].contents.fp32_contents",
         f"{2 * N_FEATURES} elements", f"{3 * N_FEATURES}"),
        (scored(lambda r: r.inputs[0].contents.int_contents.append(1)),
         "inputs[0].contents.int_contents", "some", "fp32_contents alone"),
        (scored(lambda r: r.inputs[0].ClearField("contents")),
         "inputs[0].contents.fp32_contents", "0 elements", f"{2 * N_FEATURES}"),
        (scored(lambda r: r.raw_input_contents.append(b"\x00" * BYTES)),
         "inputs[0].contents", "some, beside raw_input_contents", "one of the two"),
        (scored(lambda r: r.raw_input_contents.append(b""), raw=True),
         "raw_input_contents", "2 entries", "1, one for each input"),
        (scored(raw_is(b"\x00" * (BYTES - 1)), raw=True), "raw_input_contents[0]", f"{BYTES - 1} bytes", f"{BYTES}"),
        (scored(raw_is(b"\x00" * (BYTES + 1)), raw=True), "raw_input_contents[0]", f"{BYTES + 1} bytes", f"{BYTES}"),
        (infer("ranker", features(1, 2, fill=np.nan)), "inputs[0]", "nan", "finite"),
        (infer("ranker", features(1, 2, fill=np.inf), raw=True), "inputs[0]", "inf", "finite"),
        (infer("ranker", features(2, 5001), raw=True),
         "inputs", "2 lists of 5001 candidates", "10000 candidates in all"),
        (scored(lambda r: r.outputs.add(name="score")), "outputs[0].name", "'score'", "scores"),
        (scored(lambda r: [r.outputs.add(name="scores"), r.outputs.add(name="scores")]),
         "outputs[1].name", "'scores'", "no output twice"),
        (scored(lambda r: r.outputs.add(name="scores").parameters["classification"].CopyFrom(
            pb.InferParameter(int64_param=3))), "outputs[0].parameters", "'classification'", "none"),
        (scored(lambda r: r.inputs[0].parameters["shared_memory_region"].CopyFrom(
            pb.InferParameter(string_param="x"))), "inputs[0].parameters", "shared_memory", "none"),
        (scored(with_parameter("timeout", int64_param=-1)), "parameters['timeout']", "-1", "0 to"),
        (scored(with_parameter("timeout", string_param="1")),
         "parameters['timeout']", "string_param", "whole number"),
        (scored(with_parameter("priority", uint64_param=3)), "parameters['priority']", "3", "0 to 2"),
        (scored(lambda r: r.__setattr__("id", "i" * 65)), "id", "'iii", "at most 64 bytes"),
        (listed(with_shape(2)), "inputs[0].shape", "[2]", "[1]"),
        (listed(with_shape()), "inputs[0].shape", "[]", "[1]"),
        (infer("recommend", {"count": count(0)}), "inputs[0], element [0]", "0", "1 to 200"),
        (infer("recommend", {"count": count(201)}, raw=True),
         "inputs[0], element [0]", "201", "1 to 200"),
        (infer("recommend", {"user_id": ["u"]}), "inputs", "no 'count'", "with count"),
        (listed(user_id=["u" * 129]), "user_id", "'uuu", "0 to 128 bytes"),
        (listed(user_id=["u", "v"]), "inputs[1].shape", "[2]", "[1]"),
        (listed(candidate_item_ids=["a", "b", "a"]), "candidate_item_ids[2]", "'a'", "no id twice"),
        (listed(candidate_item_ids=["a"] * 10_001), "inputs[1].shape", "[10001]", "0 to 10000"),
        (listed(history_item_ids=["a"]),
         "inputs", "history_item_ids without history_times_ms", "both"),
        (listed(history_item_ids=["a", ""], history_times_ms=np.array([1, 2])),
         "history_item_ids[1]", "''", "1 to 128 bytes"),
        (listed(history_item_ids=["a", "b"], history_times_ms=np.array([1, -2])),
         "history_times_ms[1]", "-2", "0 to"),
        (listed(history_item_ids=["a", "b"], history_times_ms=np.array([1])),
         "inputs[2].shape", "[1]", "events of 2"),
        (listed(lambda r: r.inputs[1].contents.bytes_contents.__setitem__(0, b"\xff"),
                user_id=["u"]), "user_id[0]", r"b'\\xff'", "UTF-8"),
        (listed(raw_is(ONE_TEXT[:3]), raw=True, user_id=["a"]),
         "raw_input_contents[1]", "3 bytes, which end in element 0", "1 elements"),
        (listed(raw_is(ONE_TEXT[:-1]), raw=True, user_id=["a"]),
         "raw_input_contents[1]", "4 bytes, which end in element 0", "1 elements"),
        (listed(raw_is(b"\xff\xff\xff\xffa"), raw=True, user_id=["a"]),
         "raw_input_contents[1]", "5 bytes, which end in element 0", "1 elements"),
        (listed(raw_is(ONE_TEXT + b"\x00"), raw=True, user_id=["a"]),
         "raw_input_contents[1]", "6 bytes", "5 bytes"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_by_field(
    stub: GRPCInferenceServiceStub,
    request_: pb.ModelInferRequest,
    field: str,
    seen: str,
    allowed: str,
) -> None:
    error, details = failure_of(lambda: stub.ModelInfer(request_))
    assert error.code() is CODE.INVALID_ARGUMENT, error.details()
    info, bad = details
    assert (info.domain, info.reason) == ("equipoise", "INVALID_FIELD")
    (violation,) = bad.field_violations
    told = violation.field, *violation.description.removeprefix("got ").split(", allowed: ")
    assert told[0] == field or told[0].startswith(f"{field}, element"), told
    assert seen.replace("\\\\", "\\") in told[1], told
    assert allowed in told[2], told


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (infer("", {}), "no model ''; there are: ranker, recommend"),
        (infer("rankr", {}), "no model 'rankr'; there are: ranker, recommend"),
        (infer("ranker", features(1, 1), model_version="2"), "no version of ranker '2'"),
    ],
)
def test_an_unknown_model_or_version_is_not_found(
    stub: GRPCInferenceServiceStub, request_: pb.ModelInferRequest, message: str
) -> None:
    named = {"name": request_.model_name, "version": request_.model_version}
    calls: list[Callable[[], object]] = [
        lambda: stub.ModelInfer(request_),
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(**named)),
        lambda: stub.ModelConfig(pb.ModelConfigRequest(**named)),
    ]
    if request_.model_name:  # without a name these are of all models
        calls.append(lambda: stub.ModelStatistics(pb.ModelStatisticsRequest(**named)))
    for call in calls:
        error, (info,) = failure_of(call)
        assert error.code() is CODE.NOT_FOUND
        assert error.details().startswith(message)
        assert info.reason == "UNKNOWN_MODEL"


def test_an_unknown_policy_is_told_as_in_a_recommend(stub: GRPCInferenceServiceStub) -> None:
    error, (info,) = failure_of(lambda: stub.ModelInfer(listed(policy=["nonsense"])))
    assert (error.code(), info.reason) == (CODE.NOT_FOUND, "UNKNOWN_POLICY")


def test_models_are_neither_loaded_nor_unloaded(stub: GRPCInferenceServiceStub) -> None:
    for call in (
        lambda: stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name="ranker")),
        lambda: stub.RepositoryModelUnload(pb.RepositoryModelUnloadRequest(model_name="ranker")),
    ):
        error, (info,) = failure_of(call)
        assert (error.code(), info.reason) == (CODE.UNIMPLEMENTED, "UNSUPPORTED")
        assert "equipoise bundle activate" in error.details()


@pytest.mark.parametrize("request_", [scored(), listed()])
def test_a_timeout_that_has_passed_is_a_deadline(
    stub: GRPCInferenceServiceStub, request_: pb.ModelInferRequest
) -> None:
    late = pb.ModelInferRequest()
    late.CopyFrom(request_)
    late.parameters["timeout"].int64_param = 1
    error, (info,) = failure_of(lambda: stub.ModelInfer(late))
    assert (error.code(), info.reason) == (CODE.DEADLINE_EXCEEDED, "DEADLINE_EXPIRED")
