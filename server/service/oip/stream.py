"""Many requests on one ModelStreamInfer, answered in their order.

Owns the flow: several requests are under way at once, at most so many; one's
error is told in its answer; a server that drains answers what it has read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import structlog

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.v1 import errors_pb2
from server.errors import EquipoiseError, NotServing, QueueFull
from server.service.inflight import Arrived, BytesInFlight
from server.service.lists import Call
from server.service.metrics import ServerMetrics
from server.service.oip.infer import Inference
from server.service.oip.tensors import parameters_of
from server.service.status import recommend_error

METHOD = "ModelStreamInfer"
# Triton's clients of models that answer more than once ask for a mark on the last answer.
WANTS_MARK, MARK = "triton_enable_empty_final_response", "triton_final_response"
# Of a request that was turned away.
MAX_NAME_LENGTH = 64

_Answer = asyncio.Task[pb.ModelStreamInferResponse]


class InferFlow:
    """One stream. write: sends one answer. draining: set when the server stops. flight: counts the
    bytes of the requests that are under way."""

    def __init__(
        self,
        inference: Inference,
        call: Call,
        write: Callable[[pb.ModelStreamInferResponse], Awaitable[None]],
        metrics: ServerMetrics,
        *,
        in_flight: int,
        draining: asyncio.Event,
        flight: BytesInFlight,
    ) -> None:
        self._inference = inference
        self._call = call
        self._write = write
        self._metrics = metrics
        self._slots = asyncio.Semaphore(in_flight)
        self._draining = draining
        self._flight = flight
        self._log = structlog.get_logger("service")
        # In the order of the requests; None when no more is read.
        self._answers: asyncio.Queue[_Answer | None] = asyncio.Queue()
        self._under_way: set[_Answer] = set()

    async def run(self, messages: AsyncIterator[Arrived]) -> None:
        """Answer until the caller ends the stream.

        Raises:
            InvalidField: bytes that are no message; what came before them is answered.
            NotServing: the server drains; what was read is answered.
        """
        reader = asyncio.create_task(self._read(messages))
        stopper = asyncio.create_task(self._stop(reader))
        try:
            while (answer := await self._answers.get()) is not None:
                await self._write(await answer)
                self._under_way.discard(answer)
                self._slots.release()
        finally:
            helpers = (stopper, reader, *self._under_way)
            for task in helpers:
                task.cancel()
            await asyncio.wait(helpers)
        if reader.cancelled():
            raise NotServing("the server is shutting down: ask another replica for the rest")
        reader.result()

    async def _stop(self, reader: asyncio.Task[None]) -> None:
        await self._draining.wait()
        reader.cancel()

    async def _read(self, messages: AsyncIterator[Arrived]) -> None:
        try:
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    await self._slots.acquire()
                    message, size = await anext(messages)
                    if isinstance(message, EquipoiseError):
                        raise message
                    self._take(message, size)
                    # A stream that rests holds nothing of its last request.
                    del message
        finally:
            self._answers.put_nowait(None)

    def _take(self, message: pb.ModelInferRequest, size: int) -> None:
        full = self._flight.full(size)
        if full is not None:
            message, size = _without_content(message), 0
        answer = asyncio.create_task(self._answer(message, full))
        # Not in the task: one that is cancelled before it began would never get there.
        self._flight.take(size)
        answer.add_done_callback(lambda _: self._flight.give(size))
        self._under_way.add(answer)
        self._answers.put_nowait(answer)

    async def _answer(
        self, request: pb.ModelInferRequest, full: QueueFull | None
    ) -> pb.ModelStreamInferResponse:
        call = self._call.part(request.id)
        code_name, reason = "OK", ""
        answer: pb.ModelStreamInferResponse | None = None
        try:
            if full is not None:
                raise full
            made = await self._inference.infer(request, call)
            answer = pb.ModelStreamInferResponse(infer_response=made)
        except Exception as error:
            code, told = recommend_error(error, call.request_id)
            code_name = code.name
            reason = errors_pb2.ErrorReason.Name(told.reason).removeprefix("ERROR_REASON_")
            if told.reason == errors_pb2.ERROR_REASON_INTERNAL:
                self._log.error(
                    "request failed",
                    method=METHOD,
                    request_id=call.request_id,
                    exc_info=error,
                    **call.traced,
                )
            answer = pb.ModelStreamInferResponse(
                error_message=told.message,
                infer_response=pb.ModelInferResponse(
                    model_name=request.model_name,
                    id=request.id,
                    parameters=parameters_of({"error_code": code_name, "error_reason": reason}),
                ),
            )
        finally:
            if call.span is not None:
                call.span.ended(code_name if answer is not None else "CANCELLED", reason)
        self._metrics.requests(METHOD, code_name).inc()
        if request.parameters[WANTS_MARK].bool_param if WANTS_MARK in request.parameters else False:
            answer.infer_response.parameters[MARK].bool_param = True
        return answer


def _without_content(request: pb.ModelInferRequest) -> pb.ModelInferRequest:
    """What is needed to tell that a request was refused; a name may be cut."""
    kept = pb.ModelInferRequest(
        model_name=request.model_name[:MAX_NAME_LENGTH], id=request.id[:MAX_NAME_LENGTH]
    )
    if WANTS_MARK in request.parameters:
        kept.parameters[WANTS_MARK].bool_param = request.parameters[WANTS_MARK].bool_param
    return kept
