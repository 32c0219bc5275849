"""Requests for lists of the tiny bundle by a shopper with a history, whole and in pages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from equipoise.v1 import recommendation_pb2 as pb
from strategies.live import LiveServer

POLICIES = [
    "none",
    "tiers",
    "brands",
    "categories",
    "own-shares",
    "crossed",
    "stacked",
    "over-time",
    "varied",
]


def asked(policy: str, **fields: Any) -> pb.RecommendRequest:
    """A request for twenty places, of a shopper who bought eight things; `fields` replace what it
    says."""
    history = [
        pb.HistoryEvent(item_id=f"item-{n:03}", time_unix_ms=1_490_000_000_000 + n, kind=4)
        for n in (1, 2, 7, 8, 13, 30, 50, 55)
    ]
    return pb.RecommendRequest(**{"history": history, "policy": policy, "count": 20} | fields)


def pages(
    live: LiveServer, request: pb.RecommendRequest, between: Callable[[], None] = lambda: None
) -> list[pb.RecommendResponse]:
    """All pages of a list, in order; `between` is called before each but the first."""
    found = [live.recommendation.Recommend(request, timeout=10)]
    while found[-1].next_page_token:
        between()
        following = pb.RecommendRequest()
        following.CopyFrom(request)
        following.page_token = found[-1].next_page_token
        found.append(live.recommendation.Recommend(following, timeout=10))
    return found


class Shopper:
    """A user of the event store who buys six things at a time, dated back before the list: so that
    they count at its time, and move its scores and candidates."""

    def __init__(self, live: LiveServer, user: str) -> None:
        self._live = live
        self.user = user
        self._bought = 0

    def buy(self) -> None:
        events = [
            pb.FeedbackEvent(
                event_id=f"{self.user}-{n}", user_id=self.user, item_id=f"item-{(n * 17) % 60:03}",
                kind=4, time_unix_ms=1_480_000_000_000 + n,
            )
            for n in range(self._bought, self._bought + 6)
        ]  # fmt: skip
        self._bought += 6
        self._live.recommendation.RecordFeedback(
            pb.RecordFeedbackRequest(events=events), timeout=10
        )
