"""KServe's own client against a real server: `make test-clients`.

Named so that `make test` does not find it: the client's environment takes 451 MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.bundle import load_bundle, ports_of
from server.features import N_FEATURES
from server.model import OnnxScorer
from strategies.foreign import run_foreign
from strategies.live import LiveServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def understood(live: LiveServer) -> Any:
    return run_foreign("kserve", "calls.py", live.target)


@pytest.fixture(scope="module")
def own(live: LiveServer) -> pb.RecommendResponse:
    """What our own client gets for the same request."""
    history = [
        pb.HistoryEvent(item_id=item, time_unix_ms=time_ms, kind=pb.EVENT_KIND_PURCHASE)
        for item, time_ms in (("item-003", 1_499_000_000_000), ("item-007", 1_499_500_000_000))
    ]
    return live.recommendation.Recommend(
        pb.RecommendRequest(
            count=4,
            history=history,
            candidate_item_ids=[f"item-{n:03}" for n in range(20)],
            policy="tiers",
        ),
        timeout=10,
    )


def test_it_finds_the_server_and_its_models(understood: Any) -> None:
    assert understood["live"] is understood["ready"] is True
    assert understood["model_ready"] == [True, True, False]
    assert understood["server"] == "equipoise"
    assert understood["inputs"] == {"ranker": [["features", "FP32", [-1, -1, N_FEATURES]]]}


@pytest.mark.parametrize("raw", [True, False])
def test_it_gets_the_lists_that_our_own_client_gets(
    understood: Any, own: pb.RecommendResponse, raw: bool
) -> None:
    made = understood["lists"][0 if raw else 1]
    assert made["id"] == f"raw-{raw}"
    assert made["model"] == ["recommend", "1"]
    assert made["items"] == [item.item_id for item in own.items]
    assert made["scores"] == [item.score for item in own.items]
    assert made["receipt"]["policy"] == own.receipt.policy == "tiers"
    assert made["parameters"] == ["bundle_id", "request_id"]


def test_it_gets_the_models_scores(understood: Any, bundle_path: Path) -> None:
    bundle = load_bundle(bundle_path)
    scorer = OnnxScorer(bundle.model, ports_of(bundle.manifest.model))
    fed = np.array(understood["fed"], np.float32)
    wanted = [scorer.score_lists([{"features": one}])[0].tolist() for one in fed]
    for given in understood["ranked"]:
        assert given == wanted


def test_it_is_told_what_is_wrong(understood: Any) -> None:
    code, message = understood["unknown"]
    assert code == "NOT_FOUND"
    assert "no model 'other'; there are: ranker, recommend" in message
    code, message = understood["two_wide"]
    assert code == "INVALID_ARGUMENT"
    assert "inputs[0].shape: got [2], allowed: " in message
