"""Requests that differ: a history, candidates, a fair list of twenty. Seeded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equipoise.v1 import recommendation_pb2 as pb

COUNT = 20
HOUR_MS = 3_600_000
UNTIL_MS = 1_700_000_000_000


@dataclass(frozen=True)
class Shape:
    """What one request holds. candidates: 0 leaves the choice to the server; at most the catalogue."""

    history: int = 50
    candidates: int = 200


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
    """So many requests, no two alike. Popular items are bought more often (Zipf)."""
    rng = np.random.default_rng(seed)
    # Added up once: a draw with weights would do it each time, which costs a large catalogue.
    upto = np.cumsum(1 / np.arange(1, len(ids) + 1) ** 0.8)
    drawn = []
    for number in range(requests):
        bought = np.searchsorted(upto, rng.random(shape.history) * upto[-1]).tolist()
        asked = rng.choice(len(ids), min(shape.candidates, len(ids)), replace=False).tolist()
        drawn.append(
            pb.RecommendRequest(
                request_id=f"{seed}-{number}",
                history=[
                    pb.HistoryEvent(
                        item_id=ids[item],
                        time_unix_ms=UNTIL_MS - (shape.history - place) * HOUR_MS,
                        kind=pb.EVENT_KIND_PURCHASE,
                    )
                    for place, item in enumerate(bought)
                ],
                candidate_item_ids=[ids[item] for item in asked],
                count=COUNT,
                as_of_unix_ms=UNTIL_MS,
            )
        )
    return drawn
