"""The queue in front of the model: work-conserving batches.

What waits while one batch runs is the next batch; there is no timer, so a lone
request never waits. Owns the queue, its bound, and who is still waiting. Knows
neither onnxruntime nor the wire: it is given a function that runs a batch.

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

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """A job's result and how it came through the queue."""

    result: Result
    queue_ns: int
    batch_size: int


class _Entry(Generic[Job, Result]):
    __slots__ = ("deadline_ns", "enqueued_ns", "future", "job")

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
    """

    def __init__(
        self,
        run_batch: Callable[[Sequence[Job]], Sequence[Result | BaseException]],
        *,
        max_batch: int,
        max_queue: int,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._run_batch = run_batch
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._clock_ns = clock_ns
        # Ordered by arrival; a dict, so that a caller who leaves costs O(1).
        self._waiting: dict[int, _Entry[Job, Result]] = {}
        self._arrivals = 0
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batch")
        self._closing = False
        self._owner: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task that owns the queue. Call once, inside the event loop."""
        self._owner = asyncio.create_task(self._own_queue(), name="batcher")

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    async def submit(self, job: Job, deadline_ns: int | None = None) -> Batched[Result]:
        """Wait for the job's batch and return its result.

        Raises:
            QueueFull, DeadlineExpired, NotServing: as `enqueue`.
            DeadlineExpired: `deadline_ns` passed before the job's batch formed.
            whatever `run_batch` gave as this job's exception.
        """
        waiting = self.enqueue(job, deadline_ns)
        try:
            return await waiting.future
        finally:
            self.leave(waiting)

    def enqueue(self, job: Job, deadline_ns: int | None = None) -> Waiting[Result]:
        """Put the job into the queue; for callers with several of them.

        Raises:
            QueueFull: `max_queue` jobs wait already.
            DeadlineExpired: `deadline_ns` has passed.
            NotServing: the batcher is closing.
        """
        if self._closing:
            raise NotServing("the server is shutting down: try another replica")
        if len(self._waiting) >= self._max_queue:
            raise QueueFull(
                f"{len(self._waiting)} requests wait already, allowed: {self._max_queue}"
            )
        now_ns = self._clock_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            raise DeadlineExpired("the deadline passed before the request was queued")
        self._arrivals += 1
        ticket = self._arrivals
        future: asyncio.Future[Batched[Result]] = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = _Entry(job, deadline_ns, now_ns, future)
        self._arrived.set()
        return Waiting(future, ticket)

    def leave(self, waiting: Waiting[Result]) -> None:
        """Take the job out of the queue, if it is there still; its result is not wanted."""
        self._waiting.pop(waiting.ticket, None)
        waiting.future.cancel()

    async def close(self) -> None:
        """Refuse new jobs, finish those that wait, stop the thread."""
        self._closing = True
        self._arrived.set()
        if self._owner is not None:
            await self._owner
        self._thread.shutdown()

    def _form_batch(self) -> list[_Entry[Job, Result]]:
        now_ns = self._clock_ns()
        batch: list[_Entry[Job, Result]] = []
        while self._waiting and len(batch) < self._max_batch:
            entry = self._waiting.pop(next(iter(self._waiting)))
            if entry.future.done():
                continue
            if entry.deadline_ns is not None and entry.deadline_ns <= now_ns:
                entry.future.set_exception(
                    DeadlineExpired("the deadline passed while the request was queued")
                )
                continue
            batch.append(entry)
        return batch

    async def _own_queue(self) -> None:
        loop = asyncio.get_running_loop()
        while not (self._closing and not self._waiting):
            if not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            batch = self._form_batch()
            if not batch:
                continue
            formed_ns = self._clock_ns()
            jobs = [entry.job for entry in batch]
            results: Sequence[Result | BaseException]
            try:
                results = await loop.run_in_executor(self._thread, self._run_batch, jobs)
                if len(results) != len(batch):
                    raise RuntimeError(f"{len(batch)} jobs gave {len(results)} results")
            except Exception as error:
                # The owner of the queue must outlive any batch, or every later caller hangs.
                results = [error] * len(batch)
            for entry, result in zip(batch, results, strict=True):
                if entry.future.done():
                    continue
                if isinstance(result, BaseException):
                    entry.future.set_exception(result)
                else:
                    entry.future.set_result(
                        Batched(result, formed_ns - entry.enqueued_ns, len(batch))
                    )
