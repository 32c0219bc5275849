"""Requests of the Open Inference Protocol, typed or raw, from arrays and texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from equipoise.oip import grpc_service_pb2 as pb

NAMES = {"float32": ("FP32", "fp32_contents"), "int32": ("INT32", "int_contents"),
         "int64": ("INT64", "int64_contents")}  # fmt: skip
Values = NDArray[Any] | Sequence[str]


def infer(
    model: str, inputs: dict[str, Values], *, raw: bool = False, **fields: Any
) -> pb.ModelInferRequest:
    """A request whose inputs are right in form."""
    request = pb.ModelInferRequest(model_name=model, **fields)
    for name, values in inputs.items():
        if isinstance(values, np.ndarray):
            datatype, field = NAMES[values.dtype.name]
            tensor = request.inputs.add(name=name, datatype=datatype, shape=values.shape)
            if raw:
                request.raw_input_contents.append(values.tobytes())
            else:
                getattr(tensor.contents, field).extend(values.ravel().tolist())
        else:
            elements = [value.encode() for value in values]
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(elements)])
            if raw:
                request.raw_input_contents.append(
                    b"".join(len(one).to_bytes(4, "little") + one for one in elements)
                )
            else:
                tensor.contents.bytes_contents.extend(elements)
    return request


def count(number: int) -> NDArray[np.int32]:
    return np.array([number], np.int32)


def outputs(response: pb.ModelInferResponse) -> dict[str, Any]:
    """The outputs by name: arrays, and texts of BYTES."""
    own: dict[str, Any] = {}
    for place, output in enumerate(response.outputs):
        shape = tuple(output.shape)
        if output.datatype == "BYTES":
            elements = list(output.contents.bytes_contents)
            if response.raw_output_contents:
                elements, rest = [], response.raw_output_contents[place]
                while rest:
                    length = int.from_bytes(rest[:4], "little")
                    elements.append(rest[4 : 4 + length])
                    rest = rest[4 + length :]
            assert shape == (len(elements),)
            own[output.name] = [element.decode() for element in elements]
        else:
            assert output.datatype == "FP32"
            values = (
                np.frombuffer(response.raw_output_contents[place], np.float32)
                if response.raw_output_contents
                else np.array(output.contents.fp32_contents, np.float32)
            )
            own[output.name] = values.reshape(shape)
    return own
