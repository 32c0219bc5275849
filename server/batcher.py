"""The queue in front of the model: work-conserving batches, and who may enter.

What waits while one batch runs is the next batch; there is no timer, so a lone
request never waits. Owns the queue, its bounds, who goes first, and the times by
which a deadline is judged: one that cannot be met is refused at the door instead
of after the work. Knows neither onnxruntime nor the wire: it is given a function
that runs a batch.

    batcher = Batcher(engine.run_batch, max_batch=16, max_queue=256)
    batched = await batcher.submit(job, deadline_ns)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.errors import DeadlineExpired, NotServing, QueueFull
from server.pace import Pace

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A job's result and how it came through the queue.

    formed_ns: when its batch was formed; of all jobs of a batch the same, of no others.
    """

    result: Result
    queue_ns: int
    batch_size: int
    formed_ns: int = 0


class _Entry(Generic[Job, Result]):
    __slots__ = ("deadline_ns", "enqueued_ns", "future", "job", "late")

    def __init__(
        self,
        job: Job,
        deadline_ns: int | None,
        enqueued_ns: int,
        future: asyncio.Future[Batched[Result]],
    ) -> None:
        self.job = job
        self.deadline_ns = deadline_ns
        self.enqueued_ns = enqueued_ns
        self.future = future
        # Whether it is the cheaper work that is done instead.
        self.late = False


# Ordered by arrival; a dict, so that a caller who leaves costs O(1).
_Line = dict[int, _Entry[Job, Result]]


@dataclass(frozen=True)
class Waiting(Generic[Result]):
    """A job in the queue: `future` gives its result. Whoever no longer wants it tells `leave`."""

    future: asyncio.Future[Batched[Result]]
    ticket: int


class Batcher(Generic[Job, Result]):
    """Runs jobs in batches on one thread of its own.

    `run_batch` gets the jobs of one batch and returns one result or exception
    for each, in order; it is never called by two threads at once. Times are
    nanoseconds of `clock_ns`, a monotonic clock.

    late_of: what to do in a job's place when its deadline leaves no time for it:
    much cheaper work, or None where there is none for this job. At most
    `max_batch` of these wait at once; they go first.
    background_queue: how many jobs wait at most that were queued as background work.
    They come after all others, but one goes along with each batch; and when the
    queue is full, the last of them makes room for one that is no background work.
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Job]], Sequence[Result | BaseException]],
        *,
        max_batch: int,
        max_queue: int,
        background_queue: int | None = None,
        late_of: Callable[[Job], Job | None] | None = None,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._max_background = max_queue if background_queue is None else background_queue
        self._late_of = late_of
        self._clock_ns = clock_ns
        self._first: _Line[Job, Result] = {}
        self._background: _Line[Job, Result] = {}
        self._late: _Line[Job, Result] = {}
        self._arrivals = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._closing = False
        self._owner: asyncio.Task[None] | None = None
        self._pace = Pace()
        self._running, self._runs_since_ns = 0, 0

    def start(self) -> None:
        """Start the task that owns the queue. Call once, inside the event loop."""
        self._owner = asyncio.create_task(self._own_queue(), name="batcher")

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._first) + len(self._background) + len(self._late)

    async def submit(
        self, job: Job, deadline_ns: int | None = None, *, background: bool = False
    ) -> Batched[Result]:
        """Wait for the job's batch and return its result.

        Raises:
            QueueFull, DeadlineExpired, NotServing: as `enqueue`.
            DeadlineExpired: `deadline_ns` passed before the job's batch formed, or came too close.
            QueueFull: it was background work and made room.
            whatever `run_batch` gave as this job's exception.
        """
        waiting = self.enqueue(job, deadline_ns, background=background)
        try:
            return await waiting.future
        finally:
            self.leave(waiting)

    def check_room(self, deadline_ns: int | None = None, *, background: bool = False) -> None:
        """Refuse what `enqueue` would refuse for any job: before there is one, so at no cost.

        Raises:
            as `enqueue`.
        """
        now_ns = self._check_open(deadline_ns)
        self._check_room(background)
        if self._late_of is None:
            self._check_time(deadline_ns, now_ns, background)

    def enqueue(
        self, job: Job, deadline_ns: int | None = None, *, background: bool = False
    ) -> Waiting[Result]:
        """Put the job into the queue; for callers with several of them.

        Raises:
            QueueFull: so many wait that there is no room, or no time until the deadline.
            DeadlineExpired: `deadline_ns` has passed.
            NotServing: the batcher is closing.
        """
        now_ns = self._check_open(deadline_ns)
        self._check_room(background)
        line = self._background if background else self._first
        try:
            self._check_time(deadline_ns, now_ns, background)
        except QueueFull:
            instead = None if self._late_of is None else self._late_of(job)
            if instead is None or len(self._late) >= self._max_batch:
                raise
            job, line = instead, self._late
        if line is self._first and self.depth >= self._max_queue:
            self._make_room()
        self._arrivals += 1
        ticket = self._arrivals
        future: asyncio.Future[Batched[Result]] = asyncio.get_running_loop().create_future()
        entry = line[ticket] = _Entry(job, deadline_ns, now_ns, future)
        entry.late = line is self._late
        self._arrived.set()
        return Waiting(future, ticket)

    def leave(self, waiting: Waiting[Result]) -> None:
        """Take the job out of the queue, if it is there still; its result is not wanted."""
        for line in (self._first, self._background, self._late):
            line.pop(waiting.ticket, None)
        waiting.future.cancel()

    def retune(self, *, max_batch: int, late_of: Callable[[Job], Job | None] | None) -> None:
        """From now on other batches, and other work where there is no time."""
        self._max_batch = max_batch
        self._late_of = late_of

    async def close(self) -> None:
        """Refuse new jobs, finish those that wait, stop the thread."""
        self._closing = True
        self._arrived.set()
        if self._owner is not None:
            await self._owner
        self._thread.shutdown()

    # The door.

    def _check_open(self, deadline_ns: int | None) -> int:
        if self._closing:
            raise NotServing("the server is shutting down: try another replica")
        now_ns = self._clock_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            raise DeadlineExpired("the deadline passed before the request was queued")
        return now_ns

    def _check_room(self, background: bool) -> None:
        if background and len(self._background) >= self._max_background:
            raise QueueFull(
                f"{len(self._background)} background requests wait already, "
                f"allowed: {self._max_background}"
            )
        if self.depth >= self._max_queue and (background or not self._background):
            raise QueueFull(f"{self.depth} requests wait already, allowed: {self._max_queue}")

    def _check_time(self, deadline_ns: int | None, now_ns: int, background: bool) -> None:
        """Where nothing waits and nothing runs there is no check: the figure may be wrong, and only
        work that is done corrects it."""
        if deadline_ns is None:
            return
        ahead = len(self._first) + (len(self._background) if background else 0)
        if not (ahead or self._running):
            return
        pace_ns = self._pace.ns
        runs_still_ns = max(0, self._running * pace_ns - (now_ns - self._runs_since_ns))
        wait_ns = runs_still_ns + (ahead + 1) * pace_ns
        if now_ns + wait_ns > deadline_ns:
            raise QueueFull(
                f"what waits takes about {wait_ns / 1e6:.0f} ms, "
                f"the deadline leaves {(deadline_ns - now_ns) / 1e6:.0f} ms"
            )

    def _make_room(self) -> None:
        _, entry = self._background.popitem()
        if not entry.future.done():
            entry.future.set_exception(
                QueueFull("the queue is full, and requests that are no background work go first")
            )

    # The queue.

    def _form_batch(self) -> list[_Entry[Job, Result]]:
        """Late ones, then the first in line, and one of the background's in any case."""
        now_ns = self._clock_ns()
        batch: list[_Entry[Job, Result]] = []
        kept = 1 if self._background else 0
        self._fill(batch, self._late, now_ns, self._max_batch)
        self._fill(batch, self._first, now_ns, max(self._max_batch - kept, 1))
        self._fill(batch, self._background, now_ns, self._max_batch)
        return batch

    def _fill(
        self,
        batch: list[_Entry[Job, Result]],
        line: _Line[Job, Result],
        now_ns: int,
        size: int,
    ) -> None:
        while line and len(batch) < size:
            entry = line.pop(next(iter(line)))
            if entry.future.done():
                continue
            left_ns = None if entry.deadline_ns is None else entry.deadline_ns - now_ns
            if left_ns is not None and left_ns <= 0:
                entry.future.set_exception(
                    DeadlineExpired("the deadline passed while the request was queued")
                )
                continue
            crowded = len(batch) > 0 or len(line) > 0
            if left_ns is not None and crowded and not entry.late:
                # All of a batch are answered together.
                needed_ns = (len(batch) + 1) * self._pace.ns
                if left_ns < needed_ns and not self._is_late(entry):
                    entry.future.set_exception(
                        DeadlineExpired(
                            f"the deadline leaves {left_ns / 1e6:.1f} ms after the queue, "
                            f"a list takes about {needed_ns / 1e6:.1f} ms"
                        )
                    )
                    self._pace.relax()
                    continue
            batch.append(entry)

    def _is_late(self, entry: _Entry[Job, Result]) -> bool:
        instead = None if self._late_of is None else self._late_of(entry.job)
        if instead is None:
            return False
        entry.job, entry.late = instead, True
        return True

    async def _own_queue(self) -> None:
        loop = asyncio.get_running_loop()
        while not (self._closing and not self.depth):
            if not self.depth:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._form_batch()
            if not batch:
                continue
            formed_ns = self._clock_ns()
            self._running, self._runs_since_ns = len(batch), formed_ns
            jobs = [entry.job for entry in batch]
            results: Sequence[Result | BaseException]
            try:
                results = await loop.run_in_executor(self._thread, self._run_batch, jobs)
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(batch)} jobs gave {len(results)} results")
            except Exception as error:
                # The owner of the queue must outlive any batch, or every later caller hangs.
                results = [error] * len(batch)
            self._running = 0
            usual = sum(not entry.late for entry in batch)
            if usual:
                self._pace.took((self._clock_ns() - formed_ns) / usual)
            for entry, result in zip(batch, results, strict=True):
                if entry.future.done():
                    continue
                if isinstance(result, BaseException):
                    entry.future.set_exception(result)
                else:
                    entry.future.set_result(
                        Batched(result, formed_ns - entry.enqueued_ns, len(batch), formed_ns)
                    )
            # While nothing comes, nothing of these is held: a job may hold a release that is gone.
            del batch, jobs, results, entry, result
