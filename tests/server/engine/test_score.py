"""The model alone, in the engine: beside lists, in any company, and in time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from server.bundle import Bundle, load_bundle, ports_of
from server.engine import Answer, Engine, RecommendQuery, Scored, ScoreQuery
from server.errors import DeadlineExpired
from server.features import N_FEATURES
from strategies.bundles import DATA_UNTIL_MS

NOW_NS = 1_000


@pytest.fixture(scope="module")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, clock_ms=lambda: DATA_UNTIL_MS, monotonic_ns=lambda: NOW_NS)


def query(seed: int, batch: int, candidates: int, deadline_ns: int | None = None) -> ScoreQuery:
    rng = np.random.default_rng(seed)
    return ScoreQuery(
        {"features": rng.random((batch, candidates, N_FEATURES), dtype=np.float32)}, deadline_ns
    )


def scored(engine: Engine, one: ScoreQuery) -> Scored:
    (outcome,) = engine.run_batch([one])
    assert isinstance(outcome, Scored)
    return outcome


def test_a_mixed_batch_gives_each_the_bits_it_gets_alone(engine: Engine) -> None:
    raw = [query(1, 1, 5), query(2, 3, 5), query(3, 2, 400), query(4, 1, 33)]
    lists = [RecommendQuery(count=5), RecommendQuery(count=3)]
    batch = [raw[0], lists[0], raw[1], raw[2], lists[1], raw[3]]
    outcomes = engine.run_batch(batch)
    for one, outcome in zip(batch, outcomes, strict=True):
        if isinstance(one, RecommendQuery):
            assert isinstance(outcome, Answer)
            assert len(outcome.item_ids) == one.count
        else:
            assert isinstance(outcome, Scored)
            assert np.array_equal(outcome.scores, scored(engine, one).scores)
            assert outcome.scores.shape == one.feed["features"].shape[:2]


def test_scores_are_the_models(engine: Engine, bundle: Bundle) -> None:
    (port,) = ports_of(bundle.manifest.model)
    got = scored(engine, ScoreQuery({port.name: bundle.golden_inputs[port.name]}))
    assert np.allclose(got.scores, bundle.golden_outputs, atol=1e-6)


def test_those_of_like_length_share_a_run_and_the_long_have_their_own(engine: Engine) -> None:
    outcomes = engine.run_batch([query(1, 2, 4), query(2, 1, 2_000), query(3, 1, 5)])
    runs = [one.run for one in outcomes if isinstance(one, Scored)]
    assert len(runs) == 3
    assert runs[0] == runs[2] != runs[1]


def test_the_model_does_not_run_after_the_deadline(engine: Engine) -> None:
    late, in_time = engine.run_batch([query(1, 1, 4, NOW_NS), query(1, 1, 4, NOW_NS + 1)])
    assert isinstance(late, DeadlineExpired)
    assert isinstance(in_time, Scored)
