"""What the engine owes its callers, in process: one's failure is not another's, batches of any mix."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bundle import Bundle, Warmup, load_bundle
from server.engine import Answer, Engine, Query, RecommendQuery, RerankQuery, Source
from server.engine.engine import MAX_PADDING, _alike
from server.errors import BundleRefused, UnknownName
from server.events import EventKind, StoredHistory
from strategies.bundles import DATA_UNTIL_MS, N_ITEMS, TIERS

NOW_MS = DATA_UNTIL_MS


@pytest.fixture(scope="session")
def bundle(bundle_path: Path) -> Bundle:
    return load_bundle(bundle_path)


@pytest.fixture(scope="session")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, clock_ms=lambda: NOW_MS)


def recommend(seed: int, candidates: int = 0, **changes: object) -> RecommendQuery:
    rng = np.random.default_rng(seed)
    bought = rng.integers(0, N_ITEMS, 5)
    named = rng.permutation(N_ITEMS)[:candidates]
    query = RecommendQuery(
        count=6,
        history=StoredHistory(
            item_ids=tuple(f"item-{n:03}" for n in bought),
            times_ms=np.full(5, NOW_MS - 86_400_000, np.int64),
            kinds=np.full(5, EventKind.PURCHASE, np.int8),
            quantities=np.ones(5, np.float32),
        ),
        candidate_ids=tuple(f"item-{n:03}" for n in named),
    )
    return dataclasses.replace(query, **changes)  # type: ignore[arg-type]


def alone(engine: Engine, query: Query) -> Answer:
    (outcome,) = engine.run_batch([query])
    assert isinstance(outcome, Answer), outcome
    return outcome


@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0, 8, 20, 60])), max_size=12))
def test_a_batch_of_any_mix_gives_each_query_the_list_it_gets_alone(
    engine: Engine, wanted: list[tuple[int, int]]
) -> None:
    queries = [recommend(seed, candidates) for seed, candidates in wanted]
    for query, got in zip(queries, engine.run_batch(queries), strict=True):
        assert isinstance(got, Answer)
        expected = alone(engine, query)
        assert got.item_ids == expected.item_ids
        assert np.allclose(got.scores, expected.scores, atol=1e-6)


def test_a_query_that_fails_takes_no_mate_with_it(engine: Engine) -> None:
    good, bad = recommend(1), recommend(2, policy="nonsense")
    before, failed, after = engine.run_batch([good, bad, recommend(3)])
    assert isinstance(failed, UnknownName)
    assert isinstance(before, Answer)
    assert isinstance(after, Answer)
    assert before.item_ids == alone(engine, good).item_ids


def test_a_rerank_shares_a_batch_with_recommends(engine: Engine) -> None:
    ids = tuple(f"item-{n:03}" for n in range(30, 50))
    rerank = RerankQuery(
        item_ids=ids, scores=np.linspace(1, 0, 20, dtype=np.float32), groups=("",) * 20, count=10,
        policy="tiers",
    )  # fmt: skip
    first, second = engine.run_batch([recommend(1), rerank])
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert set(second.groups) <= set(TIERS)


def test_a_floor_is_not_broken_by_the_choice_of_candidates(bundle: Bundle) -> None:
    """Best sellers of one tier only: the engine adds what the floor needs and says from where."""
    large_only = np.flatnonzero(bundle.groups["provider_tier"].codes == 0).astype(np.int32)
    rest = np.setdiff1d(np.arange(N_ITEMS, dtype=np.int32), large_only)
    # The generator sees the large makers' items only; the top-up looks at all.
    state = dataclasses.replace(bundle.state, popular=np.concatenate([large_only, rest]))
    manifest = bundle.manifest.model_copy(
        update={"model": bundle.manifest.model.model_copy(update={"n_novel": 10})}
    )
    narrow = Engine(
        dataclasses.replace(bundle, state=state, manifest=manifest), clock_ms=lambda: NOW_MS
    )
    answer = alone(narrow, RecommendQuery(count=10, personal=False, policy="tiers"))
    assert answer.groups.count("small") >= 2
    assert answer.groups.count("medium") >= 2
    assert set(answer.sources.tolist()) == {Source.POPULAR}
    assert answer.fair.receipt.first_bad_prefix is None


@given(st.lists(st.integers(0, 3000), max_size=40))
def test_parts_of_a_batch_hold_every_member_once_and_padding_in_bounds(sizes: list[int]) -> None:
    parts = list(_alike(sizes))
    assert sorted(place for part in parts for place in part) == list(range(len(sizes)))
    for part in parts:
        own = [sizes[place] for place in part]
        assert max(own) * len(own) <= sum(own) * (1 + MAX_PADDING)


def changed(bundle: Bundle, warmup: Warmup) -> Engine:
    return Engine(dataclasses.replace(bundle, warmups=(warmup,)), clock_ms=lambda: NOW_MS)


def test_a_warm_up_answered_as_recorded_passes(bundle: Bundle, engine: Engine) -> None:
    assert engine.warm_up() == len(bundle.warmups)


def test_a_warm_up_answered_otherwise_refuses_the_bundle(bundle: Bundle) -> None:
    warmup = bundle.warmups[0]
    other = dataclasses.replace(warmup, expected_top=warmup.expected_top[::-1].copy())
    with pytest.raises(BundleRefused, match=r"request 0, place 1: got item"):
        changed(bundle, other).warm_up()


def test_a_warm_up_longer_than_the_candidates_refuses_the_bundle(bundle: Bundle) -> None:
    warmup = bundle.warmups[0]
    longer = dataclasses.replace(warmup, expected_top=np.arange(N_ITEMS, dtype=np.int32))
    with pytest.raises(BundleRefused, match=r"60 items recorded, but only \d+ candidates"):
        changed(bundle, longer).warm_up()
