"""The queue: batches form while one runs, nobody waits for a timer, nobody hangs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.batcher import Batcher
from server.errors import DeadlineExpired, NotServing, QueueFull


class Gate:
    """A batch function that waits to be let through, and remembers what it was given."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, jobs: Sequence[int]) -> list[int | BaseException]:
        self.batches.append(list(jobs))
        self.entered.set()
        assert self.open.wait(10)
        return [ValueError(job) if job < 0 else job * 10 for job in jobs]


async def _first_batch_runs(gate: Gate) -> None:
    await asyncio.to_thread(gate.entered.wait, 10)


def _with_batcher(
    gate: Gate,
    story: Callable[[Batcher[int, int]], Awaitable[None]],
    *,
    max_batch: int = 8,
    max_queue: int = 64,
    clock_ns: Callable[[], int] | None = None,
) -> None:
    async def run() -> None:
        extra = {} if clock_ns is None else {"clock_ns": clock_ns}
        batcher: Batcher[int, int] = Batcher(
            gate, max_batch=max_batch, max_queue=max_queue, **extra
        )
        batcher.start()
        try:
            await story(batcher)
        finally:
            gate.open.set()
            await batcher.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def test_what_waits_while_one_batch_runs_is_the_next_batch() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(1))
        await _first_batch_runs(gate)
        rest = [asyncio.create_task(batcher.submit(n)) for n in range(2, 7)]
        await asyncio.sleep(0)
        gate.open.set()
        results = await asyncio.gather(first, *rest)
        assert [batched.result for batched in results] == [10, 20, 30, 40, 50, 60]
        assert [batched.batch_size for batched in results] == [1, 5, 5, 5, 5, 5]

    _with_batcher(gate, story)
    assert gate.batches == [[1], [2, 3, 4, 5, 6]]


def test_a_batch_never_exceeds_its_bound_and_keeps_the_order_of_arrival() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await _first_batch_runs(gate)
        rest = [asyncio.create_task(batcher.submit(n)) for n in range(1, 8)]
        await asyncio.sleep(0)
        gate.open.set()
        await asyncio.gather(first, *rest)

    _with_batcher(gate, story, max_batch=3)
    assert gate.batches == [[0], [1, 2, 3], [4, 5, 6], [7]]


def test_a_full_queue_refuses_at_once_and_takes_again_when_there_is_room() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(0))
        await _first_batch_runs(gate)
        waiting = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="2 requests wait already, allowed: 2"):
            await batcher.submit(3)
        waiting[0].cancel()
        await asyncio.gather(waiting[0], return_exceptions=True)
        fourth = asyncio.create_task(batcher.submit(4))
        gate.open.set()
        assert (await fourth).result == 40
        assert (await first).result == 0

    _with_batcher(gate, story, max_queue=2)
    assert gate.batches == [[0], [2, 4]]


def test_a_caller_who_leaves_while_waiting_costs_no_model_run() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(1))
        await _first_batch_runs(gate)
        leaving = asyncio.create_task(batcher.submit(2))
        staying = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        assert batcher.depth == 1
        gate.open.set()
        assert (await staying).result == 30
        await first

    _with_batcher(gate, story)
    assert gate.batches == [[1], [3]]


def test_a_caller_who_leaves_during_the_run_does_not_stall_its_mates() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(1))
        await _first_batch_runs(gate)
        pair = [asyncio.create_task(batcher.submit(n)) for n in (2, 3)]
        await asyncio.sleep(0)
        gate.entered.clear()
        gate.open.set()
        await first
        await _first_batch_runs(gate)
        pair[0].cancel()
        assert (await pair[1]).result == 30
        assert (await batcher.submit(4)).result == 40

    _with_batcher(gate, story)


def test_an_expired_deadline_is_seen_when_the_batch_forms() -> None:
    gate = Gate()
    now = [0]

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(1))
        await _first_batch_runs(gate)
        late = asyncio.create_task(batcher.submit(2, deadline_ns=50))
        intime = asyncio.create_task(batcher.submit(3, deadline_ns=500))
        await asyncio.sleep(0)
        now[0] = 100
        gate.open.set()
        with pytest.raises(DeadlineExpired, match="while the request was queued"):
            await late
        assert (await intime).result == 30
        with pytest.raises(DeadlineExpired, match="before the request was queued"):
            await batcher.submit(4, deadline_ns=100)
        await first

    _with_batcher(gate, story, clock_ns=lambda: now[0])
    assert gate.batches == [[1], [3]]


def test_one_jobs_failure_is_not_its_mates() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(1))
        await _first_batch_runs(gate)
        good, bad = (asyncio.create_task(batcher.submit(n)) for n in (5, -5))
        await asyncio.sleep(0)
        gate.open.set()
        assert (await good).result == 50
        with pytest.raises(ValueError, match="-5"):
            await bad
        await first

    _with_batcher(gate, story)


@pytest.mark.parametrize("fault", ["raises", "returns too few"])
def test_the_queue_outlives_a_batch_function_that_breaks(fault: str) -> None:
    broken = [True]

    def run(jobs: Sequence[int]) -> list[int | BaseException]:
        if not broken[0]:
            return list(jobs)
        if fault == "raises":
            raise RuntimeError("broken")
        return []

    async def story() -> None:
        batcher: Batcher[int, int] = Batcher(run, max_batch=4, max_queue=4)
        batcher.start()
        with pytest.raises(RuntimeError):
            await batcher.submit(1)
        broken[0] = False
        assert (await batcher.submit(2)).result == 2
        await batcher.close()

    asyncio.run(asyncio.wait_for(story(), 20))


def test_closing_finishes_what_waits_and_refuses_what_comes() -> None:
    gate = Gate()

    async def story(batcher: Batcher[int, int]) -> None:
        first = asyncio.create_task(batcher.submit(1))
        await _first_batch_runs(gate)
        waiting = asyncio.create_task(batcher.submit(2))
        await asyncio.sleep(0)
        closing = asyncio.create_task(batcher.close())
        await asyncio.sleep(0)
        with pytest.raises(NotServing):
            await batcher.submit(3)
        gate.open.set()
        await closing
        assert (await first).result == 10
        assert (await waiting).result == 20

    _with_batcher(gate, story)


@given(
    jobs=st.lists(st.integers(-3, 9), max_size=40),
    max_batch=st.integers(1, 9),
)
def test_every_job_gets_its_own_outcome_exactly_once(jobs: list[int], max_batch: int) -> None:
    def run(batch: Sequence[int]) -> list[int | BaseException]:
        assert 1 <= len(batch) <= max_batch
        return [ValueError(job) if job < 0 else job * 10 for job in batch]

    async def story() -> list[object]:
        batcher: Batcher[int, int] = Batcher(run, max_batch=max_batch, max_queue=100)
        batcher.start()
        outcomes = await asyncio.gather(*map(batcher.submit, jobs), return_exceptions=True)
        await batcher.close()
        return [str(out) if isinstance(out, ValueError) else out.result for out in outcomes]

    got = asyncio.run(asyncio.wait_for(story(), 20))
    assert got == [str(job) if job < 0 else job * 10 for job in jobs]
