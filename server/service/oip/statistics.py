"""What each model has done in this process, as ModelStatistics tells it.

Owns the sums. An inference is one list; an execution is the work that several
inferences shared, so inferences of one execution are counted as one batch.
Durations are nanoseconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from equipoise.oip import grpc_service_pb2 as pb
from server.service.oip.models import VERSION, Execution, Made

# Executions of which more inferences may yet be told: all of a batch are told one after the other.
OPEN = 64


@dataclass
class _Sum:
    count: int = 0
    ns: int = 0

    def add(self, ns: int, count: int = 1) -> None:
        self.count += count
        self.ns += ns

    def message(self) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=self.count, ns=self.ns)


@dataclass
class _Shared:
    """One execution so far."""

    inferences: int = 0
    input_ns: int = 0
    shared_ns: int = 0
    own_ns: int = 0
    output_ns: int = 0


@dataclass
class _OfSize:
    input: _Sum = field(default_factory=_Sum)
    infer: _Sum = field(default_factory=_Sum)
    output: _Sum = field(default_factory=_Sum)

    def add(self, one: _Shared) -> None:
        self.input.add(one.input_ns)
        self.infer.add(one.shared_ns + one.own_ns)
        self.output.add(one.output_ns)


class ModelFigures:
    """The figures of one model."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._last_ms = 0
        self._inferences = 0
        self._executions = 0
        self._success, self._fail, self._queue = _Sum(), _Sum(), _Sum()
        self._input, self._infer, self._output = _Sum(), _Sum(), _Sum()
        self._closed: dict[int, _OfSize] = {}
        self._open: dict[Execution, _Shared] = {}

    def failed(self, spent_ns: int) -> None:
        """A request got no answer."""
        self._fail.add(spent_ns)

    def succeeded(self, made: Made, *, decode_ns: int, encode_ns: int, spent_ns: int) -> None:
        """A request was answered, `spent_ns` after it came."""
        self._last_ms = time.time_ns() // 1_000_000
        self._inferences += made.inferences
        self._success.add(spent_ns)
        self._queue.add(made.queue_ns)
        self._input.add(decode_ns)
        self._infer.add(made.shared_ns + made.own_ns)
        self._output.add(encode_ns)
        shared = self._open.get(made.execution)
        if shared is None:
            shared = self._open[made.execution] = _Shared(shared_ns=made.shared_ns)
            self._executions += 1
            if len(self._open) > OPEN:
                self._close(self._closed, self._open.pop(next(iter(self._open))))
        shared.inferences += made.inferences
        shared.input_ns += decode_ns
        shared.own_ns += made.own_ns
        shared.output_ns += encode_ns

    @staticmethod
    def _close(sizes: dict[int, _OfSize], one: _Shared) -> None:
        sizes.setdefault(one.inferences, _OfSize()).add(one)

    def message(self) -> pb.ModelStatistics:
        """All of it, as it is sent."""
        return pb.ModelStatistics(
            name=self._name,
            version=VERSION,
            last_inference=self._last_ms,
            inference_count=self._inferences,
            execution_count=self._executions,
            inference_stats=pb.InferStatistics(
                success=self._success.message(),
                fail=self._fail.message(),
                queue=self._queue.message(),
                compute_input=self._input.message(),
                compute_infer=self._infer.message(),
                compute_output=self._output.message(),
            ),
            batch_stats=list(self._batches()),
        )

    def _batches(self) -> Iterable[pb.InferBatchStatistics]:
        sizes: dict[int, _OfSize] = {}
        for size, sums in self._closed.items():
            own = sizes.setdefault(size, _OfSize())
            own.input.add(sums.input.ns, sums.input.count)
            own.infer.add(sums.infer.ns, sums.infer.count)
            own.output.add(sums.output.ns, sums.output.count)
        for one in self._open.values():
            self._close(sizes, one)
        for size, sums in sorted(sizes.items()):
            yield pb.InferBatchStatistics(
                batch_size=size,
                compute_input=sums.input.message(),
                compute_infer=sums.infer.message(),
                compute_output=sums.output.message(),
            )
