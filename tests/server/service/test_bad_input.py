"""The bad-input table, row by row, over a real connection."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from equipoise.v1 import recommendation_pb2 as pb
from strategies.live import LiveServer, failure_of

CODE = grpc.StatusCode


def recommend(**fields: Any) -> pb.RecommendRequest:
    return pb.RecommendRequest(**{"count": 5, **fields})


def event(**fields: Any) -> pb.HistoryEvent:
    return pb.HistoryEvent(**{"item_id": "x", "time_unix_ms": 1, **fields})


def scored(**fields: Any) -> pb.ScoredCandidate:
    return pb.ScoredCandidate(**{"item_id": "a", "score": 1.0, "group": "small", **fields})


def rerank(*candidates: pb.ScoredCandidate, **fields: Any) -> pb.RerankRequest:
    return pb.RerankRequest(candidates=candidates, **{"count": 1, **fields})


def feedback(**fields: Any) -> pb.RecordFeedbackRequest:
    good = {"event_id": "e", "user_id": "u", "item_id": "i", "kind": 4, "time_unix_ms": 1}
    return pb.RecordFeedbackRequest(events=[pb.FeedbackEvent(**{**good, **fields})])


@pytest.mark.parametrize(
    ("request_", "field", "seen"),
    [
        (recommend(count=0), "count", "0"),
        (recommend(count=201), "count", "201"),
        (recommend(user_id="u" * 129), "user_id", "'uuu"),
        (recommend(user_id="ü" * 65), "user_id", "'üüü"),
        (recommend(request_id="r" * 65), "request_id", "'rrr"),
        (recommend(request_id="line\nbreak"), "request_id", r"'line\nbreak'"),
        (recommend(surface="home page"), "surface", "'home page'"),
        (recommend(experiment="é"), "experiment", "'é'"),
        (recommend(policy="p" * 65), "policy", "'ppp"),
        (recommend(as_of_unix_ms=-1), "as_of_unix_ms", "-1"),
        (recommend(as_of_unix_ms=2**60), "as_of_unix_ms", str(2**60)),
        (recommend(seen_items=9), "seen_items", "9"),
        (recommend(personalisation=9), "personalisation", "9"),
        (recommend(unknown_items=9), "unknown_items", "9"),
        (recommend(candidate_item_ids=["a", "b", "a"]), "candidate_item_ids[2]", "'a'"),
        (recommend(candidate_item_ids=[""]), "candidate_item_ids[0]", "''"),
        (recommend(candidate_item_ids=[str(n) for n in range(10_001)]), "candidate_item_ids",
         "10001 entries"),
        (recommend(exclude_item_ids=["x" * 129]), "exclude_item_ids[0]", "'xxx"),
        (recommend(history=[event(), event(time_unix_ms=-5)]), "history[1].time_unix_ms", "-5"),
        (recommend(history=[event(item_id="")]), "history[0].item_id", "''"),
        (recommend(history=[event(kind=17)]), "history[0].kind", "17"),
        (recommend(history=[event(quantity=10_001)]), "history[0].quantity", "10001"),
        (recommend(history=[event()] * 10_001), "history", "10001 entries"),
    ],
)  # fmt: skip
def test_a_bad_recommend_field_is_named_with_the_value_and_what_is_allowed(
    live: LiveServer, request_: pb.RecommendRequest, field: str, seen: str
) -> None:
    error, details = failure_of(lambda: live.recommendation.Recommend(request_, timeout=5))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert f"{field}: got " in error.details()
    assert seen in error.details()
    assert "allowed: " in error.details()
    info, bad = details
    assert (info.reason, info.domain) == ("INVALID_FIELD", "equipoise")
    assert field in [violation.field for violation in bad.field_violations]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (rerank(), "candidates"),
        (rerank(scored(score=float("nan"))), "candidates[0].score"),
        (rerank(scored(), scored(item_id="b", score=float("inf"))), "candidates[1].score"),
        (rerank(scored(), scored()), "candidates[1].item_id"),
        (rerank(scored(item_id="")), "candidates[0].item_id"),
        (rerank(scored(), count=0), "count"),
        (rerank(scored(group="martian")), "candidates[0].group"),
        (rerank(scored(group="")), "candidates[0].group"),
    ],
)
def test_a_bad_rerank_field_is_named(
    live: LiveServer, request_: pb.RerankRequest, field: str
) -> None:
    error, details = failure_of(lambda: live.recommendation.Rerank(request_, timeout=5))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert [v.field for v in details[1].field_violations] == [field]


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.RecordFeedbackRequest(), "events"),
        (feedback(event_id=""), "events[0].event_id"),
        (feedback(user_id=""), "events[0].user_id"),
        (feedback(item_id="i" * 129), "events[0].item_id"),
        (feedback(kind=0), "events[0].kind"),
        (feedback(kind=5), "events[0].kind"),
        (feedback(time_unix_ms=-1), "events[0].time_unix_ms"),
        (feedback(time_unix_ms=0), "events[0].time_unix_ms"),
        (feedback(time_unix_ms=253_402_300_799_999), "events[0].time_unix_ms"),
        (feedback(rank=10_001), "events[0].rank"),
        (feedback(quantity=10_001), "events[0].quantity"),
    ],
)
def test_a_bad_feedback_field_is_named_and_nothing_is_recorded(
    live: LiveServer, request_: pb.RecordFeedbackRequest, field: str
) -> None:
    error, details = failure_of(lambda: live.recommendation.RecordFeedback(request_, timeout=5))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert [v.field for v in details[1].field_violations] == [field]


def test_all_that_is_wrong_is_told_at_once(live: LiveServer) -> None:
    request = recommend(count=0, surface="?", as_of_unix_ms=-1)
    _, details = failure_of(lambda: live.recommendation.Recommend(request, timeout=5))
    assert {v.field for v in details[1].field_violations} == {"count", "surface", "as_of_unix_ms"}


def test_an_unknown_policy_is_not_found_and_the_names_that_exist_are_listed(
    live: LiveServer,
) -> None:
    error, details = failure_of(
        lambda: live.recommendation.Recommend(recommend(policy="fairest"), timeout=5)
    )
    assert (error.code(), details[0].reason) == (CODE.NOT_FOUND, "UNKNOWN_POLICY")
    assert "'fairest'" in error.details()
    assert "none" in error.details()


def test_an_unknown_group_table_is_not_found(live: LiveServer) -> None:
    request = rerank(scored(), group_table="colour")
    error, details = failure_of(lambda: live.recommendation.Rerank(request, timeout=5))
    assert (error.code(), details[0].reason) == (CODE.NOT_FOUND, "UNKNOWN_GROUP_TABLE")
    assert "provider_tier" in error.details()


def test_unknown_candidates_and_history_are_skipped_and_counted(
    live: LiveServer, known_items: list[str]
) -> None:
    request = recommend(
        candidate_item_ids=[known_items[0], "not-here", "nor-this"],
        history=[event(item_id=known_items[1]), event(item_id="gone")],
    )
    response = live.recommendation.Recommend(request, timeout=5)
    assert [item.item_id for item in response.items] == [known_items[0]]
    assert (response.skipped_candidates, response.skipped_history_events) == (2, 1)
    reasons = {pb.DegradedReason.Name(reason) for reason in response.degraded_reasons}
    assert reasons == {
        "DEGRADED_REASON_CANDIDATES_SKIPPED",
        "DEGRADED_REASON_HISTORY_SKIPPED",
        "DEGRADED_REASON_SHORT_LIST",
    }


@pytest.mark.parametrize(
    "fields", [{"candidate_item_ids": ["not-here"]}, {"history": [event(item_id="not-here")]}]
)
def test_a_strict_caller_gets_not_found_for_an_unknown_item(
    live: LiveServer, fields: dict[str, Any]
) -> None:
    request = recommend(unknown_items=pb.UNKNOWN_ITEMS_REJECT, **fields)
    error, details = failure_of(lambda: live.recommendation.Recommend(request, timeout=5))
    assert (error.code(), details[0].reason) == (CODE.NOT_FOUND, "UNKNOWN_ITEM")
    assert "'not-here'" in error.details()


def test_an_unknown_user_gets_the_non_personal_list_and_is_told(live: LiveServer) -> None:
    response = live.recommendation.Recommend(recommend(user_id="stranger"), timeout=5)
    assert len(response.items) == 5
    assert list(response.degraded_reasons) == [pb.DEGRADED_REASON_NON_PERSONAL]
    assert {item.source for item in response.items} == {pb.CANDIDATE_SOURCE_POPULAR}
    assert response.receipt.status == pb.RECEIPT_STATUS_MET


def test_a_message_over_the_limit_is_resource_exhausted(live: LiveServer) -> None:
    request = recommend(exclude_item_ids=["x" * 1000] * 5000)
    error, _ = failure_of(lambda: live.recommendation.Recommend(request, timeout=5))
    assert error.code() is CODE.RESOURCE_EXHAUSTED


def test_an_expired_deadline_is_deadline_exceeded(live: LiveServer) -> None:
    error, _ = failure_of(lambda: live.recommendation.Recommend(recommend(), timeout=-1))
    assert error.code() is CODE.DEADLINE_EXCEEDED


def test_a_cancelled_call_is_cancelled_and_the_server_goes_on(live: LiveServer) -> None:
    codes = set()
    for _ in range(50):  # One may be answered before it is cancelled.
        call = live.recommendation.Recommend.future(recommend(user_id="stranger"), timeout=30)
        call.cancel()
        codes.add(call.code())
    assert CODE.CANCELLED in codes
    assert codes <= {CODE.CANCELLED, CODE.OK}
    assert len(live.recommendation.Recommend(recommend(), timeout=30).items) == 5


def test_an_unknown_method_and_garbage_bytes_never_reach_the_code(live: LiveServer) -> None:
    garbage = live.channel.unary_unary("/equipoise.v1.RecommendationService/Recommend")
    error, _ = failure_of(lambda: garbage(b"\xff\xff\xff\xff", timeout=30))
    assert error.code() is CODE.INVALID_ARGUMENT
    assert "Decode" not in error.details()
    missing = live.channel.unary_unary("/equipoise.v1.RecommendationService/Steal")
    error, _ = failure_of(lambda: missing(b"", timeout=30))
    assert error.code() is CODE.UNIMPLEMENTED
