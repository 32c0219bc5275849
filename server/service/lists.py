"""One RecommendRequest, from its message to its response, whatever call it came in.

Owns the way through decoding, queue and encoding. Must not know calls: unary,
batch and stream ask and answer through this.

    asked = lists.ask(request, call)
    response = lists.answer(asked, await asked.waiting.future)
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import structlog

from equipoise.v1 import errors_pb2
from equipoise.v1 import recommendation_pb2 as pb
from server.batcher import Batched, Waiting
from server.engine import Answer, Outcome, RecommendQuery
from server.service import decode, encode
from server.service.metrics import ServerMetrics
from server.service.release import Current, Job, Release
from server.service.status import reason_of, recommend_error

if TYPE_CHECKING:
    from server.service.traces import CallSpan


@dataclass(frozen=True)
class Call:
    """One request under way: when it came and how long it may take, in ns of a monotonic clock.

    background: others go first. span: its trace, where there is one.
    """

    request_id: str
    started_ns: int
    deadline_ns: int | None
    background: bool = False
    span: CallSpan | None = None

    @classmethod
    def begun(cls, request_id: str, remaining_s: float | None) -> Call:
        """A call that has just come. `request_id` may be empty; `remaining_s` None means no deadline."""
        started_ns = time.monotonic_ns()
        deadline_ns = None if remaining_s is None else started_ns + int(remaining_s * 1e9)
        return cls(request_id or uuid.uuid4().hex, started_ns, deadline_ns)

    def part(self, request_id: str, remaining_s: float | None = None) -> Call:
        """One of several requests in this call, which has just been read. It has no more time than
        the call."""
        started_ns, deadline_ns = time.monotonic_ns(), self.deadline_ns
        if remaining_s is not None:
            own_ns = started_ns + int(remaining_s * 1e9)
            deadline_ns = own_ns if deadline_ns is None else min(own_ns, deadline_ns)
        request_id = request_id or uuid.uuid4().hex
        span = None if self.span is None else self.span.part(request_id, started_ns)
        return Call(request_id, started_ns, deadline_ns, self.background, span)

    @property
    def traced(self) -> dict[str, str]:
        """What a log line tells of its trace."""
        return {} if self.span is None else self.span.ids

    def spent_ns(self) -> int:
        return time.monotonic_ns() - self.started_ns


@dataclass(frozen=True, eq=False)
class Asked:
    """A request that waits for its list, and the release that makes it."""

    request: pb.RecommendRequest
    release: Release
    query: RecommendQuery
    call: Call
    decode_ns: int
    waiting: Waiting[Outcome]


class ListMaker:
    """Makes lists of the current release."""

    def __init__(self, current: Current, limits: decode.Limits, metrics: ServerMetrics) -> None:
        self._current = current
        self._batcher = current.batcher
        self._limits = limits
        self._metrics = metrics
        self._log = structlog.get_logger("service")

    def ask(
        self, request: pb.RecommendRequest, call: Call, release: Release | None = None
    ) -> Asked:
        """Check the request and queue it. release: which makes it; None: the current one.

        Raises:
            InvalidField, PageTokenInvalid: the request is outside the contract.
            QueueFull, DeadlineExpired, NotServing: it was not queued.
        """
        deadline_ns, background = call.deadline_ns, call.background
        self._batcher.check_room(deadline_ns, background=background)
        release = release or self._current.release
        query = decode.recommend_query(request, call.request_id, self._limits, deadline_ns)
        if request.page_token:
            query = replace(query, after=release.pages.page(request))
        decode_ns = call.spent_ns()
        waiting = self._batcher.enqueue(Job(release, query), deadline_ns, background=background)
        return Asked(request, release, query, call, decode_ns, waiting)

    def answer(self, asked: Asked, batched: Batched[Outcome]) -> pb.RecommendResponse:
        """The response, counted."""
        query, made = asked.query, batched.result
        if isinstance(made, Answer):
            self._metrics.list_made(
                cast(Batched[Answer], batched), query.surface, query.experiment, asked.decode_ns
            )
            if asked.call.span is not None:
                asked.call.span.list_made(asked.release.id, cast(Batched[Answer], batched))
        begun_ns = time.monotonic_ns()
        response = encode.recommend_response(
            query, batched, asked.release.bundle, asked.decode_ns, asked.call.spent_ns()
        )
        self._metrics.encoded(time.monotonic_ns() - begun_ns)
        if isinstance(made, Answer) and made.shown is not None:
            response.next_page_token = asked.release.pages.token(asked.request, made.shown)
        return response

    def leave(self, asked: Asked) -> None:
        """The list is no longer wanted."""
        self._batcher.leave(asked.waiting)

    def outcome(self, method: str, asked: Asked | Exception, call: Call) -> pb.RecommendOutcome:
        """What one request among several is answered with; its list has been made.

        asked: or why it was not queued.
        """
        error: Exception
        if isinstance(asked, Asked):
            try:
                outcome = pb.RecommendOutcome(
                    response=self.answer(asked, asked.waiting.future.result())
                )
                self._metrics.requests(method, "OK").inc()
                if call.span is not None:
                    call.span.ended("OK")
                return outcome
            except Exception as failed:
                error = failed
        else:
            error = asked
        code, told = recommend_error(error, call.request_id)
        self._metrics.requests(method, code.name).inc()
        if told.reason == errors_pb2.ERROR_REASON_INTERNAL:
            self._log.error(
                "request failed",
                method=method,
                request_id=call.request_id,
                exc_info=error,
                **call.traced,
            )
        if call.span is not None:
            call.span.ended(code.name, reason_of(error).value)
        return pb.RecommendOutcome(error=told)
