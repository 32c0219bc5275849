"""Many callers, one durable commit: the asyncio front of an event store.

What waits while one commit runs is the next commit; there is no timer, so a lone caller never
waits. Owns the queue, its bound and the one thread that writes. Must not know SQLite's schema
or the wire.

    committer = GroupCommitter(store, max_waiting_events=10_000)
    recorded = await committer.record(events)     # on disk now
    await committer.aclose()
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from server.errors import EventStoreUnavailable, NotServing, QueueFull
from server.events.store import Event, EventStore, Recorded


@dataclass(frozen=True, eq=False)
class _Waiting:
    events: tuple[Event, ...]
    answer: asyncio.Future[Recorded]


class GroupCommitter:
    """Records batches of many callers; use it from one event loop.

    max_waiting_events: how many events may wait for the next commit; as many again may be in
        the commit that runs. Higher turns refusals into latency and makes commits larger. A
        batch that is larger than this is taken when nothing else waits.
    """

    def __init__(self, store: EventStore, *, max_waiting_events: int = 10_000) -> None:
        self._store = store
        self._max_waiting_events = max_waiting_events
        self._waiting: deque[_Waiting] = deque()
        self._waiting_events = 0
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="events")
        self._owner: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def waiting_events(self) -> int:
        """How many events wait for the next commit."""
        return self._waiting_events

    async def record(self, events: Sequence[Event]) -> Recorded:
        """Return when all of the events are on disk; on any error none of them is.

        A caller who is cancelled while it waits is left out of the next commit; one who is
        cancelled while its commit runs has its events recorded.

        Raises:
            QueueFull: too many events wait; at once, before any work.
            InvalidField: an event is out of range.
            EventStoreUnavailable: the commit failed, for instance on a full disk.
            NotServing: `aclose` was called.
        """
        if self._closing:
            raise NotServing("the server is shutting down: try another replica")
        total = self._waiting_events + len(events)
        if self._waiting and total > self._max_waiting_events:
            raise QueueFull(
                f"{self._waiting_events} events wait to be recorded and {len(events)} more came, "
                f"allowed: {self._max_waiting_events}; send them again later"
            )
        entry = _Waiting(tuple(events), asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        self._waiting_events = total
        if self._owner is None or self._owner.done():
            self._owner = asyncio.create_task(self._commit_all(), name="event-committer")
        try:
            return await entry.answer
        except asyncio.CancelledError:
            self._leave(entry)
            raise

    async def aclose(self) -> None:
        """Refuse new events, commit those that wait, stop the thread. The store stays open."""
        self._closing = True
        if self._owner is not None:
            await self._owner
        self._thread.shutdown()

    def _leave(self, entry: _Waiting) -> None:
        if entry in self._waiting:
            self._waiting.remove(entry)
            self._waiting_events -= len(entry.events)

    async def _commit_all(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                group = list(self._waiting)
                self._waiting.clear()
                self._waiting_events = 0
                await self._commit(group)
        except BaseException:
            # Only when the loop itself ends this task: nobody may be left waiting.
            for entry in (*group, *self._waiting):
                _fail(entry, NotServing("the server stopped before the events were recorded"))
            self._waiting.clear()
            self._waiting_events = 0
            raise

    async def _commit(self, group: list[_Waiting]) -> None:
        batches = [entry.events for entry in group]
        loop = asyncio.get_running_loop()
        answers: Sequence[Recorded | Exception]
        try:
            answers = await loop.run_in_executor(self._thread, self._store.record_batches, batches)
            if len(answers) != len(group):
                raise RuntimeError(f"{len(group)} batches gave {len(answers)} answers")
        except (sqlite3.Error, OSError) as error:
            unavailable = EventStoreUnavailable("nothing is recorded: sending it again is safe")
            unavailable.__cause__ = error
            answers = [unavailable] * len(group)
        except Exception as error:
            # The owner of the queue must outlive any commit, or every later caller hangs.
            answers = [error] * len(group)
        for entry, answer in zip(group, answers, strict=True):
            if isinstance(answer, Exception):
                _fail(entry, answer)
            elif not entry.answer.done():
                entry.answer.set_result(answer)


def _fail(entry: _Waiting, error: Exception) -> None:
    if not entry.answer.done():
        entry.answer.set_exception(error)
