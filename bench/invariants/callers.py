"""Who answers: a live server over gRPC, or the installed kernels in this process."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from equipoise.v1 import recommendation_pb2 as pb
from equipoise.v1.recommendation_pb2_grpc import RecommendationServiceStub
from server.errors import EquipoiseError, PolicyInfeasible
from server.fairness import CompiledPolicy, rerank

Response = TypeVar("Response")

TIMEOUT_S = 10.0
# A server that turns calls away is busy with others: wait and try again.
BUSY_TRIES = 8
BUSY_WAIT_S = 0.1
BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.UNAVAILABLE)
SILENT = grpc.StatusCode.DEADLINE_EXCEEDED
"""It hangs: to ask it again, hundreds of times, would take hours and tell nothing."""


class ServerGone(EquipoiseError):
    """The server does not answer any more: no finding, and no clean result either."""


@dataclass(frozen=True)
class Answer(Generic[Response]):
    """An answer: a response, or a gRPC code with its message and the reason of its ErrorInfo."""

    response: Response | None
    code: str = "OK"
    message: str = ""
    reason: str = ""


class Reranker(Protocol):
    """Whoever runs the fair stage on a caller's candidates."""

    def rerank(self, request: pb.RerankRequest) -> Answer[pb.RerankResponse]:
        """One list."""
        ...


class LiveServer:
    """A server behind a channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = RecommendationServiceStub(channel)

    def rerank(self, request: pb.RerankRequest) -> Answer[pb.RerankResponse]:
        return _call(self._stub.Rerank, request)

    def recommend(self, request: pb.RecommendRequest) -> Answer[pb.RecommendResponse]:
        return _call(self._stub.Recommend, request)

    def recommend_together(
        self, requests: Sequence[pb.RecommendRequest]
    ) -> list[Answer[pb.RecommendResponse]]:
        """All at the same time; the answers in the order of the requests."""
        calls = [self._stub.Recommend.future(request, timeout=TIMEOUT_S) for request in requests]
        answers = []
        for request, call in zip(requests, calls, strict=True):
            # A call that is turned away for want of room is asked again, alone.
            busy = call.code() in BUSY
            method = self._stub.Recommend if busy else _ended(call)
            answers.append(_call(method, request))
        return answers

    def record(self, request: pb.RecordFeedbackRequest) -> Answer[pb.RecordFeedbackResponse]:
        return _call(self._stub.RecordFeedback, request)


def _ended(call: grpc.Future[Response]) -> Callable[..., Response]:
    def method(_request: Any, timeout: float) -> Response:
        return call.result()

    return method


def _reason(error: Any) -> str:
    try:
        status = rpc_status.from_call(error)
    except (ValueError, DecodeError):
        # Details that contradict the code or do not parse give no reason.
        return ""
    for detail in status.details if status is not None else ():
        info = error_details_pb2.ErrorInfo()
        if detail.Is(info.DESCRIPTOR) and detail.Unpack(info):
            return str(info.reason)
    return ""


def _call(method: Callable[..., Response], request: Any) -> Answer[Response]:
    for last in (*[False] * (BUSY_TRIES - 1), True):
        try:
            return Answer(method(request, timeout=TIMEOUT_S))
        except grpc.RpcError as error:
            code = error.code()
            if code not in (*BUSY, SILENT):
                return Answer(None, code.name, error.details() or "", _reason(error))
            if last or code is SILENT:
                raise ServerGone(
                    f"the server does not answer: {code.name}: {error.details()}"
                ) from error
            time.sleep(BUSY_WAIT_S)
    raise AssertionError("the loop returns or raises")


class Kernels:
    """The installed fair stage; it answers as a server would, without one."""

    def __init__(self, policies: Mapping[str, CompiledPolicy]) -> None:
        self._policies = policies

    def rerank(self, request: pb.RerankRequest) -> Answer[pb.RerankResponse]:
        compiled = self._policies[request.policy]
        rows = {label: row for row, label in enumerate(compiled.labels)}
        ids = [candidate.item_id for candidate in request.candidates]
        tie_break = np.empty(len(ids), np.int64)
        tie_break[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
        try:
            fair = rerank(
                np.array([candidate.score for candidate in request.candidates], np.float32),
                np.array([rows.get(c.group, 0) for c in request.candidates], np.int32),
                request.count,
                compiled,
                tie_break,
            )
        except PolicyInfeasible as error:
            return Answer(None, "FAILED_PRECONDITION", str(error), error.reason.value)
        receipt, bad = fair.receipt, fair.receipt.first_bad_prefix
        columns = zip(
            fair.order.tolist(), fair.rank_by_score.tolist(), fair.reasons.tolist(), strict=True
        )
        items = [
            pb.RankedItem(
                rank=rank,
                item_id=ids[place],
                score=request.candidates[place].score,
                rank_by_score=by_score,
                group=request.candidates[place].group,
                reason=reason,
            )
            for rank, (place, by_score, reason) in enumerate(columns, start=1)
        ]
        message = pb.FairnessReceipt(
            policy=receipt.policy,
            policy_version=receipt.policy_version,
            policy_digest=receipt.policy_digest,
            group_table=receipt.group_table,
            status=pb.ReceiptStatus.ValueType(receipt.status),
            skip_reason=pb.SkipReason.ValueType(receipt.skip_reason),
            utility_kept=receipt.utility_kept,
            discount=receipt.discount,
            places_moved=receipt.places_moved,
            exposure=[
                pb.GroupExposure(
                    group=part.group, items=part.items, exposure_share=part.exposure_share
                )
                for part in receipt.exposure
            ],
        )
        if bad is not None:
            message.first_bad_prefix.CopyFrom(
                pb.PrefixViolation(
                    prefix=bad.prefix, group=bad.group, needed=bad.needed, available=bad.available
                )
            )
        return Answer(pb.RerankResponse(items=items, receipt=message))
