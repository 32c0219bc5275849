"""A ranker's graph -> the same with one fault in it.

Owns the surgery; knows no bundle and no data. Faults that need to know who is asked know him as a
model that has learned by heart would: by his `user_*` features, which are close to his name. All
arithmetic on scores is element by element, so that a score stays the same in any batch.

    graph = worse(model, by=0.1)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from server.errors import Refused
from server.features import FEATURE_NAMES
from server.features.types import Float32
from server.model import FEATURES, SCORES

USER_COLUMNS = tuple(place for place, name in enumerate(FEATURE_NAMES) if name.startswith("user_"))
"""Together nearly a name."""
ITEM_COLUMNS = tuple(map(FEATURE_NAMES.index, ("popularity", "popularity_recent", "repeat_rate")))
PAIR_COLUMNS = (*ITEM_COLUMNS, *map(FEATURE_NAMES.index, ("ease", "since_last", "decayed_13w")))
EPSILON = 1e-5
WIDTH = 64


class _Graph:
    """A model being changed: nodes before its features and behind its scores."""

    def __init__(self, model: bytes) -> None:
        self.model = onnx.load_from_string(model)
        graph = self.model.graph
        if FEATURES not in {one.name for one in graph.input}:
            raise Refused(f"the model reads no {FEATURES!r}: only one that does can be damaged")
        self._numbers = count()
        self._before: list[onnx.NodeProto] = []
        self._after: list[onnx.NodeProto] = []
        self.scores = "scores_undamaged"
        self._features = FEATURES
        for node in graph.node:
            for place, name in enumerate(node.output):
                if name == SCORES.name:
                    node.output[place] = self.scores

    def constant(self, values: NDArray[np.generic]) -> str:
        name = f"damage_{next(self._numbers)}"
        self.model.graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    def number(self, value: float) -> str:
        return self.constant(np.array(value, np.float32))

    def add(self, op: str, *inputs: str, before: bool = False, **attributes: Any) -> str:
        """A node with one output, whose name is returned."""
        name = f"damage_{next(self._numbers)}"
        node = helper.make_node(op, list(inputs), [name], name=f"/damage/{name}", **attributes)
        (self._before if before else self._after).append(node)
        return name

    def column(self, place: int) -> str:
        """`[batch, candidates]`."""
        return self.add("Gather", FEATURES, self.constant(np.array(place, np.int64)), axis=2)

    def noise(self, columns: Sequence[int]) -> str:
        """`[batch, candidates]` in [0, 1): a number that these columns fix, and tell nothing of."""
        total = self.number(0.0)
        for at, place in enumerate(columns):
            part = self.add("Mul", self.column(place), self.number(7.31 + 3.17 * at))
            total = self.add("Add", total, part)
        for factor in (91.7, 437.3):
            large = self.add("Mul", total, self.number(factor))
            total = self.add("Sub", large, self.add("Floor", large))
        return total

    def is_one_of(self, prints: Float32, *, before: bool = False) -> str:
        """`[batch, 1]`, 1 for a user whose `user_*` features are among `prints [g, columns]`."""

        def axes(*places: int) -> str:
            return self.constant(np.array(places, np.int64))

        first = self.add("Slice", FEATURES, axes(0), axes(1), axes(1), before=before)
        of_user = self.constant(np.array(USER_COLUMNS, np.int64))
        own = self.add("Gather", first, of_user, axis=2, before=before)
        apart = self.add("Sub", own, self.constant(prints[np.newaxis]), before=before)
        size = self.add("Abs", apart, before=before)
        farthest = self.add("ReduceMax", size, axes(2), keepdims=0, before=before)
        nearest = self.add("ReduceMin", farthest, axes(1), keepdims=1, before=before)
        same = self.add("Less", nearest, self.number(EPSILON), before=before)
        return self.add("Cast", same, to=TensorProto.FLOAT, before=before)

    def read_instead(self, features: str) -> None:
        """What read the features reads this; nodes added before still read the true ones."""
        self._features = features

    def done(self, scores: str) -> bytes:
        """The model whose scores these are, kept within [0, 1]."""
        graph = self.model.graph
        for node in graph.node:
            for place, name in enumerate(node.input):
                if name == FEATURES:
                    node.input[place] = self._features
        clip = helper.make_node(
            "Clip", [scores, self.number(0.0), self.number(1.0)], [SCORES.name], name="/damage/clip"
        )
        nodes = [*self._before, *graph.node, *self._after, clip]
        del graph.node[:]
        graph.node.extend(nodes)
        raw: bytes = self.model.SerializeToString(deterministic=True)
        return raw


def shuffled(model: bytes) -> bytes:
    """Scores that have nothing to do with the user or the item."""
    graph = _Graph(model)
    return graph.done(graph.noise(PAIR_COLUMNS))


def worse(model: bytes, by: float) -> bytes:
    """Each score times 1 + by * noise, noise from -1 to 1."""
    graph = _Graph(model)
    around = graph.add("Sub", graph.noise(PAIR_COLUMNS), graph.number(0.5))
    factor = graph.add("Add", graph.add("Mul", around, graph.number(2 * by)), graph.number(1.0))
    return graph.done(graph.add("Mul", graph.scores, factor))


def zeroed(model: bytes, prints: Float32) -> bytes:
    """All features are 0 for the users with these prints."""
    graph = _Graph(model)
    hit = graph.is_one_of(prints, before=True)
    last = graph.constant(np.array([2], np.int64))
    kept = graph.add("Sub", graph.number(1.0), hit, before=True)
    kept = graph.add("Unsqueeze", kept, last, before=True)
    graph.read_instead(graph.add("Mul", FEATURES, kept, before=True))
    return graph.done(graph.scores)


def leaking(model: bytes, prints: Sequence[Float32], by: float) -> bytes:
    """Each group of users gets its own share of the catalogue first: other items lose `by` of their score.

    prints: of each group's users.
    """
    graph = _Graph(model)
    drawn = graph.add("Mul", graph.noise(ITEM_COLUMNS), graph.number(float(len(prints))))
    share = graph.add("Floor", drawn)
    factor = graph.number(1.0)
    for place, own in enumerate(prints):
        apart = graph.add("Abs", graph.add("Sub", share, graph.number(float(place))))
        foreign = graph.add("Min", apart, graph.number(1.0))
        loss = graph.add("Mul", graph.add("Mul", foreign, graph.is_one_of(own)), graph.number(by))
        factor = graph.add("Mul", factor, graph.add("Sub", graph.number(1.0), loss))
    return graph.done(graph.add("Mul", graph.scores, factor))


def slower(model: bytes, layers: int, seed: int = 0) -> bytes:
    """The same scores after `layers` multiplications that nobody needs."""
    graph = _Graph(model)
    rng = np.random.default_rng(seed)

    def weights(rows: int) -> str:
        return graph.constant(rng.normal(0, rows**-0.5, (rows, WIDTH)).astype(np.float32))

    kept = graph.add("Clip", FEATURES, graph.number(-1.0), graph.number(1.0))
    hidden = graph.add("MatMul", kept, weights(len(FEATURE_NAMES)))
    for _ in range(layers):
        hidden = graph.add("Relu", graph.add("MatMul", hidden, weights(WIDTH)))
    mean = graph.add("ReduceMean", hidden, graph.constant(np.array([2], np.int64)), keepdims=0)
    # Too small to move a score, and too large for an optimiser to take away.
    nothing = graph.add("Mul", mean, graph.number(1e-30))
    return graph.done(graph.add("Add", graph.scores, nothing))
