"""The onnxruntime session: arrays in, arrays out.

Owns one model, one thread and the check that every input is what the model was
exported for. Knows neither users, bundles, queues nor the wire. Safe to call
from one thread at a time (the batcher's).

    scorer = OnnxScorer(model, input_name="features", output_name="scores", n_features=32)
    scores = scorer.score(features)   # [batch, n, 32] float32 -> [batch, n] float32
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

ERRORS_ONLY = 3
TENSOR_FLOAT = "tensor(float)"


class OnnxScorer:
    """Scores candidates with an ONNX model held in memory.

    model: the bytes of one ONNX file without external data.
    input_name, output_name: the one input `[batch, n, n_features] float32` and the one
        output `[batch, n] float32`; batch and n must be dynamic.

    Raises:
        ValueError: onnxruntime cannot load the model, or its input or output is another
            than named here. The message gives what was expected and what was seen.
    """

    def __init__(self, model: bytes, *, input_name: str, output_name: str, n_features: int) -> None:
        self._n_features = n_features
        self._input = input_name
        self._outputs = [output_name]
        self._session = _session(model)
        inputs = [(i.name, i.type, i.shape) for i in self._session.get_inputs()]
        outputs = [(o.name, o.type, o.shape) for o in self._session.get_outputs()]
        _check_port("input", inputs, input_name, (None, None, n_features))
        _check_port("output", outputs, output_name, (None, None))

    def score(self, features: Float32) -> Float32:
        """Scores `[batch, n] float32`, higher is better, of features `[batch, n, n_features] float32`.

        A batch or a list without rows gives scores without rows, and no model run.

        Raises:
            ValueError: another dtype or shape, or the model answers in another shape.
        """
        if features.dtype != np.float32:
            raise ValueError(f"features: got dtype {features.dtype}, expected float32")
        if features.ndim != 3 or features.shape[2] != self._n_features:
            raise ValueError(
                f"features: got shape {list(features.shape)}, "
                f"expected [batch, n, {self._n_features}]"
            )
        rows = features.shape[:2]
        if 0 in rows:
            return np.empty(rows, np.float32)
        feed = {self._input: np.ascontiguousarray(features)}
        scores: Float32 = self._session.run(self._outputs, feed)[0]
        if scores.shape != rows or scores.dtype != np.float32:
            raise ValueError(
                f"scores: the model gave {scores.dtype} {list(scores.shape)}, "
                f"expected float32 {list(rows)}"
            )
        return scores


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


def _check_port(
    what: str,
    ports: list[tuple[str, str, list[Any]]],
    name: str,
    shape: tuple[int | None, ...],
) -> None:
    """The model has exactly this input or output; None in `shape` stands for a dynamic axis."""
    seen_names = [port[0] for port in ports]
    if seen_names != [name]:
        raise ValueError(f"{what}s: the model has {seen_names}, expected [{name!r}]")
    _, kind, seen = ports[0]
    if kind != TENSOR_FLOAT:
        raise ValueError(f"{what} {name!r}: the model has {kind}, expected {TENSOR_FLOAT}")
    fits = len(seen) == len(shape) and all(
        have == want if want is not None else not isinstance(have, int)
        for have, want in zip(seen, shape, strict=True)
    )
    if not fits:
        expected = ["dynamic" if axis is None else axis for axis in shape]
        raise ValueError(f"{what} {name!r}: the model has shape {seen}, expected {expected}")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
