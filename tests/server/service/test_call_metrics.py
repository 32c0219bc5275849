"""The names and labels that dashboards for gRPC servers ask for, and what they count."""

from __future__ import annotations

import contextlib
import re
import urllib.request
from pathlib import Path

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from equipoise.v1 import recommendation_pb2 as pb
from strategies.live import LiveServer, live_server
from strategies.workers import metrics

pytestmark = pytest.mark.slow

DOCUMENT = Path(__file__).resolve().parents[3] / "docs/operations.md"
SERVICE = "equipoise.v1.RecommendationService"


def series(name: str, method: str, kind: str, **more: str) -> str:
    """A series of go-grpc-prometheus' names."""
    labels = {"grpc_method": method, "grpc_service": SERVICE, "grpc_type": kind, **more}
    return name + "".join(f" {key}={labels[key]}" for key in sorted(labels))


def test_calls_of_every_kind_and_end_are_counted_under_the_names_of_dashboards(
    live: LiveServer,
) -> None:
    before = metrics(live)
    for _ in range(2):
        live.recommendation.Recommend(pb.RecommendRequest(count=5), timeout=10)
    with contextlib.suppress(grpc.RpcError):
        live.recommendation.Recommend(pb.RecommendRequest(count=0), timeout=10)
    asked = [
        pb.RecommendStreamRequest(id=n, request=pb.RecommendRequest(count=5)) for n in range(3)
    ]
    answers = list(live.recommendation.RecommendStream(iter(asked), timeout=10))
    after = metrics(live)
    unary, bidi = ("Recommend", "unary"), ("RecommendStream", "bidi_stream")
    full = f"grpc_method={SERVICE}/Recommend"
    expected = {
        series("grpc_server_started_total", *unary): 3,
        series("grpc_server_handled_total", *unary, grpc_code="OK"): 2,
        series("grpc_server_handled_total", *unary, grpc_code="INVALID_ARGUMENT"): 1,
        series("grpc_server_handling_seconds_count", *unary): 3,
        series("grpc_server_handling_seconds_bucket", *unary, le="+Inf"): 3,
        series("grpc_server_msg_received_total", *unary): 3,
        series("grpc_server_msg_sent_total", *unary): 2,
        series("grpc_server_started_total", *bidi): 1,
        series("grpc_server_handled_total", *bidi, grpc_code="OK"): 1,
        series("grpc_server_msg_received_total", *bidi): 3,
        series("grpc_server_msg_sent_total", *bidi): len(answers),
        f"grpc_server_call_started_total {full}": 3,
        f"grpc_server_call_duration_seconds_count {full} grpc_status=OK": 2,
        f"grpc_server_call_duration_seconds_count {full} grpc_status=INVALID_ARGUMENT": 1,
    }
    assert {name: after[name] - before.get(name, 0) for name in expected} == expected


def test_a_method_that_nobody_called_is_there_with_zero(tmp_path: Path, bundle_path: Path) -> None:
    with live_server(tmp_path, bundle_path) as fresh:
        told = metrics(fresh)
    for name in ("started_total", "msg_received_total", "handling_seconds_count"):
        found = [
            key for key in told if key.startswith(f"grpc_server_{name} grpc_method=Repository")
        ]
        assert found, name
        assert {told[key] for key in found} == {0}


def test_the_operators_table_has_every_metric_and_no_other(live: LiveServer) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|", DOCUMENT.read_text(), re.MULTILINE)
    url = f"http://127.0.0.1:{live.metrics_port}/metrics"
    with urllib.request.urlopen(url, timeout=10) as page:
        families = list(text_string_to_metric_families(page.read().decode()))
    total = {"counter": "_total"}
    told = {(family.name + total.get(family.type, ""), family.type) for family in families}
    assert set(rows) == told
