"""A list has the same bits alone and in any batch, also where the model's kernels have not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from server.bundle import Bundle, load_bundle, write_bundle
from server.engine import Answer, Engine, RecommendQuery, Scored, ScoreQuery
from server.engine.together import least_together
from server.events import EventKind, StoredHistory
from server.features import N_FEATURES
from server.model import Feed, OnnxScorer, pair_ports, sequence_ports
from strategies.bundles import (
    DATA_UNTIL_MS,
    N_ITEMS,
    sequence_parts,
    tiny_model,
    tiny_sequence_model,
)

LONG = 9  # so long that onnxruntime adds up one list's history in another order than those of two


def lists(rng: np.random.Generator, length: int, n: int) -> list[Feed]:
    return [
        {
            "history": rng.integers(0, N_ITEMS + 1, length).astype(np.int32),
            "candidates": rng.integers(1, N_ITEMS + 1, int(rng.integers(1, 90))).astype(np.int32),
        }
        for _ in range(n)
    ]


def stacked(feeds: Sequence[Feed]) -> dict[str, NDArray[Any]]:
    """With a batch axis."""
    return {
        "history": np.stack([feed["history"] for feed in feeds]),
        "candidates": np.stack([np.resize(feed["candidates"], 7) for feed in feeds]),
    }


def test_a_model_with_sums_along_an_inner_axis_never_runs_on_one_list() -> None:
    rng = np.random.default_rng(0)
    scorer = OnnxScorer(tiny_sequence_model(rng, LONG), sequence_ports(LONG))
    own = lists(rng, LONG, 40)
    # What this is about: if it is no longer so, the model has to be another.
    alone, both = scorer.score_lists(own[:1])[0], scorer.score_lists(own[:2])[0]
    assert alone.tobytes() != both.tobytes()
    least = least_together(scorer, stacked(own))
    assert least == 2
    alone_each = [scorer.score_lists([one], least)[0] for one in own]
    for size in (2, 3, 5, 8, 31):
        together = [
            scores
            for start in range(0, len(own), size)
            for scores in scorer.score_lists(own[start : start + size], least)
        ]
        for one, other in zip(alone_each, together, strict=True):
            assert one.tobytes() == other.tobytes()


def test_models_without_them_run_on_one_list() -> None:
    rng = np.random.default_rng(0)
    short = OnnxScorer(tiny_sequence_model(rng, 5), sequence_ports(5))
    assert least_together(short, stacked(lists(rng, 5, 3))) == 1
    pairs = OnnxScorer(tiny_model(rng), pair_ports(N_FEATURES))
    goldens = rng.normal(0, 1, (2, 7, N_FEATURES)).astype(np.float32)
    assert least_together(pairs, {"features": goldens}) == 1


class Moody(OnnxScorer):
    """One more for each list that shares the run."""

    def score(self, feed: Feed) -> NDArray[np.float32]:
        scores = super().score(feed)
        return scores + np.float32(len(scores))


def test_a_model_that_differs_at_every_size_runs_on_each_list_by_itself() -> None:
    rng = np.random.default_rng(0)
    scorer, own = Moody(tiny_sequence_model(rng, 5), sequence_ports(5)), lists(rng, 5, 4)
    least = least_together(scorer, stacked(own))
    assert least is None
    together = scorer.score_lists(own, least)
    for feed, scores in zip(own, together, strict=True):
        assert scores.tobytes() == scorer.score_lists([feed])[0].tobytes()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path: Path = tmp_path_factory.mktemp("long") / "bundle"
    write_bundle(replace(sequence_parts(4, LONG), name="long"), path)
    return load_bundle(path)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle)


def test_an_engine_gives_each_the_bits_that_it_gets_alone(engine: Engine) -> None:
    assert engine.least_together == 2
    assert engine.warm_up() == 3
    rng = np.random.default_rng(2)
    queries = [
        ScoreQuery({name: array[np.newaxis] for name, array in feed.items()})
        for feed in lists(rng, LONG, 12)
    ]
    alone = [engine.run_batch([query])[0] for query in queries]
    for one, other in zip(alone, engine.run_batch(queries), strict=True):
        assert isinstance(one, Scored)
        assert isinstance(other, Scored)
        assert one.scores.tobytes() == other.scores.tobytes()


def bought(rng: np.random.Generator, n: int) -> StoredHistory:
    return StoredHistory(
        item_ids=tuple(f"item-{item:03}" for item in rng.integers(0, N_ITEMS, n)),
        times_ms=DATA_UNTIL_MS - rng.integers(1, 10**9, n),
        kinds=np.full(n, EventKind.PURCHASE, np.int8),
        quantities=np.ones(n, np.float32),
    )


@pytest.mark.parametrize(("scorer", "least"), [(OnnxScorer, 2), (Moody, None)])
def test_a_recommended_list_has_the_scores_that_it_gets_alone(
    bundle: Bundle,
    scorer: type[OnnxScorer],
    least: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.engine.engine.OnnxScorer", scorer)
    engine, rng = Engine(bundle), np.random.default_rng(3)
    assert engine.least_together == least
    queries = [
        RecommendQuery(
            count=20, policy="none", as_of_ms=DATA_UNTIL_MS, history=bought(rng, LONG + 3)
        )
        for _ in range(12)
    ]
    alone = [engine.run_batch([query])[0] for query in queries]
    for one, other in zip(alone, engine.run_batch(queries), strict=True):
        assert isinstance(one, Answer)
        assert isinstance(other, Answer)
        assert one.item_ids == other.item_ids
        assert one.scores.tobytes() == other.scores.tobytes()
