"""The two services: a message in, a message out, errors through one door.

The only room that knows servicers. Decoding and encoding happen here, all other
work in the batcher's thread or the event store's.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, cast

import grpc
import structlog

from equipoise.v1 import (
    recommendation_pb2,
    recommendation_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
)
from server.batcher import Batched
from server.config import ServerSettings
from server.engine import Answer
from server.errors import EventStoreUnavailable, InvalidField
from server.events import GroupCommitter
from server.service import decode, encode
from server.service.inflight import Arrived, BytesInFlight
from server.service.lists import Asked, Call, ListMaker
from server.service.metrics import ServerMetrics
from server.service.priority import is_background
from server.service.release import Current, Job
from server.service.status import reason_of, wire_error
from server.service.streams import METHOD as STREAM
from server.service.streams import RecommendFlow

if TYPE_CHECKING:
    from server.service.traces import Traces

Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]

RECOMMENDATION = "equipoise.v1.RecommendationService"
SERVING = "equipoise.v1.ServingService"
# After so many requests of one batch, others get their turn.
TURN = 8


def begun(context: Context, request_id: str = "") -> Call:
    """A call that has just come."""
    return Call.begun(request_id, context.time_remaining())


class CallDoor:
    """Counts every call once and turns exceptions into statuses."""

    def __init__(self, service: str, metrics: ServerMetrics, traces: Traces | None = None) -> None:
        self._service = service
        self._calls = metrics.calls
        self._traces = traces
        self._log = structlog.get_logger("service")

    async def answer(
        self,
        method: str,
        context: Context,
        call: Call,
        work: Callable[[Call], Awaitable[Response]],
    ) -> Response:
        metadata = context.invocation_metadata()
        if self._traces is not None:
            span = self._traces.call(f"{self._service}/{method}", metadata, call.started_ns)
            span.asked_as(call.request_id)
            call = replace(call, span=span)
        try:
            if is_background(metadata):
                call = replace(call, background=True)
            response = await work(call)
        except asyncio.CancelledError:
            late = call.deadline_ns is not None and time.monotonic_ns() >= call.deadline_ns
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            self._ended(method, code, call)
            raise
        except Exception as error:
            failure = wire_error(error, call.request_id)
            if failure.code is grpc.StatusCode.INTERNAL:
                self._log.error(
                    "call failed",
                    method=method,
                    request_id=call.request_id,
                    exc_info=error,
                    **call.traced,
                )
            # Before the answer goes out: whoever has it finds it counted.
            self._ended(method, failure.code, call, reason_of(error).value)
            await context.abort(failure.code, failure.message, failure.trailers)
            raise AssertionError("abort returns never") from error
        self._ended(method, grpc.StatusCode.OK, call)
        return response

    def _ended(self, method: str, code: grpc.StatusCode, call: Call, reason: str = "") -> None:
        self._calls.of(self._service, method).ended(code.name, call.spent_ns() / 1e9)
        if call.span is not None:
            call.span.ended(code.name, reason)


class RecommendationServicer(recommendation_pb2_grpc.RecommendationServiceServicer):
    """Recommend, alone, in batches and on streams; Rerank; RecordFeedback."""

    def __init__(
        self,
        current: Current,
        committer: GroupCommitter | None,
        settings: ServerSettings,
        metrics: ServerMetrics,
        draining: asyncio.Event,
        flight: BytesInFlight,
        traces: Traces | None = None,
    ) -> None:
        self._current = current
        self._batcher = current.batcher
        self._committer = committer
        self._settings = settings
        self._limits = decode.Limits.of(settings)
        self._metrics = metrics
        self._draining = draining
        self._flight = flight
        self._lists = ListMaker(current, self._limits, metrics)
        self._door = CallDoor(RECOMMENDATION, metrics, traces)

    async def Recommend(
        self, request: recommendation_pb2.RecommendRequest, context: Context
    ) -> recommendation_pb2.RecommendResponse:
        async def work(call: Call) -> recommendation_pb2.RecommendResponse:
            asked = self._lists.ask(request, call)
            try:
                return self._lists.answer(asked, await asked.waiting.future)
            finally:
                self._lists.leave(asked)

        return await self._door.answer(
            "Recommend", context, begun(context, request.request_id), work
        )

    async def BatchRecommend(
        self, request: recommendation_pb2.BatchRecommendRequest, context: Context
    ) -> recommendation_pb2.BatchRecommendResponse:
        async def work(call: Call) -> recommendation_pb2.BatchRecommendResponse:
            size = len(request.requests)
            if not 1 <= size <= self._settings.max_batch_requests:
                raise InvalidField.of(
                    "requests", f"{size} entries", f"1 to {self._settings.max_batch_requests}"
                )
            return recommendation_pb2.BatchRecommendResponse(
                outcomes=await self._outcomes(request.requests, call)
            )

        return await self._door.answer("BatchRecommend", context, begun(context), work)

    async def _outcomes(
        self, requests: Sequence[recommendation_pb2.RecommendRequest], batch: Call
    ) -> list[recommendation_pb2.RecommendOutcome]:
        asked: list[tuple[Call, Asked | Exception]] = []
        # A response is of one release, also if another takes its place meanwhile.
        release = self._current.release
        try:
            for place, request in enumerate(requests):
                call = batch.part(request.request_id)
                try:
                    asked.append((call, self._lists.ask(request, call, release)))
                except Exception as error:
                    asked.append((call, error))
                if place % TURN == TURN - 1:
                    # The first lists are made, and other callers heard, while the rest is read.
                    await asyncio.sleep(0)
            waiting = [one.waiting.future for _, one in asked if isinstance(one, Asked)]
            if waiting:
                await asyncio.wait(waiting)
            return [self._lists.outcome("BatchRecommend", one, call) for call, one in asked]
        finally:
            for call, one in asked:
                if isinstance(one, Asked):
                    self._lists.leave(one)
                if call.span is not None:
                    call.span.ended("CANCELLED")

    async def RecommendStream(  # type: ignore[override]  # the stub knows generators only
        self,
        requests: AsyncIterator[Arrived],
        context: Context,
    ) -> None:
        async def work(call: Call) -> None:
            flow = RecommendFlow(
                self._lists,
                call,
                context.write,
                in_flight=self._settings.max_stream_in_flight,
                draining=self._draining,
                flight=self._flight,
            )
            await flow.run(requests)

        await self._door.answer(STREAM, context, begun(context), work)

    async def Rerank(
        self, request: recommendation_pb2.RerankRequest, context: Context
    ) -> recommendation_pb2.RerankResponse:
        async def work(call: Call) -> recommendation_pb2.RerankResponse:
            background = call.background
            self._batcher.check_room(call.deadline_ns, background=background)
            release = self._current.release
            query = decode.rerank_query(request, call.request_id, self._limits)
            decode_ns = call.spent_ns()
            job = Job(release, query)
            batched = await self._batcher.submit(job, call.deadline_ns, background=background)
            made = cast(Batched[Answer], batched)
            self._metrics.list_made(made, query.surface, query.experiment, decode_ns)
            if call.span is not None:
                call.span.list_made(release.id, made)
            return encode.rerank_response(
                query, batched, release.bundle, decode_ns, call.spent_ns()
            )

        return await self._door.answer("Rerank", context, begun(context, request.request_id), work)

    async def RecordFeedback(
        self, request: recommendation_pb2.RecordFeedbackRequest, context: Context
    ) -> recommendation_pb2.RecordFeedbackResponse:
        async def work(call: Call) -> recommendation_pb2.RecordFeedbackResponse:
            events = decode.feedback_events(request, self._limits, time.time_ns() // 1_000_000)
            if self._committer is None:
                raise EventStoreUnavailable(
                    "this server has no event store: start it with --events FILE"
                )
            recorded = await self._committer.record(events)
            self._metrics.feedback("recorded").inc(recorded.recorded)
            self._metrics.feedback("duplicate").inc(recorded.duplicates)
            known = self._current.release.bundle.items.index
            return recommendation_pb2.RecordFeedbackResponse(
                recorded=recorded.recorded,
                duplicates=recorded.duplicates,
                unknown_items=sum(event.item_id not in known for event in events),
            )

        return await self._door.answer("RecordFeedback", context, begun(context), work)


class ServingServicer(serving_pb2_grpc.ServingServiceServicer):
    """GetServingInfo, ListItems."""

    def __init__(
        self, current: Current, metrics: ServerMetrics, traces: Traces | None = None
    ) -> None:
        self._current = current
        self._door = CallDoor(SERVING, metrics, traces)

    async def GetServingInfo(
        self, request: serving_pb2.GetServingInfoRequest, context: Context
    ) -> serving_pb2.GetServingInfoResponse:
        async def work(call: Call) -> serving_pb2.GetServingInfoResponse:
            return self._current.release.info

        return await self._door.answer("GetServingInfo", context, begun(context), work)

    async def ListItems(
        self, request: serving_pb2.ListItemsRequest, context: Context
    ) -> serving_pb2.ListItemsResponse:
        async def work(call: Call) -> serving_pb2.ListItemsResponse:
            release = self._current.release
            ids = release.bundle.items.ids
            first = decode.items_from(request, len(ids))
            return serving_pb2.ListItemsResponse(
                bundle_id=release.id,
                first=first,
                item_ids=ids[first : first + request.size],
                items=len(ids),
            )

        return await self._door.answer("ListItems", context, begun(context), work)
