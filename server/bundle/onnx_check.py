"""What may be wrong with a model file before any runtime sees it.

Owns the refusal of external data (a model that reads other files) anywhere in
the graph, subgraphs and functions included, and of operators outside the
standard set. The serving install has no `onnx` package, so the few fields that
matter are read through a private descriptor with ONNX's field numbers
(onnx/onnx.proto, IR version 10); all others are skipped as unknown.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

MAX_BYTES = 512 * 1024 * 1024
MAX_DEPTH = 16
ALLOWED_DOMAINS = {"", "ai.onnx"}
EXTERNAL = 1

_FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "Model": (("ir_version", 1, "int64"), ("graph", 7, "Graph"), ("opset_import", 8, "*Opset"),
              ("functions", 25, "*Function")),
    "Opset": (("domain", 1, "string"), ("version", 2, "int64")),
    "Graph": (("node", 1, "*Node"), ("initializer", 5, "*Tensor"),
              ("sparse_initializer", 15, "*Sparse")),
    "Function": (("node", 7, "*Node"),),
    "Node": (("attribute", 5, "*Attribute"), ("op_type", 4, "string"), ("domain", 7, "string")),
    "Attribute": (("t", 5, "Tensor"), ("g", 6, "Graph"), ("tensors", 10, "*Tensor"),
                  ("graphs", 11, "*Graph"), ("sparse_tensor", 22, "Sparse"),
                  ("sparse_tensors", 23, "*Sparse")),
    "Sparse": (("values", 1, "Tensor"), ("indices", 2, "Tensor")),
    "Tensor": (("name", 8, "string"), ("external_data", 13, "*Entry"),
               ("data_location", 14, "int64")),
    "Entry": (("key", 1, "string"), ("value", 2, "string")),
}  # fmt: skip


@cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="equipoise_onnx_subset.proto", package="equipoise_onnx_subset", syntax="proto2"
    )
    proto = descriptor_pb2.FieldDescriptorProto
    for message, fields in _FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            base = kind.lstrip("*")
            added = described.field.add(
                name=name,
                number=number,
                label=proto.LABEL_REPEATED if kind.startswith("*") else proto.LABEL_OPTIONAL,
            )
            if base in _FIELDS:
                added.type = proto.TYPE_MESSAGE
                added.type_name = f".equipoise_onnx_subset.{base}"
            else:
                added.type = proto.TYPE_STRING if base == "string" else proto.TYPE_INT64
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(
        pool.FindMessageTypeByName("equipoise_onnx_subset.Model")
    )


def _check_tensor(tensor: Any) -> None:
    if tensor.data_location == EXTERNAL or tensor.external_data:
        where = next((e.value for e in tensor.external_data if e.key == "location"), "")
        raise ValueError(
            f"tensor {tensor.name[:64]!r} keeps its data in another file ({where[:64]!r}): "
            "only models in one file are served"
        )


def _check_nodes(nodes: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"graphs are nested deeper than {MAX_DEPTH}")
    for node in nodes:
        if node.domain not in ALLOWED_DOMAINS:
            raise ValueError(
                f"operator {node.domain[:64]}.{node.op_type[:64]}: only standard ONNX operators are served"
            )
        for attribute in node.attribute:
            for tensor in (attribute.t, *attribute.tensors):
                _check_tensor(tensor)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                _check_tensor(sparse.values)
                _check_tensor(sparse.indices)
            if attribute.HasField("g"):
                _check_graph(attribute.g, depth + 1)
            for graph in attribute.graphs:
                _check_graph(graph, depth + 1)


def _check_graph(graph: Any, depth: int) -> None:
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _check_tensor(sparse.values)
        _check_tensor(sparse.indices)
    _check_nodes(graph.node, depth)


def check_model(model: bytes) -> int:
    """The opset of a model that may be loaded.

    Raises:
        ValueError: too large, not ONNX, external data anywhere, operators outside the standard
            set, or graphs nested too deeply.
    """
    if len(model) > MAX_BYTES:
        raise ValueError(f"{len(model)} bytes, allowed: {MAX_BYTES}")
    try:
        parsed = _model_class().FromString(model)
    except DecodeError as error:
        raise ValueError(f"not an ONNX model: {error}") from error
    if not parsed.HasField("graph"):
        raise ValueError("not an ONNX model: it has no graph")
    _check_graph(parsed.graph, 0)
    for function in parsed.functions:
        _check_nodes(function.node, 0)
    versions = [int(o.version) for o in parsed.opset_import if o.domain in ALLOWED_DOMAINS]
    if not versions:
        raise ValueError("it names no opset")
    return max(versions)
