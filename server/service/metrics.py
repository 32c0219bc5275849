"""What a server counts, for Prometheus. Owns names, labels and their bounds; those of calls are in
`call_metrics`.

Labels are bounded: methods, codes, policies and groups come from the contract
and the bundle; surfaces and experiments are capped, the rest is "other". No
user id is ever a label.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from server import __version__
from server.batcher import Batched
from server.bundle import Bundle
from server.engine import Answer
from server.service.call_metrics import CallMetrics, Children

PHASE_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 1.0)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class BoundedLabels:
    """Lets the first `limit` different values through; later new ones become "other".

    >>> labels = BoundedLabels(1)
    >>> labels("home"), labels("cart"), labels("home"), labels("")
    ('home', 'other', 'home', '')
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if not value or value in self._seen:
            return value
        if len(self._seen) < self._limit:
            self._seen.add(value)
            return value
        return "other"


class ServerMetrics:
    """The metrics of one server process, in a registry of their own.

    Where it is one of several workers they are counted in files, and the supervisor tells the sums;
    each gauge says how those of several workers become one.
    """

    def __init__(self, max_labels: int) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self.calls = CallMetrics(registry)
        phase = Histogram(
            "equipoise_phase_seconds",
            "Time of one list's phases (model: of its batch)",
            ["phase"],
            buckets=PHASE_SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "equipoise_batch_size",
            "Requests that shared the batch, seen by each request",
            buckets=BATCH_SIZES,
            registry=registry,
        )
        lists = Counter(
            "equipoise_lists",
            "Lists by policy, receipt status, surface and experiment",
            ["policy", "receipt_status", "surface", "experiment"],
            registry=registry,
        )
        unmet = Counter(
            "equipoise_unmet_lists",
            "Lists that do not keep their policy (told in the receipt), by the first group it lacks",
            ["policy", "group"],
            registry=registry,
        )
        exposure = Counter(
            "equipoise_group_exposure",
            "Exposure shares given to a group, added up over lists",
            ["policy", "group"],
            registry=registry,
        )
        degraded = Counter(
            "equipoise_degraded_lists", "Lists by degraded reason", ["reason"], registry=registry
        )
        requests = Counter(
            "equipoise_requests",
            "Requests inside BatchRecommend and RecommendStream calls, by status code",
            ["grpc_method", "grpc_code"],
            registry=registry,
        )
        self.unseen = Counter(
            "equipoise_unseen_calls",
            "Calls that ended before the process looked at them: the door was full, or it was too late",
            registry=registry,
        )
        feedback = Counter(
            "equipoise_feedback_events",
            "Feedback events by what became of them",
            ["outcome"],
            registry=registry,
        )
        self._info = Gauge(
            "equipoise_serving_info",
            "1, labelled with what is served; 0 for what was",
            ["bundle_id", "model_digest", "version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self.queue_depth = Gauge(
            "equipoise_queue_depth",
            "Requests that wait for a batch",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.under_way = Gauge(
            "equipoise_calls_under_way",
            "Calls that were taken and not answered; a stream is one",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.bytes_unread = Gauge(
            "equipoise_bytes_unread",
            "Bytes of answers that callers have not read yet",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self.bytes_in_flight = Gauge(
            "equipoise_bytes_in_flight",
            "Bytes of the requests that were read and not answered",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._surface = BoundedLabels(max_labels)
        self._experiment = BoundedLabels(max_labels)
        self._decode, self._queue, self._history, self._features, self._model, self._fair = (
            phase.labels(name).observe
            for name in ("decode", "queue", "history", "features", "model", "fair")
        )
        self._encode = phase.labels("encode").observe
        self._lists = Children(lists)
        self._unmet = Children(unmet)
        self._exposure = Children(exposure)
        self._degraded = Children(degraded)
        self.requests = Children(requests)
        self.feedback = Children(feedback)

    def serves(self, bundle: Bundle, *, still: bool = True) -> None:
        """Tell that this bundle is served, or no longer."""
        manifest = bundle.manifest
        labels = manifest.bundle_id, manifest.model.digest, __version__
        self._info.labels(*labels).set(int(still))

    def encoded(self, spent_ns: int) -> None:
        """A list became a message in so long."""
        self._encode(spent_ns / 1e9)

    def list_made(
        self, batched: Batched[Answer], surface: str, experiment: str, decode_ns: int
    ) -> None:
        """Count one list."""
        answer = batched.result
        receipt = answer.fair.receipt
        times = answer.phases
        self._decode(decode_ns / 1e9)
        self._queue(batched.queue_ns / 1e9)
        self._history(times.history_ns / 1e9)
        self._features(times.features_ns / 1e9)
        self._model(times.model_ns / 1e9)
        self._fair(times.fair_ns / 1e9)
        self._batch.observe(batched.batch_size)
        policy = receipt.policy
        self._lists(
            policy, receipt.status.name, self._surface(surface), self._experiment(experiment)
        ).inc()
        if receipt.first_bad_prefix is not None:
            self._unmet(policy, receipt.first_bad_prefix.group).inc()
        for part in receipt.exposure:
            self._exposure(policy, part.group).inc(part.exposure_share)
        for reason in answer.degraded:
            self._degraded(reason.name).inc()
