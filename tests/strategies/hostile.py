"""Models that fit the server in everything that can be read of them, and harm whoever runs them."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from server.features import FEATURE_NAMES


def model_of(nodes: list[Any], **constants: np.ndarray[Any, Any]) -> bytes:
    """A model with the server's inputs and outputs, and these nodes between them."""
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info(
            "features", TensorProto.FLOAT, ["batch", "n", len(FEATURE_NAMES)])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", "n"])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    raw: bytes = model.SerializeToString()
    return raw


def greedy() -> bytes:
    """A model that asks for 4 TiB."""
    return model_of(
        [
            helper.make_node("ConstantOfShape", ["huge"], ["much"]),
            helper.make_node("ReduceSum", ["much"], ["one"], keepdims=0),
            helper.make_node("ReduceSum", ["features", "last"], ["sum"], keepdims=0),
            helper.make_node("Add", ["sum", "one"], ["scores"]),
        ],
        huge=np.array([1 << 20, 1 << 20], np.int64),
        last=np.array([2], np.int64),
    )


def endless() -> bytes:
    """A model that would compute for years."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["going_on"]),
            helper.make_node("Sin", ["had"], ["has"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("number", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("had", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("going_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("has", TensorProto.FLOAT, None),
        ],
    )
    return model_of(
        [
            helper.make_node("ReduceSum", ["features", "last"], ["sum"], keepdims=0),
            helper.make_node("Loop", ["trips", "true", "sum"], ["scores"], body=body),
        ],
        last=np.array([2], np.int64),
        trips=np.array(1 << 60, np.int64),
        true=np.array(True),
    )
