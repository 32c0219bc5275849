"""Candidates against a naive oracle, and what every choice must keep."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.features import HISTORY, POPULAR, SIMILAR, generate_candidates
from server.features.types import History
from strategies.bundles import N_ITEMS
from strategies.histories import NOW_MS, event_lists, history_of, shop_state

STATE = shop_state()

excluded_items = st.lists(st.integers(0, N_ITEMS - 1), max_size=15)


shares = st.sampled_from([0.0, 0.0, 0.3, 0.5, 1.0])


def expected(
    history: History, n_novel: int, n_popular: int, excluded: set[int], seen: bool
) -> list[tuple[int, int]]:
    """(item, source) by sorting all items."""
    bought = history.items.tolist()
    scores = [0.0] * N_ITEMS
    for source in sorted(set(bought)):
        for at in range(STATE.ease.row_ptr[source], STATE.ease.row_ptr[source + 1]):
            scores[STATE.ease.items[at]] += math.log1p(bought.count(source)) * float(
                STATE.ease.weights[at]
            )
    free = [i for i in range(N_ITEMS) if i not in bought and i not in excluded]
    similar = sorted((i for i in free if scores[i] > 0), key=lambda i: (-scores[i], i))
    similar = similar[: n_novel - n_popular]
    popular = [i for i in STATE.popular.tolist() if i in free and i not in similar]
    kept = [i for i in sorted(set(bought)) if seen and i not in excluded]
    return (
        [(i, HISTORY) for i in kept]
        + [(i, SIMILAR) for i in similar]
        + [(i, POPULAR) for i in popular[: n_novel - len(similar)]]
    )


@given(event_lists(), st.integers(0, N_ITEMS + 5), shares, excluded_items, st.booleans())
def test_candidates_are_those_of_the_definition(
    events: list[tuple[int, int]], n_novel: int, share: float, excluded: list[int], seen: bool
) -> None:
    history, n_popular = history_of(events), round(n_novel * share)
    barred = np.array(excluded, np.int32)
    found = generate_candidates(
        history, NOW_MS, STATE, n_novel, barred, n_popular=n_popular, seen=seen
    )
    assert list(zip(found.items.tolist(), found.sources.tolist(), strict=True)) == expected(
        history, n_novel, n_popular, set(excluded), seen
    )
    if not n_popular:
        plain = generate_candidates(history, NOW_MS, STATE, n_novel, barred, seen=seen)
        assert plain.items.tolist() == found.items.tolist()


@given(
    event_lists(), st.integers(0, N_ITEMS + 5), shares, excluded_items, st.booleans(),
    st.lists(st.integers(0, N_ITEMS - 1), max_size=40),
)  # fmt: skip
def test_what_a_search_found_stands_in_place_of_the_items_by_ease(
    events: list[tuple[int, int]],
    n_novel: int,
    share: float,
    excluded: list[int],
    seen: bool,
    searched: list[int],
) -> None:
    history, n_popular = history_of(events), round(n_novel * share)
    found = generate_candidates(
        history, NOW_MS, STATE, n_novel, np.array(excluded, np.int32), n_popular=n_popular,
        seen=seen, similar=np.array(searched, np.int32),
    )  # fmt: skip
    bought = set(history.items.tolist())
    free = [i for i in dict.fromkeys(searched) if i not in bought and i not in excluded]
    similar = free[: n_novel - n_popular]
    rest = [
        i for i in STATE.popular.tolist() if i not in {*bought, *excluded, *similar}
    ][: n_novel - len(similar)]  # fmt: skip
    kept = [i for i in sorted(bought) if seen and i not in excluded]
    assert found.items.tolist() == [*kept, *similar, *rest]
    assert found.sources.tolist() == [
        *[HISTORY] * len(kept), *[SIMILAR] * len(similar), *[POPULAR] * len(rest),
    ]  # fmt: skip


@given(event_lists(), st.integers(0, N_ITEMS), shares, excluded_items, st.booleans())
def test_no_item_comes_twice_none_that_is_excluded_and_only_new_ones_are_called_new(
    events: list[tuple[int, int]], n_novel: int, share: float, excluded: list[int], seen: bool
) -> None:
    history = history_of(events)
    found = generate_candidates(
        history,
        NOW_MS,
        STATE,
        n_novel,
        np.array(excluded, np.int32),
        n_popular=round(n_novel * share),
        seen=seen,
    )
    items = set(found.items.tolist())
    bought = set(history.items.tolist())
    assert len(items) == len(found)
    assert not items & set(excluded)
    from_history = set(found.items[found.sources == HISTORY].tolist())
    assert from_history == (bought - set(excluded) if seen else set())
    others = items - from_history
    assert not others & bought
    assert len(others) == min(n_novel, N_ITEMS - len(bought | set(excluded)))


@given(event_lists(), st.integers(1, 30))
def test_times_do_not_matter_nor_does_the_order_of_events(
    events: list[tuple[int, int]], n_novel: int
) -> None:
    history = history_of(events)
    turned = history_of([(item, 0) for item, _ in reversed(events)])
    first = generate_candidates(history, NOW_MS, STATE, n_novel)
    again = generate_candidates(turned, NOW_MS + 1, STATE, n_novel)
    assert first.items.tolist() == again.items.tolist()
    assert first.sources.tolist() == again.sources.tolist()


def test_nobody_in_particular_gets_the_best_sellers_in_their_order() -> None:
    found = generate_candidates(History.empty(), NOW_MS, STATE, 10)
    assert found.items.tolist() == STATE.popular[:10].tolist()
    assert set(found.sources.tolist()) == {POPULAR}


@given(event_lists(), st.integers(1, 30), st.integers(0, 30))
def test_the_best_of_the_best_sellers_are_always_among_the_candidates(
    events: list[tuple[int, int]], n_popular: int, n_similar: int
) -> None:
    found = generate_candidates(
        history_of(events), NOW_MS, STATE, n_popular + n_similar, n_popular=n_popular
    )
    assert set(STATE.popular[:n_popular].tolist()) <= set(found.items.tolist())


def test_only_the_most_recent_events_give_candidates() -> None:
    history = history_of([(1, 30), (2, 20), (3, 10)])
    capped = replace(STATE, max_history=2)
    assert generate_candidates(history, NOW_MS, capped, 0).items.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("n_novel", "n_popular", "excluded", "why"),
    [
        (-1, 0, [], "n_novel: got -1, allowed: at least 0"),
        (3, 4, [], "n_popular: got 4, allowed: 0 to n_novel = 3"),
        (3, -1, [], "n_popular: got -1, allowed: 0 to n_novel = 3"),
        (1, 0, [N_ITEMS], "excluded: got 60 to 60, allowed: 0 to 59"),
        (1, 0, [-1], "excluded: got -1"),
    ],
)
def test_what_is_out_of_range_is_named(
    n_novel: int, n_popular: int, excluded: list[int], why: str
) -> None:
    barred = np.array(excluded, np.int32)
    with pytest.raises(ValueError, match=why):
        generate_candidates(History.empty(), NOW_MS, STATE, n_novel, barred, n_popular=n_popular)


def test_what_a_search_found_has_to_be_there() -> None:
    searched = np.array([0, N_ITEMS], np.int32)
    with pytest.raises(ValueError, match="similar: got 0 to 60, allowed: 0 to 59"):
        generate_candidates(History.empty(), NOW_MS, STATE, 1, similar=searched)
