"""Many requests on one call: read, queued, answered as their lists are made.

Owns the flow of a RecommendStream: at most so many requests under way, so that
a caller who does not read his answers holds up nobody and fills no memory; one
request's error is its own; a server that drains answers what it has read. What
waits for a caller who does not read is answers: their requests are let go.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from equipoise.v1 import recommendation_pb2 as pb
from server.errors import EquipoiseError, NotServing
from server.service.inflight import Arrived, BytesInFlight
from server.service.lists import Asked, Call, ListMaker

METHOD = "RecommendStream"


@dataclass(frozen=True, eq=False)
class _UnderWay:
    """A request whose list is not made. size: the bytes that it holds."""

    id: int
    asked: Asked
    size: int


class RecommendFlow:
    """One stream.

    write: sends one answer. in_flight: how many requests may be read and not answered.
    draining: set when the server stops. flight: counts the bytes of the requests under way.
    """

    def __init__(
        self,
        lists: ListMaker,
        call: Call,
        write: Callable[[pb.RecommendStreamResponse], Awaitable[None]],
        *,
        in_flight: int,
        draining: asyncio.Event,
        flight: BytesInFlight,
    ) -> None:
        self._lists = lists
        self._call = call
        self._write = write
        self._slots = asyncio.Semaphore(in_flight)
        self._draining = draining
        self._flight = flight
        self._under_way: set[_UnderWay] = set()
        # What can be sent; None when no more is read.
        self._ready: asyncio.Queue[pb.RecommendStreamResponse | None] = asyncio.Queue()

    async def run(self, messages: AsyncIterator[Arrived]) -> None:
        """Answer until the caller ends the stream.

        Raises:
            InvalidField: bytes that are no message; what came before them is answered.
            NotServing: the server drains; what was read is answered.
        """
        reader = asyncio.create_task(self._read(messages))
        stopper = asyncio.create_task(self._stop(reader))
        reading = True
        try:
            while reading or self._under_way or not self._ready.empty():
                answer = await self._ready.get()
                if answer is None:
                    reading = False
                    continue
                await self._write(answer)
                self._slots.release()
        finally:
            stopper.cancel()
            reader.cancel()
            left = tuple(self._under_way)
            self._under_way.clear()
            for one in left:
                self._lists.leave(one.asked)
                if one.asked.call.span is not None:
                    one.asked.call.span.ended("CANCELLED")
            await asyncio.wait((reader, stopper))
        if reader.cancelled():
            raise NotServing("the server is shutting down: ask another replica for the rest")
        reader.result()

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        await self._draining.wait()
        reader.cancel()

    async def _read(self, messages: AsyncIterator[Arrived]) -> None:
        try:
            while True:
                await self._slots.acquire()
                try:
                    message, size = await anext(messages)
                except StopAsyncIteration:
                    return
                if isinstance(message, EquipoiseError):
                    raise message
                self._take(message, size)
                # A stream that rests holds nothing of its last request.
                del message
        finally:
            self._ready.put_nowait(None)

    def _take(self, message: pb.RecommendStreamRequest, size: int) -> None:
        wanted_s = message.timeout_ms / 1e3 if message.timeout_ms else None
        call = self._call.part(message.request.request_id, wanted_s)
        try:
            if (full := self._flight.full(size)) is not None:
                raise full
            asked = self._lists.ask(message.request, call)
        except Exception as error:
            self._answer(message.id, error, call)
            return
        one = _UnderWay(message.id, asked, size)
        self._under_way.add(one)
        self._flight.take(size)
        # Also of those that leave the queue.
        asked.waiting.future.add_done_callback(lambda _: self._made(one))

    def _made(self, one: _UnderWay) -> None:
        self._flight.give(one.size)
        if one in self._under_way:
            self._under_way.discard(one)
            self._answer(one.id, one.asked, one.asked.call)

    def _answer(self, id: int, asked: Asked | Exception, call: Call) -> None:
        outcome = self._lists.outcome(METHOD, asked, call)
        self._ready.put_nowait(pb.RecommendStreamResponse(id=id, outcome=outcome))
