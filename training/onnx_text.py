"""What an ONNX file says of itself, for whoever opens it in a viewer: texts, names, origin.

Owns the words. No number in a graph is changed, and nothing of the machine is told, so that the same
model gives the same bytes.
"""

from __future__ import annotations

import ast
import json
from collections import Counter
from collections.abc import Mapping, Sequence

import onnx_ir as ir
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass

from server import __version__
from server.features import FEATURE_NAMES
from server.model import ASKED, CANDIDATES, FEATURES, HISTORY, SCORES, Port
from training.families import Family

PRODUCER = "equipoise"
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where torch's exporter notes the modules that a node is inside of."""
TEXTS = {
    FEATURES: "Pair features of (history, candidate), as server/features/pairs.py computes them; not standardised.",
    HISTORY: "The newest items of the history, newest last: item i of the item table is i + 1, 0 is nothing.",
    ASKED: "The items to score: item i of the item table is i + 1.",
    SCORES.name: "The chance that each candidate is bought within the horizon, before any policy.",
}


def tell(
    model: ir.Model, family: Family, ports: Sequence[Port], opset: int, about: Mapping[str, str]
) -> None:
    """Give a fresh export its names and texts, and take away what the exporter noted of this machine.

    about: further entries of the file's metadata, such as the horizon.
    """
    dress(model, family.name)
    graph = model.graph
    graph.doc_string = f"Equipoise: {family.told}."
    for value in (*graph.inputs, *graph.outputs):
        value.doc_string = TEXTS[str(value.name)]
    model.doc_string = (
        f"{graph.doc_string} Axes: batch, lists in a run; {CANDIDATES}, candidates of a list, "
        "padded to the widest. A score depends on its own row alone."
    )
    model.producer_name, model.producer_version = PRODUCER, __version__
    known = family.n_features == len(FEATURE_NAMES)
    model.metadata_props.update(
        {
            "family": family.name,
            "inputs": json.dumps([port.name for port in ports]),
            "opset": str(opset),
            "exporter": f"pytorch {torch.__version__.split('+')[0]}",
            **({"feature_names": json.dumps(FEATURE_NAMES)} if known else {}),
            **({"history_length": str(family.history_length)} if family.history_length else {}),
            **about,
        }
    )


def dress(model: ir.Model, name: str) -> None:
    """Name the graph, and its nodes by their modules, without what the exporter noted."""
    names = _names(model.graph)
    # The exporter notes the stack of every node, with the paths of this machine.
    ClearMetadataAndDocStringPass()(model)
    for node, own in zip(model.graph, names, strict=True):
        node.name = own
    model.graph.name = name


def _names(graph: ir.Graph) -> list[str]:
    """Of each node `/module/Operation`, the module as torch names it; a number where that comes twice."""
    seen: Counter[str] = Counter()
    found = []
    for node in graph:
        name = f"/{_module(node)}{node.op_type}"
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return found


def _module(node: ir.Node) -> str:
    """`layers/0/` of a node inside of the module layers.0."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    # The last entry is the operation, the first the whole.
    inner = next((str(one) for one in reversed(scopes[:-1]) if one and not one.startswith("_")), "")
    return f"{inner.replace('.', '/')}/" if inner else ""
