"""Which inputs a bundle's model reads, and how they are made of a history and candidates."""

from __future__ import annotations

from collections.abc import Callable

from server.bundle.manifest import ModelInfo
from server.features import FeatureState, pair_features
from server.features.sequence import sequence
from server.features.types import History, Int32
from server.model import Feed, Port, pair_ports, sequence_ports

FeedMaker = Callable[[History, Int32, int], Feed]
"""From a history, candidates `[n] int32` and "now" in Unix milliseconds."""


def ports_of(model: ModelInfo) -> tuple[Port, ...]:
    """The model's inputs."""
    if model.history_length:
        return sequence_ports(model.history_length)
    return pair_ports(model.n_features)


def feed_maker(history_length: int, state: FeatureState) -> FeedMaker:
    """The step from one list's history and candidates to the model's inputs, without batch axis.

    history_length: of a model that reads the history; 0 of one that reads pair features.
    """
    if history_length:

        def of_history(history: History, items: Int32, now_ms: int) -> Feed:
            recent, candidates = sequence(history, items, history_length)
            return {"history": recent, "candidates": candidates}

        return of_history

    def of_pairs(history: History, items: Int32, now_ms: int) -> Feed:
        return {"features": pair_features(history, items, now_ms, state)}

    return of_pairs
