"""A server between the tests and a real one that tells lies: each fault is one way to be wrong."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1 import recommendation_pb2_grpc, serving_pb2_grpc

# What a fault does with a request and its right answer; it may answer otherwise or abort.
Fault = Callable[[Any, Any, grpc.ServicerContext], Any]


class SwapsInCompany:
    """Mixes up the rows of a batch: a list whose call met another one is not its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._met = False

    def enter(self) -> None:
        with self._lock:
            self._inside += 1
            self._met = self._met or self._inside > 1

    def __call__(self, request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        with self._lock:
            met = self._met
            self._inside -= 1
            self._met = self._met and self._inside > 0
        if met and _is_list(response):
            first_two_swapped(request, response)
        return response


class _Proxy(
    recommendation_pb2_grpc.RecommendationServiceServicer, serving_pb2_grpc.ServingServiceServicer
):
    def __init__(self, channel: grpc.Channel, fault: Fault) -> None:
        self._recommendation = recommendation_pb2_grpc.RecommendationServiceStub(channel)
        self._serving = serving_pb2_grpc.ServingServiceStub(channel)
        self._fault = fault

    def _pass(self, method: Any, request: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(self._fault, SwapsInCompany):
            self._fault.enter()
        try:
            response = method(request, timeout=10)
        except grpc.RpcError as error:
            context.set_trailing_metadata(error.trailing_metadata())
            response = error
        changed = self._fault(request, response, context)
        if isinstance(changed, grpc.RpcError):
            context.abort(changed.code(), changed.details())
        return changed

    def Recommend(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._pass(self._recommendation.Recommend, request, context)

    def Rerank(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._pass(self._recommendation.Rerank, request, context)

    def RecordFeedback(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._pass(self._recommendation.RecordFeedback, request, context)

    def GetServingInfo(self, request: Any, context: grpc.ServicerContext) -> Any:
        return self._serving.GetServingInfo(request)


@contextlib.contextmanager
def tampered(channel: grpc.Channel, fault: Fault) -> Iterator[str]:
    """Serve what is behind `channel`, spoiled by `fault`; yields the target."""
    server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    proxy = _Proxy(channel, fault)
    recommendation_pb2_grpc.add_RecommendationServiceServicer_to_server(proxy, server)
    serving_pb2_grpc.add_ServingServiceServicer_to_server(proxy, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def _is_list(response: Any) -> bool:
    return isinstance(response, pb.RecommendResponse | pb.RerankResponse) and bool(response.items)


def on_lists(change: Callable[[Any, Any], None]) -> Fault:
    """A fault that changes every list that is not empty, in place."""

    def fault(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
        if _is_list(response):
            change(request, response)
        return response

    return fault


def plain_order(request: Any, response: Any) -> None:
    """Serves a Rerank in plain score order with a receipt that says all is well."""
    if not isinstance(request, pb.RerankRequest) or response.receipt.status != 1:
        return
    best = sorted(request.candidates, key=lambda c: (-c.score, c.item_id))[: len(response.items)]
    del response.items[:]
    for rank, c in enumerate(best, start=1):
        response.items.add(
            rank=rank, item_id=c.item_id, score=c.score, rank_by_score=rank, group=c.group,
            reason=pb.REASON_CODE_SCORE,
        )  # fmt: skip
    response.receipt.places_moved = 0
    response.receipt.utility_kept = 1.0


def a_floor_one_place_late(request: Any, response: Any) -> None:
    """What a floor has raised comes one place after its prefix: the classic off by one."""
    for first, second in itertools.pairwise(response.items):
        if first.reason == pb.REASON_CODE_RAISED_FOR_FLOOR and second.score > first.score:
            kept = type(first)()
            kept.CopyFrom(first)
            first.CopyFrom(second)
            second.CopyFrom(kept)
            first.rank, second.rank = second.rank, first.rank
            return


def last_twice(request: Any, response: Any) -> None:
    if len(response.items) > 1:
        response.items[-1].item_id = response.items[0].item_id


def one_short(request: Any, response: Any) -> None:
    del response.items[-1]


def foreign_item(request: Any, response: Any) -> None:
    response.items[0].item_id = "nobody asked for this"


def first_two_swapped(request: Any, response: Any) -> None:
    if len(response.items) > 1:
        first, second = response.items[0].item_id, response.items[1].item_id
        response.items[0].item_id, response.items[1].item_id = second, first


def claims_met(request: Any, response: Any) -> None:
    if response.receipt.status == pb.RECEIPT_STATUS_INFEASIBLE:
        response.receipt.status = pb.RECEIPT_STATUS_MET
        response.receipt.ClearField("first_bad_prefix")


def claims_infeasible(request: Any, response: Any) -> None:
    receipt = response.receipt
    if receipt.status == pb.RECEIPT_STATUS_MET:
        receipt.status = pb.RECEIPT_STATUS_INFEASIBLE
        receipt.first_bad_prefix.prefix = len(response.items)
        receipt.first_bad_prefix.group = response.items[-1].group
        receipt.first_bad_prefix.needed = 1


def later_bad_prefix(request: Any, response: Any) -> None:
    if response.receipt.HasField("first_bad_prefix"):
        response.receipt.first_bad_prefix.prefix += 1


def more_utility(request: Any, response: Any) -> None:
    response.receipt.utility_kept += 0.01


def fewer_moved(request: Any, response: Any) -> None:
    if response.receipt.places_moved:
        response.receipt.places_moved -= 1


def more_exposure(request: Any, response: Any) -> None:
    if response.receipt.exposure:
        response.receipt.exposure[0].exposure_share += 0.01


def more_bought(response: pb.RecommendResponse) -> None:
    """One more purchase of the first group that the user bought of, or of some group."""
    if response.bought:
        response.bought[0].count += 1
    else:
        response.bought.add(group_table="category", group="category 1", count=1)


def other_digest(request: Any, response: Any) -> None:
    response.receipt.policy_digest = "0" * 64


def no_reasons(request: Any, response: Any) -> None:
    for item in response.items:
        item.reason = pb.REASON_CODE_SCORE


def other_bundle(request: Any, response: Any) -> None:
    if isinstance(response, pb.RecommendResponse):
        response.bundle_id = "another-bundle"


def ranks_from_zero(request: Any, response: Any) -> None:
    for item in response.items:
        item.rank -= 1


def other_scores(request: Any, response: Any) -> None:
    if isinstance(response, pb.RerankResponse):
        for item in response.items:
            item.score += 1


def excluded_back(request: Any, response: Any) -> None:
    if isinstance(request, pb.RecommendRequest) and request.exclude_item_ids:
        response.items[-1].item_id = request.exclude_item_ids[0]


def knows_the_user(request: Any, response: Any) -> None:
    if (
        isinstance(request, pb.RecommendRequest)
        and request.personalisation == 2
        and request.user_id
    ):
        first_two_swapped(request, response)


def every_other_call_swapped() -> Callable[[Any, Any], None]:
    calls = 0

    def change(request: Any, response: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 2:
            first_two_swapped(request, response)

    return change


def in_the_order_of_the_request(request: Any, response: Any) -> None:
    """Ties go by the place in the request instead of the item id."""
    if isinstance(request, pb.RerankRequest):
        place = {c.item_id: n for n, c in enumerate(request.candidates)}
        ordered = sorted(response.items, key=lambda i: (-i.score, place[i.item_id]))
        ids = [item.item_id for item in ordered]
        for item, item_id in zip(response.items, ids, strict=True):
            item.item_id = item_id


def crashes_on_bad_input(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(response, grpc.RpcError):
        context.abort(grpc.StatusCode.INTERNAL, "KeyError: 'candidates'")
    return response


def forgives_bad_input(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(response, grpc.RpcError):
        kind = {pb.RerankRequest: pb.RerankResponse, pb.RecommendRequest: pb.RecommendResponse}
        return kind.get(type(request), pb.RecordFeedbackResponse)()
    return response


def runs_on_validate_only(request: Any, response: Any, context: grpc.ServicerContext) -> Any:
    if isinstance(response, pb.RecommendResponse) and request.validate_only:
        response.items.add(rank=1, item_id="x")
    return response
