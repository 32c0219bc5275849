"""Requests of Equipoise's own contract that differ: a history, candidates, a fair list of twenty."""

from __future__ import annotations

import json
from pathlib import Path

from bench.serving.calls import COUNT, Int32, Shape, draw_arrays
from equipoise.v1 import recommendation_pb2 as pb

HOUR_MS = 3_600_000
UNTIL_MS = 1_700_000_000_000
FAIR = (pb.RECEIPT_STATUS_MET, pb.RECEIPT_STATUS_SKIPPED)
"""What the receipt of a right list says."""


def item_ids(bundle: Path) -> list[str]:
    """The items of a bundle, as a caller would know them."""
    ids: list[str] = json.loads((bundle / "items.json").read_text(encoding="utf-8"))["ids"]
    return ids


def by_number(
    requests: list[pb.RecommendRequest], ids: list[str], bundle_id: str
) -> list[pb.RecommendRequest]:
    """The same requests, with items named by number."""
    number_of = {item: number for number, item in enumerate(ids)}
    return [
        pb.RecommendRequest(
            request_id=request.request_id,
            count=request.count,
            policy=request.policy,
            as_of_unix_ms=request.as_of_unix_ms,
            numbers_of=bundle_id,
            candidate_numbers=[number_of[item] for item in request.candidate_item_ids],
            packed_history=pb.PackedHistory(
                item_numbers=[number_of[event.item_id] for event in request.history],
                times_unix_ms=[event.time_unix_ms for event in request.history],
            ),
        )
        for request in requests
    ]


def draw(ids: list[str], shape: Shape, requests: int, seed: int) -> list[pb.RecommendRequest]:
    """So many requests, no two alike; the same numbers as every server is asked with."""
    return as_requests(ids, *draw_arrays(len(ids), shape, requests, seed), name=str(seed))


def as_requests(
    ids: list[str], history: Int32, candidates: Int32, name: str
) -> list[pb.RecommendRequest]:
    """Each row as a request whose id begins with `name`."""
    return [
        pb.RecommendRequest(
            request_id=f"{name}-{number}",
            history=[
                pb.HistoryEvent(
                    item_id=ids[item],
                    time_unix_ms=UNTIL_MS - (len(bought) - place) * HOUR_MS,
                    kind=pb.EVENT_KIND_PURCHASE,
                )
                for place, item in enumerate(bought)
            ],
            candidate_item_ids=[ids[item] for item in asked],
            count=COUNT,
            as_of_unix_ms=UNTIL_MS,
        )
        for number, (bought, asked) in enumerate(
            zip(history.tolist(), candidates.tolist(), strict=True)
        )
    ]
