"""The group committer: what waits is the next commit, and nobody is forgotten."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import asynccontextmanager

import pytest

from server.errors import EventStoreUnavailable, InvalidField, NotServing, QueueFull
from server.events import Event, GroupCommitter, Recorded, SqliteEventStore


def event(number: int, user_id: str = "ann", kind: int = 4) -> Event:
    return Event(f"e{number}", user_id, f"item-{number}", kind, number)


class GatedStore(SqliteEventStore):
    """A real store whose commits wait for the test, are counted, and fail on demand."""

    def __init__(self, path):
        super().__init__(path)
        self.started = threading.Semaphore(0)
        self.gate = threading.Event()
        self.commits: list[int] = []
        self.failure: Exception | None = None

    def record_batches(self, batches: Sequence[Sequence[Event]]) -> list[Recorded | InvalidField]:
        self.started.release()
        assert self.gate.wait(30)
        self.commits.append(len(batches))
        if self.failure is not None:
            raise self.failure
        return super().record_batches(batches)

    async def commit_runs(self) -> None:
        await asyncio.to_thread(self.started.acquire)


@asynccontextmanager
async def gated(tmp_path, **options):
    store = GatedStore(tmp_path / "events.db")
    committer = GroupCommitter(store, **options)
    try:
        yield store, committer
    finally:
        store.gate.set()
        await committer.aclose()
        store.close()


async def submit(committer: GroupCommitter, *batches: Sequence[Event]) -> list[asyncio.Task]:
    tasks = [asyncio.create_task(committer.record(batch)) for batch in batches]
    await asyncio.sleep(0)  # each task runs until it waits
    return tasks


def test_what_waits_while_a_commit_runs_is_one_commit(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            begun = []
            first = await submit(committer, [event(0)])
            await store.commit_runs()
            store._writing().set_trace_callback(
                lambda statement: begun.append(statement) if statement == "COMMIT" else None
            )
            rest = await submit(committer, *([event(n)] for n in range(1, 200)))
            assert committer.waiting_events == 199
            store.gate.set()
            answers = await asyncio.gather(*first, *rest)
            assert answers == [Recorded(1, 0)] * 200
            assert store.commits == [1, 199]
            assert begun == ["COMMIT", "COMMIT"]
            assert len(store.history("ann")) == 200

    asyncio.run(main())


def test_the_answer_comes_after_the_commit(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            (task,) = await submit(committer, [event(0)])
            await store.commit_runs()
            assert not task.done()
            assert len(store.history("ann")) == 0
            store.gate.set()
            await task
            # Seen through a connection of its own, so it is committed.
            with SqliteEventStore(tmp_path / "events.db") as other:
                assert len(other.history("ann")) == 1

    asyncio.run(main())


def test_a_poisoned_batch_fails_alone_and_whole(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            first = await submit(committer, [event(0)])
            await store.commit_runs()
            poison = [event(10), event(11, kind=77)]
            rest = await submit(committer, [event(1)], poison, [event(2), event(1)])
            store.gate.set()
            answers = await asyncio.gather(*first, *rest, return_exceptions=True)
            assert answers[:2] == [Recorded(1, 0)] * 2
            assert isinstance(answers[2], InvalidField)
            assert "events[1].kind" in str(answers[2])
            assert answers[3] == Recorded(1, 1)
            assert store.commits == [1, 3]
            assert store.history("ann").item_ids == ("item-0", "item-1", "item-2")

    asyncio.run(main())


def test_a_cancelled_waiter_is_left_out_and_does_not_stall_its_group(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            first = await submit(committer, [event(0)])
            await store.commit_runs()
            left, stays = await submit(committer, [event(1)], [event(2)])
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            assert committer.waiting_events == 1
            store.gate.set()
            assert await asyncio.gather(*first, stays) == [Recorded(1, 0)] * 2
            assert store.history("ann").item_ids == ("item-0", "item-2")

    asyncio.run(main())


def test_a_caller_cancelled_during_its_commit_is_recorded_and_stalls_nobody(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            (left,) = await submit(committer, [event(0)])
            await store.commit_runs()
            (stays,) = await submit(committer, [event(1)])
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            store.gate.set()
            assert await stays == Recorded(1, 0)
            assert store.history("ann").item_ids == ("item-0", "item-1")

    asyncio.run(main())


def test_a_full_queue_turns_a_caller_away_at_once(tmp_path):
    async def main():
        async with gated(tmp_path, max_waiting_events=5) as (store, committer):
            first = await submit(committer, [event(0)])
            await store.commit_runs()
            waiting = await submit(committer, [event(1), event(2), event(3)])
            with pytest.raises(QueueFull, match="3 events wait to be recorded and 3 more came"):
                await committer.record([event(4), event(5), event(6)])
            waiting += await submit(committer, [event(4), event(5)])  # exactly at the bound
            with pytest.raises(QueueFull):
                await committer.record([event(6)])
            assert store.commits == []  # refused while the writer stood still
            store.gate.set()
            await asyncio.gather(*first, *waiting)
            assert len(store.history("ann")) == 6
            assert (await committer.record([event(6)])).recorded == 1

    asyncio.run(main())


def test_a_batch_above_the_bound_is_taken_when_nothing_waits(tmp_path):
    async def main():
        async with gated(tmp_path, max_waiting_events=5) as (store, committer):
            store.gate.set()
            assert (await committer.record([event(n) for n in range(9)])).recorded == 9

    asyncio.run(main())


@pytest.mark.parametrize(
    "failure",
    [
        sqlite3.OperationalError("disk I/O error at /secret/path"),
        OSError(28, "No space left on device", "/secret/path"),
        EventStoreUnavailable("nothing is recorded: the disk is full"),
    ],
)
def test_a_failed_commit_fails_its_callers_alone_and_the_next_one_works(tmp_path, failure):
    async def main():
        async with gated(tmp_path) as (store, committer):
            store.gate.set()
            store.failure = failure
            tasks = await submit(committer, [event(0)], [event(1)])
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(answer) for answer in answers] == [EventStoreUnavailable] * 2
            assert "secret" not in str(answers[0])
            assert len(store.history("ann")) == 0
            store.failure = None
            assert await committer.record([event(0)]) == Recorded(1, 0)

    asyncio.run(main())


def test_a_defect_in_the_store_reaches_its_callers_and_the_queue_goes_on(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            store.gate.set()
            store.failure = ZeroDivisionError("a defect")
            with pytest.raises(ZeroDivisionError):
                await committer.record([event(0)])
            store.failure = None
            assert await committer.record([event(0)]) == Recorded(1, 0)

    asyncio.run(main())


def test_closing_commits_what_waits_and_refuses_what_comes(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            tasks = await submit(committer, [event(0)])
            await store.commit_runs()
            tasks += await submit(committer, [event(1)], [event(2)])
            closing = asyncio.create_task(committer.aclose())
            await asyncio.sleep(0)
            with pytest.raises(NotServing):
                await committer.record([event(3)])
            assert not closing.done()
            store.gate.set()
            await closing
            assert [task.result() for task in tasks] == [Recorded(1, 0)] * 3
            assert len(store.history("ann")) == 3

    asyncio.run(main())


def test_the_end_of_the_loops_task_leaves_nobody_waiting(tmp_path):
    async def main():
        async with gated(tmp_path) as (store, committer):
            tasks = await submit(committer, [event(0)])
            await store.commit_runs()
            tasks += await submit(committer, [event(1)])
            owner = committer._owner
            owner.cancel()
            answers = await asyncio.gather(*tasks, return_exceptions=True)
            assert [type(answer) for answer in answers] == [NotServing] * 2
            committer._owner = None

    asyncio.run(main())
