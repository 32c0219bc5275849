"""What the engine owes its callers, in process: one's failure is not another's, batches of any mix."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bundle import Bundle, Warmup, load_bundle
from server.engine import Answer, Engine, Normalised, Query, RecommendQuery, RerankQuery, Source
from server.engine.score import MAX_PADDING, alike
from server.errors import BundleRefused, UnknownName
from server.events import EventKind, StoredHistory
from server.fairness import Status
from strategies.bundles import DATA_UNTIL_MS, N_ITEMS, TIERS, tiny_bundle

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
        item_ids=ids, scores=np.linspace(1, 0, 20, dtype=np.float32), groups=((),) * 20, count=10,
        policy="tiers",
    )  # fmt: skip
    first, second = engine.run_batch([recommend(1), rerank])
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert {group for (group,) in second.groups} <= set(TIERS)


@pytest.fixture(scope="module")
def popular_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One of whose 20 novel candidates 15 are best sellers."""
    path = tmp_path_factory.mktemp("popular") / "bundle"
    tiny_bundle(path, n_popular=15)
    return load_bundle(path)


def test_as_many_best_sellers_are_candidates_as_the_bundle_says(
    bundle: Bundle, popular_bundle: Bundle
) -> None:
    few = recommend(1, with_candidates=True)
    ids = popular_bundle.items.ids
    best = {ids[item] for item in popular_bundle.state.popular[:15].tolist()}
    for loaded, all_there in ((popular_bundle, True), (bundle, False)):
        asked = alone(Engine(loaded, clock_ms=lambda: NOW_MS), few).candidates
        assert asked is not None
        assert (best <= set(asked.item_ids)) is all_there


def test_warm_ups_are_replayed_with_the_candidates_of_their_bundle(
    bundle: Bundle, popular_bundle: Bundle
) -> None:
    assert Engine(popular_bundle).warm_up() == Engine(bundle).warm_up() == 3
    other = dataclasses.replace(popular_bundle, manifest=bundle.manifest)
    with pytest.raises(BundleRefused, match=r"warmups\.json"):
        Engine(other).warm_up()


def one_sided(bundle: Bundle, table: str) -> Engine:
    """The engine of a shop whose best sellers are all of the table's first group."""
    codes = bundle.groups[table].codes
    first = np.flatnonzero(codes == 0).astype(np.int32)
    rest = np.flatnonzero(codes != 0).astype(np.int32)
    state = dataclasses.replace(bundle.state, popular=np.concatenate([first, rest]))
    manifest = bundle.manifest.model_copy(
        update={"model": bundle.manifest.model.model_copy(update={"n_novel": 10})}
    )
    return Engine(
        dataclasses.replace(bundle, state=state, manifest=manifest), clock_ms=lambda: NOW_MS
    )


@pytest.mark.parametrize(
    ("policy", "table", "needed"),
    [("tiers", "provider_tier", "small"), ("brands", "brand", "Private")],
)
def test_no_bound_is_broken_by_the_choice_of_candidates(
    bundle: Bundle, policy: str, table: str, needed: str
) -> None:
    """Floors and ceilings alike: the engine adds what the list needs and says from where."""
    engine = one_sided(bundle, table)
    answer = alone(engine, RecommendQuery(count=10, personal=False, policy=policy))
    assert answer.fair.receipt.status == Status.MET
    assert answer.groups.count((needed,)) >= 2
    assert set(answer.sources.tolist()) == {Source.POPULAR}


def test_events_after_now_are_not_read(engine: Engine) -> None:
    later = recommend(1)
    assert later.history is not None
    future = dataclasses.replace(
        later.history,
        item_ids=(*later.history.item_ids, "item-059"),
        times_ms=np.append(later.history.times_ms, NOW_MS + 1),
        kinds=np.append(later.history.kinds, np.int8(EventKind.PURCHASE)),
        quantities=np.append(later.history.quantities, np.float32(1)),
    )
    got = alone(engine, dataclasses.replace(later, history=future))
    assert got.item_ids == alone(engine, later).item_ids
    assert np.array_equal(got.scores, alone(engine, later).scores)
    (meant,) = engine.run_batch([dataclasses.replace(later, history=future, validate_only=True)])
    assert isinstance(meant, Normalised)
    assert meant.as_of_ms == NOW_MS
    assert any("1 history events are later than as_of" in warning for warning in meant.warnings)


def test_an_item_scanned_twice_counts_as_one_purchase(engine: Engine) -> None:
    query = recommend(2)
    assert query.history is not None
    twice = dataclasses.replace(
        query.history,
        item_ids=query.history.item_ids * 2,
        times_ms=np.tile(query.history.times_ms, 2),
        kinds=np.tile(query.history.kinds, 2),
        quantities=np.tile(query.history.quantities, 2),
    )
    got = alone(engine, dataclasses.replace(query, history=twice))
    assert np.array_equal(got.scores, alone(engine, query).scores)


@given(st.lists(st.integers(0, 3000), max_size=40))
def test_parts_of_a_batch_hold_every_member_once_and_padding_in_bounds(sizes: list[int]) -> None:
    parts = list(alike(sizes))
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
