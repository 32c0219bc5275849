"""Who may enter the queue and who goes first: deadlines, background work, and what is done instead."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest

from server.batcher import Batched, Batcher
from server.errors import DeadlineExpired, QueueFull

MS = 1_000_000


class Line:
    """A batcher whose work takes time only where a test says so, on a clock of its own."""

    def __init__(
        self,
        *,
        max_batch: int = 4,
        max_queue: int = 8,
        background_queue: int = 3,
        late_of: Callable[[str], str | None] | None = None,
    ) -> None:
        self.now_ns = 0
        self.takes_ns = 0
        self.batches: list[list[str]] = []
        self.entered, self.open = threading.Event(), threading.Event()
        self.open.set()
        self.batcher: Batcher[str, str] = Batcher(
            self._run,
            max_batch=max_batch,
            max_queue=max_queue,
            background_queue=background_queue,
            late_of=late_of,
            clock_ns=lambda: self.now_ns,
        )

    def _run(self, jobs: Sequence[str]) -> list[str | BaseException]:
        self.batches.append(list(jobs))
        self.entered.set()
        assert self.open.wait(10)
        self.now_ns += self.takes_ns
        return [job.upper() for job in jobs]

    async def hold(self, job: str = "first") -> asyncio.Task[Batched[str]]:
        """Start a batch of this one job, and let it run until `open` is set."""
        self.open.clear()
        self.entered.clear()
        held = asyncio.create_task(self.batcher.submit(job))
        await asyncio.to_thread(self.entered.wait, 10)
        return held


def told(line: Line, story: Callable[[Line], Awaitable[None]]) -> None:
    async def run() -> None:
        line.batcher.start()
        try:
            await story(line)
        finally:
            line.open.set()
            await line.batcher.close()

    asyncio.run(asyncio.wait_for(run(), 20))


async def slow(line: Line, takes_ms: int = 10) -> None:
    """Let it learn that a job takes so long."""
    line.takes_ns = takes_ms * MS
    await line.batcher.submit("learn")
    line.takes_ns = 0
    line.batches.clear()


def test_a_deadline_that_what_waits_would_outlast_is_refused_before_any_work() -> None:
    async def story(line: Line) -> None:
        await slow(line)
        held = await line.hold()
        waits = [line.batcher.enqueue("a"), line.batcher.enqueue("b")]
        # 10 ms still run, 20 wait, 10 are its own.
        for refuses in (line.batcher.check_room, lambda d: line.batcher.enqueue("c", d)):
            with pytest.raises(QueueFull, match="takes about 40 ms, the deadline leaves 39 ms"):
                refuses(line.now_ns + 39 * MS)
        line.batcher.check_room(line.now_ns + 40 * MS)
        line.now_ns += 9 * MS  # Of what runs, 1 ms is left.
        line.batcher.check_room(line.now_ns + 31 * MS)
        line.now_ns += 9 * MS  # It takes longer than usual: nobody knows how long.
        line.batcher.check_room(line.now_ns + 30 * MS)
        with pytest.raises(QueueFull):
            line.batcher.check_room(line.now_ns + 29 * MS)
        line.open.set()
        await held
        assert [(await one.future).result for one in waits] == ["A", "B"]

    told(Line(), story)


def test_an_idle_server_tries_any_deadline_and_so_mends_a_figure_that_is_too_high() -> None:
    async def story(line: Line) -> None:
        await slow(line, takes_ms=1000)
        for _ in range(5):
            line.takes_ns = MS
            done = await line.batcher.submit("now", line.now_ns + 5 * MS)
            assert done.result == "NOW"

    told(Line(), story)


def test_a_batch_takes_along_nobody_who_would_be_answered_too_late() -> None:
    async def story(line: Line) -> None:
        held = await line.hold()
        early = line.batcher.enqueue("early", line.now_ns + 15 * MS)
        late = line.batcher.enqueue("late", line.now_ns + 15 * MS)
        last = line.batcher.enqueue("last")
        line.takes_ns = 10 * MS  # Learnt from the batch that is held.
        line.open.set()
        await held
        line.takes_ns = 0
        with pytest.raises(DeadlineExpired, match=r"leaves 5.0 ms after the queue.*10.0 ms"):
            await early.future
        with pytest.raises(DeadlineExpired):
            await late.future
        assert (await last.future).result == "LAST"
        assert line.batches == [["first"], ["last"]]

    told(Line(), story)


def test_background_work_comes_last_but_one_of_it_goes_along_with_each_batch() -> None:
    async def story(line: Line) -> None:
        held = await line.hold()
        waits = [line.batcher.enqueue(f"b{n}", background=True) for n in range(3)]
        waits += [line.batcher.enqueue(f"i{n}") for n in range(5)]
        line.open.set()
        await asyncio.gather(held, *(one.future for one in waits))
        assert line.batches[1:] == [["i0", "i1", "i2", "b0"], ["i3", "i4", "b1", "b2"]]

    told(Line(), story)


def test_background_work_has_a_part_of_the_queue_and_makes_room_for_others() -> None:
    async def story(line: Line) -> None:
        held = await line.hold()
        back = [line.batcher.enqueue(f"b{n}", background=True) for n in range(3)]
        with pytest.raises(QueueFull, match="3 background requests wait already, allowed: 3"):
            line.batcher.enqueue("b3", background=True)
        first = [line.batcher.enqueue(f"i{n}") for n in range(7)]
        # Eight fit: the last two that came in the background have gone.
        for gone in back[1:]:
            with pytest.raises(QueueFull, match="go first"):
                await gone.future
        first.append(line.batcher.enqueue("i7"))
        assert line.batcher.depth == 8
        with pytest.raises(QueueFull, match="8 requests wait already, allowed: 8"):
            line.batcher.enqueue("i8")
        with pytest.raises(QueueFull, match="8 requests wait already, allowed: 8"):
            line.batcher.check_room(background=True)
        line.open.set()
        await asyncio.gather(held, *(one.future for one in first))

    told(Line(), story)


def test_where_there_is_no_time_the_cheaper_work_is_done_first_and_no_more_than_a_batch_of_it() -> (
    None
):
    async def story(line: Line) -> None:
        await slow(line)
        held = await line.hold()
        waits = [line.batcher.enqueue(f"i{n}") for n in range(3)]
        soon = line.now_ns + 20 * MS
        line.batcher.check_room(soon)  # Not known yet whether there is something to do instead.
        waits += [line.batcher.enqueue(f"late{n}", soon) for n in range(2)]
        with pytest.raises(QueueFull, match="deadline leaves 20 ms"):
            line.batcher.enqueue("late2", soon)
        with pytest.raises(QueueFull, match="deadline leaves 20 ms"):
            line.batcher.enqueue("nothing else", soon)
        line.open.set()
        await asyncio.gather(held, *(one.future for one in waits))
        assert line.batches[1:] == [["i-late0", "i-late1"], ["i0", "i1"], ["i2"]]

    told(Line(max_batch=2, late_of=lambda job: f"i-{job}" if "late" in job else None), story)


def test_one_who_has_become_late_in_the_queue_gets_the_cheaper_work_too() -> None:
    async def story(line: Line) -> None:
        held = await line.hold()
        late = line.batcher.enqueue("late", line.now_ns + 15 * MS)
        last = line.batcher.enqueue("last")
        line.takes_ns = 10 * MS
        line.open.set()
        await held
        assert (await late.future).result == "I-LATE"
        assert (await last.future).result == "LAST"

    told(Line(late_of=lambda job: f"i-{job}"), story)


def test_cheaper_work_teaches_nothing_of_how_long_the_usual_takes() -> None:
    async def story(line: Line) -> None:
        await slow(line)
        for _ in range(200):
            held = await line.hold("x")
            line.now_ns += 0
            late = line.batcher.enqueue("late", line.now_ns + 1)
            line.takes_ns = 10 * MS
            line.open.set()
            await held
            line.takes_ns = 0
            await asyncio.wait([late.future])
        held = await line.hold("x")
        with pytest.raises(QueueFull):
            line.batcher.enqueue("no", line.now_ns + 12 * MS)
        line.open.set()
        await held

    told(Line(late_of=lambda job: f"i-{job}" if job == "late" else None), story)


def test_one_who_leaves_any_line_is_gone() -> None:
    async def story(line: Line) -> None:
        await slow(line)
        held = await line.hold()
        waits = [
            line.batcher.enqueue("first"),
            line.batcher.enqueue("back", background=True),
            line.batcher.enqueue("late", line.now_ns + 1 * MS),
        ]
        assert line.batcher.depth == 3
        for one in waits:
            line.batcher.leave(one)
        assert line.batcher.depth == 0
        line.open.set()
        await held
        assert line.batches == [["first"]]

    told(Line(late_of=lambda job: f"i-{job}"), story)
