"""What happens to a call before a servicer sees it: bodies that do not parse, and the count of calls.

grpc's Python layer answers such a body with UNKNOWN and the text of its exception;
here it is the caller's mistake, told like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from server.errors import EquipoiseError, InvalidField, NotServing
from server.service.metrics import ServerMetrics
from server.service.status import wire_error

OWN = "/equipoise."


class _Unreadable:
    """Stands for a request whose bytes are no message of its type."""


def _lenient(parse: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def parsed(body: bytes) -> Any:
        try:
            return parse(body)
        except DecodeError:
            return _Unreadable()

    return parsed


HOLD_S = 0.25


class Door(grpc.aio.ServerInterceptor):
    """Refuses unreadable bodies, and every call once it is closing; counts the calls under way.

    closing: set when the server drains. active: calls being answered. refused: since it closed.
    parted: set when gRPC takes no more calls. A refused call is held until then (at most
        `HOLD_S`), so that a caller who asks again at once is not among those that gRPC cancels.
    """

    def __init__(self, metrics: ServerMetrics) -> None:
        self._metrics = metrics
        self.active = 0
        self.refused = 0
        self.closing = asyncio.Event()
        self.parted = asyncio.Event()

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = await continuation(handler_call_details)
        method = str(handler_call_details.method)
        if handler is None or not method.startswith(OWN) or handler.request_deserializer is None:
            return handler
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded(method, handler.stream_stream),
                request_deserializer=_lenient(handler.request_deserializer),
                response_serializer=handler.response_serializer,
            )
        if handler.unary_unary is None:
            return handler
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(method, handler.unary_unary),
            request_deserializer=_lenient(handler.request_deserializer),
            response_serializer=handler.response_serializer,
        )

    def _guarded(
        self, method: str, behaviour: Callable[[Any, Any], Any]
    ) -> Callable[[Any, Any], Any]:
        _, service, name = method.split("/")

        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            refusal: EquipoiseError | None = None
            if self.closing.is_set():
                self.refused += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.parted.wait(), HOLD_S)
                refusal = NotServing("the server is shutting down: try another replica")
            elif isinstance(request, _Unreadable):
                refusal = InvalidField.of(
                    "message",
                    "bytes that do not parse",
                    "a protobuf message of the method's request type",
                )
            self.active += 1
            try:
                if refusal is not None:
                    failure = wire_error(refusal, "")
                    self._metrics.handled.labels(service, name, failure.code.name).inc()
                    await context.abort(failure.code, failure.message, failure.trailers)
                return await behaviour(request, context)
            finally:
                self.active -= 1

        return guarded
