"""The properties: what is asked of a server, and which theorems its answers must keep.

Each takes one generated example. Nothing is recorded at the server.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

from google.protobuf.message import Message

from bench.invariants.callers import Answer, LiveServer, Reranker
from bench.invariants.claims import Claims
from bench.invariants.requests import Fault
from bench.invariants.theorems import (
    Candidates,
    check_against_candidates,
    check_receipt_alone,
    check_shape,
    groups_of,
    unkeepable,
)
from bench.invariants.world import PolicyFacts, World
from equipoise.v1 import recommendation_pb2 as pb

Response = TypeVar("Response", pb.RerankResponse, pb.RecommendResponse)

NEVER = ("INTERNAL", "UNKNOWN", "DATA_LOSS", "UNIMPLEMENTED")


class _Listed(Protocol):
    @property
    def items(self) -> Sequence[pb.RankedItem]: ...
    @property
    def receipt(self) -> pb.FairnessReceipt: ...


def _seen(response: _Listed) -> list[tuple[str, float, int, tuple[str, ...], int]]:
    """What two answers to one request must have in common."""
    return [
        (i.item_id, round(i.score, 6), i.rank_by_score, groups_of(i), i.reason)
        for i in response.items
    ]


def _ids(response: _Listed) -> list[str]:
    return [item.item_id for item in response.items]


def _never_internal(claims: Claims, answer: Answer[Any]) -> None:
    claims.that(
        "never_internal", answer.code not in NEVER, lambda: f"{answer.code}: {answer.message}"
    )


def _answered(claims: Claims, answer: Answer[Response]) -> Response | None:
    _never_internal(claims, answer)
    claims.that(
        "valid_request_answered", answer.code == "OK", lambda: f"{answer.code}: {answer.message}"
    )
    return answer.response


# Rerank: the fair stage alone, every candidate known.


def candidates_of(request: pb.RerankRequest) -> Candidates:
    """The caller's own scores and groups."""
    return Candidates(
        {candidate.item_id: candidate.score for candidate in request.candidates},
        {candidate.item_id: groups_of(candidate) for candidate in request.candidates},
    )


def rerank_holds(
    claims: Claims, caller: Reranker, policy: PolicyFacts, request: pb.RerankRequest
) -> None:
    """Every theorem on a list whose candidates are all known."""
    claims.begin(request)
    candidates = candidates_of(request)
    size = min(request.count, len(request.candidates))
    answer = caller.rerank(request)
    if _refused_rightly(claims, answer, policy, candidates, size):
        return
    response = _answered(claims, answer)
    if response is None:
        return
    check_shape(claims, response.items, size)
    check_against_candidates(claims, response.items, response.receipt, policy, candidates)
    check_receipt_alone(claims, response.items, response.receipt, policy)
    if "amortised" in policy.rules:
        # What was shown before moves it: no two answers are alike.
        return
    again = _answered(claims, caller.rerank(request))
    if again is not None:
        same = _seen(again) == _seen(response) and again.receipt == response.receipt
        claims.that("deterministic", same, lambda: f"{_ids(response)}, then {_ids(again)}")
    _order_of_input(claims, caller, request, response)
    _idempotent(claims, caller, policy, request, response)


def _refused_rightly(
    claims: Claims,
    answer: Answer[Response],
    policy: PolicyFacts,
    candidates: Candidates,
    size: int,
) -> bool:
    """A policy may say "refuse": then FAILED_PRECONDITION, exactly where it cannot be met."""
    if answer.code != "FAILED_PRECONDITION" or policy.kind == "none":
        return False
    if policy.tables is not None:
        claims.that(
            "refused_only_by_policy", policy.tables.refuses, "the policy says serve, not refuse"
        )
        prefix = unkeepable(policy, policy.tables, candidates, size)
        claims.that("refused_only_when_infeasible", prefix != 0, "a list keeps every bound")
    return True


def _order_of_input(
    claims: Claims, caller: Reranker, request: pb.RerankRequest, response: pb.RerankResponse
) -> None:
    turned = pb.RerankRequest()
    turned.CopyFrom(request)
    del turned.candidates[:]
    turned.candidates.extend(reversed(request.candidates))
    claims.begin(request, turned)
    other = _answered(claims, caller.rerank(turned))
    if other is not None:
        claims.that(
            "order_of_input_is_nothing",
            _seen(other) == _seen(response),
            lambda: f"{_ids(response)}; with the candidates reversed {_ids(other)}",
        )


def _idempotent(
    claims: Claims,
    caller: Reranker,
    policy: PolicyFacts,
    request: pb.RerankRequest,
    response: pb.RerankResponse,
) -> None:
    """Of exact kinds: the fair stage leaves its own list as it is."""
    if not policy.exact or response.receipt.status == pb.RECEIPT_STATUS_INFEASIBLE:
        return
    listed = set(_ids(response))
    own = pb.RerankRequest(
        candidates=[c for c in request.candidates if c.item_id in listed],
        count=max(len(response.items), 1),
        policy=request.policy,
    )
    if not own.candidates:
        return
    claims.begin(request, own)
    other = _answered(claims, caller.rerank(own))
    if other is not None:
        claims.that(
            "idempotent",
            _ids(other) == _ids(response),
            lambda: f"{_ids(response)}, of these alone {_ids(other)}",
        )


# Recommend.


def _left(world: World, request: pb.RecommendRequest) -> set[str] | None:
    """The items that a list may hold; None where the generator chooses and not all are known."""
    gone = set(request.exclude_item_ids)
    if request.seen_items == pb.SEEN_ITEMS_EXCLUDE:
        gone |= {event.item_id for event in request.history}
    if request.candidate_item_ids:
        return set(request.candidate_item_ids) - gone
    return set(world.items) - gone if len(world.items) == world.catalogue else None


def recommend_holds(
    claims: Claims,
    server: LiveServer,
    world: World,
    policy: PolicyFacts,
    request: pb.RecommendRequest,
) -> None:
    """Every theorem on a list that the server made."""
    claims.begin(request)
    answer = server.recommend(request)
    if answer.code == "FAILED_PRECONDITION" and policy.kind != "none":
        if policy.tables is not None:
            claims.that(
                "refused_only_by_policy", policy.tables.refuses, "the policy says serve, not refuse"
            )
        return
    response = _answered(claims, answer)
    if response is None:
        return
    _check_made_by(claims, world, response)
    left = _left(world, request)
    gone = set(request.exclude_item_ids) & set(_ids(response))
    claims.that("excluded_never_appear", not gone, lambda: f"{sorted(gone)} were excluded")
    if left is not None:
        outside = [item for item in _ids(response) if item not in left]
        claims.that("only_what_is_left", not outside, lambda: f"{outside[0]!r} was not left")
        check_shape(claims, response.items, min(request.count, len(left)))
    else:
        check_shape(claims, response.items, len(response.items))
    short = pb.DEGRADED_REASON_SHORT_LIST in response.degraded_reasons
    claims.that(
        "short_lists_say_so",
        short == (len(response.items) < request.count),
        lambda: f"{len(response.items)} of {request.count}, short list: {short}",
    )
    check_receipt_alone(claims, response.items, response.receipt, policy)
    _groups_of_table(claims, world, policy, response)
    # What was shown before moves a policy that evens out exposure.
    again = None if "amortised" in policy.rules else _answered(claims, server.recommend(request))
    if again is not None:
        same = _seen(again) == _seen(response) and again.receipt.status == response.receipt.status
        claims.that("deterministic", same, lambda: f"{_ids(response)}, then {_ids(again)}")
    if request.candidate_item_ids and left:
        _against_plain(claims, server, world, policy, request, response, left)


def _check_made_by(claims: Claims, world: World, response: pb.RecommendResponse) -> None:
    claims.that(
        "one_bundle",
        response.bundle_id == world.bundle_id,
        lambda: f"{response.bundle_id}, the server said {world.bundle_id}",
    )


def _groups_of_table(
    claims: Claims, world: World, policy: PolicyFacts, response: pb.RecommendResponse
) -> None:
    if not set(policy.tables_of) <= world.groups.keys():
        return
    for item in response.items if policy.tables_of else ():
        groups = policy.groups(world, item.item_id)
        claims.that(
            "groups_of_the_table",
            groups_of(item) == groups,
            lambda item=item, groups=groups: (
                f"{item.item_id!r}: {groups_of(item)}, the tables: {groups}"
            ),  # type: ignore[misc]
        )


def _against_plain(
    claims: Claims,
    server: LiveServer,
    world: World,
    policy: PolicyFacts,
    request: pb.RecommendRequest,
    response: pb.RecommendResponse,
    left: set[str],
) -> None:
    """With named candidates the plain list tells every score, and all of Rerank's theorems apply."""
    plain_policy = world.plain()
    known = set(policy.tables_of) <= world.groups.keys()
    if plain_policy is None or len(left) > world.max_count or not known:
        return
    plain = pb.RecommendRequest()
    plain.CopyFrom(request)
    plain.policy, plain.count = plain_policy.name, len(left)
    claims.begin(request, plain)
    whole = _answered(claims, server.recommend(plain))
    if whole is None or set(_ids(whole)) != left:
        return
    candidates = Candidates(
        {item.item_id: item.score for item in whole.items},
        {item.item_id: policy.groups(world, item.item_id) for item in whole.items},
    )
    check_against_candidates(claims, response.items, response.receipt, policy, candidates)


def off_switch_holds(
    claims: Claims,
    server: LiveServer,
    requests: tuple[pb.RecommendRequest, pb.RecommendRequest, str],
) -> None:
    """With personalisation off neither user nor history moves the list."""
    with_history, other, user = requests
    first, second = pb.RecommendRequest(), pb.RecommendRequest()
    first.CopyFrom(with_history)
    first.personalisation = pb.PERSONALISATION_OFF
    second.CopyFrom(first)
    del second.history[:]
    second.history.extend(other.history)
    second.user_id = user
    claims.begin(first, second)
    one, two = (
        _answered(claims, server.recommend(first)),
        _answered(claims, server.recommend(second)),
    )
    if one is not None and two is not None:
        claims.that(
            "off_means_off",
            _seen(one) == _seen(two),
            lambda: f"{_ids(one)}; for another user and history {_ids(two)}",
        )


def company_holds(
    claims: Claims, server: LiveServer, requests: Sequence[pb.RecommendRequest]
) -> None:
    """A list is the same whether its request comes alone or among others, which a batch may mix up."""
    alone = []
    for request in requests:
        claims.begin(request)
        alone.append(server.recommend(request))
        _never_internal(claims, alone[-1])
    for place, other in enumerate(server.recommend_together(requests)):
        one = alone[place]
        # The one that differs first: all of them must come together again to see it.
        claims.begin(requests[place], *requests[:place], *requests[place + 1 :])
        _never_internal(claims, other)
        if one.response is None or other.response is None:
            same = one.code == other.code
            told = (one.code, other.code)
        else:
            same = _seen(one.response) == _seen(other.response)
            same = same and one.response.receipt == other.response.receipt
            told = (str(_ids(one.response)), str(_ids(other.response)))
        claims.that(
            "same_in_company",
            same,
            lambda told=told: f"alone {told[0]}; at once with {len(requests) - 1} others {told[1]}",  # type: ignore[misc]
        )


def validate_only_holds(
    claims: Claims, server: LiveServer, policy: PolicyFacts, request: pb.RecommendRequest
) -> None:
    """No list and no receipt; the normalised request instead."""
    asked = pb.RecommendRequest()
    asked.CopyFrom(request)
    asked.validate_only = True
    claims.begin(asked)
    response = _answered(claims, server.recommend(asked))
    if response is None:
        return
    claims.that(
        "validate_only_makes_no_list",
        not response.items and not response.HasField("receipt"),
        lambda: f"{len(response.items)} items, receipt: {response.HasField('receipt')}",
    )
    meant = response.normalised
    claims.that(
        "validate_only_tells_what_is_meant",
        response.HasField("normalised")
        and (meant.count, meant.policy) == (asked.count, policy.name)
        and meant.candidates == len(asked.candidate_item_ids),
        lambda: f"count {meant.count}, policy {meant.policy!r}, {meant.candidates} candidates",
    )


# What must be refused.


def refused_rightly(claims: Claims, answer: Answer[Any], fault: Fault, request: Message) -> None:
    """The documented code, a reason, the field's name; never INTERNAL or UNKNOWN."""
    claims.begin(request)
    _never_internal(claims, answer)
    claims.that(
        "bad_input_refused",
        answer.code == fault.code,
        lambda: f"{fault.name}: got {answer.code} {answer.message!r}, expected {fault.code}",
    )
    claims.that(
        "refusal_names_the_field",
        fault.field in answer.message,
        lambda: f"{fault.name}: {answer.message!r} does not name {fault.field}",
    )
    claims.that(
        "refusal_gives_a_reason", bool(answer.reason), lambda: f"{fault.name}: no ErrorInfo"
    )
