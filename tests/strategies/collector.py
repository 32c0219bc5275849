"""An OpenTelemetry collector for tests: takes spans on a loopback port and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from strategies.workers import until


@dataclass(frozen=True)
class Got:
    """One span. resource: of the process that sent it."""

    span: trace_pb2.Span
    resource: dict[str, Any]

    @property
    def name(self) -> str:
        return self.span.name

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def attributes(self) -> dict[str, Any]:
        return _values(self.span.attributes)


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """What came, in order. target: where it listens."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: list[Got] = []
        self.bytes = b""
        self.target = ""

    def Export(self, request: pb.ExportTraceServiceRequest, context: Any) -> Any:
        with self._lock:
            self.bytes += request.SerializeToString()
            for of_resource in request.resource_spans:
                resource = _values(of_resource.resource.attributes)
                for scope in of_resource.scope_spans:
                    self._spans += [Got(span, resource) for span in scope.spans]
        return pb.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Got]:
        """All of them."""
        with self._lock:
            return list(self._spans)

    def trace(self, trace: str) -> list[Got]:
        """The spans of one trace, once its call's span is among them: that is sent last."""

        def found() -> list[Got]:
            own = [got for got in self.spans if got.trace == trace]
            return (
                own if any(got.span.kind == trace_pb2.Span.SPAN_KIND_SERVER for got in own) else []
            )

        own: list[Got] = until(found)
        return own


@contextmanager
def collector() -> Iterator[Collector]:
    """One that listens until the block ends."""
    taking = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(taking, server)
    taking.target = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield taking
    finally:
        server.stop(None).wait()


def _values(attributes: Any) -> dict[str, Any]:
    values = {}
    for one in attributes:
        kind = one.value.WhichOneof("value")
        value = getattr(one.value, kind)
        values[one.key] = (
            [entry.string_value for entry in value.values] if kind == "array_value" else value
        )
    return values
