"""A bundle whose model reads the history: lists are those of its formula, alone and in batches."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from server.bundle import Bundle, load_bundle, write_bundle
from server.engine import Answer, Engine, RecommendQuery
from server.events import EventKind, StoredHistory
from server.features import pair_features
from server.features.sequence import sequence
from server.features.types import History
from strategies.bundles import DATA_UNTIL_MS, HISTORY_LENGTH, N_ITEMS, sequence_parts


@pytest.fixture(scope="module", params=[False, True], ids=["history", "history and pairs"])
def bundle(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Bundle:
    path = tmp_path_factory.mktemp("sequence") / "bundle"
    write_bundle(sequence_parts(pairs=request.param), path)
    return load_bundle(path)


def stored(items: list[int]) -> StoredHistory:
    """Bought one a day, the last of them last."""
    n = len(items)
    return StoredHistory(
        item_ids=tuple(f"item-{item:03}" for item in items),
        times_ms=DATA_UNTIL_MS - np.arange(n, 0, -1) * 86_400_000,
        kinds=np.full(n, EventKind.PURCHASE, np.int8),
        quantities=np.ones(n, np.float32),
    )


def by_formula(bundle: Bundle, bought: list[int], items: list[int]) -> list[int]:
    graph = onnx.load_from_string(bundle.model).graph
    vectors = next(numpy_helper.to_array(t) for t in graph.initializer if t.name == "items")
    user = np.sum([vectors[item + 1] for item in bought[-HISTORY_LENGTH:]], axis=0)
    scores = {item: float(vectors[item + 1] @ user) for item in items}
    if bundle.manifest.model.n_features:
        own = stored(bought)
        history = History.of(np.array(bought, np.int32), own.times_ms, own.quantities)
        pairs = pair_features(history, np.array(items, np.int32), DATA_UNTIL_MS, bundle.state)
        scores = {item: scores[item] + float(pairs[row, 0]) for row, item in enumerate(items)}
    return sorted(items, key=lambda item: (-scores[item], item))


def test_lists_are_those_of_the_last_items_alone_and_in_a_batch(bundle: Bundle) -> None:
    engine = Engine(bundle)
    assert engine.warm_up() == 3
    rng = np.random.default_rng(1)
    cases = [
        (rng.integers(0, N_ITEMS, bought).tolist(), rng.choice(N_ITEMS, size, replace=False))
        for bought, size in ((1, 30), (3, 50), (5, 12), (9, 60), (40, 20))
    ]
    queries = [
        RecommendQuery(
            count=10,
            history=stored(bought),
            candidate_ids=tuple(f"item-{item:03}" for item in items),
            policy="none",
            as_of_ms=DATA_UNTIL_MS,
        )
        for bought, items in cases
    ]
    together = engine.run_batch(queries)
    for (bought, items), outcome, query in zip(cases, together, queries, strict=True):
        assert isinstance(outcome, Answer)
        wanted = by_formula(bundle, bought, items.tolist())[:10]
        assert list(outcome.item_ids) == [f"item-{item:03}" for item in wanted]
        (alone,) = engine.run_batch([query])
        assert isinstance(alone, Answer)
        assert alone.item_ids == outcome.item_ids


@given(st.lists(st.integers(0, 99), max_size=12), st.integers(1, 9))
def test_the_newest_items_stand_last_and_nothing_stands_before_them(
    bought: list[int], length: int
) -> None:
    n = len(bought)
    history = History.of(
        np.array(bought, np.int32), np.arange(n, dtype=np.int64), np.ones(n, np.float32)
    )
    items, candidates = sequence(history, np.array([0, 7], np.int32), length)
    assert items.dtype == candidates.dtype == np.int32
    assert items.tolist() == ([0] * length + [item + 1 for item in bought])[-length:]
    assert candidates.tolist() == [1, 8]
