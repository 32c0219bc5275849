"""The one table from domain errors to gRPC status, and the rich details that go with it.

Every error carries google.rpc.ErrorInfo (domain "equipoise", a reason of
`equipoise.v1.ErrorReason`); a field error names each field in
google.rpc.BadRequest; overload says when to try again. The text of an
unexpected exception never leaves the process.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from google.protobuf import any_pb2
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from server.errors import EquipoiseError, InvalidField, Reason

DOMAIN = "equipoise"
# What a caller should wait before it tries again after QUEUE_FULL.
RETRY_DELAY_MS = 50

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
}


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


def wire_error(error: BaseException, request_id: str) -> WireError:
    """The status, message and trailers for an exception."""
    if isinstance(error, EquipoiseError) and error.reason is not Reason.INTERNAL:
        reason: Reason = error.reason
        message = str(error)
    else:
        reason, message = (
            Reason.INTERNAL,
            f"internal error; the server's log has request {request_id}",
        )
    code = CODES[reason]
    details = [_packed(error_details_pb2.ErrorInfo(reason=reason.value, domain=DOMAIN))]
    trailers: list[tuple[str, str | bytes]] = []
    if isinstance(error, InvalidField):
        details.append(
            _packed(
                error_details_pb2.BadRequest(
                    field_violations=[
                        error_details_pb2.BadRequest.FieldViolation(
                            field=violation.field,
                            description=f"got {violation.seen}, allowed: {violation.allowed}",
                        )
                        for violation in error.violations
                    ]
                )
            )
        )
    if reason is Reason.QUEUE_FULL:
        delay = Duration(nanos=RETRY_DELAY_MS * 1_000_000)
        details.append(_packed(error_details_pb2.RetryInfo(retry_delay=delay)))
        trailers.append(("grpc-retry-pushback-ms", str(RETRY_DELAY_MS)))
    # grpc's integer codes are google.rpc's.
    number: int = code.value[0]
    assert number in code_pb2.Code.values()
    status = status_pb2.Status(code=number, message=message, details=details)
    trailers.append(("grpc-status-details-bin", status.SerializeToString()))
    return WireError(code, message, tuple(trailers))
