"""One real Envoy in front of a real server: JSON, gRPC-Web and gRPC on the same paths."""

from __future__ import annotations

import base64
import json
import queue
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from equipoise.oip import grpc_service_pb2 as oip
from equipoise.oip.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import (
    RecommendationServiceServicer,
    RecommendationServiceStub,
    add_RecommendationServiceServicer_to_server,
)
from server.config import ServerSettings
from strategies.gateways import SERVICE, SHOP, Gateway, live_gateway, web_frames
from strategies.live import LiveServer, failure_of
from strategies.workers import until

pytestmark = pytest.mark.slow

MAX_BYTES: int = ServerSettings.model_fields["max_message_bytes"].default
NOW_MS = 1_500_000_000_000
HISTORY = [
    {"item_id": f"item-{n:03}", "time_unix_ms": str(NOW_MS - n * 86_400_000)} for n in range(1, 6)
]
REQUESTS: list[dict[str, Any]] = [
    {"user_id": "nobody", "count": 10},
    {"history": HISTORY, "count": 20, "policy": "categories", "seen_items": "SEEN_ITEMS_EXCLUDE"},
    {"history": HISTORY, "count": 5, "candidate_item_ids": [f"item-{n:03}" for n in range(9, 50)]},
    {"history": HISTORY, "count": 7, "policy": "crossed", "with_candidates": True},
    {"history": HISTORY, "count": 3, "validate_only": True},
    {"numbers_of": "?", "candidate_numbers": list(range(30)), "count": 10, "surface": "home"},
]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, live: LiveServer) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with live_gateway(folder, "--server", live.target, "--allow-origin", SHOP) as running:
        yield running


@pytest.fixture
def through(gateway: Gateway) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(gateway.target) as channel:
        yield channel


@pytest.mark.parametrize("fields", REQUESTS)
def test_json_and_grpc_web_bring_the_list_that_grpc_brings(
    fields: dict[str, Any], live: LiveServer, gateway: Gateway
) -> None:
    fields = fields | {"request_id": "the-same", "as_of_unix_ms": str(NOW_MS)}
    if "numbers_of" in fields:
        fields["numbers_of"] = live.serving.ListItems(
            serving_pb2.ListItemsRequest(size=1), timeout=10
        ).bundle_id
    request = json_format.ParseDict(fields, pb.RecommendRequest())
    direct = live.recommendation.Recommend(request, timeout=10)
    assert direct.items or request.validate_only

    answer = gateway.json("Recommend", fields)
    assert answer.status == 200, answer.body
    named = set(answer.json)
    assert {"request_id", "bundle_id"} <= named, "the contract's names, as `recommend --json` has"
    answers = [json_format.Parse(answer.body, pb.RecommendResponse())]
    for text in (False, True):
        [message], trailers = web_frames(
            gateway.web("Recommend", request.SerializeToString(), text=text)
        )
        assert trailers["grpc-status"] == "0"
        answers.append(pb.RecommendResponse.FromString(message))
    for same in (direct, *answers):
        assert same.phases.total_ns or request.validate_only
        same.ClearField("phases")
        assert same == direct


def test_the_other_methods_with_one_answer_are_json_too(gateway: Gateway) -> None:
    batch = gateway.json("BatchRecommend", {"requests": [{"count": 3}, {"count": 0}]}).json
    first, second = batch["outcomes"]
    assert len(first["response"]["items"]) == 3
    assert second["error"]["reason"] == "ERROR_REASON_INVALID_FIELD"
    mine = [{"item_id": f"mine-{n}", "score": n, "group": "small"} for n in range(5)]
    ranked = gateway.json("Rerank", {"candidates": mine, "count": 2}).json
    assert [item["item_id"] for item in ranked["items"]] == ["mine-4", "mine-3"]
    event = {"event_id": "by-json", "user_id": "json", "item_id": "item-007", "time_unix_ms": "9",
             "kind": "EVENT_KIND_PURCHASE"}  # fmt: skip
    assert gateway.json("RecordFeedback", {"events": [event]}).json == {"recorded": 1}
    assert gateway.json("RecordFeedback", {"events": [event]}).json == {"duplicates": 1}
    info = gateway.http(
        "POST", "/equipoise.v1.ServingService/GetServingInfo", b"{}",
        {"content-type": "application/json"},
    ).json  # fmt: skip
    assert info["limits"]["max_message_bytes"] == MAX_BYTES


def test_an_error_names_field_value_and_what_is_allowed(gateway: Gateway) -> None:
    answer = gateway.json("Recommend", {"count": 1000})
    assert answer.status == 400
    assert answer.json["code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answer.json["message"] == "count: got 1000, allowed: 1 to 200"
    kinds = {detail.pop("@type").rpartition(".")[2]: detail for detail in answer.json["details"]}
    assert kinds["ErrorInfo"] == {"reason": "INVALID_FIELD", "domain": "equipoise"}
    [violation] = kinds["BadRequest"]["field_violations"]
    assert violation == {"field": "count", "description": "got 1000, allowed: 1 to 200"}
    assert gateway.json("Recommend", {"count": 3, "policy": "no-such"}).status == 404

    web = gateway.web("Recommend", pb.RecommendRequest(count=1000).SerializeToString())
    assert (web.status, web.headers["grpc-status"]) == (200, "3")
    packed = base64.b64decode(web.headers["grpc-status-details-bin"] + "==")
    status = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.reason == "INVALID_FIELD"


@pytest.mark.parametrize(
    ("method", "request_", "code", "named"),
    [
        ("Recommend", {"count": "many"}, 400, "count"),
        ("Recommend", b'{"count": 3', 400, "Expected"),
        ("Recommend?cuont=3", {"count": 3}, 400, "cuont"),
        ("NoSuch", {}, 404, "NoSuch"),
        ("RecommendStream", [{"id": "1"}], 415, "BatchRecommend"),
    ],
)
def test_what_the_gateway_refuses_has_the_form_of_the_servers_errors(
    gateway: Gateway, method: str, request_: Any, code: int, named: str
) -> None:
    answer = gateway.json(method, request_)
    assert answer.status == code
    assert named in answer.json["message"]
    assert answer.json["code"] == (12 if code == 404 else 3)


def test_pages_of_listed_origins_may_call_and_others_may_not(gateway: Gateway) -> None:
    def preflight(origin: str) -> dict[str, str]:
        asked = {
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type,x-grpc-web",
        }
        answer = gateway.http("OPTIONS", f"{SERVICE}Recommend", headers=asked)
        assert (answer.status, answer.body) == (200, b"")
        return dict(answer.headers)

    allowed = preflight(SHOP)
    assert allowed["access-control-allow-origin"] == SHOP
    for name in ("content-type", "x-grpc-web", "grpc-timeout"):
        assert name in allowed["access-control-allow-headers"]
    for foreign in ("https://evil.example", f"{SHOP}.evil.example", "http://shop.example", "null"):
        assert "access-control-allow-origin" not in preflight(foreign)

    # An error must be readable for the page too, whoever made it.
    for body in (b"{}", b"{", b" " * (MAX_BYTES + 1)):
        answer = gateway.json("Recommend", body, origin=SHOP)
        assert answer.status in (400, 413)
        assert answer.headers["access-control-allow-origin"] == SHOP
    message = pb.RecommendRequest(count=3).SerializeToString()
    web = gateway.web("Recommend", message, origin=SHOP)
    assert "grpc-status" in web.headers["access-control-expose-headers"]


def test_what_a_page_can_send_without_asking_is_refused(gateway: Gateway) -> None:
    event = {"event_id": "forged", "user_id": "1", "item_id": "item-001", "time_unix_ms": "9",
             "kind": "EVENT_KIND_PURCHASE"}  # fmt: skip
    body = json.dumps({"events": [event]}).encode()
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):
        headers = {"content-type": kind, "origin": "https://evil.example"}
        assert gateway.http("POST", f"{SERVICE}RecordFeedback", body, headers).status == 415
    assert gateway.http("POST", f"{SERVICE}RecordFeedback", body).status == 415
    assert gateway.http("GET", f"{SERVICE}Recommend?count=3").status == 415
    assert gateway.json("RecordFeedback", body).json == {"recorded": 1}, "nothing came of those"


def test_a_body_over_the_bound_is_refused_and_one_below_is_read(gateway: Gateway) -> None:
    padded = b'{"count": 3}'.ljust(MAX_BYTES)
    assert gateway.json("Recommend", padded).status == 200
    refused = gateway.json("Recommend", padded + b" ")
    assert (refused.status, refused.json["code"]) == (413, 8)
    assert str(MAX_BYTES) in refused.json["message"]
    too_long = pb.RecommendRequest(count=3, exclude_item_ids=["x" * 128] * 40_000)
    for text in (False, True):
        web = gateway.web("Recommend", too_long.SerializeToString(), text=text)
        assert (web.status, web.headers["grpc-status"]) == (200, "8")
        assert web.headers["content-type"].startswith("application/grpc-web")
    assert gateway.http("POST", f"{SERVICE}Recommend", b"{}", {"cookie": "c" * 9000}).status == 431


def test_grpc_passes_through_as_it_is(gateway: Gateway, through: grpc.Channel) -> None:
    service = RecommendationServiceStub(through)
    error, details = failure_of(lambda: service.Recommend(pb.RecommendRequest(), timeout=10))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert details[0].reason == "INVALID_FIELD"
    over = pb.RecommendRequest(count=3, exclude_item_ids=["x" * 128] * 40_000)
    error, _ = failure_of(lambda: service.Recommend(over, timeout=10))
    assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED

    checks = health_pb2_grpc.HealthStub(through)
    name = health_pb2.HealthCheckRequest(service="equipoise.v1.RecommendationService")
    assert checks.Check(name, timeout=10).status == health_pb2.HealthCheckResponse.SERVING
    assert gateway.healthy()
    assert GRPCInferenceServiceStub(through).ServerLive(oip.ServerLiveRequest(), timeout=10).live
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = reflection_pb2_grpc.ServerReflectionStub(through).ServerReflectionInfo(
        asked, timeout=10
    )
    names = [service.name for service in next(listed).list_services_response.service]
    assert "equipoise.v1.RecommendationService" in names


def test_a_stream_answers_before_it_ends(through: grpc.Channel) -> None:
    """Each request is sent when the answer before has come: nothing on the way waits for the end."""
    asked: queue.Queue[pb.RecommendStreamRequest | None] = queue.Queue()
    answers = RecommendationServiceStub(through).RecommendStream(iter(asked.get, None), timeout=60)
    for n in range(5):
        asked.put(pb.RecommendStreamRequest(id=n, request=pb.RecommendRequest(count=4)))
        answer = next(answers)
        assert (answer.id, len(answer.outcome.response.items)) == (n, 4)
    asked.put(None)
    assert list(answers) == []


class Told(RecommendationServiceServicer):
    """Stands for a server, to see what reaches it."""

    def __init__(self) -> None:
        self.calls: list[tuple[float, dict[str, str | bytes]]] = []

    def Recommend(
        self, request: pb.RecommendRequest, context: grpc.ServicerContext
    ) -> pb.RecommendResponse:
        metadata = dict(context.invocation_metadata())
        self.calls.append((context.time_remaining(), metadata))
        return pb.RecommendResponse()


def test_the_server_is_told_the_deadline_and_the_priority_but_no_cookie(tmp_path: Path) -> None:
    told, healthy = Told(), health.HealthServicer()
    healthy.set("equipoise.v1.RecommendationService", health_pb2.HealthCheckResponse.SERVING)
    server = grpc.server(ThreadPoolExecutor(4))
    add_RecommendationServiceServicer_to_server(told, server)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    flags = ("--server", f"127.0.0.1:{port}", "--timeout-s", "20")
    try:
        with live_gateway(tmp_path, *flags, healthy=False) as gateway:
            until(lambda: gateway.json("Recommend", {}).status == 200)
            gateway.json(
                "Recommend", {}, cookie="a=b", grpc_timeout="50S", equipoise_priority="batch"
            )
            with grpc.insecure_channel(gateway.target) as channel:
                RecommendationServiceStub(channel).Recommend(pb.RecommendRequest())
    finally:
        server.stop(None).wait()
    (of_gateway, _), (of_caller, metadata), (of_grpc, _) = told.calls
    assert max(of_gateway, of_grpc) <= 20, "a call without a deadline has the gateway's"
    assert 20 < of_caller <= 50
    assert metadata["equipoise-priority"] == "batch"
    assert "cookie" not in metadata


def test_envoys_metrics_are_on_the_admin_port_alone(gateway: Gateway) -> None:
    assert gateway.http("GET", "/stats/prometheus").status == 404
    assert gateway.admin.startswith("127.0.0.1:")


def test_a_gateway_that_is_to_go_says_so_while_calls_go_on(gateway: Gateway) -> None:
    def say(word: str) -> None:
        url = f"http://{gateway.admin}/healthcheck/{word}"
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10):
            pass

    say("fail")
    try:
        until(lambda: not gateway.healthy())
        assert gateway.serves()
    finally:
        say("ok")
    until(gateway.healthy)


def test_a_gateway_with_a_name_and_a_dead_address_calls_those_that_live(
    tmp_path: Path, live: LiveServer
) -> None:
    """Of two addresses one has nobody: no call fails. Without --allow-origin no other page may call."""
    with live_gateway(
        tmp_path, "--server", "127.0.0.1:1", "--server", f"localhost:{live.port}"
    ) as gateway:
        for _ in range(20):
            answer = gateway.json("Recommend", {"count": 2}, origin=SHOP)
            assert answer.status == 200
            assert "access-control-allow-origin" not in answer.headers
