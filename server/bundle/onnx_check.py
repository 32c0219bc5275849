"""What may be wrong with a model file before any runtime sees it.

Owns the refusal of external data (a model that reads other files) anywhere in
it: subgraphs, functions, defaults of functions, training graphs, and of
operators outside the standard sets. The serving install has no `onnx` package,
so the few fields that matter are read through a private descriptor with ONNX's
field numbers (onnx/onnx.proto, IR version 10); all others are skipped. A test
compares the numbers with the `onnx` package, and that no path to a tensor is
missing.

    opset = check_model(Path("model.onnx").read_bytes())
"""

from __future__ import annotations

from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

MAX_BYTES = 512 * 1024 * 1024
MAX_DEPTH = 16
DEFAULT_DOMAINS = {"", "ai.onnx"}
ALLOWED_DOMAINS = {*DEFAULT_DOMAINS, "ai.onnx.ml"}

# message -> (field, number, type); * marks a repeated field. Each field through which a tensor
# can be reached has to be here.
FIELDS: dict[str, tuple[tuple[str, int, str], ...]] = {
    "ModelProto": (
        ("graph", 7, "GraphProto"),
        ("opset_import", 8, "*OperatorSetIdProto"),
        ("training_info", 20, "*TrainingInfoProto"),
        ("functions", 25, "*FunctionProto"),
    ),
    "OperatorSetIdProto": (("domain", 1, "bytes"), ("version", 2, "int64")),
    "TrainingInfoProto": (("initialization", 1, "GraphProto"), ("algorithm", 2, "GraphProto")),
    "GraphProto": (
        ("node", 1, "*NodeProto"),
        ("initializer", 5, "*TensorProto"),
        ("sparse_initializer", 15, "*SparseTensorProto"),
    ),
    "FunctionProto": (("node", 7, "*NodeProto"), ("attribute_proto", 11, "*AttributeProto")),
    "NodeProto": (
        ("op_type", 4, "bytes"),
        ("attribute", 5, "*AttributeProto"),
        ("domain", 7, "bytes"),
    ),
    "AttributeProto": (
        ("t", 5, "TensorProto"),
        ("g", 6, "GraphProto"),
        ("tensors", 10, "*TensorProto"),
        ("graphs", 11, "*GraphProto"),
        ("sparse_tensor", 22, "SparseTensorProto"),
        ("sparse_tensors", 23, "*SparseTensorProto"),
    ),
    "SparseTensorProto": (("values", 1, "TensorProto"), ("indices", 2, "TensorProto")),
    "TensorProto": (
        ("name", 8, "bytes"),
        ("external_data", 13, "*StringStringEntryProto"),
        ("data_location", 14, "int64"),
    ),
    "StringStringEntryProto": (("key", 1, "bytes"), ("value", 2, "bytes")),
}
_PACKAGE = "equipoise_onnx_subset"


def check_model(model: bytes) -> int:
    """The opset of a model that may be loaded.

    Raises:
        ValueError: too large, not ONNX, external data anywhere, operators outside the standard
            sets, or graphs nested too deeply.
    """
    if len(model) > MAX_BYTES:
        raise ValueError(f"{len(model)} bytes, allowed: {MAX_BYTES}")
    try:
        parsed = _model_class().FromString(model)
    except DecodeError as error:  # also where messages are nested too deeply for protobuf
        raise ValueError(f"not an ONNX model: {error}") from error
    if not parsed.HasField("graph"):
        raise ValueError("not an ONNX model: it has no graph")
    _check_graph(parsed.graph, 0)
    for info in parsed.training_info:
        _check_graph(info.initialization, 0)
        _check_graph(info.algorithm, 0)
    for function in parsed.functions:
        _check_attributes(function.attribute_proto, 0)
        _check_nodes(function.node, 0)
    versions = [int(o.version) for o in parsed.opset_import if _text(o.domain) in DEFAULT_DOMAINS]
    if len(versions) != 1:
        raise ValueError(f"it names {len(versions)} versions of the standard opset, expected 1")
    return versions[0]


@cache
def _model_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto2"
    )
    proto = descriptor_pb2.FieldDescriptorProto
    for message, fields in FIELDS.items():
        described = file.message_type.add(name=message)
        for name, number, kind in fields:
            base = kind.lstrip("*")
            added = described.field.add(
                name=name,
                number=number,
                label=proto.LABEL_REPEATED if kind.startswith("*") else proto.LABEL_OPTIONAL,
            )
            if base in FIELDS:
                added.type = proto.TYPE_MESSAGE
                added.type_name = f".{_PACKAGE}.{base}"
            else:
                added.type = proto.TYPE_BYTES if base == "bytes" else proto.TYPE_INT64
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.ModelProto"))


def _text(raw: bytes) -> str:
    return raw[:64].decode(errors="replace")


def _check_graph(graph: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"graphs are nested deeper than {MAX_DEPTH}")
    for tensor in graph.initializer:
        _check_tensor(tensor)
    for sparse in graph.sparse_initializer:
        _check_sparse(sparse)
    _check_nodes(graph.node, depth)


def _check_nodes(nodes: Any, depth: int) -> None:
    for node in nodes:
        if _text(node.domain) not in ALLOWED_DOMAINS:
            raise ValueError(
                f"operator {_text(node.domain)}.{_text(node.op_type)}: "
                "only standard ONNX operators are served"
            )
        _check_attributes(node.attribute, depth)


def _check_attributes(attributes: Any, depth: int) -> None:
    for attribute in attributes:
        _check_tensor(attribute.t)
        for tensor in attribute.tensors:
            _check_tensor(tensor)
        _check_sparse(attribute.sparse_tensor)
        for sparse in attribute.sparse_tensors:
            _check_sparse(sparse)
        if attribute.HasField("g"):
            _check_graph(attribute.g, depth + 1)
        for graph in attribute.graphs:
            _check_graph(graph, depth + 1)


def _check_sparse(sparse: Any) -> None:
    _check_tensor(sparse.values)
    _check_tensor(sparse.indices)


def _check_tensor(tensor: Any) -> None:
    # Any location but 0 (inside): a reader that keeps fewer bits may take it for 1 (outside).
    if tensor.data_location or tensor.external_data:
        where = next((_text(e.value) for e in tensor.external_data if e.key == b"location"), "")
        raise ValueError(
            f"tensor {_text(tensor.name)!r} keeps its data in another file ({where!r}): "
            "only models in one file are served; export with external_data=False"
        )
