"""Right answers under load: a server that answers for another, of before, or from a cache is found out."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import pytest

from bench.load.runner import Plan, run_load
from bench.load.scenario import Scenario
from equipoise.v1 import recommendation_pb2 as pb
from strategies import tampering
from strategies.live import LiveServer

pytestmark = pytest.mark.slow


def scenario(**check: Any) -> Scenario:
    return Scenario.model_validate(
        {"schema_version": 1, "name": "answers", "steady": False,
         "stage": [{"rate_rps": 40, "duration_s": 3}], "check": {"share": 1.0} | check}
    )  # fmt: skip


def test_the_answers_of_an_honest_server_are_those_of_before(
    live: LiveServer, tmp_path: Path
) -> None:
    result = run_load(Plan(live.target, tmp_path, scenario(repeats=30)))
    assert result["by_status"] == {"OK": result["requests"]}
    assert result["answers_compared"] == result["requests"]
    (kept,) = (check for check in result["checks"] if check["name"] == "not kept")
    assert kept["ok"] is True
    assert "30 each" in kept["told"]


def test_a_list_that_is_another_under_load_is_wrong(live: LiveServer, tmp_path: Path) -> None:
    """Right in length, bundle and receipt; only two items have changed places."""

    def fault(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(response, pb.RecommendResponse) and request.request_id.endswith("7"):
            first, second = response.items[0].item_id, response.items[1].item_id
            response.items[0].item_id, response.items[1].item_id = second, first
        return response

    with tampering.tampered(live.channel, fault) as target:
        result = run_load(Plan(target, tmp_path, scenario()))
    assert set(result["by_status"]) == {"OK", "OTHER_LIST"}
    assert 0.05 < result["by_status"]["OTHER_LIST"] / result["requests"] < 0.2


def test_a_server_that_answers_with_what_it_has_kept_is_told_by_its_speed(
    live: LiveServer, tmp_path: Path
) -> None:
    asked: Counter[bytes] = Counter()
    lock = threading.Lock()

    def fault(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(response, pb.RecommendResponse):
            body = pb.RecommendRequest()
            body.CopyFrom(request)
            body.ClearField("request_id")
            with lock:
                asked[body.SerializeToString(deterministic=True)] += 1
                often = asked[body.SerializeToString(deterministic=True)] > 5
            if not often:
                time.sleep(0.02)  # the work that a kept answer saves
        return response

    with tampering.tampered(live.channel, fault) as target:
        result = run_load(Plan(target, tmp_path, scenario(share=0.0, repeats=25)))
    (kept,) = (check for check in result["checks"] if check["name"] == "not kept")
    assert kept["ok"] is False
    assert "answers are kept" in kept["told"]
