"""Tensors of the Open Inference Protocol: messages -> checked values, and back.

Owns datatypes, the two ways in which elements travel (typed `contents`, or raw
bytes; never both in one message), and every check of names, shapes, lengths and
ranges. What passes is what its spec says. Must not know what a tensor means.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.oip import grpc_service_pb2 as pb
from equipoise.oip import model_config_pb2 as config_pb
from server.errors import InvalidField, listed

LENGTH_BYTES = 4
SHARED_MEMORY = "shared_memory_region"

Value = NDArray[Any] | list[bytes]
"""The elements of a tensor: an array of its shape; of BYTES a list in row-major order."""


@dataclass(frozen=True)
class Datatype:
    """What elements are. dtype: None for BYTES. field: of `InferTensorContents`."""

    name: str
    dtype: np.dtype[Any] | None
    field: str
    config: config_pb.DataType.ValueType


FP32 = Datatype("FP32", np.dtype("<f4"), "fp32_contents", config_pb.TYPE_FP32)
INT32 = Datatype("INT32", np.dtype("<i4"), "int_contents", config_pb.TYPE_INT32)
INT64 = Datatype("INT64", np.dtype("<i8"), "int64_contents", config_pb.TYPE_INT64)
BYTES = Datatype("BYTES", None, "bytes_contents", config_pb.TYPE_STRING)


@dataclass(frozen=True)
class Axis:
    """An axis of any size from `low` to `high`, the same in all tensors of a request that have it."""

    name: str
    low: int
    high: int

    def __str__(self) -> str:
        return f"{self.name} from {self.low} to {self.high}"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output. low, high: what whole numbers may be; FP32 inputs must be finite."""

    name: str
    datatype: Datatype
    axes: tuple[int | Axis, ...]
    optional: bool = False
    low: int | None = None
    high: int | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The axes' sizes, -1 for any."""
        return tuple(axis if isinstance(axis, int) else -1 for axis in self.axes)


def decoded(request: pb.ModelInferRequest, specs: Sequence[TensorSpec]) -> dict[str, Value]:
    """The inputs of a request by name.

    Raises:
        InvalidField: an input is unknown, missing, there twice, or not what its spec says.
    """
    known = {spec.name: spec for spec in specs}
    raw, values = request.raw_input_contents, dict[str, Value]()
    sizes: dict[str, int] = {}
    if raw and len(raw) != len(request.inputs):
        allowed = f"{len(request.inputs)}, one for each input, or none"
        raise InvalidField.of("raw_input_contents", f"{len(raw)} entries", allowed)
    for place, tensor in enumerate(request.inputs):
        field = f"inputs[{place}]"
        spec = known.get(tensor.name)
        if spec is None:
            raise InvalidField.of(f"{field}.name", tensor.name, listed(known))
        if tensor.name in values:
            raise InvalidField.of(f"{field}.name", tensor.name, "no input twice")
        if SHARED_MEMORY in tensor.parameters:
            raise InvalidField.of(
                f"{field}.parameters", SHARED_MEMORY, "none: send the elements in the request"
            )
        if tensor.datatype != spec.datatype.name:
            raise InvalidField.of(f"{field}.datatype", tensor.datatype, spec.datatype.name)
        shape = _shape(f"{field}.shape", tensor.shape, spec, sizes)
        filled = [each.name for each, _ in tensor.contents.ListFields()]
        if raw:
            if filled:
                raise InvalidField.of(
                    f"{field}.contents", "some, beside raw_input_contents", "one of the two"
                )
            value = _of_bytes(f"raw_input_contents[{place}]", raw[place], spec, shape)
        else:
            value = _of_contents(f"{field}.contents", tensor.contents, filled, spec, shape)
        _check_range(field, value, spec)
        values[tensor.name] = value
    for spec in specs:
        if not spec.optional and spec.name not in values:
            needed = listed(spec.name for spec in specs if not spec.optional)
            raise InvalidField.of("inputs", f"no {spec.name!r}", f"with {needed}")
    return values


def texts(field: str, elements: Sequence[bytes]) -> list[str]:
    """BYTES elements as texts.

    Raises:
        InvalidField: one is not UTF-8.
    """
    decoded: list[str] = []
    for place, element in enumerate(elements):
        try:
            decoded.append(element.decode())
        except UnicodeDecodeError:
            raise InvalidField.of(f"{field}[{place}]", element, "UTF-8") from None
    return decoded


def wanted_outputs(
    request: pb.ModelInferRequest, specs: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """The outputs that are asked for, in that order; all if none is named.

    Raises:
        InvalidField: one is unknown, there twice, or wanted in a way that is not offered.
    """
    known = {spec.name: spec for spec in specs}
    wanted: dict[str, TensorSpec] = {}
    for place, output in enumerate(request.outputs):
        field = f"outputs[{place}]"
        if output.name not in known:
            raise InvalidField.of(f"{field}.name", output.name, listed(known))
        if output.name in wanted:
            raise InvalidField.of(f"{field}.name", output.name, "no output twice")
        for parameter in ("classification", SHARED_MEMORY):
            if parameter in output.parameters:
                raise InvalidField.of(f"{field}.parameters", parameter, "none: read the elements")
        wanted[output.name] = known[output.name]
    return tuple(wanted.values()) or tuple(specs)


def add_output(
    response: pb.ModelInferResponse, spec: TensorSpec, value: Value, *, raw: bool
) -> None:
    """Put an output into a response. raw: as bytes, instead of typed contents."""
    shape = [len(value)] if isinstance(value, list) else value.shape
    output = response.outputs.add(name=spec.name, datatype=spec.datatype.name, shape=shape)
    if isinstance(value, list):
        if raw:
            response.raw_output_contents.append(
                b"".join(len(one).to_bytes(LENGTH_BYTES, "little") + one for one in value)
            )
        else:
            output.contents.bytes_contents.extend(value)
    elif raw:
        response.raw_output_contents.append(value.astype(spec.datatype.dtype).tobytes())
    else:
        getattr(output.contents, spec.datatype.field).extend(value.ravel().tolist())


def _shape(
    field: str, shape: Sequence[int], spec: TensorSpec, sizes: dict[str, int]
) -> tuple[int, ...]:
    fits = len(shape) == len(spec.axes) and all(
        size == axis if isinstance(axis, int) else axis.low <= size <= axis.high
        for size, axis in zip(shape, spec.axes, strict=True)
    )
    if not fits:
        raise InvalidField.of(field, list(shape), f"[{', '.join(map(str, spec.axes))}]")
    for size, axis in zip(shape, spec.axes, strict=True):
        if isinstance(axis, Axis) and sizes.setdefault(axis.name, size) != size:
            allowed = f"{axis.name} of {sizes[axis.name]}, as in the inputs before it"
            raise InvalidField.of(field, list(shape), allowed)
    return tuple(shape)


def _of_bytes(field: str, raw: bytes, spec: TensorSpec, shape: tuple[int, ...]) -> Value:
    size, dtype = math.prod(shape), spec.datatype.dtype
    if dtype is None:
        return _elements(field, raw, size)
    wanted = size * dtype.itemsize
    if len(raw) != wanted:
        allowed = f"{wanted} bytes, as {spec.datatype.name} {list(shape)} has"
        raise InvalidField.of(field, f"{len(raw)} bytes", allowed)
    return np.frombuffer(raw, dtype).reshape(shape)


def _elements(field: str, raw: bytes, size: int) -> list[bytes]:
    """The elements of a BYTES tensor, each preceded by its length."""
    elements: list[bytes] = []
    at, end = 0, len(raw)
    while len(elements) < size:
        start = at + LENGTH_BYTES
        length = int.from_bytes(raw[at:start], "little")
        if start + length > end:
            allowed = f"{size} elements, each preceded by its length in {LENGTH_BYTES} bytes"
            seen = f"{end} bytes, which end in element {len(elements)}"
            raise InvalidField.of(field, seen, allowed)
        at = start + length
        elements.append(raw[start:at])
    if at != end:
        raise InvalidField.of(field, f"{end} bytes", f"{at} bytes, as its {size} elements have")
    return elements


def _of_contents(
    field: str,
    contents: pb.InferTensorContents,
    filled: Sequence[str],
    spec: TensorSpec,
    shape: tuple[int, ...],
) -> Value:
    size, datatype = math.prod(shape), spec.datatype
    for name in filled:
        if name != datatype.field:
            raise InvalidField.of(f"{field}.{name}", "some", f"{datatype.field} alone")
    elements = getattr(contents, datatype.field)
    if len(elements) != size:
        allowed = f"{size}, as shape {list(shape)} says, or all inputs in raw_input_contents"
        raise InvalidField.of(f"{field}.{datatype.field}", f"{len(elements)} elements", allowed)
    if datatype.dtype is None:
        return list(elements)
    return np.array(elements, datatype.dtype).reshape(shape)


def _check_range(field: str, value: Value, spec: TensorSpec) -> None:
    if isinstance(value, list) or not value.size:
        return
    if value.dtype.kind == "f":
        wrong, allowed = ~np.isfinite(value), "finite numbers"
    elif spec.low is None or spec.high is None:
        return
    else:
        wrong, allowed = (value < spec.low) | (value > spec.high), f"{spec.low} to {spec.high}"
    if wrong.any():
        place = np.unravel_index(int(wrong.argmax()), value.shape)
        at = ", ".join(str(int(one)) for one in place)
        raise InvalidField.of(f"{field}, element [{at}]", value[place].item(), allowed)


def parameters_of(values: Mapping[str, str]) -> dict[str, pb.InferParameter]:
    """Texts as parameters."""
    return {name: pb.InferParameter(string_param=value) for name, value in values.items()}
