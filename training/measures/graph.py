"""An ONNX graph as a few blocks: what a reader of the model's structure wants to see.

Owns the grouping. A node belongs to the torch module whose parameters it uses, as far as their names
tell it ("sequence.blocks.0.query.bias"); one without parameters to the block that feeds it. Where
names tell nothing, each weight begins a block. Blocks never form a circle, and there are at most
MOST_BLOCKS of them: of longer names fewer parts are told apart, and then chains are joined.

    blocks = blocks_of(bundle.model)
    results["structure"] = structure_block(bundle.model)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import onnx
from onnx import TensorProto

MOST_BLOCKS = 12
NEARLY = 16
"""Of so many, chains are joined before parts of names are given up."""
WEIGHTED = frozenset(("MatMul", "Gemm", "Gather", "LSTM", "GRU", "RNN", "Conv"))
FLOATS = frozenset(
    (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
)
WORDS = {
    "LayerNormalization": "layer norm", "Softmax": "softmax", "Relu": "ReLU", "Gelu": "GELU",
    "Tanh": "tanh", "Sigmoid": "sigmoid", "Concat": "join", "TopK": "top k", "Dropout": "dropout",
}  # fmt: skip
"""Operations that say something by themselves."""
QUIET = {"Sub": "subtract", "Mul": "multiply", "Add": "add", "Div": "divide", "MatMul": "product"}
"""Told of a block in which nothing of the above happens."""


@dataclass
class Block:
    """Nodes that are shown as one. after: the numbers of the blocks that feed it.

    kind: "input", "output" or "block". says: what happens inside, in order. weights: floating-point
    numbers in the parameters that its nodes use first.
    """

    title: str
    kind: str
    says: list[str] = field(default_factory=list)
    weights: int = 0
    after: set[int] = field(default_factory=set)


def structure_block(model: bytes) -> dict[str, Any]:
    """The block `structure` of the results."""
    return {
        "n_weights": n_weights(model),
        "blocks": [asdict(block) | {"after": sorted(block.after)} for block in blocks_of(model)],
    }


def blocks_from(told: Mapping[str, Any]) -> list[Block]:
    """The blocks that a block `structure` tells of."""
    return [Block(**one | {"after": set(one["after"])}) for one in told["blocks"]]


def blocks_of(model: bytes) -> list[Block]:
    """The blocks of a model, each after those that feed it: inputs first, outputs last."""
    graph = onnx.load_from_string(model).graph
    scopes = _scopes(graph)
    longest = max((len(scope) for scope in scopes), default=1)
    for depth in range(max(1, longest), 0, -1):
        blocks = _grouped(graph, [scope[:depth] for scope in scopes])
        if _count(blocks) <= NEARLY and _count(_joined(blocks)) <= MOST_BLOCKS:
            break
    return _joined(blocks)


def _count(blocks: Sequence[Block]) -> int:
    return sum(block.kind == "block" for block in blocks)


def n_weights(model: bytes) -> int:
    """All floating-point numbers among a model's parameters."""
    return sum(
        _size(one.dims) for one in onnx.load_from_string(model).graph.initializer if one.data_type in FLOATS
    )  # fmt: skip


def _size(dims: Iterable[int]) -> int:
    total = 1
    for one in dims:
        total *= one
    return total


def _path(parameter: str) -> tuple[str, ...]:
    """The module of a parameter: "blocks.0.query.bias" is of ("blocks 0", "query")."""
    parts: list[str] = []
    for part in parameter.split(".")[:-1]:
        if part.isdigit() and parts and not parts[-1][-1].isdigit():
            parts[-1] += f" {part}"
        else:
            parts.append(part)
    return tuple(parts)


def _scopes(graph: onnx.GraphProto) -> list[tuple[str, ...]]:
    """Of each node its module; () where it has no parameter by which to tell."""
    parameters = {one.name: one for one in graph.initializer if one.data_type in FLOATS}
    readers: dict[str, list[int]] = {}
    for at, node in enumerate(graph.node):
        for name in node.input:
            readers.setdefault(name, []).append(at)

    def own(at: int) -> tuple[str, ...]:
        return next((p for n in graph.node[at].input if n in parameters and (p := _path(n))), ())

    found = []
    for at, node in enumerate(graph.node):
        scope = own(at)
        weight = next((n for n in node.input if n in parameters and parameters[n].dims), None)
        if not scope and weight is not None:
            # The exporter names a transposed weight anew; the bias that is added next keeps its name.
            following = readers.get(node.output[0], [])
            if len(following) == 1:
                scope = own(following[0])
            if not scope and node.op_type in WEIGHTED:
                scope = (weight,)
        found.append(scope)
    return found


def _grouped(graph: onnx.GraphProto, scopes: Sequence[tuple[str, ...]]) -> list[Block]:
    constants = {one.name for one in graph.initializer}
    sizes = {one.name: _size(one.dims) for one in graph.initializer if one.data_type in FLOATS}
    dims = {one.name: list(one.dims) for one in graph.initializer}
    blocks: list[Block] = []
    maker: dict[str, int] = {}
    keys: list[tuple[str, ...] | None] = []
    for port in graph.input:
        if port.name not in constants:
            maker[port.name] = len(blocks)
            blocks.append(Block(port.name, "input", [_shape(port)]))
            keys.append(None)
    counted: set[str] = set()
    for node, scope in zip(graph.node, _inherited(graph, scopes, constants), strict=True):
        fed = {maker[name] for name in node.input if name in maker}
        # The latest block of the same module, if joining it makes no circle.
        place = next(
            (
                one
                for one in range(len(blocks) - 1, -1, -1)
                if keys[one] == scope and not any(_reaches(blocks, one, p) for p in fed - {one})
            ),
            None,
        )
        if place is None:
            place = len(blocks)
            blocks.append(Block(_title(scope), "block"))
            keys.append(scope)
        block = blocks[place]
        block.after |= fed - {place}
        block.says += _says(node, dims)
        for name in set(node.input) & sizes.keys() - counted:
            block.weights += sizes[name]
            counted.add(name)
        maker |= dict.fromkeys(node.output, place)
    for port in graph.output:
        after = {maker[port.name]} if port.name in maker else set()
        blocks.append(Block(port.name, "output", [_shape(port)], after=after))
    for block in blocks:
        loud = [word for word in block.says if word not in QUIET.values()]
        block.says = _once(loud or block.says)
    return blocks


def _inherited(
    graph: onnx.GraphProto, scopes: Sequence[tuple[str, ...]], constants: set[str]
) -> list[tuple[str, ...]]:
    """The modules of all nodes: one without is of the module that feeds it last, else that it feeds."""
    found = list(scopes)
    by_output: dict[str, tuple[str, ...]] = {}
    for at, node in enumerate(graph.node):
        if not found[at]:
            fed = [by_output[n] for n in node.input if by_output.get(n)]
            found[at] = fed[-1] if fed else ()
        by_output |= dict.fromkeys(node.output, found[at])
    wanted: dict[str, tuple[str, ...]] = {}
    for at in range(len(found) - 1, -1, -1):
        node = graph.node[at]
        if not found[at]:
            found[at] = next((wanted[n] for n in node.output if n in wanted), ())
        if found[at]:
            wanted |= {n: found[at] for n in node.input if n not in constants}
    return found


def _reaches(blocks: Sequence[Block], start: int, end: int) -> bool:
    """Whether `end` comes after `start`."""
    todo, seen = [end], set()
    while todo:
        one = todo.pop()
        if one == start:
            return True
        if one not in seen:
            seen.add(one)
            todo += blocks[one].after
    return False


def _joined(blocks: list[Block]) -> list[Block]:
    """Fewer blocks: chains are put together, the smallest neighbours first."""
    blocks = [replace(one, after=set(one.after)) for one in blocks]
    while _count(blocks) > MOST_BLOCKS:
        feeds: dict[int, list[int]] = {}
        for at, block in enumerate(blocks):
            for before in block.after:
                feeds.setdefault(before, []).append(at)
        pairs = [
            (len(blocks[before].says) + len(block.says), before, at)
            for at, block in enumerate(blocks)
            for before in block.after
            if block.kind == blocks[before].kind == "block"
            and len(block.after) == 1
            and feeds[before] == [at]
        ]
        if not pairs:
            return blocks
        _, first, second = min(pairs)
        blocks[first].says = _once([*blocks[first].says, *blocks[second].says])
        blocks[first].weights += blocks[second].weights
        renamed = {at: at - (at > second) for at in range(len(blocks))} | {second: first}
        del blocks[second]
        for block in blocks:
            block.after = {renamed[one] for one in block.after}
    return blocks


def _says(node: onnx.NodeProto, dims: dict[str, list[int]]) -> list[str]:
    sizes = [dims[name] for name in node.input if len(dims.get(name, ())) == 2]
    if node.op_type in ("MatMul", "Gemm") and sizes:
        return [f"linear {sizes[0][0]} → {sizes[0][1]}"]
    if node.op_type == "Gather" and sizes:
        return [f"embedding {sizes[0][0]:,} × {sizes[0][1]}"]
    if node.op_type in ("LSTM", "GRU", "RNN"):
        hidden = next((a.i for a in node.attribute if a.name == "hidden_size"), "")
        return [f"{node.op_type} {hidden}".strip()]
    word = WORDS.get(node.op_type) or QUIET.get(node.op_type)
    return [word] if word else []


def _once(words: Sequence[str]) -> list[str]:
    """Without what is said twice in a row."""
    return [word for at, word in enumerate(words) if not at or words[at - 1] != word]


def _title(scope: tuple[str, ...]) -> str:
    return " · ".join(scope) if scope else "arithmetic"


def _shape(port: onnx.ValueInfoProto) -> str:
    sizes = port.type.tensor_type.shape.dim
    return " × ".join(one.dim_param or str(one.dim_value) for one in sizes)
