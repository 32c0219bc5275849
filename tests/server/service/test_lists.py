"""What a caller gets: fair lists, receipts that add up, exclusions before the fair stage."""

from __future__ import annotations

import math
from typing import Any

import pytest

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from strategies.live import LiveServer

DAY_MS = 86_400_000


def ask(live: LiveServer, **fields: Any) -> pb.RecommendResponse:
    return live.recommendation.Recommend(pb.RecommendRequest(**{"count": 10, **fields}), timeout=5)


def bought(items: list[str], until_ms: int = 1_500_000_000_000) -> list[pb.HistoryEvent]:
    return [
        pb.HistoryEvent(item_id=item, time_unix_ms=until_ms - day * DAY_MS, kind=4)
        for day, item in enumerate(items)
    ]


def ids(response: pb.RecommendResponse | pb.RerankResponse) -> list[str]:
    return [item.item_id for item in response.items]


@pytest.fixture(scope="session")
def info(live: LiveServer) -> serving_pb2.GetServingInfoResponse:
    return live.serving.GetServingInfo(serving_pb2.GetServingInfoRequest(), timeout=5)


def test_serving_info_names_bundle_model_policies_and_limits(
    info: serving_pb2.GetServingInfoResponse,
) -> None:
    assert info.bundle_id.startswith("tiny-")
    assert len(info.model.digest) == 64
    assert [policy.name for policy in info.policies if policy.is_default] != []
    assert {policy.kind for policy in info.policies} >= {"none", "floors", "window", "cap"}
    assert (info.limits.max_count, info.limits.max_candidates) == (200, 10_000)


def test_a_response_names_what_made_it_and_echoes_what_was_asked(
    live: LiveServer,
    info: serving_pb2.GetServingInfoResponse,
    known_items: list[str],
) -> None:
    response = ask(
        live, request_id="r-1", surface="home", experiment="arm.b", history=bought(known_items[:3])
    )
    assert (response.request_id, response.surface, response.experiment) == ("r-1", "home", "arm.b")
    assert (response.bundle_id, response.model_digest) == (info.bundle_id, info.model.digest)
    assert list(response.degraded_reasons) == []
    assert [item.rank for item in response.items] == list(range(1, 11))
    phases = response.phases
    assert 0 < phases.features_ns + phases.model_ns + phases.fair_ns <= phases.total_ns
    assert phases.batch_size >= 1


def test_the_receipt_adds_up(live: LiveServer, known_items: list[str]) -> None:
    for policy in [
        p.name for p in live.serving.GetServingInfo(serving_pb2.GetServingInfoRequest()).policies
    ]:
        response = ask(live, policy=policy, candidate_item_ids=known_items, count=20)
        receipt = response.receipt
        moved = sum(item.rank != item.rank_by_score for item in response.items)
        assert receipt.places_moved == moved
        plain = ask(live, policy="none", candidate_item_ids=known_items, count=20)
        discounts = [1 / math.log2(rank + 1) for rank in range(1, len(response.items) + 1)]
        dcg = [
            sum(d * item.score for d, item in zip(discounts, r.items, strict=True))
            for r in (response, plain)
        ]
        assert receipt.utility_kept == pytest.approx(dcg[0] / dcg[1], abs=1e-5)
        for part in receipt.exposure:
            mine = [
                d
                for d, i in zip(discounts, response.items, strict=True)
                if part.group in (i.group, *i.groups)
            ]
            assert part.items == len(mine)
            assert part.exposure_share == pytest.approx(sum(mine) / sum(discounts), abs=1e-5)


def test_excluded_items_are_gone_and_the_policy_still_holds(
    live: LiveServer, known_items: list[str]
) -> None:
    first = ask(live, history=bought(known_items[:5]))
    second = ask(live, history=bought(known_items[:5]), exclude_item_ids=ids(first))
    assert not set(ids(first)) & set(ids(second))
    assert len(second.items) == 10
    assert second.receipt.status == pb.RECEIPT_STATUS_MET


def test_seen_items_come_back_only_when_they_may(live: LiveServer, known_items: list[str]) -> None:
    history = bought(known_items[:5])
    with_seen = ask(live, history=history, count=20)
    without = ask(live, history=history, count=20, seen_items=pb.SEEN_ITEMS_EXCLUDE)
    assert set(ids(with_seen)) & set(known_items[:5])
    assert not set(ids(without)) & set(known_items[:5])
    assert pb.CANDIDATE_SOURCE_HISTORY not in {item.source for item in without.items}


def test_with_personalisation_off_the_list_depends_on_the_user_in_no_way(
    live: LiveServer, known_items: list[str]
) -> None:
    off = {"personalisation": pb.PERSONALISATION_OFF}
    anonymous = ask(live, **off)
    known = ask(live, user_id="someone", history=bought(known_items[:9]), **off)
    seen_off = ask(live, history=bought(known_items), seen_items=pb.SEEN_ITEMS_EXCLUDE, **off)
    assert ids(anonymous) == ids(known) == ids(seen_off)
    assert [i.score for i in anonymous.items] == [i.score for i in known.items]
    assert list(known.degraded_reasons) == []


def test_with_personalisation_off_stored_events_are_not_read_either(
    live: LiveServer, known_items: list[str]
) -> None:
    events = [
        pb.FeedbackEvent(
            event_id=f"off-{n}", user_id="stored", item_id=item, kind=pb.EVENT_KIND_PURCHASE,
            time_unix_ms=1_499_000_000_000 + n,
        )
        for n, item in enumerate(known_items[-9:])
    ]  # fmt: skip
    live.recommendation.RecordFeedback(pb.RecordFeedbackRequest(events=events), timeout=10)
    on, stranger = ask(live, user_id="stored"), ask(live, user_id="nobody-yet")
    assert ids(on) != ids(stranger)
    off = {"personalisation": pb.PERSONALISATION_OFF}
    for more in ({}, {"seen_items": pb.SEEN_ITEMS_EXCLUDE}):
        own, other = (ask(live, user_id=u, **off, **more) for u in ("stored", "nobody-yet"))
        assert [(i.item_id, i.score) for i in own.items] == [
            (i.item_id, i.score) for i in other.items
        ]


def test_the_order_in_which_history_arrives_changes_nothing(
    live: LiveServer, known_items: list[str]
) -> None:
    history = bought(known_items[:6]) + bought(known_items[3:9])
    forward, backward = ask(live, history=history), ask(live, history=history[::-1])
    assert [(i.item_id, i.score) for i in forward.items] == [
        (i.item_id, i.score) for i in backward.items
    ]


def test_as_of_hides_what_happened_later(live: LiveServer, known_items: list[str]) -> None:
    early = bought(known_items[:3], until_ms=1_400_000_000_000)
    late = bought(known_items[5:9], until_ms=1_500_000_000_000)
    as_of = 1_400_000_000_000
    assert ids(ask(live, history=early + late, as_of_unix_ms=as_of)) == ids(
        ask(live, history=early, as_of_unix_ms=as_of)
    )


def test_validate_only_says_what_the_request_means_and_runs_nothing(
    live: LiveServer, known_items: list[str]
) -> None:
    response = ask(
        live,
        validate_only=True,
        candidate_item_ids=[known_items[0], "not-here"],
        history=bought(known_items[:2]),
    )
    assert not response.items
    assert not response.HasField("receipt")
    meant = response.normalised
    assert (meant.count, meant.candidates, meant.history_events, meant.personal) == (10, 1, 2, True)
    assert any("1 of 2 candidates are unknown" in warning for warning in meant.warnings)


def test_rerank_keeps_the_floor_on_a_callers_own_candidates(
    live: LiveServer, info: serving_pb2.GetServingInfoResponse
) -> None:
    policy = next(p for p in info.policies if p.kind == "floors")
    candidates = [
        pb.ScoredCandidate(item_id=f"mine-{n:02}", score=1 - n / 100, group="large")
        for n in range(30)
    ] + [
        pb.ScoredCandidate(item_id=f"tiny-{n:02}", score=0.01, group=group)
        for n, group in enumerate(list(policy.groups) * 5)
    ]
    request = pb.RerankRequest(candidates=candidates, count=20, policy=policy.name)
    response = live.recommendation.Rerank(request, timeout=5)
    assert response.receipt.status == pb.RECEIPT_STATUS_MET
    assert response.receipt.places_moved > 0
    assert {item.group for item in response.items} != {"large"}
    reasons = {item.reason for item in response.items}
    assert pb.REASON_CODE_RAISED_FOR_FLOOR in reasons


def test_rerank_does_not_depend_on_the_order_of_the_candidates(
    live: LiveServer, info: serving_pb2.GetServingInfoResponse
) -> None:
    policy = next(p for p in info.policies if p.kind == "floors")
    candidates = [
        pb.ScoredCandidate(item_id=f"i{n:02}", score=n % 3, group=policy.groups[n % 2])
        for n in range(24)
    ]
    lists = [
        ids(
            live.recommendation.Rerank(
                pb.RerankRequest(candidates=order, count=9, policy=policy.name), timeout=5
            )
        )
        for order in (candidates, candidates[::-1], candidates[7:] + candidates[:7])
    ]
    assert lists[0] == lists[1] == lists[2]


def test_requests_of_several_users_share_a_batch_and_get_their_own_lists(
    live: LiveServer, known_items: list[str]
) -> None:
    requests = [
        pb.RecommendRequest(
            count=3 + n % 5,
            history=bought(known_items[n : n + 4]),
            candidate_item_ids=known_items[: 10 + 7 * n] if n % 2 else [],
        )
        for n in range(6)
    ]
    alone = [ids(live.recommendation.Recommend(request, timeout=5)) for request in requests]
    calls = [live.recommendation.Recommend.future(r, timeout=20) for r in requests * 8]
    answers = [call.result() for call in calls]
    assert [ids(answer) for answer in answers] == alone * 8
    assert max(answer.phases.batch_size for answer in answers) > 1


def test_a_rerank_of_strangers_says_that_they_cannot_be_diversified(
    live: LiveServer, known_items: list[str]
) -> None:
    def degraded(policy: str, *ids: str) -> list[int]:
        candidates = [
            pb.ScoredCandidate(item_id=item, score=1 / n, group="small")
            for n, item in enumerate(ids, start=1)
        ]
        if policy == "varied":
            for candidate in candidates:
                candidate.group = ""
        request = pb.RerankRequest(candidates=candidates, count=2, policy=policy)
        return list(live.recommendation.Rerank(request, timeout=10).degraded_reasons)

    assert degraded("varied", known_items[0], "a stranger") == [pb.DEGRADED_REASON_NO_VECTORS]
    assert degraded("varied", *known_items[:2]) == []
    assert degraded("tiers", known_items[0], "a stranger") == []
