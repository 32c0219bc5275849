"""Items named by number: the same lists as by id, and an error where the numbers are another bundle's."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.serving.drawn import by_number
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from strategies.bundles import DATA_UNTIL_MS, N_ITEMS
from strategies.live import LiveServer, failure_of

CODE = grpc.StatusCode
DAY_MS = 86_400_000
BY_ID, BY_NUMBER = slice(None, None, 2), slice(1, None, 2)


def bundle_id(live: LiveServer) -> str:
    info = live.serving.GetServingInfo(serving_pb2.GetServingInfoRequest(), timeout=5)
    return str(info.bundle_id)


def numbered(live: LiveServer, **fields: Any) -> pb.RecommendRequest:
    fields = {"numbers_of": bundle_id(live), "count": 5, "as_of_unix_ms": DATA_UNTIL_MS} | fields
    return pb.RecommendRequest(**fields)


def test_the_numbers_are_the_places_in_the_list_of_items(
    live: LiveServer, known_items: list[str]
) -> None:
    found: list[str] = []
    while len(found) < N_ITEMS:
        part = live.serving.ListItems(
            serving_pb2.ListItemsRequest(first=len(found), size=25), timeout=5
        )
        assert (part.first, part.items, part.bundle_id) == (len(found), N_ITEMS, bundle_id(live))
        found += part.item_ids
    assert found == known_items
    end = live.serving.ListItems(serving_pb2.ListItemsRequest(first=N_ITEMS, size=1), timeout=5)
    assert list(end.item_ids) == []


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"first": N_ITEMS + 1, "size": 1}, "first: got 61, allowed: 0 to 60"),
        ({"first": 0, "size": 0}, "size: got 0, allowed: 1 to 10000"),
        ({"first": 0, "size": 10_001}, "size: got 10001, allowed: 1 to 10000"),
    ],
)
def test_a_part_of_the_items_that_cannot_be_is_refused(
    live: LiveServer, asked: dict[str, int], told: str
) -> None:
    request = serving_pb2.ListItemsRequest(**asked)
    error, _ = failure_of(lambda: live.serving.ListItems(request, timeout=5))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert told in str(error.details())


EVENTS = st.lists(
    st.tuples(
        st.integers(0, N_ITEMS - 1),
        st.integers(0, 400),
        st.integers(0, pb.EVENT_KIND_PURCHASE),
        st.integers(0, 3),
    ),
    max_size=12,
)


@settings(max_examples=40)
@given(
    events=EVENTS,
    candidates=st.lists(st.integers(0, N_ITEMS - 1), unique=True, max_size=40),
    seen=st.booleans(),
)
def test_a_list_by_numbers_is_the_list_by_ids(
    live: LiveServer,
    known_items: list[str],
    events: list[tuple[int, int, int, int]],
    candidates: list[int],
    seen: bool,
) -> None:
    by_id = pb.RecommendRequest(
        request_id="r",
        count=6,
        as_of_unix_ms=DATA_UNTIL_MS,
        candidate_item_ids=[known_items[number] for number in candidates],
        seen_items=pb.SEEN_ITEMS_INCLUDE if seen else pb.SEEN_ITEMS_EXCLUDE,
        with_candidates=True,
    )
    packed = pb.PackedHistory()
    for item, days, kind, quantity in events:
        time_ms = DATA_UNTIL_MS - days * DAY_MS
        by_id.history.add(
            item_id=known_items[item],
            time_unix_ms=time_ms,
            kind=pb.EventKind.ValueType(kind),
            quantity=quantity,
        )
        packed.item_numbers.append(item)
        packed.times_unix_ms.append(time_ms)
        packed.kinds += bytes([kind])
        packed.quantities.append(quantity)
    by_numbers = pb.RecommendRequest()
    by_numbers.CopyFrom(by_id)
    by_numbers.ClearField("candidate_item_ids")
    by_numbers.ClearField("history")
    by_numbers.numbers_of = bundle_id(live)
    by_numbers.candidate_numbers.extend(candidates)
    by_numbers.packed_history.CopyFrom(packed)
    lists = [live.recommendation.Recommend(request, timeout=10) for request in (by_id, by_numbers)]
    for made in lists:
        made.ClearField("phases")
    assert lists[0] == lists[1]


def test_purchases_of_one_need_neither_kinds_nor_quantities(
    live: LiveServer, known_items: list[str]
) -> None:
    by_id = pb.RecommendRequest(
        request_id="r",
        count=5,
        as_of_unix_ms=DATA_UNTIL_MS,
        candidate_item_ids=known_items[:20],
        history=[
            pb.HistoryEvent(
                item_id=known_items[n],
                time_unix_ms=DATA_UNTIL_MS - n * DAY_MS,
                kind=pb.EVENT_KIND_PURCHASE,
            )
            for n in range(1, 9)
        ],
    )
    (by_numbers,) = by_number([by_id], known_items, bundle_id(live))
    one, other = (live.recommendation.Recommend(r, timeout=10) for r in (by_id, by_numbers))
    one.ClearField("phases")
    other.ClearField("phases")
    assert one == other


def test_numbers_of_another_bundle_are_refused(live: LiveServer) -> None:
    request = numbered(live, numbers_of="tiny-000000000000", candidate_numbers=[1, 2, 3])
    error, details = failure_of(lambda: live.recommendation.Recommend(request, timeout=5))
    assert error.code() is CODE.FAILED_PRECONDITION
    assert details[0].reason == "ITEM_NUMBERS_STALE"
    assert bundle_id(live) in str(error.details())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"numbers_of": "", "candidate_numbers": [1]}, "numbers_of: got '', allowed: 1 to 128"),
        ({"candidate_numbers": [1, 60]}, "candidate_numbers[1]: got 60, allowed: 0 to 59"),
        ({"candidate_numbers": [7, 8, 7]}, "candidate_numbers[2]: got '7', allowed: no id twice"),
        (
            {"candidate_numbers": [1], "candidate_item_ids": ["item-001"]},
            "candidate_numbers: got 'some, beside candidate_item_ids', allowed: one of the two",
        ),
        (
            {"packed_history": {"item_numbers": [1], "times_unix_ms": [1]}, "history": [{"item_id": "x"}]},
            "packed_history: got 'one, beside history', allowed: one of the two",
        ),
        (
            {"packed_history": {"item_numbers": [1, 2], "times_unix_ms": [1]}},
            "packed_history.times_unix_ms: got '1 entries', allowed: 2, one for each item number",
        ),
        (
            {"packed_history": {"item_numbers": [1], "times_unix_ms": [1], "kinds": b"\1\1"}},
            "packed_history.kinds: got '2 entries', allowed: 1, one for each item number, or none",
        ),
        (
            {"packed_history": {"item_numbers": [1], "times_unix_ms": [1], "kinds": b"\x63"}},
            "packed_history.kinds[0]: got 99, allowed: 0 to",
        ),
        (
            {"packed_history": {"item_numbers": [1], "times_unix_ms": [2**63]}},
            "packed_history.times_unix_ms[0]: got 9223372036854775808, allowed: 0 to",
        ),
        (
            {"packed_history": {"item_numbers": [1], "times_unix_ms": [1], "quantities": [10_001]}},
            "packed_history.quantities[0]: got 10001, allowed: 0 to 10000",
        ),
        (
            {"packed_history": {"item_numbers": [2**32 - 1], "times_unix_ms": [1]}},
            "packed_history.item_numbers[0]: got 4294967295, allowed: 0 to 59",
        ),
    ],
)  # fmt: skip
def test_numbers_that_cannot_be_are_refused(
    live: LiveServer, fields: dict[str, Any], told: str
) -> None:
    request = numbered(live, **fields)
    error, details = failure_of(lambda: live.recommendation.Recommend(request, timeout=5))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert details[0].reason == "INVALID_FIELD"
    assert told in str(error.details())


def test_pages_by_number_go_on(live: LiveServer) -> None:
    request = numbered(live, candidate_numbers=range(30), count=12, page_size=5)
    whole = live.recommendation.Recommend(
        numbered(live, candidate_numbers=range(30), count=12), timeout=5
    )
    shown: list[str] = []
    for _ in range(3):
        page = live.recommendation.Recommend(request, timeout=5)
        shown += [item.item_id for item in page.items]
        request.page_token = page.next_page_token
    assert shown == [item.item_id for item in whole.items]
