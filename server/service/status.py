"""The one table from domain errors to gRPC status, and the rich details that go with it.

Every error carries google.rpc.ErrorInfo (domain "equipoise", a reason of
`equipoise.v1.ErrorReason`); a field error names each field in
google.rpc.BadRequest; overload says when to try again. The text of an
unexpected exception never leaves the process.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from equipoise.v1 import errors_pb2
from equipoise.v1 import recommendation_pb2 as pb
from server.errors import EquipoiseError, InvalidField, Reason

DOMAIN = "equipoise"
RETRY_DELAY_MS = 25, 100
"""From and to: how long a caller should wait before it tries again after QUEUE_FULL. Drawn for each,
so that those who are refused together do not come back together."""

CODES: dict[Reason, grpc.StatusCode] = {
    Reason.INVALID_FIELD: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.UNKNOWN_POLICY: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_GROUP_TABLE: grpc.StatusCode.NOT_FOUND,
    Reason.UNKNOWN_ITEM: grpc.StatusCode.NOT_FOUND,
    Reason.POLICY_INFEASIBLE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.DEADLINE_EXPIRED: grpc.StatusCode.DEADLINE_EXCEEDED,
    Reason.NOT_SERVING: grpc.StatusCode.UNAVAILABLE,
    Reason.EVENT_STORE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.PAGE_TOKEN_INVALID: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.PAGE_TOKEN_STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.ITEM_NUMBERS_STALE: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.UNKNOWN_MODEL: grpc.StatusCode.NOT_FOUND,
    Reason.UNSUPPORTED: grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class _Failure:
    """What a caller is told of an exception."""

    code: grpc.StatusCode
    reason: Reason
    message: str
    violations: tuple[tuple[str, str], ...]

    @property
    def number(self) -> int:
        # grpc's integer codes are google.rpc's.
        number: int = self.code.value[0]
        return number


@dataclass(frozen=True)
class WireError:
    """What a failed call is answered with."""

    code: grpc.StatusCode
    message: str
    trailers: tuple[tuple[str, str | bytes], ...]


def _packed(message: Message) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed


def reason_of(error: BaseException) -> Reason:
    """Why it failed, as callers are told."""
    return error.reason if isinstance(error, EquipoiseError) else Reason.INTERNAL


def _failure(error: BaseException, request_id: str) -> _Failure:
    reason, message = reason_of(error), str(error)
    if reason is Reason.INTERNAL:
        message = f"internal error; the server's log has request {request_id}"
    violations = error.violations if isinstance(error, InvalidField) else ()
    return _Failure(
        CODES[reason],
        reason,
        message,
        tuple(
            (violation.field, f"got {violation.seen}, allowed: {violation.allowed}")
            for violation in violations
        ),
    )


def recommend_error(
    error: BaseException, request_id: str
) -> tuple[grpc.StatusCode, pb.RecommendError]:
    """An exception as the answer to one request among several."""
    failure = _failure(error, request_id)
    return failure.code, pb.RecommendError(
        code=failure.number,
        reason=errors_pb2.ErrorReason.Value(f"ERROR_REASON_{failure.reason.value}"),
        message=failure.message,
        field_violations=[
            pb.FieldViolation(field=field, description=text) for field, text in failure.violations
        ],
        retry_delay_ms=random.randint(*RETRY_DELAY_MS)
        if failure.reason is Reason.QUEUE_FULL
        else 0,
        request_id=request_id,
    )


def wire_error(error: BaseException, request_id: str) -> WireError:
    """The status, message and trailers for an exception that ends a call."""
    failure = _failure(error, request_id)
    details = [_packed(error_details_pb2.ErrorInfo(reason=failure.reason.value, domain=DOMAIN))]
    trailers: list[tuple[str, str | bytes]] = []
    if failure.violations:
        details.append(
            _packed(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
                        for field, text in failure.violations
                    ]
                )
            )
        )
    if failure.reason is Reason.QUEUE_FULL:
        delay_ms = random.randint(*RETRY_DELAY_MS)
        delay = Duration(nanos=delay_ms * 1_000_000)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        trailers.append(("grpc-retry-pushback-ms", str(delay_ms)))
    status = status_pb2.Status(code=failure.number, message=failure.message, details=details)
    trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    return WireError(failure.code, failure.message, tuple(trailers))
