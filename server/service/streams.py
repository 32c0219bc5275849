"""Many requests on one call: read, queued, answered as their lists are made.

Owns the flow of a RecommendStream: at most so many requests under way, so that
a caller who does not read his answers holds up nobody and fills no memory; one
request's error is its own; a server that drains answers what it has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from equipoise.v1 import recommendation_pb2 as pb
from server.errors import InvalidField, NotServing
from server.service.lists import Asked, Call, ListMaker

METHOD = "RecommendStream"


@dataclass(frozen=True, eq=False)
class _UnderWay:
    """A request that was read and not answered. asked: or why it was not queued."""

    id: int
    call: Call
    asked: Asked | Exception


class RecommendFlow:
    """One stream.

    write: sends one answer. in_flight: how many requests may be read and not answered.
    draining: set when the server stops.
    """

    def __init__(
        self,
        lists: ListMaker,
        call: Call,
        write: Callable[[pb.RecommendStreamResponse], Awaitable[None]],
        *,
        in_flight: int,
        draining: asyncio.Event,
    ) -> None:
        self._lists = lists
        self._call = call
        self._write = write
        self._slots = asyncio.Semaphore(in_flight)
        self._draining = draining
        self._unanswered: set[_UnderWay] = set()
        # What can be answered; None when no more is read.
        self._ready: asyncio.Queue[_UnderWay | None] = asyncio.Queue()

    async def run(self, messages: AsyncIterator[pb.RecommendStreamRequest]) -> None:
        """Answer until the caller ends the stream.

        Raises:
            InvalidField: bytes that are no message; what came before them is answered.
            NotServing: the server drains; what was read is answered.
        """
        reader = asyncio.create_task(self._read(messages))
        stopper = asyncio.create_task(self._stop(reader))
        reading = True
        try:
            while reading or self._unanswered:
                one = await self._ready.get()
                if one is None:
                    reading = False
                    continue
                self._unanswered.discard(one)
                outcome = self._lists.outcome(METHOD, one.asked, one.call)
                await self._write(pb.RecommendStreamResponse(id=one.id, outcome=outcome))
                self._slots.release()
                # A stream that rests holds nothing of what it was answered, such as its release.
                del one, outcome
        finally:
            stopper.cancel()
            reader.cancel()
            for one in self._unanswered:
                if isinstance(one.asked, Asked):
                    self._lists.leave(one.asked)
                if one.call.span is not None:
                    one.call.span.ended("CANCELLED")
            await asyncio.wait((reader, stopper))
        if reader.cancelled():
            raise NotServing("the server is shutting down: ask another replica for the rest")
        reader.result()

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        await self._draining.wait()
        reader.cancel()

    async def _read(self, messages: AsyncIterator[pb.RecommendStreamRequest]) -> None:
        try:
            while True:
                await self._slots.acquire()
                try:
                    message = await anext(messages)
                except StopAsyncIteration:
                    return
                if not isinstance(message, pb.RecommendStreamRequest):
                    raise InvalidField.of(
                        "message", "bytes that do not parse", "a RecommendStreamRequest"
                    )
                self._take(message)
        finally:
            self._ready.put_nowait(None)

    def _take(self, message: pb.RecommendStreamRequest) -> None:
        wanted_s = message.timeout_ms / 1e3 if message.timeout_ms else None
        call = self._call.part(message.request.request_id, wanted_s)
        try:
            asked = self._lists.ask(message.request, call)
        except Exception as error:
            one = _UnderWay(message.id, call, error)
            self._unanswered.add(one)
            self._ready.put_nowait(one)
            return
        one = _UnderWay(message.id, call, asked)
        self._unanswered.add(one)
        asked.waiting.future.add_done_callback(lambda _: self._ready.put_nowait(one))
