"""One stream from within: how much of it is under way, and what is left of it when it ends."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from equipoise.v1 import recommendation_pb2 as pb
from server.batcher import Batcher
from server.config import ServerSettings
from server.exposures import ExposureLedger
from server.service.decode import Limits
from server.service.inflight import Arrived, BytesInFlight
from server.service.lists import Call, ListMaker
from server.service.metrics import ServerMetrics
from server.service.release import Current, Job, ReleaseMaker, run_jobs
from server.service.streams import RecommendFlow

IN_FLIGHT, MESSAGES, SIZE = 4, 11, 7

Story = Callable[[RecommendFlow, "Stream", "Batcher[Any, Any]", threading.Event], Awaitable[None]]


class Stream:
    """A caller's messages, and how many of them were read."""

    def __init__(self) -> None:
        self.read = 0
        self.answered: list[int] = []
        # None where none is expected.
        self.errors: list[pb.RecommendStreamResponse] | None = None

    async def messages(self) -> AsyncIterator[Arrived]:
        for number in range(MESSAGES):
            self.read += 1
            yield Arrived(
                pb.RecommendStreamRequest(id=number, request=pb.RecommendRequest(count=3)), SIZE
            )

    async def write(self, answer: pb.RecommendStreamResponse) -> None:
        if self.errors is not None and answer.outcome.WhichOneof("outcome") == "error":
            self.errors.append(answer)
            return
        assert len(answer.outcome.response.items) == 3
        self.answered.append(answer.id)


def tell(bundle_path: Path, story: Story, flight: BytesInFlight | None = None) -> None:
    """With batches of one list, each of which waits until the event is set."""
    let_through = threading.Event()

    def run_when_let(jobs: Sequence[Job]) -> Sequence[Any]:
        assert let_through.wait(20)
        return run_jobs(jobs)

    async def run() -> None:
        settings = ServerSettings(bundle=bundle_path, max_batch=1, max_queue=64)
        maker = ReleaseMaker(settings, None, ExposureLedger(None), b"k" * 32)
        current = Current(maker.make(bundle_path), settings, run_when_let)
        batcher = current.batcher
        batcher.start()
        stream = Stream()
        flow = RecommendFlow(
            ListMaker(current, Limits.of(settings), ServerMetrics(32)),
            Call.begun("", None),
            stream.write,
            in_flight=IN_FLIGHT,
            draining=asyncio.Event(),
            flight=flight or BytesInFlight(1 << 20),
        )
        try:
            await story(flow, stream, batcher, let_through)
        finally:
            let_through.set()
            await batcher.close()

    asyncio.run(asyncio.wait_for(run(), 30))


async def until_quiet(stream: Stream) -> None:
    """Until nothing more is read, over many turns of the loop."""
    read, still = -1, 0
    while still < 100:
        await asyncio.sleep(0)
        still = still + 1 if stream.read == read else 0
        read = stream.read


def test_no_more_is_read_than_may_be_under_way(bundle_path: Path) -> None:
    async def story(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        running = asyncio.create_task(flow.run(stream.messages()))
        await until_quiet(stream)
        # One is in the batch that runs, the others wait.
        assert (stream.read, batcher.depth) == (IN_FLIGHT, IN_FLIGHT - 1)
        go.set()
        await running
        assert sorted(stream.answered) == list(range(MESSAGES))

    tell(bundle_path, story)


def test_answers_make_room_for_as_many_and_no_more(bundle_path: Path) -> None:
    most = 0

    async def story(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        async def watched(answer: pb.RecommendStreamResponse) -> None:
            nonlocal most
            # While one answer is being sent, nothing is read in its place.
            await until_quiet(stream)
            most = max(most, stream.read - len(stream.answered))
            await stream.write(answer)

        flow._write = watched
        go.set()
        await flow.run(stream.messages())

    tell(bundle_path, story)
    assert most == IN_FLIGHT


def test_what_is_left_of_a_stream_that_is_cancelled_leaves_the_queue(bundle_path: Path) -> None:
    async def story(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        running = asyncio.create_task(flow.run(stream.messages()))
        await until_quiet(stream)
        assert batcher.depth == IN_FLIGHT - 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (batcher.depth, stream.answered) == (0, [])

    tell(bundle_path, story)


def test_requests_hold_their_bytes_until_their_list_is_made_or_given_up(bundle_path: Path) -> None:
    flight = BytesInFlight(1 << 20)

    async def finished(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        running = asyncio.create_task(flow.run(stream.messages()))
        await until_quiet(stream)
        assert flight.held == IN_FLIGHT * SIZE
        go.set()
        await running
        assert flight.held == 0

    async def cancelled(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        running = asyncio.create_task(flow.run(stream.messages()))
        await until_quiet(stream)
        assert flight.held == IN_FLIGHT * SIZE
        running.cancel()
        await asyncio.wait((running,))
        await asyncio.sleep(0)
        assert flight.held == 0

    tell(bundle_path, finished, flight)
    tell(bundle_path, cancelled, flight)


def test_a_caller_who_does_not_read_holds_none_of_the_bytes_that_others_may(
    bundle_path: Path,
) -> None:
    flight = BytesInFlight(1 << 20)

    async def story(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        reads = asyncio.Event()

        async def stuck(answer: pb.RecommendStreamResponse) -> None:
            await reads.wait()
            await stream.write(answer)

        flow._write = stuck
        running = asyncio.create_task(flow.run(stream.messages()))
        await until_quiet(stream)
        go.set()
        while batcher.depth or flight.held:
            await asyncio.sleep(0)
        assert stream.read == IN_FLIGHT  # and of answers there are so many
        reads.set()
        await running
        assert len(stream.answered) == MESSAGES

    tell(bundle_path, story, flight)


def test_a_request_without_room_is_told_so_and_those_before_and_after_it_are_answered(
    bundle_path: Path,
) -> None:
    flight = BytesInFlight(2 * SIZE)

    async def story(
        flow: RecommendFlow, stream: Stream, batcher: Batcher[Any, Any], go: threading.Event
    ) -> None:
        stream.errors = []
        running = asyncio.create_task(flow.run(stream.messages()))
        await until_quiet(stream)
        assert flight.held == 2 * SIZE
        # Those that are told so make room for others, which find none.
        assert [answer.id for answer in stream.errors] == list(range(2, MESSAGES))
        error = stream.errors[0].outcome.error
        assert error.message == "this request has 7 bytes, others hold 14, allowed: 14 together"
        assert error.code == 8
        delays_ms = {answer.outcome.error.retry_delay_ms for answer in stream.errors}
        assert all(25 <= delay_ms <= 100 for delay_ms in delays_ms)
        # Those who are refused together are not to come back together.
        assert len(delays_ms) > 1
        go.set()
        await running
        assert (sorted(stream.answered), flight.held) == ([0, 1], 0)

    tell(bundle_path, story, flight)
