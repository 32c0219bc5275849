"""Requests for a server of which nothing is known: histories of the items that it returns.

A seeded random walk: lists with personalisation off name the first items, lists
for histories of those name more. All answers come from the server, so every item
exists there; the histories are nobody's.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from bench.load.requests import DEFAULT_COUNT, HistoryLine, LoadRequest
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2

Recommend = Callable[[pb.RecommendRequest], pb.RecommendResponse]

DAY_MS = 86_400_000
STEPS = 16
MAX_EVENTS = 60
DAYS = 180


def known_items(
    recommend: Recommend, info: serving_pb2.GetServingInfoResponse, draw: random.Random
) -> list[str]:
    """Items that the server itself returned, in order of their ids."""
    count = min(info.limits.max_count or DEFAULT_COUNT, max(info.items, 1))
    off = pb.RecommendRequest(count=count, personalisation=pb.PERSONALISATION_OFF)
    found = {item.item_id for item in recommend(off).items}
    for _ in range(STEPS):
        if not found or len(found) >= info.items:
            break
        history = history_of(sorted(found), info.data_until_unix_ms, draw)
        request = LoadRequest(history=history, count=count).message()
        found |= {item.item_id for item in recommend(request).items}
    return sorted(found)


def history_of(items: list[str], until_ms: int, draw: random.Random) -> tuple[HistoryLine, ...]:
    """A drawn history that ends before `until_ms`: few items often, as people buy."""
    liked = draw.sample(items, k=min(len(items), draw.randint(1, 20)))
    events = []
    for _ in range(draw.randint(1, MAX_EVENTS)):
        # The square prefers the first of the liked items.
        item = liked[int(len(liked) * draw.random() ** 2)]
        time_ms = max(until_ms - draw.randrange(DAYS * DAY_MS), 0)
        events.append(HistoryLine(item_id=item, time_unix_ms=time_ms, quantity=draw.randint(1, 3)))
    return tuple(sorted(events, key=lambda event: (event.time_unix_ms, event.item_id)))


def draw_requests(
    recommend: Recommend, info: serving_pb2.GetServingInfoResponse, *, n: int, seed: int
) -> list[LoadRequest]:
    """`n` requests with varied histories and counts, the same for the same server and seed."""
    draw = random.Random(seed)
    items = known_items(recommend, info, draw)
    if not items:
        return []
    limit = min(info.limits.max_count or DEFAULT_COUNT, info.items or DEFAULT_COUNT)
    return [
        LoadRequest(
            history=history_of(items, info.data_until_unix_ms, draw),
            count=min(draw.choice((5, 10, DEFAULT_COUNT, DEFAULT_COUNT, 50)), limit),
        )
        for _ in range(n)
    ]
