"""What happens to a call before a servicer sees it: bodies that do not parse, and the count of calls.

grpc's Python layer answers such a body with UNKNOWN and the text of its exception;
here it is the caller's mistake, told like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from server.errors import EquipoiseError, InvalidField, NotServing
from server.service.call_metrics import MethodCounts
from server.service.metrics import ServerMetrics
from server.service.status import wire_error

if TYPE_CHECKING:
    from server.service.traces import Traces


class _Unreadable:
    """Stands for a request whose bytes are no message of its type."""


def _lenient(parse: Callable[[bytes], Any], count: Callable[[], None]) -> Callable[[bytes], Any]:
    def parsed(body: bytes) -> Any:
        count()
        try:
            return parse(body)
        except DecodeError:
            return _Unreadable()

    return parsed


def _counted(
    serialise: Callable[[Any], bytes], count: Callable[[], None]
) -> Callable[[Any], bytes]:
    def serialised(message: Any) -> bytes:
        count()
        return serialise(message)

    return serialised


HOLD_S = 0.25


class Door:
    """Refuses unreadable bodies, and every call once it is closing; counts the calls under way.

    It stands in for the server where servicers are added, and wraps each method once: an interceptor
    would do so for every call.

    closing: set when the server drains. active: calls being answered. refused: since it closed.
    parted: set when gRPC takes no more calls. A refused call is held until then (at most
        `HOLD_S`), so that a caller who asks again at once is not among those that gRPC cancels.
    """

    def __init__(self, metrics: ServerMetrics, traces: Traces | None = None) -> None:
        self._calls = metrics.calls
        self._traces = traces
        self.active = 0
        self.refused = 0
        self.closing = asyncio.Event()
        self.parted = asyncio.Event()

    def onto(self, server: grpc.aio.Server) -> _Guarding:
        """What to give to `add_..._to_server` in the server's place."""
        return _Guarding(self, server)

    def guarded_handler(
        self, service: str, name: str, handler: grpc.RpcMethodHandler[Any, Any]
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """The handler behind the door."""
        assert handler.request_deserializer is not None
        assert handler.response_serializer is not None
        counts = self._calls.of(service, name)
        make, behaviour = (
            (grpc.stream_stream_rpc_method_handler, handler.stream_stream)
            if handler.stream_stream is not None
            else (grpc.unary_unary_rpc_method_handler, handler.unary_unary)
        )
        assert behaviour is not None
        return make(
            self._guarded(f"{service}/{name}", counts, behaviour),
            request_deserializer=_lenient(handler.request_deserializer, counts.received),
            response_serializer=_counted(handler.response_serializer, counts.sent),
        )

    def _guarded(
        self, method: str, counts: MethodCounts, behaviour: Callable[[Any, Any], Any]
    ) -> Callable[[Any, Any], Any]:
        async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            refusal: EquipoiseError | None = None
            counts.started()
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
                    counts.ended(failure.code.name, 0.0)
                    if self._traces is not None:
                        self._traces.call(
                            method, context.invocation_metadata(), time.monotonic_ns()
                        ).ended(failure.code.name, refusal.reason.value)
                    await context.abort(failure.code, failure.message, failure.trailers)
                return await behaviour(request, context)
            finally:
                self.active -= 1

        return guarded


class _Guarding:
    """Takes the servicers of a server and puts their methods behind its door."""

    def __init__(self, door: Door, server: grpc.aio.Server) -> None:
        self._door = door
        self._server = server

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """The same methods as `add_registered_method_handlers` is given, which has their names."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Add the methods of a service."""
        guarded = {
            name: self._door.guarded_handler(service, name, handler)
            for name, handler in handlers.items()
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, guarded),)
        )
