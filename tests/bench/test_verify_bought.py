"""`equipoise verify` counts again what the user bought, wherever the evidence lets it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.refused import InputRefused
from equipoise.v1 import recommendation_pb2 as pb
from server.events import Event, SqliteEventStore
from strategies.bundles import DATA_UNTIL_MS
from strategies.lists import Shopper, asked
from strategies.live import LiveServer
from strategies.tampering import more_bought, on_lists, tampered
from strategies.verifying import Verifier, verifier_of

BOUGHT = "what the user bought is counted right"
AS_OF = {"as_of_unix_ms": DATA_UNTIL_MS}


@pytest.fixture
def verifier(tmp_path: Path, bundle_path: Path) -> Verifier:
    return verifier_of(tmp_path, bundle_path)


@pytest.fixture
def store(live: LiveServer) -> Path:
    return live.log.parent / "events.db"


def listed(
    live: LiveServer, **fields: Any
) -> tuple[pb.RecommendRequest, list[pb.RecommendResponse]]:
    request = asked("own-shares", **{"with_candidates": True} | fields)
    return request, [live.recommendation.Recommend(request, timeout=10)]


def event(item: int, time_ms: int, kind: int = 4) -> pb.HistoryEvent:
    return pb.HistoryEvent(item_id=f"item-{item:03}", time_unix_ms=time_ms, kind=kind)


def test_it_is_counted_from_the_request_as_the_server_counts(
    live: LiveServer, verifier: Verifier
) -> None:
    """Purchases only, of known items, one for lines of an instant, none after the list's time."""
    until = DATA_UNTIL_MS
    history = [
        event(1, until - 5), event(1, until - 5), event(1, until - 4, 0), event(2, until - 3, 1),
        event(999, until - 3), event(3, until), event(4, until + 1), event(7, until + 1),
    ]  # fmt: skip
    request, responses = listed(live, history=history, **AS_OF)
    assert {told.group: told.count for told in responses[0].bought} == {
        "category 1": 2, "category 3": 1
    }  # fmt: skip
    code, claims = verifier(request, responses, "own-shares")
    assert (code, claims[BOUGHT]["told"]) == (0, "3 purchases")


def test_a_server_that_lies_about_it_is_found(live: LiveServer, verifier: Verifier) -> None:
    import grpc

    from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub

    request = asked("own-shares", with_candidates=True, **AS_OF)
    with (
        tampered(live.channel, on_lists(lambda _, response: more_bought(response))) as target,
        grpc.insecure_channel(target) as channel,
    ):
        response = RecommendationServiceStub(channel).Recommend(request, timeout=10)
    code, claims = verifier(request, [response], "own-shares")
    assert (code, claims[BOUGHT]["verdict"]) == (1, "lie")
    assert "the request's history has" in claims[BOUGHT]["told"]


def test_without_the_catalogue_or_the_store_it_is_not_trusted(
    live: LiveServer, verifier: Verifier
) -> None:
    request, responses = listed(live, **AS_OF)
    code, claims = verifier(request, responses, "own-shares", bundle=False)
    assert (code, claims[BOUGHT]["verdict"]) == (3, "not checked")
    shopper = Shopper(live, "bought-store")
    shopper.buy()
    request, responses = listed(live, history=[], user_id=shopper.user, **AS_OF)
    code, claims = verifier(request, responses, "own-shares")
    assert (code, claims[BOUGHT]["verdict"]) == (3, "not checked")
    assert "--events" in claims[BOUGHT]["told"]
    request, responses = listed(live, with_candidates=False, **AS_OF)
    code, claims = verifier(request, responses, "own-shares")
    assert (code, claims[BOUGHT]["verdict"]) == (3, "not checked")


def test_it_is_counted_from_the_event_store(
    live: LiveServer, verifier: Verifier, store: Path
) -> None:
    shopper = Shopper(live, "bought-counted")
    shopper.buy()
    request, responses = listed(live, history=[], user_id=shopper.user, **AS_OF)
    code, claims = verifier(request, responses, "own-shares", "--events", store)
    assert (code, claims[BOUGHT]["told"]) == (0, "6 purchases")
    more_bought(responses[0])
    code, claims = verifier(request, responses, "own-shares", "--events", store)
    assert (code, claims[BOUGHT]["verdict"]) == (1, "lie")
    assert "the event store has" in claims[BOUGHT]["told"]


def test_a_server_reads_only_the_newest_events(
    live: LiveServer, verifier: Verifier, store: Path
) -> None:
    shopper = Shopper(live, "bought-newest")
    shopper.buy()
    request, responses = listed(live, history=[], user_id=shopper.user, **AS_OF)
    flags = ("--events", store, "--max-history-events")
    assert verifier(request, responses, "own-shares", *flags, 6)[0] == 0
    code, claims = verifier(request, responses, "own-shares", *flags, 5)
    assert (code, claims[BOUGHT]["verdict"]) == (3, "not checked")


def test_without_as_of_what_may_have_come_later_is_not_trusted(
    live: LiveServer, verifier: Verifier, store: Path
) -> None:
    """The server's clock may have stood before it; before the data's end it cannot have stood."""
    shopper = Shopper(live, "bought-later")
    shopper.buy()
    request, responses = listed(live, history=[], user_id=shopper.user)
    assert verifier(request, responses, "own-shares", "--events", store)[0] == 0
    later = [
        Event(f"later-{n}", shopper.user, "item-001", 4, DATA_UNTIL_MS + n) for n in (1_000, 2_000)
    ]
    with SqliteEventStore(store, create=False) as opened:
        opened.record(later)
    code, claims = verifier(request, responses, "own-shares", "--events", store)
    assert (code, claims[BOUGHT]["verdict"]) == (3, "not checked")
    assert f"before {DATA_UNTIL_MS + 1_000}" in claims[BOUGHT]["told"]
    more_bought(responses[0])
    claims = verifier(request, responses, "own-shares", "--events", store)[1]
    assert claims[BOUGHT]["verdict"] == "lie"
    # With as_of there is no such doubt.
    request, responses = listed(live, history=[], user_id=shopper.user, **AS_OF)
    assert verifier(request, responses, "own-shares", "--events", store)[0] == 0
    # What is older than the data's end counted at any time.
    request, responses = listed(live, history=[event(1, 5), event(2, DATA_UNTIL_MS)])
    del responses[0].bought[1:]
    assert verifier(request, responses, "own-shares")[1][BOUGHT]["verdict"] == "lie"


def test_a_file_that_is_no_event_store_is_refused(
    live: LiveServer, verifier: Verifier, tmp_path: Path
) -> None:
    other = tmp_path / "other.db"
    other.write_text("no store")
    request, responses = listed(live, history=[], user_id="me", **AS_OF)
    with pytest.raises(InputRefused, match="is no event store"):
        verifier(request, responses, "own-shares", "--events", other)


@pytest.mark.parametrize("fields", [{"personalisation": 2}, {"history": []}])
def test_of_nobody_nothing_is_bought(
    live: LiveServer, verifier: Verifier, fields: dict[str, Any]
) -> None:
    request, responses = listed(live, **fields)
    code, claims = verifier(request, responses, "own-shares")
    assert (code, claims[BOUGHT]["verdict"]) == (0, "holds")
    responses[0].bought.add(group_table="category", group="category 1", count=3)
    code, claims = verifier(request, responses, "own-shares")
    assert (code, claims[BOUGHT]["verdict"]) == (1, "lie")


def test_where_the_store_did_not_answer_nothing_may_be_counted(
    live: LiveServer, verifier: Verifier
) -> None:
    request, responses = listed(live, history=[])
    request.user_id = "unread"
    responses[0].degraded_reasons.append(pb.DEGRADED_REASON_EVENT_STORE_UNAVAILABLE)
    code, claims = verifier(request, responses, "own-shares")
    assert (code, claims[BOUGHT]["told"]) == (0, "the event store did not answer")
    more_bought(responses[0])
    assert verifier(request, responses, "own-shares")[1][BOUGHT]["verdict"] == "lie"


def test_a_rerank_by_other_counts_than_the_requests_is_found(
    live: LiveServer, verifier: Verifier
) -> None:
    def request(bought: dict[str, int], table: str = "category") -> pb.RerankRequest:
        return pb.RerankRequest(
            candidates=[
                pb.ScoredCandidate(item_id=f"item-{n:03}", score=(n * 7 % 31) / 8)
                for n in range(40)
            ],
            count=12,
            policy="own-shares",
            with_candidates=True,
            bought=[
                pb.GroupCount(group_table=table, group=group, count=count)
                for group, count in bought.items()
            ],
        )

    mine = request({"category 1": 9, "category 2": 3})
    response = live.recommendation.Rerank(mine, timeout=10)
    code, claims = verifier(mine, [response], "own-shares")
    assert (code, claims[BOUGHT]["verdict"]) == (0, "holds")
    code, claims = verifier(request({"category 1": 3, "category 2": 9}), [response], "own-shares")
    assert code == 1
    lies = {name for name, claim in claims.items() if claim["verdict"] == "lie"}
    assert "distance to the user's own shares is right" in lies
    other = request({"Private": 3}, "brand")
    assert verifier(other, [response], "own-shares")[1][BOUGHT]["verdict"] == "lie"
