"""The onnxruntime session: arrays in, arrays out.

Owns one model, one thread and the check that every input is what the model was
exported for. Knows neither users, bundles, queues nor the wire. Safe to call
from one thread at a time (the batcher's).

    scorer = OnnxScorer(model, pair_ports(32))
    scores = scorer.score({"features": features})   # [batch, n, 32] -> [batch, n] float32
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Feed = Mapping[str, NDArray[Any]]
"""A model's inputs by name; with a batch axis, or without for one list."""

ERRORS_ONLY = 3
BATCH, CANDIDATES = "batch", "n"
FEATURES, HISTORY, ASKED = "features", "history", "candidates"
"""Names of inputs."""
RETRIEVED = "items"
"""The output of a graph that searches the catalogue."""
LANES = 16
"""Floats of the widest vector register (AVX-512)."""


@dataclass(frozen=True)
class Port:
    """An input or output: a number is a fixed size, a name any size, the same wherever it stands."""

    name: str
    dtype: type[np.float32] | type[np.int32]
    axes: tuple[str | int, ...]

    @property
    def onnx_type(self) -> str:
        return "tensor(float)" if self.dtype is np.float32 else "tensor(int32)"


SCORES = Port("scores", np.float32, (BATCH, CANDIDATES))


def pair_ports(n_features: int) -> tuple[Port, ...]:
    """What a model over pair features reads: features of each candidate."""
    return (Port(FEATURES, np.float32, (BATCH, CANDIDATES, n_features)),)


def sequence_ports(length: int) -> tuple[Port, ...]:
    """What a sequence model reads: the last `length` items of the history, and the candidates."""
    return (
        Port(HISTORY, np.int32, (BATCH, length)),
        Port(ASKED, np.int32, (BATCH, CANDIDATES)),
    )


class OnnxScorer:
    """Scores candidates with an ONNX model held in memory.

    model: the bytes of one ONNX file without external data.
    ports: its inputs; batch and n must be dynamic. Its one output is `scores [batch, n] float32`,
        higher is better.

    Raises:
        ValueError: onnxruntime cannot load the model, or its inputs or output are others
            than named here. The message gives what was expected and what was seen.
    """

    def __init__(self, model: bytes, ports: Sequence[Port]) -> None:
        self.ports = tuple(ports)
        self._session = _session(model)
        _check_ports("input", self._session.get_inputs(), self.ports)
        _check_ports("output", self._session.get_outputs(), (SCORES,))

    def score(self, feed: Feed) -> Float32:
        """Scores `[batch, n] float32` of inputs with a batch axis.

        A batch or a list without rows gives scores without rows, and no model run.

        Raises:
            ValueError: other inputs, another dtype or shape, or the model answers in another shape.
        """
        sizes: dict[str, int] = {}
        for port in self.ports:
            _check_array(port, feed[port.name], sizes)
        rows = sizes[BATCH], sizes[CANDIDATES]
        if 0 in rows:
            return np.empty(rows, np.float32)
        ready = {port.name: np.ascontiguousarray(feed[port.name]) for port in self.ports}
        scores: Float32 = self._session.run([SCORES.name], ready)[0]
        if scores.shape != rows or scores.dtype != np.float32:
            raise ValueError(
                f"scores: the model gave {scores.dtype} {list(scores.shape)}, "
                f"expected float32 {list(rows)}"
            )
        return scores

    def score_lists(self, lists: Sequence[Feed], least: int | None = 1) -> list[Float32]:
        """Each list's scores `[n] float32`, from one run; the lists are padded with 0 to one width.

        The same list gets the same bits alone and in any batch, since the width is one that
        onnxruntime's kernels cut into whole vectors: what is left over they add up in another order.
        Where a model has such kernels along the batch too, `least` mends it.

        lists: inputs without a batch axis, such as features `[n, F]`.
        least: how many lists a run has at least, of which some may be there twice. None: each list
            has a run of its own.
        """
        if least is None:
            return [self.score_lists([own])[0] for own in lists]
        sizes = [self.size(feed) for feed in lists]
        widest = -(-max(sizes, default=0) // LANES) * LANES
        if widest == 0:
            return [np.empty(0, np.float32) for _ in lists]
        run = [*lists, *[lists[-1]] * (least - len(lists))]
        scores = self.score({port.name: _stacked(port, run, widest) for port in self.ports})
        return [own[:size] for own, size in zip(scores, sizes, strict=False)]

    def cut(self, feed: Feed, batch: int, candidates: int) -> dict[str, NDArray[Any]]:
        """The first lists of inputs with a batch axis, and of each the first candidates."""
        ends = {BATCH: batch, CANDIDATES: candidates}
        return {
            port.name: feed[port.name][tuple(slice(ends.get(str(axis))) for axis in port.axes)]
            for port in self.ports
        }

    def size(self, feed: Feed) -> int:
        """How many candidates a list's inputs have."""
        port = next(port for port in self.ports if CANDIDATES in port.axes)
        return len(feed[port.name])


class OnnxRetriever:
    """Searches a whole catalogue with an ONNX graph: from a history to the items a model puts first.

    graph: the bytes of one ONNX file without external data. length: of the histories. k: how many items
    it gives. n_items: of the catalogue.

    Raises:
        ValueError: onnxruntime cannot load the graph, or its input or output are others.
    """

    def __init__(self, graph: bytes, length: int, k: int, n_items: int) -> None:
        self._n_items, self._k = n_items, k
        self._session = _session(graph)
        _check_ports(
            "input", self._session.get_inputs(), (Port(HISTORY, np.int32, (BATCH, length)),)
        )
        _check_ports(
            "output", self._session.get_outputs(), (Port(RETRIEVED, np.int32, (BATCH, k)),)
        )

    def items(self, history: Int32) -> Int32:
        """The best items, at most k, the best first; history `[length]`: i + 1 for item i, 0 for nothing.

        Raises:
            ValueError: the graph names an item that is not there.
        """
        found: Int32 = self._session.run([RETRIEVED], {HISTORY: history[np.newaxis]})[0]
        if found.shape != (1, self._k) or found.min() < 0 or found.max() > self._n_items:
            raise ValueError(
                f"{RETRIEVED}: the graph gave {list(found.shape)} of {found.min()} to {found.max()}, "
                f"expected [1, {self._k}] of 0 to {self._n_items}"
            )
        return found[found > 0] - np.int32(1)


def _stacked(port: Port, lists: Sequence[Feed], widest: int) -> NDArray[Any]:
    arrays = [feed[port.name] for feed in lists]
    if CANDIDATES not in port.axes:
        return np.stack(arrays)
    padded = np.zeros((len(lists), widest, *arrays[0].shape[1:]), port.dtype)
    for row, array in zip(padded, arrays, strict=True):
        row[: len(array)] = array
    return padded


def _check_array(port: Port, array: NDArray[Any], sizes: dict[str, int]) -> None:
    if array.dtype != port.dtype:
        raise ValueError(
            f"{port.name}: got dtype {array.dtype}, expected {np.dtype(port.dtype).name}"
        )
    fits = array.ndim == len(port.axes) and all(
        size == (axis if isinstance(axis, int) else sizes.setdefault(axis, size))
        for axis, size in zip(port.axes, array.shape, strict=True)
    )
    if not fits:
        raise ValueError(
            f"{port.name}: got shape {list(array.shape)}, expected [{', '.join(map(str, port.axes))}]"
        )


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # One process per core is how the server scales: a pool of threads per session would
    # make them fight, and a spinning thread burns the core of whoever waits for it.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.log_severity_level = ERRORS_ONLY
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class but Exception
        raise ValueError(f"onnxruntime cannot load the model: {_first_line(error)}") from error


def _check_ports(what: str, seen: Sequence[Any], ports: Sequence[Port]) -> None:
    """The model has exactly these inputs or outputs; named axes must be dynamic."""
    found = {port.name: port for port in seen}
    wanted = [port.name for port in ports]
    if sorted(found) != sorted(wanted):
        raise ValueError(f"{what}s: the model has {list(found)}, expected {wanted}")
    for port in ports:
        own = found[port.name]
        if own.type != port.onnx_type:
            raise ValueError(
                f"{what} {port.name!r}: the model has {own.type}, expected {port.onnx_type}"
            )
        fits = len(own.shape) == len(port.axes) and all(
            have == want if isinstance(want, int) else not isinstance(have, int)
            for have, want in zip(own.shape, port.axes, strict=True)
        )
        if not fits:
            expected = [axis if isinstance(axis, int) else "dynamic" for axis in port.axes]
            raise ValueError(
                f"{what} {port.name!r}: the model has shape {own.shape}, expected {expected}"
            )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
