"""No model that reads another file gets near the runtime, wherever it hides the reference."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.onnx_ml_pb2 import DESCRIPTOR as ONNX_FILE
from safetensors.numpy import save

from server.bundle import BundleParts, load_bundle
from server.bundle.onnx_check import FIELDS, MAX_DEPTH, check_model
from server.errors import BundleRefused
from server.features import N_FEATURES
from server.model import OnnxScorer, pair_ports
from strategies.bundles import reseal, tiny_model

MESSAGES = ONNX_FILE.message_types_by_name


def external(location: str = "weights.bin") -> TensorProto:
    tensor = TensorProto(name="far", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph_with(*nodes: onnx.NodeProto, initializer: tuple[TensorProto, ...] = ()) -> Any:
    return helper.make_graph(nodes, "g", [], [], initializer)


def constant(tensor: TensorProto) -> onnx.NodeProto:
    return helper.make_node("Constant", [], ["c"], value=tensor)


def conditional(branch: onnx.GraphProto) -> onnx.NodeProto:
    return helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=graph_with())


def sparse(values: TensorProto, indices: TensorProto) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[1])


def near() -> TensorProto:
    return numpy_helper.from_array(np.ones(1, np.float32), "near")


def attribute(**fields: Any) -> onnx.NodeProto:
    node = helper.make_node("Op", [], ["y"])
    node.attribute.add(name="a", **fields)
    return node


def with_function(model: onnx.ModelProto, **fields: Any) -> None:
    model.functions.append(onnx.FunctionProto(name="f", domain="local", **fields))


PLACES: dict[str, Callable[[onnx.ModelProto], None]] = {
    "an initializer": lambda m: m.graph.initializer.append(external()),
    "a sparse initializer's values": lambda m: m.graph.sparse_initializer.append(
        sparse(external(), near())
    ),
    "a sparse initializer's indices": lambda m: m.graph.sparse_initializer.append(
        sparse(near(), external())
    ),
    "a constant": lambda m: m.graph.node.append(constant(external())),
    "a list of tensors": lambda m: m.graph.node.append(attribute(tensors=[near(), external()])),
    "a sparse attribute": lambda m: m.graph.node.append(
        attribute(sparse_tensor=sparse(near(), external()))
    ),
    "a list of sparse tensors": lambda m: m.graph.node.append(
        attribute(sparse_tensors=[sparse(external(), near())])
    ),
    "the branch of an If": lambda m: m.graph.node.append(
        conditional(graph_with(initializer=(external(),)))
    ),
    "an If in the branch of an If": lambda m: m.graph.node.append(
        conditional(graph_with(conditional(graph_with(constant(external())))))
    ),
    "a list of graphs": lambda m: m.graph.node.append(
        attribute(graphs=[graph_with(), graph_with(initializer=(external(),))])
    ),
    "the body of a function": lambda m: with_function(m, node=[constant(external())]),
    "the default of a function": lambda m: with_function(
        m, attribute_proto=[onnx.AttributeProto(name="a", t=external())]
    ),
    "a training graph": lambda m: m.training_info.add().algorithm.initializer.append(external()),
    "a training graph's start": lambda m: m.training_info.add().initialization.initializer.append(
        external()
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_external_data_is_refused_in(place: str, parts: BundleParts) -> None:
    model = onnx.load_from_string(parts.model)
    assert check_model(model.SerializeToString()) == 20
    PLACES[place](model)
    with pytest.raises(ValueError, match=r"'far' keeps its data in another file \('weights.bin'\)"):
        check_model(model.SerializeToString())


def test_external_data_is_refused_whether_marked_or_only_named(parts: BundleParts) -> None:
    marked, named, odd = external(), external(), external()
    del marked.external_data[:]
    named.ClearField("data_location")
    del odd.external_data[:]
    raws = []
    for tensor in (marked, named):
        model = onnx.load_from_string(parts.model)
        model.graph.initializer.append(tensor)
        raws.append(model.SerializeToString())
    # A location that a reader with 32 bits takes for EXTERNAL: field 14, varint 2**32 + 1.
    tensor_raw = b"\x42\x01t" + b"\x70\x81\x80\x80\x80\x10"
    graph_raw = b"\x2a" + bytes([len(tensor_raw)]) + tensor_raw
    raws.append(parts.model + b"\x3a" + bytes([len(graph_raw)]) + graph_raw)
    for raw in raws:
        with pytest.raises(ValueError, match="in another file"):
            check_model(raw)


def test_the_private_descriptor_has_onnxs_field_numbers_and_types() -> None:
    compared = 0
    for message, fields in FIELDS.items():
        for name, number, kind in fields:
            real = MESSAGES[message].fields_by_name[name]
            assert (real.number, real.is_repeated) == (number, kind.startswith("*"))
            if real.message_type is not None:
                assert real.message_type.name == kind.lstrip("*")
            compared += 1
    assert compared == sum(map(len, FIELDS.values())) > 20


def leads_to_a_tensor(message: Any, seen: frozenset[str] = frozenset()) -> bool:
    return message.name == "TensorProto" or any(
        leads_to_a_tensor(field.message_type, seen | {message.name})
        for field in message.fields
        if field.message_type is not None and field.message_type.name not in seen
    )


def test_no_way_from_a_model_to_a_tensor_is_missing_in_the_private_descriptor() -> None:
    queue, reached = ["ModelProto"], set()
    ways = set()
    while queue:
        message = queue.pop()
        if message in reached or message == "TensorProto":
            continue
        reached.add(message)
        for field in MESSAGES[message].fields:
            if field.message_type is not None and leads_to_a_tensor(field.message_type):
                ways.add((message, field.name))
                queue.append(field.message_type.name)
    known = {(message, name) for message, fields in FIELDS.items() for name, _, _ in fields}
    assert len(ways) > 10
    assert ways - known == set()


@pytest.mark.parametrize("domain", ["com.microsoft", "evil", "AI.ONNX", "ai.onnx.training"])
def test_operators_of_other_domains_are_refused_in_subgraphs_too(
    parts: BundleParts, domain: str
) -> None:
    custom = helper.make_node("Op", [], ["y"], domain=domain)
    for node in (custom, conditional(graph_with(custom))):
        model = onnx.load_from_string(parts.model)
        model.graph.node.append(node)
        with pytest.raises(ValueError, match=f"operator {domain}.Op: only standard"):
            check_model(model.SerializeToString())


def nested(depth: int) -> onnx.GraphProto:
    graph = graph_with()
    for _ in range(depth):
        graph = graph_with(conditional(graph))
    return graph


def test_graphs_nested_too_deeply_are_refused_at_any_depth(parts: BundleParts) -> None:
    model = onnx.load_from_string(parts.model)
    model.graph.node.append(conditional(nested(MAX_DEPTH - 1)))
    assert check_model(model.SerializeToString()) == 20
    del model.graph.node[-1]
    model.graph.node.append(conditional(nested(MAX_DEPTH)))
    with pytest.raises(ValueError, match="nested deeper"):
        check_model(model.SerializeToString())
    raw = b""
    for _ in range(5_000):  # graph in attribute in node in graph; past what protobuf itself reads
        for tag in (b"\x32", b"\x2a", b"\x0a"):
            raw = tag + varint(len(raw)) + raw
    with pytest.raises(ValueError, match="not an ONNX model"):
        check_model(b"\x3a" + varint(len(raw)) + raw)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def test_a_model_without_graph_or_opset_is_refused(parts: BundleParts) -> None:
    model = onnx.load_from_string(parts.model)
    for field, told in (("opset_import", "0 versions"), ("graph", "no graph")):
        changed = onnx.load_from_string(parts.model)
        changed.ClearField(field)
        with pytest.raises(ValueError, match=told):
            check_model(changed.SerializeToString())
    model.opset_import.add(domain="ai.onnx", version=21)
    with pytest.raises(ValueError, match="2 versions"):
        check_model(model.SerializeToString())


def test_a_hard_linked_weights_file_does_not_get_a_model_in(folder: Path, tmp_path: Path) -> None:
    # onnxruntime reads such a file, although onnx's own checker refuses it.
    (tmp_path / "secret").write_bytes(np.ones(1, np.float32).tobytes())
    os.link(tmp_path / "secret", folder / "weights.bin")
    model = onnx.load_from_string((folder / "model.onnx").read_bytes())
    model.graph.initializer.append(external())
    reseal(folder, {"model.onnx": model.SerializeToString()})
    with pytest.raises(BundleRefused) as listed:
        load_bundle(folder)
    assert listed.value.file == "weights.bin"
    (folder / "weights.bin").unlink()
    reseal(folder)
    with pytest.raises(BundleRefused, match=r"model\.onnx: tensor 'far' keeps its data in another"):
        load_bundle(folder)


def frozen_model(batch: object, n: object, n_features: int = N_FEATURES) -> bytes:
    model = onnx.load_from_string(tiny_model(np.random.default_rng(0), n_features))
    for port in (model.graph.input[0], model.graph.output[0]):
        for axis, size in zip(port.type.tensor_type.shape.dim, (batch, n), strict=False):
            if isinstance(size, int):
                axis.dim_value = size
            else:
                axis.dim_param = size
    raw: bytes = model.SerializeToString()
    return raw


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (frozen_model(3, "n"), rf"expected \['dynamic', 'dynamic', {N_FEATURES}\]"),
        (frozen_model("batch", 7), rf"expected \['dynamic', 'dynamic', {N_FEATURES}\]"),
        (
            frozen_model("batch", "n", N_FEATURES + 1),
            rf"\['batch', 'n', {N_FEATURES + 1}\], expected",
        ),
    ],
)
def test_a_model_whose_shapes_disagree_with_the_manifest_is_refused(
    folder: Path, model: bytes, told: str
) -> None:
    reseal(folder, {"model.onnx": model})
    with pytest.raises(BundleRefused, match=told) as refused:
        load_bundle(folder)
    assert refused.value.file == "model.onnx"


def test_a_model_whose_scores_depend_on_their_neighbours_is_refused(
    folder: Path, parts: BundleParts
) -> None:
    # Softmax over the candidates: a padded batch would then rank otherwise than a list alone.
    model = onnx.load_from_string(parts.model)
    last = model.graph.node[-1]
    last.CopyFrom(helper.make_node("Softmax", list(last.input), list(last.output), axis=1))
    scorer = OnnxScorer(model.SerializeToString(), pair_ports(N_FEATURES))
    goldens = {**parts.golden_inputs, "outputs": scorer.score(parts.golden_inputs)}
    reseal(folder, {"model.onnx": model.SerializeToString(), "goldens.safetensors": save(goldens)})
    with pytest.raises(BundleRefused, match=r"goldens\.safetensors: one candidate alone"):
        load_bundle(folder)
