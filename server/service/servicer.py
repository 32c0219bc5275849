"""The two services: a message in, a message out, errors through one door.

The only room that knows servicers. Decoding and encoding happen here, all other
work in the batcher's thread or the event store's.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import grpc
import structlog

from equipoise.v1 import (
    recommendation_pb2,
    recommendation_pb2_grpc,
    serving_pb2,
    serving_pb2_grpc,
)
from server.batcher import Batched, Batcher
from server.bundle import Bundle
from server.engine import Answer, Outcome, Query
from server.errors import EventStoreUnavailable
from server.events import GroupCommitter
from server.service import decode, encode
from server.service.metrics import ServerMetrics
from server.service.pages import PageTokens
from server.service.status import wire_error

Response = TypeVar("Response")
Context = grpc.aio.ServicerContext[Any, Any]

RECOMMENDATION = "equipoise.v1.RecommendationService"
SERVING = "equipoise.v1.ServingService"


class _Call:
    """One call under way: when it came and how long it may take."""

    def __init__(self, context: Context, request_id: str) -> None:
        self.started_ns = time.monotonic_ns()
        remaining_s = context.time_remaining()
        self.deadline_ns = None if remaining_s is None else self.started_ns + int(remaining_s * 1e9)
        self.request_id = request_id or uuid.uuid4().hex

    def spent_ns(self) -> int:
        return time.monotonic_ns() - self.started_ns


class _Door:
    """Counts every call once and turns exceptions into statuses."""

    def __init__(self, service: str, metrics: ServerMetrics) -> None:
        self._service = service
        self._metrics = metrics
        self._log = structlog.get_logger("service")

    async def answer(
        self,
        method: str,
        context: Context,
        call: _Call,
        work: Callable[[_Call], Awaitable[Response]],
    ) -> Response:
        code = grpc.StatusCode.OK
        try:
            return await work(call)
        except asyncio.CancelledError:
            late = call.deadline_ns is not None and time.monotonic_ns() >= call.deadline_ns
            code = grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:
            failure = wire_error(error, call.request_id)
            code = failure.code
            if code is grpc.StatusCode.INTERNAL:
                self._log.error(
                    "call failed", method=method, request_id=call.request_id, exc_info=error
                )
            await context.abort(failure.code, failure.message, failure.trailers)
            raise AssertionError("abort returns never") from error
        finally:
            self._metrics.handled.labels(self._service, method, code.name).inc()
            self._metrics.handling.labels(self._service, method).observe(call.spent_ns() / 1e9)


class RecommendationServicer(recommendation_pb2_grpc.RecommendationServiceServicer):
    """Recommend, Rerank and RecordFeedback."""

    def __init__(
        self,
        bundle: Bundle,
        batcher: Batcher[Query, Outcome],
        committer: GroupCommitter | None,
        limits: decode.Limits,
        metrics: ServerMetrics,
        pages: PageTokens,
    ) -> None:
        self._bundle = bundle
        self._pages = pages
        self._batcher = batcher
        self._committer = committer
        self._limits = limits
        self._metrics = metrics
        self._door = _Door(RECOMMENDATION, metrics)

    async def Recommend(
        self, request: recommendation_pb2.RecommendRequest, context: Context
    ) -> recommendation_pb2.RecommendResponse:
        async def work(call: _Call) -> recommendation_pb2.RecommendResponse:
            query = decode.recommend_query(request, call.request_id, self._limits)
            if request.page_token:
                query = replace(query, after=self._pages.page(request))
            decode_ns = call.spent_ns()
            batched = await self._batcher.submit(query, call.deadline_ns)
            if isinstance(batched.result, Answer):
                made = cast(Batched[Answer], batched)
                self._metrics.list_made(made, query.surface, query.experiment, decode_ns)
            response = encode.recommend_response(
                query, batched, self._bundle, decode_ns, call.spent_ns()
            )
            if isinstance(batched.result, Answer) and batched.result.shown is not None:
                response.next_page_token = self._pages.token(request, batched.result.shown)
            return response

        return await self._door.answer(
            "Recommend", context, _Call(context, request.request_id), work
        )

    async def Rerank(
        self, request: recommendation_pb2.RerankRequest, context: Context
    ) -> recommendation_pb2.RerankResponse:
        async def work(call: _Call) -> recommendation_pb2.RerankResponse:
            query = decode.rerank_query(request, call.request_id, self._limits)
            decode_ns = call.spent_ns()
            batched = await self._batcher.submit(query, call.deadline_ns)
            made = cast(Batched[Answer], batched)
            self._metrics.list_made(made, query.surface, query.experiment, decode_ns)
            return encode.rerank_response(query, batched, self._bundle, decode_ns, call.spent_ns())

        return await self._door.answer("Rerank", context, _Call(context, request.request_id), work)

    async def RecordFeedback(
        self, request: recommendation_pb2.RecordFeedbackRequest, context: Context
    ) -> recommendation_pb2.RecordFeedbackResponse:
        async def work(call: _Call) -> recommendation_pb2.RecordFeedbackResponse:
            events = decode.feedback_events(request, self._limits, time.time_ns() // 1_000_000)
            if self._committer is None:
                raise EventStoreUnavailable(
                    "this server has no event store: start it with --events FILE"
                )
            recorded = await self._committer.record(events)
            self._metrics.feedback.labels("recorded").inc(recorded.recorded)
            self._metrics.feedback.labels("duplicate").inc(recorded.duplicates)
            known = self._bundle.items.index
            return recommendation_pb2.RecordFeedbackResponse(
                recorded=recorded.recorded,
                duplicates=recorded.duplicates,
                unknown_items=sum(event.item_id not in known for event in events),
            )

        return await self._door.answer("RecordFeedback", context, _Call(context, ""), work)


class ServingServicer(serving_pb2_grpc.ServingServiceServicer):
    """GetServingInfo."""

    def __init__(self, info: serving_pb2.GetServingInfoResponse, metrics: ServerMetrics) -> None:
        self._info = info
        self._door = _Door(SERVING, metrics)

    async def GetServingInfo(
        self, request: serving_pb2.GetServingInfoRequest, context: Context
    ) -> serving_pb2.GetServingInfoResponse:
        async def work(call: _Call) -> serving_pb2.GetServingInfoResponse:
            return self._info

        return await self._door.answer("GetServingInfo", context, _Call(context, ""), work)
