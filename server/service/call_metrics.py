"""What is counted of calls, under the names that gRPC's users have dashboards for.

Owns those names: the ones of go-grpc-prometheus, and those of gRPC's own OpenTelemetry metrics
(proposal A66) in the form that Prometheus gives them. Must not know what a call does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from google.protobuf import descriptor_pool
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.metrics import MetricWrapperBase

Wrapped = TypeVar("Wrapped", bound=MetricWrapperBase)

SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
METHOD = ("grpc_type", "grpc_service", "grpc_method")
# By whether the caller streams and whether the server does.
TYPES = {
    (False, False): "unary",
    (True, False): "client_stream",
    (False, True): "server_stream",
    (True, True): "bidi_stream",
}


class Children(Generic[Wrapped]):
    """A metric's children by their label values, each looked up in the metric once: that costs
    several times what counting does."""

    def __init__(self, metric: Wrapped) -> None:
        self._metric = metric
        self._children: dict[tuple[str, ...], Wrapped] = {}

    def __call__(self, *labels: str) -> Wrapped:
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = self._metric.labels(*labels)
        return child


class MethodCounts:
    """What is counted of one method's calls.

    started: call it when a call comes; received and sent: for each message, as it is read or made.
    """

    def __init__(self, metrics: CallMetrics, service: str, method: str) -> None:
        found = descriptor_pool.Default().FindServiceByName(service).methods_by_name[method]
        own = TYPES[found.client_streaming, found.server_streaming], service, method
        full = f"{service}/{method}"
        # All but those by status are there from 0 on, so that the first call is an increase.
        self._started = metrics.started.labels(*own)
        self._call_started = metrics.call_started.labels(full)
        self._seconds = metrics.handling.labels(*own)
        self.received: Callable[[], None] = metrics.received.labels(*own).inc
        self.sent: Callable[[], None] = metrics.sent.labels(*own).inc
        self._by_code: dict[str, tuple[Counter, Histogram]] = {}
        self._metrics, self._own, self._full = metrics, own, full

    def started(self) -> None:
        """A call came."""
        self._started.inc()
        self._call_started.inc()

    def ended(self, code: str, spent_s: float) -> None:
        """A call ended with this status code's name, so long after it came."""
        found = self._by_code.get(code)
        if found is None:
            found = self._by_code[code] = (
                self._metrics.handled.labels(*self._own, code),
                self._metrics.call_seconds.labels(self._full, code),
            )
        handled, call_seconds = found
        handled.inc()
        self._seconds.observe(spent_s)
        call_seconds.observe(spent_s)


class CallMetrics:
    """The metrics of calls, in a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, told: str, *labels: str) -> Counter:
            return Counter(name, told, labels, registry=registry)

        def seconds(name: str, told: str, *labels: str) -> Histogram:
            return Histogram(name, told, labels, buckets=SECONDS, registry=registry)

        self.started = counter("grpc_server_started", "Calls that came", *METHOD)
        self.handled = counter(
            "grpc_server_handled", "Calls that ended, by status code", *METHOD, "grpc_code"
        )
        self.received = counter("grpc_server_msg_received", "Messages read", *METHOD)
        self.sent = counter("grpc_server_msg_sent", "Messages sent", *METHOD)
        self.handling = seconds(
            "grpc_server_handling_seconds", "Time from the arrival of a call to its end", *METHOD
        )
        self.call_started = counter("grpc_server_call_started", "Calls that came", "grpc_method")
        self.call_seconds = seconds(
            "grpc_server_call_duration_seconds",
            "Time from the arrival of a call to its end, by status code",
            "grpc_method",
            "grpc_status",
        )
        self._methods: dict[tuple[str, str], MethodCounts] = {}

    def of(self, service: str, method: str) -> MethodCounts:
        """The counts of a method that the contract has; the same object each time."""
        key = service, method
        if key not in self._methods:
            self._methods[key] = MethodCounts(self, service, method)
        return self._methods[key]
