"""What happens to a call before a servicer sees it: bodies that do not parse or find no room, and the
count of calls.

grpc's Python layer answers a body that does not parse with UNKNOWN and the text of its exception;
here it is the caller's mistake, told like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import grpc
from google.protobuf.message import DecodeError

from server.config import ServerSettings
from server.errors import EquipoiseError, InvalidField, NotServing
from server.service.call_metrics import MethodCounts
from server.service.inflight import Arrived, BytesInFlight, Unread
from server.service.metrics import ServerMetrics
from server.service.status import wire_error

if TYPE_CHECKING:
    from server.service.traces import Traces

Context = grpc.aio.ServicerContext[Any, Any]


def _lenient(
    parse: Callable[[bytes], Any], count: Callable[[], None]
) -> Callable[[bytes], Arrived]:
    def parsed(body: bytes) -> Arrived:
        count()
        try:
            return Arrived(parse(body), len(body))
        except DecodeError:
            return Arrived(
                InvalidField.of(
                    "message",
                    "bytes that do not parse",
                    "a protobuf message of the method's request type",
                ),
                len(body),
            )

    return parsed


def _counted(
    serialise: Callable[[Any], bytes], count: Callable[[], None]
) -> Callable[[Any], bytes]:
    def serialised(message: Any) -> bytes:
        count()
        return serialise(message)

    return serialised


class _Messages:
    """A stream's messages. grpc's own iterator keeps the last one for as long as a stream rests."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> Arrived:
        arrived = await self._context.read()
        if arrived is grpc.aio.EOF:
            raise StopAsyncIteration
        return cast(Arrived, arrived)


HOLD_S = 0.25


class Door:
    """Refuses unreadable bodies, those without room, and every call once it is closing; counts the
    calls under way and their bytes.

    It stands in for the server where servicers are added, and wraps each method once: an interceptor
    would do so for every call.

    closing: set when the server drains. active: calls being answered. refused: since it closed.
    parted: set when gRPC takes no more calls. A refused call is held until then (at most
        `HOLD_S`), so that a caller who asks again at once is not among those that gRPC cancels.
    unended: calls that gRPC has not ended: those, and those whose answers it has not sent.
    flight: the bytes of the requests that are held. A stream's messages are `Arrived` to its
        servicer, which counts them itself; the others hold theirs until they are answered.
    unread: the bytes of answers that are not sent yet, but for those on streams.
    """

    def __init__(
        self, metrics: ServerMetrics, settings: ServerSettings, traces: Traces | None = None
    ) -> None:
        self._calls = metrics.calls
        self._traces = traces
        self.flight = BytesInFlight(settings.max_bytes_in_flight)
        self.unread = Unread(settings.max_unread_bytes)
        self.active = 0
        self.unended = 0
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
        parse, serialise = handler.request_deserializer, handler.response_serializer
        assert parse is not None
        assert serialise is not None
        counts = self._calls.of(service, name)
        parse, serialise = _lenient(parse, counts.received), _counted(serialise, counts.sent)
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                self._guarded(f"{service}/{name}", counts, handler.stream_stream),
                request_deserializer=parse,
                response_serializer=serialise,
            )
        assert handler.unary_unary is not None
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(f"{service}/{name}", counts, handler.unary_unary, serialise),
            request_deserializer=self._with_room(parse, counts.received),
        )

    def _with_room(
        self, parse: Callable[[bytes], Arrived], count: Callable[[], None]
    ) -> Callable[[bytes], Arrived]:
        full = self.flight.full

        def parsed(body: bytes) -> Arrived:
            refusal = full(len(body))
            if refusal is None:
                return parse(body)
            count()
            return Arrived(refusal, len(body))

        return parsed

    def _guarded(
        self,
        method: str,
        counts: MethodCounts,
        behaviour: Callable[[Any, Any], Any],
        serialise: Callable[[Any], bytes] | None = None,
    ) -> Callable[[Any, Any], Any]:
        """serialise: where it is given one `Arrived` and has one answer; else it is given what gives
        them, and writes."""
        flight, unread = self.flight, self.unread

        async def guarded(arrived: Any, context: Context) -> Any:
            # gRPC's own: it ends when the answer is sent, or nobody waits for it.
            call = cast("asyncio.Task[Any]", asyncio.current_task())
            self.unended += 1
            call.add_done_callback(self._ended)
            request: Any
            if serialise is None:
                request, size = _Messages(context), 0
            else:
                connection = context.peer()
                # Nothing else runs between the look for room and this, or two might take the same.
                request, size = arrived
                request = unread.full(connection) or request
            if isinstance(request, EquipoiseError):
                size = 0  # Or those that are refused would take the room of others.
            flight.take(size)
            began_ns = time.monotonic_ns()
            counts.started()
            try:
                if self.closing.is_set():
                    try:
                        request = await self._hold()
                    except asyncio.CancelledError:
                        counts.ended("CANCELLED", (time.monotonic_ns() - began_ns) / 1e9)
                        raise
                self.active += 1
                try:
                    if isinstance(request, EquipoiseError):
                        failure = wire_error(request, "")
                        counts.ended(failure.code.name, (time.monotonic_ns() - began_ns) / 1e9)
                        if self._traces is not None:
                            self._traces.call(
                                method, context.invocation_metadata(), began_ns
                            ).ended(failure.code.name, request.reason.value)
                        await context.abort(failure.code, failure.message, failure.trailers)
                    answer = await behaviour(request, context)
                    if serialise is None:
                        return answer
                    body = serialise(answer)
                    size_sent = len(body)
                    unread.take(connection, size_sent)
                    call.add_done_callback(lambda _: unread.give(connection, size_sent))
                    return body
                finally:
                    self.active -= 1
            except grpc.aio.AbortError as abort:
                # gRPC keeps it with the call, and it the call: what its traceback and the error before
                # it hold, the request among them, would stay until the garbage collector comes by.
                del arrived, request
                abort.__context__ = None
                raise abort.with_traceback(None) from None
            finally:
                flight.give(size)

        return guarded

    def _ended(self, _call: object) -> None:
        self.unended -= 1

    async def _hold(self) -> NotServing:
        self.refused += 1
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.parted.wait(), HOLD_S)
        return NotServing("the server is shutting down: try another replica")


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
