"""Traces, from the caller's traceparent to what a collector gets; and that they hold up nothing."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import structlog
from opentelemetry.proto.trace.v1 import trace_pb2
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from equipoise.oip import grpc_service_pb2 as oip
from equipoise.oip import grpc_service_pb2_grpc
from equipoise.v1 import recommendation_pb2 as pb
from server.config import ServerSettings
from server.errors import EquipoiseError, SettingsRefused
from server.service import app
from server.service.lists import Call
from server.service.metrics import ServerMetrics
from server.service.servicer import RECOMMENDATION, CallDoor
from server.service.traces import Traces, exporter_of
from strategies.collector import Collector, Got, collector
from strategies.live import LiveServer, live_server
from strategies.workers import ask, channel_to, log, pids, until

USER = "user-4711-of-nobody-else"
SERVER = trace_pb2.Span.SPAN_KIND_SERVER
PHASES = ["queue", "history", "features", "model", "fair"]


def new_trace() -> str:
    return secrets.token_hex(16)


def parent(trace: str, flags: str = "01") -> tuple[str, str]:
    """Metadata of a caller who traces."""
    return ("traceparent", f"00-{trace}-b7ad6b7169203331-{flags}")


def recommend(live: LiveServer, *metadata: tuple[str, str], **fields: Any) -> pb.RecommendResponse:
    request = pb.RecommendRequest(**{"user_id": USER, "count": 5} | fields)
    return live.recommendation.Recommend(request, metadata=metadata, timeout=20)


def below(spans: list[Got], above: Got) -> list[Got]:
    """Its children, in the order of their times."""
    own = [got for got in spans if got.span.parent_span_id == above.span.span_id]
    return sorted(own, key=lambda got: got.span.start_time_unix_nano)


def of_call(spans: list[Got]) -> Got:
    (span,) = (got for got in spans if got.span.kind == SERVER)
    return span


@pytest.fixture(scope="module")
def told() -> Iterator[Collector]:
    with collector() as taking:
        yield taking


@pytest.fixture(scope="module")
def traced(
    told: Collector, tmp_path_factory: pytest.TempPathFactory, bundle_path: Path
) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", told.target)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        patch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        flags = ("--traces", "otlp", "--events", folder / "events.db", "--clock", "data-end")
        with live_server(folder, bundle_path, *flags) as server:
            yield server


@pytest.mark.slow
def test_a_callers_trace_goes_on_in_the_server_and_its_phases(
    traced: LiveServer, told: Collector
) -> None:
    trace = new_trace()
    answer = recommend(traced, parent(trace), ("tracestate", "shop=a1,other=b2"), request_id="r-1")
    spans = told.trace(trace)
    call = of_call(spans)
    assert call.name == "equipoise.v1.RecommendationService/Recommend"
    assert call.span.parent_span_id.hex() == "b7ad6b7169203331"
    assert call.span.trace_state == "shop=a1,other=b2"
    assert call.span.status.code == trace_pb2.Status.STATUS_CODE_UNSET
    assert call.attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "equipoise.v1.RecommendationService/Recommend",
        "rpc.response.status_code": "OK",
        "equipoise.request_id": "r-1",
        "equipoise.bundle_id": answer.bundle_id,
        "equipoise.policy": answer.receipt.policy,
        "equipoise.receipt_status": "MET",
        "equipoise.batch_size": 1,
        "equipoise.degraded_reasons": ["NON_PERSONAL"],
    }
    phases = below(spans, call)
    assert [got.name for got in phases] == PHASES
    for got, then in itertools.pairwise(phases):
        assert got.span.end_time_unix_nano <= then.span.start_time_unix_nano
    assert call.span.start_time_unix_nano <= phases[0].span.start_time_unix_nano
    assert phases[-1].span.end_time_unix_nano <= call.span.end_time_unix_nano
    model = phases[3].span
    assert model.end_time_unix_nano - model.start_time_unix_nano == answer.phases.model_ns
    assert call.resource["service.name"] == "equipoise"
    assert call.resource["deployment.environment.name"] == "test"
    assert call.resource["process.pid"] == traced.process.pid


@pytest.mark.slow
def test_a_call_whose_caller_does_not_sample_leaves_nothing(
    traced: LiveServer, told: Collector
) -> None:
    unsampled, sampled = new_trace(), new_trace()
    recommend(traced, parent(unsampled, "00"))
    request = pb.BatchRecommendRequest(requests=[pb.RecommendRequest(count=3)])
    metadata = (parent(unsampled, "00"),)
    traced.recommendation.BatchRecommend(request, metadata=metadata, timeout=20)
    recommend(traced, parent(sampled))
    told.trace(sampled)
    assert unsampled not in {got.trace for got in told.spans}


@pytest.mark.slow
@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-" + "a" * 32 + "-" + "0" * 16 + "-01",
        "ff-" + "a" * 32 + "-b7ad6b7169203331-01",
        "00-" + "A" * 32 + "-b7ad6b7169203331-01",
        "00-" + "a" * 32 + "-b7ad6b7169203331-01-more",
        "a" * 4000,
    ],
)
def test_a_traceparent_that_is_none_begins_a_trace_and_is_no_error(
    value: str, traced: LiveServer, told: Collector
) -> None:
    own = secrets.token_hex(8)
    assert len(recommend(traced, ("traceparent", value), request_id=own).items) == 5
    (call,) = until(
        lambda: [got for got in told.spans if got.attributes.get("equipoise.request_id") == own]
    )
    assert call.span.parent_span_id == b""
    assert call.trace != "a" * 32


@pytest.mark.slow
@pytest.mark.parametrize("method", ["BatchRecommend", "RecommendStream"])
def test_several_requests_of_a_call_have_a_span_each(
    method: str, traced: LiveServer, told: Collector
) -> None:
    trace = new_trace()
    requests = [
        pb.RecommendRequest(request_id="first", count=3, user_id=USER),
        pb.RecommendRequest(request_id="wrong", count=0, user_id=USER),
        pb.RecommendRequest(request_id="third", count=3, user_id=USER),
    ]
    if method == "BatchRecommend":
        traced.recommendation.BatchRecommend(
            pb.BatchRecommendRequest(requests=requests), metadata=[parent(trace)], timeout=20
        )
    else:
        asked = [pb.RecommendStreamRequest(id=n, request=one) for n, one in enumerate(requests)]
        stream = traced.recommendation.RecommendStream(
            iter(asked), metadata=[parent(trace)], timeout=20
        )
        assert len(list(stream)) == 3
    spans = told.trace(trace)
    call = of_call(spans)
    assert call.name == f"equipoise.v1.RecommendationService/{method}"
    parts = {got.attributes["equipoise.request_id"]: got for got in below(spans, call)}
    assert {got.name for got in parts.values()} == {"request"}
    assert set(parts) == {"first", "wrong", "third"}
    for name in ("first", "third"):
        assert [got.name for got in below(spans, parts[name])] == PHASES
        assert parts[name].attributes["equipoise.receipt_status"] == "MET"
    assert below(spans, parts["wrong"]) == []
    assert parts["wrong"].attributes["equipoise.error_reason"] == "INVALID_FIELD"


@pytest.mark.slow
def test_rerank_and_the_models_of_the_inference_protocol_are_traced(
    traced: LiveServer, told: Collector
) -> None:
    rerank, single, stream = new_trace(), new_trace(), new_trace()
    candidates = [pb.ScoredCandidate(item_id=f"item-{n:03}", score=n) for n in range(9)]
    traced.recommendation.Rerank(
        pb.RerankRequest(count=3, candidates=candidates), metadata=[parent(rerank)], timeout=20
    )
    request = oip.ModelInferRequest(model_name="recommend", id="i-1")
    count = request.inputs.add(name="count", datatype="INT32", shape=[1])
    count.contents.int_contents.append(5)
    inference = grpc_service_pb2_grpc.GRPCInferenceServiceStub(traced.channel)
    inference.ModelInfer(request, metadata=[parent(single)], timeout=20)
    answers = inference.ModelStreamInfer(
        iter([request, request]), metadata=[parent(stream)], timeout=20
    )
    assert [answer.error_message for answer in answers] == ["", ""]
    spans = told.trace(rerank)
    assert [got.name for got in below(spans, of_call(spans))] == ["queue", "features", "fair"]
    spans = told.trace(single)
    assert of_call(spans).attributes["equipoise.request_id"] == "i-1"
    assert [got.name for got in below(spans, of_call(spans))] == PHASES
    spans = told.trace(stream)
    parts = below(spans, of_call(spans))
    assert [got.name for got in parts] == ["request", "request"]
    assert [[got.name for got in below(spans, part)] for part in parts] == [PHASES, PHASES]


@pytest.mark.slow
def test_what_went_wrong_is_told_by_its_code_and_no_user_ever(
    traced: LiveServer, told: Collector
) -> None:
    wrong, late, unread = new_trace(), new_trace(), new_trace()
    with pytest.raises(grpc.RpcError) as refused:
        recommend(traced, parent(wrong), user_id=USER + "x" * 500)
    assert USER in refused.value.details()
    with pytest.raises(grpc.RpcError):
        recommend(traced, parent(wrong), policy=USER)
    with pytest.raises(grpc.RpcError):
        recommend(traced, parent(wrong), request_id=USER + "x" * 100)
    whole = traced.channel.unary_unary("/equipoise.v1.RecommendationService/Recommend")
    with pytest.raises(grpc.RpcError):
        whole(b"\xff\xff", metadata=[parent(unread)], timeout=20)
    asked = pb.RecommendRequest(user_id=USER, count=5)
    stub = traced.recommendation
    with pytest.raises(grpc.RpcError):
        stub.BatchRecommend(pb.BatchRecommendRequest(), metadata=[parent(late)], timeout=20)
    stub.Recommend(asked, metadata=[parent(late)], timeout=20)
    assert of_call(told.trace(unread)).attributes == {
        "rpc.system.name": "grpc",
        "rpc.method": "equipoise.v1.RecommendationService/Recommend",
        "rpc.response.status_code": "INVALID_ARGUMENT",
        "equipoise.error_reason": "INVALID_FIELD",
    }
    codes = [got.attributes.get("rpc.response.status_code") for got in told.trace(wrong)]
    assert set(codes) <= {"INVALID_ARGUMENT", "NOT_FOUND"}
    told.trace(late)
    assert told.bytes
    assert USER.encode() not in told.bytes


@pytest.mark.slow
def test_the_last_spans_are_sent_when_it_drains(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collector() as taking:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", taking.target)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        with live_server(tmp_path, bundle_path, "--traces", "otlp") as server:
            trace = new_trace()
            recommend(server, parent(trace))
            assert taking.spans == []
            assert server.terminate() == 0
        assert of_call(taking.spans).trace == trace
    assert [line["event"] for line in map(json.loads, server.log.read_text().splitlines())] == [
        "serving", "draining", "stopped",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True], ids=["refuses", "never answers"])
def test_a_collector_that_is_away_holds_up_neither_calls_nor_the_end(
    listens: bool, tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Left to itself OpenTelemetry would try for ten minutes.
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("EQUIPOISE_DRAIN_GRACE_S", "1")
    with socket.create_server(("127.0.0.1", 0)) as away:
        monkeypatch.setenv(
            "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{away.getsockname()[1]}"
        )
        if not listens:
            away.close()
        with live_server(tmp_path, bundle_path, "--traces", "otlp") as server:
            for _ in range(20):
                assert len(recommend(server).items) == 5
            url = f"http://127.0.0.1:{server.metrics_port}/metrics"
            with urllib.request.urlopen(url, timeout=10) as page:
                assert page.status == 200
            assert server.terminate() == 0
    told = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert "traces not sent" in [line["event"] for line in told]
    assert told[-1]["event"] == "stopped"


@pytest.mark.slow
def test_each_of_several_workers_sends_its_own(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("EQUIPOISE_SPARE_WORKERS", "0")
    with collector() as taking:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", taking.target)
        flags = ("--traces", "otlp", "--workers", "2", "--clock", "data-end")
        with live_server(tmp_path, bundle_path, *flags) as server:
            workers = set(pids(server))
            for pid in workers:
                with channel_to(server, pid) as channel:
                    ask(channel)
            assert server.terminate() == 0
        calls = [got.resource for got in taking.spans if got.span.kind == SERVER]
        assert {resource["process.pid"] for resource in calls} == workers
        assert len({resource["service.instance.id"] for resource in calls}) == 2
        assert log(server, "traces not sent") == []


@pytest.mark.slow
def test_on_a_console_a_span_is_a_line(tmp_path: Path, bundle_path: Path) -> None:
    with live_server(tmp_path, bundle_path, "--traces", "console") as server:
        trace = new_trace()
        recommend(server, parent(trace))
        assert server.terminate() == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    spans = [line for line in lines if line.get("context", {}).get("trace_id") == f"0x{trace}"]
    assert [span["name"] for span in spans] == [
        *PHASES,
        "equipoise.v1.RecommendationService/Recommend",
    ]


@pytest.mark.slow
def test_of_the_calls_without_a_trace_the_ratio_decides(
    tmp_path: Path, bundle_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQUIPOISE_TRACES_RATIO", "0")
    with collector() as taking:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", taking.target)
        with live_server(tmp_path, bundle_path, "--traces", "otlp") as server:
            trace = new_trace()
            for _ in range(5):
                recommend(server)
            recommend(server, parent(trace))
            assert server.terminate() == 0
        assert {got.trace for got in taking.spans} == {trace}


class _Context:
    """A caller who traces, and a call that fails."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    async def abort(self, *_: Any) -> None:
        raise grpc.RpcError


def test_a_log_line_of_a_call_names_its_trace() -> None:
    trace = new_trace()
    exporter = InMemorySpanExporter()

    async def fails(call: Call) -> None:
        raise RuntimeError(USER)

    async def call() -> None:
        traces = Traces(exporter, ratio=None)
        door = CallDoor(RECOMMENDATION, ServerMetrics(1), traces)
        context: Any = _Context((parent(trace),))
        with pytest.raises(grpc.RpcError):
            await door.answer("Recommend", context, Call.begun("r-1", None), fails)
        await traces.close(30.0, asyncio.Event())

    with structlog.testing.capture_logs() as logs:
        asyncio.run(call())
    (line,) = logs
    (span,) = exporter.get_finished_spans()
    assert (line["event"], line["trace_id"]) == ("call failed", trace)
    assert span.context is not None
    assert line["span_id"] == f"{span.context.span_id:016x}"
    assert span.attributes is not None
    assert span.attributes["error.type"] == "INTERNAL"
    assert not span.status.is_ok
    assert USER not in span.to_json()


def test_a_sampler_that_nobody_knows_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "some_of_them")
    with structlog.testing.capture_logs() as logs:
        traces = Traces(InMemorySpanExporter(), ratio=None)
        asyncio.run(traces.close(30.0, asyncio.Event()))
    assert ["some_of_them" in line["told"] for line in logs] == [True]
    assert capsys.readouterr().err == ""


def test_a_variable_that_names_no_file_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/there/is/none")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://127.0.0.1:1")
    with structlog.testing.capture_logs() as logs:
        traces = Traces(exporter_of("otlp"), ratio=0.0)
        asyncio.run(traces.close(30.0, asyncio.Event()))
    assert len(logs) == 1
    assert capsys.readouterr().err == ""


def test_what_a_caller_sends_again_and_again_is_told_once() -> None:
    with structlog.testing.capture_logs() as logs:
        traces = Traces(InMemorySpanExporter(), ratio=None)
        for number in range(20):
            odd = (
                ("traceparent", f"00-{new_trace()}-{'1' * 16}-01"),
                ("tracestate", f"=,{number};="),
            )
            traces.call("a/B", odd, 0).ended("OK")
        asyncio.run(traces.close(30.0, asyncio.Event()))
    assert len(logs) == 1


@pytest.mark.slow
def test_after_a_start_that_failed_no_thread_for_spans_stays(tmp_path: Path) -> None:
    settings = ServerSettings(bundle=tmp_path / "none", traces="console", metrics_port=None)

    async def start() -> None:
        server = app.Server(settings)
        with pytest.raises(EquipoiseError):
            await server.start()
        assert threads() > before
        await server.close()

    def threads() -> int:
        return sum("BatchSpan" in one.name for one in threading.enumerate())

    before = threads()
    asyncio.run(start())
    while threads() > before:
        pass


def test_without_traces_opentelemetry_is_not_even_loaded() -> None:
    program = (
        "import sys; from server.service.app import Server; "
        "print([name for name in sys.modules if 'opentelemetry' in name])"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert run.stdout == "[]\n"
    assert ServerSettings(bundle=Path("b")).traces == "off"


def test_a_server_without_the_extra_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "server.service.traces", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.context", None)
    with pytest.raises(SettingsRefused, match=r"pip install '\.\[otel\]'"):
        app._traces(ServerSettings(bundle=Path("b"), traces="otlp"))


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("EXPORTER_OTLP_PROTOCOL", "http/protobuf", "got 'http/protobuf', allowed: grpc"),
        ("EXPORTER_OTLP_TIMEOUT", "soon", "an OTEL_\\* variable is refused: .*'soon'"),
        ("EXPORTER_OTLP_COMPRESSION", "zip", "an OTEL_\\* variable is refused: .*zip"),
        ("BSP_MAX_QUEUE_SIZE", "256", "an OTEL_\\* variable is refused: .*max_queue_size"),
    ],
)
def test_variables_that_cannot_be_heeded_are_refused(
    name: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"OTEL_{name}", value)
    with pytest.raises(SettingsRefused, match=told):
        app._traces(ServerSettings(bundle=Path("b"), traces="otlp"))
