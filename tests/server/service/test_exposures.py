"""Exposure over time: counted for what is shown, kept over a restart, shared by processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.bundle import load_bundle
from server.exposures import ExposureLedger
from server.fairness.discount import discounts
from strategies.live import LiveServer, live_server

EVERYTHING = [f"item-{n:03}" for n in range(60)]

pytestmark = pytest.mark.slow


def lists(server: LiveServer, times: int) -> list[list[str]]:
    return [
        [
            item.item_id
            for item in server.recommendation.Recommend(
                pb.RecommendRequest(count=10, policy="over-time", candidate_item_ids=EVERYTHING),
                timeout=10,
            ).items
        ]
        for _ in range(times)
    ]


def test_a_restart_goes_on_where_it_was(tmp_path: Path, bundle_path: Path) -> None:
    flags = ("--clock", "data-end", "--exposures")
    with live_server(tmp_path, bundle_path, *flags, tmp_path / "whole.db") as server:
        whole = lists(server, 8)
    parts = []
    for times in (3, 5):
        with live_server(tmp_path, bundle_path, *flags, tmp_path / "parts.db") as server:
            parts += lists(server, times)
            assert server.terminate() == 0
    assert parts == whole
    assert len({tuple(made) for made in whole}) > 1


def test_what_a_page_shows_is_charged_and_nothing_else(tmp_path: Path, bundle_path: Path) -> None:
    path = tmp_path / "exposures.db"
    with live_server(tmp_path, bundle_path, "--clock", "data-end", "--exposures", path) as server:
        request = pb.RecommendRequest(count=10, policy="over-time", page_size=4)
        shown = server.recommendation.Recommend(request, timeout=10)
        request.page_token = shown.next_page_token
        server.recommendation.Recommend(request, timeout=10)
        assert server.terminate() == 0
    compiled = load_bundle(bundle_path).policies["over-time"]
    assert compiled.amortisation is not None
    with ExposureLedger(path) as ledger:
        account = ledger.account(compiled.policy.digest, compiled.amortisation.labels)
        assert account.totals().sum() == pytest.approx(discounts(10)[:8].sum(), abs=1e-4)
        assert account.lists == 2
