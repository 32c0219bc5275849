"""Which inputs a bundle's model reads, and how they are made of a history and candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from server.bundle.manifest import ModelInfo
from server.features import FeatureState, pair_features
from server.features.sequence import sequence
from server.features.types import History, Int32
from server.model import (
    ASKED,
    FEATURES,
    HISTORY,
    Feed,
    OnnxRetriever,
    Port,
    pair_ports,
    sequence_ports,
)

FeedMaker = Callable[[History, Int32, int], Feed]
"""From a history, candidates `[n] int32` and "now" in Unix milliseconds."""


def ports_of(model: ModelInfo) -> tuple[Port, ...]:
    """The model's inputs."""
    return ports_for(model.n_features, model.history_length)


def ports_for(n_features: int, history_length: int) -> tuple[Port, ...]:
    """The inputs of a model with so many pair features, or none, and of one that reads the last
    `history_length` items, or none."""
    pairs = pair_ports(n_features) if n_features else ()
    return (*pairs, *sequence_ports(history_length)) if history_length else pairs


Searcher = Callable[[History], Int32]
"""From a history to the items that the model puts first of all, the best first."""


def retriever_for(model: ModelInfo, graph: bytes, n_items: int) -> OnnxRetriever:
    """The graph that searches the catalogue; ValueError where it is another than the manifest says."""
    if model.retrieval is None:
        raise ValueError("the manifest says of no retrieval")
    return OnnxRetriever(graph, model.history_length, model.retrieval.items, n_items)


def searcher(retriever: OnnxRetriever, length: int) -> Searcher:
    """The step from a history to the retriever's items."""

    def found(history: History) -> Int32:
        return retriever.items(sequence(history, np.empty(0, np.int32), length)[0])

    return found


def feed_maker(ports: Sequence[Port], state: FeatureState) -> FeedMaker:
    """The step from one list's history and candidates to the model's inputs, without batch axis."""
    names = {port.name for port in ports}
    length = next((int(port.axes[1]) for port in ports if port.name == HISTORY), 0)
    pairs = FEATURES in names

    def made(history: History, items: Int32, now_ms: int) -> Feed:
        feed = {FEATURES: pair_features(history, items, now_ms, state)} if pairs else {}
        if length:
            recent, candidates = sequence(history, items, length)
            return {**feed, HISTORY: recent, ASKED: candidates}
        return feed

    return made
