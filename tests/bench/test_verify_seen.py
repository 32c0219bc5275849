"""Which items of a request's own history must not come back when seen items are excluded."""

from __future__ import annotations

import pytest

from bench.verify.evidence import evidence_of
from equipoise.v1 import recommendation_pb2 as pb


def excluded(**fields: object) -> frozenset[str]:
    history = [
        pb.HistoryEvent(item_id="bought", time_unix_ms=10, kind=pb.EVENT_KIND_PURCHASE),
        pb.HistoryEvent(item_id="unsaid", time_unix_ms=20),
        pb.HistoryEvent(item_id="viewed", time_unix_ms=10, kind=pb.EVENT_KIND_VIEW),
    ]
    asked = pb.RecommendRequest(count=2, history=history, exclude_item_ids=["named"], **fields)
    return evidence_of(asked, [pb.RecommendResponse()]).excluded


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"named"}),
        ({"seen_items": pb.SEEN_ITEMS_INCLUDE}, {"named"}),
        ({"seen_items": pb.SEEN_ITEMS_EXCLUDE}, {"named", "bought", "unsaid"}),
        ({"seen_items": pb.SEEN_ITEMS_EXCLUDE, "as_of_unix_ms": 15}, {"named", "bought"}),
        ({"seen_items": pb.SEEN_ITEMS_EXCLUDE, "as_of_unix_ms": 20}, {"named", "bought", "unsaid"}),
        (
            {
                "seen_items": pb.SEEN_ITEMS_EXCLUDE,
                "personalisation": pb.PERSONALISATION_OFF,
            },
            {"named"},
        ),
    ],
)
def test_only_what_was_bought_until_then_must_not_come_back(
    fields: dict[str, object], expected: set[str]
) -> None:
    assert excluded(**fields) == expected
