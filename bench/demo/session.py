"""The live part of the demo: lists over gRPC, and a purchase that changes the next one.

Owns what the demo asks of the server and what it keeps of the answers. Speaks
to the server only through the contract, as any caller would.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import grpc
from google.protobuf.json_format import MessageToDict

from bench.demo.fairness import over_time, own_taste, verified
from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import serving_pb2
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from equipoise.v1.serving_pb2_grpc import ServingServiceStub

COUNT = 20
HOUSEHOLDS_SHOWN = 3
# How many households are asked before those to show are chosen.
HOUSEHOLDS_ASKED = 60
HOUR_MS = 3_600_000
# Policies that are shown besides the default, and the table that the second evens out.
TASTE = "own-taste"
OVER_TIME = "shelf-over-time"
EVENED_TABLE = "provider_tier"
TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Pair:
    """One household's list without a policy and with the bundle's default."""

    user: str
    before: pb.RecommendResponse
    after: pb.RecommendResponse


def _as_dict(message: Any) -> dict[str, Any]:
    told: dict[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return told


def users_of(requests: Path) -> list[str]:
    """The user ids of a request file, in order."""
    lines = requests.read_text(encoding="utf-8").splitlines()
    users = [json.loads(line).get("user_id", "") for line in lines if line]
    return list(dict.fromkeys(user for user in users if user))


class Session:
    """A caller's view of a live server."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._recommendation = RecommendationServiceStub(channel)
        self._serving = ServingServiceStub(channel)

    def info(self) -> serving_pb2.GetServingInfoResponse:
        return self._serving.GetServingInfo(serving_pb2.GetServingInfoRequest(), timeout=TIMEOUT_S)

    def request(self, user: str, policy: str = "", **fields: Any) -> pb.RecommendRequest:
        return pb.RecommendRequest(
            user_id=user, policy=policy, count=COUNT, surface="demo", **fields
        )

    def send(self, request: pb.RecommendRequest) -> pb.RecommendResponse:
        return self._recommendation.Recommend(request, timeout=TIMEOUT_S)

    def recommend(self, user: str, policy: str = "", **fields: Any) -> pb.RecommendResponse:
        return self.send(self.request(user, policy, **fields))

    def pair(self, user: str, plain_policy: str) -> Pair:
        return Pair(user, self.recommend(user, plain_policy), self.recommend(user))

    def buy(self, user: str, item: str, time_ms: int, shown: pb.RecommendResponse) -> int:
        """Record one purchase; return how many events were new."""
        rank = next((place.rank for place in shown.items if place.item_id == item), 0)
        event = pb.FeedbackEvent(
            event_id=uuid.uuid4().hex,
            user_id=user,
            item_id=item,
            kind=pb.EVENT_KIND_PURCHASE,
            time_unix_ms=time_ms,
            quantity=1,
            request_id=shown.request_id,
            rank=rank,
        )
        answer = self._recommendation.RecordFeedback(
            pb.RecordFeedbackRequest(events=[event]), timeout=TIMEOUT_S
        )
        return answer.recorded


def _shown(pairs: Sequence[Pair]) -> list[Pair]:
    """Many, middling and few places moved: the range, not the showpiece."""
    ordered = sorted(pairs, key=lambda pair: (-pair.after.receipt.places_moved, pair.user))
    last = len(ordered) - 1
    places = [round(last * part / (HOUSEHOLDS_SHOWN - 1)) for part in range(HOUSEHOLDS_SHOWN)]
    return [ordered[place] for place in dict.fromkeys(places)]


def _rank_of(item: str, response: pb.RecommendResponse) -> int | None:
    return next((place.rank for place in response.items if place.item_id == item), None)


def _closed_loop(session: Session, user: str, data_until_ms: int) -> dict[str, Any]:
    """One household buys the last novel item of its list; the next list knows it."""
    before = session.recommend(user)
    novel = [
        place.item_id
        for place in before.items
        if place.source in (pb.CANDIDATE_SOURCE_SIMILAR, pb.CANDIDATE_SOURCE_POPULAR)
    ]
    bought = novel[-1] if novel else before.items[-1].item_id
    bought_ms = data_until_ms + HOUR_MS
    recorded = session.buy(user, bought, bought_ms, before)
    after = session.recommend(user)
    if recorded != 1:
        raise click.ClickException(f"the server recorded {recorded} events, expected 1")
    if [p.item_id for p in after.items] == [p.item_id for p in before.items]:
        raise click.ClickException(f"the purchase of {bought} did not change the list of {user}")
    source_after = next((p.source for p in after.items if p.item_id == bought), 0)
    return {
        "user": user,
        "item": bought,
        "time_unix_ms": bought_ms,
        "rank_before": _rank_of(bought, before),
        "rank_after": _rank_of(bought, after),
        "source_after": pb.CandidateSource.Name(pb.CandidateSource.ValueType(source_after)),
        "before": _as_dict(before),
        "after": _as_dict(after),
    }


def hold(target: str, requests: Path, bundle: Path) -> dict[str, Any]:
    """Ask a live server for the demo's lists and keep the answers as plain data.

    bundle: the one that it serves.
    """
    with grpc.insecure_channel(target) as channel:
        session = Session(channel)
        info = session.info()
        plain = next(policy.name for policy in info.policies if policy.kind == "none")
        users = users_of(requests)[:HOUSEHOLDS_ASKED]
        pairs = [session.pair(user, plain) for user in users]
        shown = _shown(pairs)
        exposure = {kind: _exposure([getattr(pair, kind) for pair in pairs]) for kind in ("after",)}
        other_policies = {
            policy.name: _as_dict(session.recommend(shown[0].user, policy.name))
            for policy in info.policies
        }
        off = [
            session.recommend(user, personalisation=pb.PERSONALISATION_OFF) for user in users[:2]
        ]
        default = next(policy.name for policy in info.policies if policy.is_default)
        return {
            "info": _as_dict(info),
            "own_taste": own_taste(session, users, TASTE, plain),
            "over_time": over_time(session, users, OVER_TIME, EVENED_TABLE),
            "verified": verified(
                session, shown[0].user, bundle / "policies" / f"{default}.toml", bundle
            ),
            "households": [
                {"user": pair.user, "before": _as_dict(pair.before), "after": _as_dict(pair.after)}
                for pair in shown
            ],
            "households_asked": len(pairs),
            "mean_places_moved": sum(p.after.receipt.places_moved for p in pairs) / len(pairs),
            "mean_utility_kept": sum(p.after.receipt.utility_kept for p in pairs) / len(pairs),
            "receipts": {
                pb.ReceiptStatus.Name(status): sum(p.after.receipt.status == status for p in pairs)
                for status in sorted({p.after.receipt.status for p in pairs})
            },
            "exposure": exposure,
            "policies": other_policies,
            "unknown_user": _as_dict(session.recommend("nobody-we-know")),
            "off_is_the_same_for_all": [p.item_id for p in off[0].items]
            == [p.item_id for p in off[1].items],
            "closed_loop": _closed_loop(session, shown[1].user, info.data_until_unix_ms),
        }


def _exposure(responses: Sequence[pb.RecommendResponse]) -> dict[str, float]:
    """Mean exposure share per group."""
    total: dict[str, float] = {}
    for response in responses:
        for part in response.receipt.exposure:
            total[part.group] = total.get(part.group, 0.0) + part.exposure_share
    return {group: share / len(responses) for group, share in sorted(total.items())}
