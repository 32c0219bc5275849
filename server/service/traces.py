"""Traces of calls, by OpenTelemetry: a span for each call, each request in it, and their phases.

The only room that knows OpenTelemetry, loaded where traces are on. Owns the names of spans and
attributes: those of the conventions for RPC, and `equipoise.*`. No user id and no text of an error
is ever put into one. Spans are sent by a thread of their own, and none is waited for but at the
end, so long as there is time.

    traces = Traces(exporter_of("otlp"), ratio=None)
    span = traces.call("equipoise.v1.RecommendationService/Recommend", metadata, started_ns)
    span.ended("OK")
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Iterable
from typing import Literal

import structlog
from opentelemetry.context import Context
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server import __version__
from server.batcher import Batched
from server.engine import Answer, Scored
from server.errors import SettingsRefused, shown

PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
CONTEXT = ("traceparent", "tracestate")
# The codes that are the server's fault, by the conventions for gRPC.
ERRORS = frozenset(
    ("UNKNOWN", "DEADLINE_EXCEEDED", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS")
)
LONGEST_ID = 64
TOLD_EVERY_S = 60.0
"""The same again is told once in so long."""

_NO_PARENT = Context()


class CallSpan:
    """The span of a call, or of one request among several in it.

    Times that it is given are ns of the machine's monotonic clock.
    """

    __slots__ = ("_code", "_context", "_ended", "_offset_ns", "_recording", "_span", "_tracer")

    def __init__(
        self, tracer: Tracer, span: Span, offset_ns: int, code: str = "rpc.response.status_code"
    ) -> None:
        self._code = code
        self._tracer = tracer
        self._span = span
        self._offset_ns = offset_ns
        self._recording = span.is_recording()
        self._ended = False
        self._context: Context | None = None

    @property
    def ids(self) -> dict[str, str]:
        """What a log line tells of it."""
        own = self._span.get_span_context()
        return {"trace_id": f"{own.trace_id:032x}", "span_id": f"{own.span_id:016x}"}

    def asked_as(self, request_id: str) -> None:
        """Its request has this id. One that no request may have is not told."""
        if self._recording and len(request_id) <= LONGEST_ID and request_id.isprintable():
            self._span.set_attribute("equipoise.request_id", request_id)

    def part(self, request_id: str, started_ns: int) -> CallSpan:
        """The span of one of several requests in the call."""
        if not self._recording:
            return self
        span = self._tracer.start_span(
            "request", self._inside(), start_time=started_ns + self._offset_ns
        )
        part = CallSpan(self._tracer, span, self._offset_ns, "equipoise.status_code")
        part.asked_as(request_id)
        return part

    def list_made(self, bundle_id: str, batched: Batched[Answer]) -> None:
        """A list was made, so."""
        if not self._recording:
            return
        answer, phases = batched.result, batched.result.phases
        self._span.set_attributes(
            {
                "equipoise.bundle_id": bundle_id,
                "equipoise.policy": answer.fair.receipt.policy,
                "equipoise.receipt_status": answer.fair.receipt.status.name,
                "equipoise.batch_size": batched.batch_size,
                "equipoise.degraded_reasons": sorted(reason.name for reason in answer.degraded),
            }
        )
        features_from_ns = phases.history_from_ns + phases.history_ns
        self._queued(batched.formed_ns, batched.queue_ns)
        self._phase("history", phases.history_from_ns, phases.history_ns)
        self._phase("features", features_from_ns, phases.features_ns)
        self._phase("model", phases.model_from_ns, phases.model_ns)
        self._phase("fair", phases.fair_from_ns, phases.fair_ns)

    def scored(self, bundle_id: str, batched: Batched[Scored]) -> None:
        """The model alone was run."""
        if not self._recording:
            return
        self._span.set_attributes(
            {"equipoise.bundle_id": bundle_id, "equipoise.batch_size": batched.batch_size}
        )
        self._queued(batched.formed_ns, batched.queue_ns)
        self._phase("model", batched.result.model_from_ns, batched.result.model_ns)

    def ended(self, code: str, reason: str = "") -> None:
        """It ended with this status code's name and, if it failed, for this reason. What it is told
        later is not heeded."""
        if self._ended or not self._recording:
            return
        self._ended = True
        self._span.set_attribute(self._code, code)
        if reason:
            self._span.set_attribute("equipoise.error_reason", reason)
        if code in ERRORS:
            self._span.set_attribute("error.type", code)
            self._span.set_status(StatusCode.ERROR)
        self._span.end()

    def _inside(self) -> Context:
        if self._context is None:
            self._context = set_span_in_context(self._span, _NO_PARENT)
        return self._context

    def _queued(self, formed_ns: int, queue_ns: int) -> None:
        self._phase("queue", formed_ns - queue_ns, queue_ns)

    def _phase(self, name: str, from_ns: int, spent_ns: int) -> None:
        if spent_ns:
            began_ns = from_ns + self._offset_ns
            span = self._tracer.start_span(name, self._inside(), start_time=began_ns)
            span.end(began_ns + spent_ns)


class Traces:
    """Begins the spans of calls and sends those that are sampled.

    ratio: the share of the calls without a parent that are sampled; one with a parent is if its
    parent is. None leaves it to OTEL_TRACES_SAMPLER, by default all and as the parent.
    """

    def __init__(self, exporter: SpanExporter, ratio: float | None) -> None:
        self._exporter = exporter
        self._log = structlog.get_logger("traces")
        TOLD.listen()
        sampler = None if ratio is None else ParentBased(TraceIdRatioBased(ratio))
        # It must not be shut down at the end of the process: that may take half a minute.
        self._provider = TracerProvider(sampler, _resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("equipoise", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def call(
        self,
        method: str,
        metadata: Iterable[tuple[str, str | bytes]] | None,
        started_ns: int,
    ) -> CallSpan:
        """The span of a call that came then. method: its full name, without a slash before it."""
        offset_ns = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            method,
            self._parent(metadata),
            SpanKind.SERVER,
            {"rpc.system.name": "grpc", "rpc.method": method},
            start_time=started_ns + offset_ns,
        )
        return CallSpan(self._tracer, span, offset_ns)

    def _parent(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> Context:
        found: dict[str, list[str]] = {}
        for key, value in metadata or ():
            if key in CONTEXT and isinstance(value, str):
                found.setdefault(key, []).append(value)
        return self._propagator.extract(found, _NO_PARENT) if found else _NO_PARENT

    async def close(self, within_s: float, hurry: asyncio.Event) -> None:
        """Send what is left, for at most so long, or until `hurry` is set."""
        loop = asyncio.get_running_loop()
        sent = loop.create_future()

        def done() -> None:
            if not sent.done():
                sent.set_result(None)

        def send() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits
                loop.call_soon_threadsafe(done)

        # No thread of the loop's own: at its end the loop would wait for it.
        threading.Thread(target=send, name="traces-end", daemon=True).start()
        hastened = asyncio.create_task(hurry.wait())
        await asyncio.wait((sent, hastened), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        hastened.cancel()
        TOLD.forget()
        if not sent.done():
            self._log.warning("traces not sent", waited_s=within_s)
            # What is under way there fails at once.
            self._exporter.shutdown()


def exporter_of(kind: Literal["otlp", "console"]) -> SpanExporter:
    """Where spans go: to a collector, as the OTEL_EXPORTER_OTLP_* variables say, or to standard
    output, one JSON line each.

    Raises:
        SettingsRefused: the variables ask for what is not offered.
    """
    TOLD.listen()
    if kind == "console":
        return ConsoleSpanExporter(
            out=sys.stdout, formatter=lambda span: span.to_json(indent=None) + "\n"
        )
    for name in PROTOCOLS:
        if (os.environ.get(name) or "grpc") != "grpc":
            raise SettingsRefused(f"{name}: got {shown(os.environ[name])}, allowed: grpc")
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    try:
        return OTLPSpanExporter()
    except Exception as error:  # of many kinds: a timeout that is no number, an unknown compression
        raise SettingsRefused(f"traces 'otlp': an OTEL_* variable is refused: {error}") from error


def _resource() -> Resource:
    """Who sends them. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES have the last word."""
    return Resource.create(
        {
            "service.name": "equipoise",
            "service.version": __version__,
            "service.instance.id": str(uuid.uuid4()),
            "process.pid": os.getpid(),
            **OTELResourceDetector().detect().attributes,
        }
    )


class _Told(logging.Handler):
    """Makes log lines of ours of what OpenTelemetry has to say, such as a collector that is away."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._log = structlog.get_logger("traces")
        self._source = logging.getLogger("opentelemetry")
        self._told_s: dict[str, float] = {}  # by the message without what was filled in

    def emit(self, record: logging.LogRecord) -> None:
        # A caller's metadata may be worth a line each, and he might send it often.
        now_s = time.monotonic()
        if now_s < self._told_s.get(record.msg, -TOLD_EVERY_S) + TOLD_EVERY_S:
            return
        self._told_s[record.msg] = now_s
        self._log.warning("traces", told=record.getMessage()[:500])

    def listen(self) -> None:
        """From now on."""
        self._told_s.clear()
        self._source.addHandler(self)
        self._source.propagate = False
        # Each try to reach a collector is not worth a line; that it failed is.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)

    def forget(self) -> None:
        """No more."""
        self._source.removeHandler(self)
        self._source.addHandler(logging.NullHandler())


TOLD = _Told()
