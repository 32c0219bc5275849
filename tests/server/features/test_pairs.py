"""Pair features against a naive oracle, and what must not change them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.features import FEATURE_NAMES, N_FEATURES, FeatureState, pair_features
from server.features.types import DAY_MS, Float32, History
from strategies.bundles import N_ITEMS
from strategies.histories import AGES_MS, HOUR_MS, NOW_MS, event_lists, history_of, shop_state

STATE = shop_state()
ALL = np.arange(N_ITEMS, dtype=np.int32)
SEVEN_DAYS_MS = 7 * DAY_MS
FADED = 1e-200
"""The weight below which a history says nothing about shares."""


def bits(features: Float32) -> bytes:
    return features.tobytes()


def share(part: float, whole: float) -> float:
    return part / whole if whole > FADED else 0.0


def weight(age_ms: int, weeks: int) -> float:
    return 2.0 ** (-age_ms / (weeks * SEVEN_DAYS_MS))


def trips_of(times: list[int]) -> list[int]:
    """The trip number of each event: a new one after six hours without an event."""
    trips: list[int] = []
    for place, time_ms in enumerate(times):
        if place == 0:
            trips.append(0)
        else:
            trips.append(trips[-1] + (time_ms - times[place - 1] >= 6 * HOUR_MS))
    return trips


def weight_into(weights: list[list[tuple[int, float]]], query: dict[int, float], to: int) -> float:
    return sum(
        q * w for source, q in query.items() for target, w in weights[source] if target == to
    )


def rows_of(state: FeatureState, name: str) -> list[list[tuple[int, float]]]:
    found = getattr(state, name)
    return [
        [(int(found.items[at]), float(found.weights[at])) for at in range(start, end)]
        for start, end in zip(found.row_ptr[:-1], found.row_ptr[1:], strict=True)
    ]


EASE = rows_of(STATE, "ease")
COSINE = rows_of(STATE, "cosine")


def expected(history: History, item: int, now_ms: int, state: FeatureState) -> dict[str, float]:
    """Each feature from its definition, with lists and loops only."""
    items = history.items.tolist()
    times = history.times_ms.tolist()
    ages = [now_ms - time_ms for time_ms in times]
    trips = trips_of(times)
    n_trips = len(set(trips))
    starts = [times[trips.index(trip)] for trip in range(n_trips)]
    mine = [e for e, bought in enumerate(items) if bought == item]
    my_trips = sorted({trips[e] for e in mine})
    counts = {i: items.count(i) for i in set(items)}
    recent, recent_4w, recent_1w = (
        {
            i: math.log1p(sum(weight(ages[e], weeks) for e, b in enumerate(items) if b == i))
            for i in counts
        }
        for weeks in (13, 4, 1)
    )
    total_13w = sum(weight(age, 13) for age in ages)
    total_4w = sum(weight(age, 4) for age in ages)
    trip_weights = [weight(now_ms - start, 13) for start in starts]
    trip_gap_days = (starts[-1] - starts[0]) / DAY_MS / (n_trips - 1) if n_trips > 1 else 0.0

    def alike(codes: np.ndarray, weeks: int) -> float:
        return sum(weight(ages[e], weeks) for e, b in enumerate(items) if codes[b] == codes[item])

    item_gap = float(state.gap_days[item])
    since = ages[mine[-1]] / DAY_MS if mine else 0.0
    skipped = n_trips - 1 - my_trips[-1] if mine else 0
    gap, trips_per_gap = item_gap, (item_gap / trip_gap_days if trip_gap_days > 0 else 1.0)
    if len(my_trips) > 1:
        gap = (times[mine[-1]] - times[mine[0]]) / DAY_MS / (len(my_trips) - 1)
        trips_per_gap = (my_trips[-1] - my_trips[0]) / (len(my_trips) - 1)
    return {
        **{
            f"decayed_{weeks}w": math.log1p(sum(weight(ages[e], weeks) for e in mine))
            for weeks in (1, 4, 13, 52)
        },
        "count": math.log1p(len(mine)),
        "since_last": math.log1p(since),
        "gap": math.log1p(gap),
        "since_over_gap": math.log1p(min(since / max(gap, 0.25), 20)) if mine else 0.0,
        "trips_since_last": math.log1p(skipped),
        "trips_over_gap": math.log1p(min(skipped / max(trips_per_gap, 1), 20)) if mine else 0.0,
        "trip_share": len(my_trips) / n_trips if n_trips else 0.0,
        "trip_share_13w": share(sum(trip_weights[t] for t in my_trips), sum(trip_weights)),
        "in_history": float(bool(mine)),
        "ease": weight_into(EASE, {i: math.log1p(n) for i, n in counts.items()}, item),
        "ease_recent": weight_into(EASE, recent, item),
        "ease_4w": weight_into(EASE, recent_4w, item),
        "ease_1w": weight_into(EASE, recent_1w, item),
        "cosine_recent": weight_into(COSINE, recent, item),
        "category_share": share(alike(state.category, 13), total_13w),
        "category_recent": share(alike(state.category, 4), total_4w),
        "department_share": share(alike(state.department, 13), total_13w),
        "provider_share": share(alike(state.provider, 13), total_13w),
        "popularity": float(state.popularity[item]),
        "popularity_recent": float(state.popularity_recent[item]),
        "repeat_rate": float(state.repeat_rate[item]),
        "item_gap": math.log1p(item_gap),
        "private_label": float(state.private_label[item]),
        "user_private_share": share(
            sum(weight(ages[e], 13) for e, b in enumerate(items) if state.private_label[b] == 1),
            total_13w,
        ),
        "user_trips": math.log1p(n_trips),
        "user_trip_size": math.log1p(len(items) / n_trips) if n_trips else 0.0,
        "user_trip_gap": math.log1p(trip_gap_days),
        "user_since_trip": math.log1p((now_ms - starts[-1]) / DAY_MS) if starts else 0.0,
        "user_items": math.log1p(len(counts)),
        "user_novelty": share(
            sum(weight(ages[items.index(i)], 13) for i in counts), total_13w
        ),
    }  # fmt: skip


@given(event_lists(), st.integers(0, 3 * DAY_MS))
def test_every_feature_equals_its_definition_in_plain_python(
    events: list[tuple[int, int]], later_ms: int
) -> None:
    history, now_ms = history_of(events), NOW_MS + later_ms
    candidates = np.array([*range(14), 40], np.int32)
    features = pair_features(history, candidates, now_ms, STATE)
    assert features.dtype == np.float32
    for row, item in zip(features, candidates.tolist(), strict=True):
        oracle = expected(history, item, now_ms, STATE)
        assert tuple(oracle) == FEATURE_NAMES
        for name, found in zip(FEATURE_NAMES, row.tolist(), strict=True):
            assert found == pytest.approx(oracle[name], rel=2e-6, abs=2e-6), name


@pytest.mark.parametrize(
    "ages_ms",
    [[], [0], [NOW_MS], [5, 5, 5, 5], [0, NOW_MS], [NOW_MS, NOW_MS, NOW_MS - 1], list(AGES_MS)],
)
def test_every_feature_is_finite_at_the_edges(ages_ms: list[int]) -> None:
    history = history_of([(n % 3, age_ms) for n, age_ms in enumerate(ages_ms)])
    year_9999 = 253_402_300_799_999
    for now_ms in (NOW_MS, year_9999):
        features = pair_features(history, ALL, now_ms, STATE)
        assert features.shape == (N_ITEMS, N_FEATURES)
        assert np.isfinite(features).all()


@given(event_lists(), st.integers(-NOW_MS // 2, NOW_MS))
def test_moving_all_times_together_changes_no_bit(
    events: list[tuple[int, int]], by_ms: int
) -> None:
    history = history_of(events)
    moved = replace(history, times_ms=history.times_ms + by_ms)
    assert bits(pair_features(moved, ALL, NOW_MS + by_ms, STATE)) == bits(
        pair_features(history, ALL, NOW_MS, STATE)
    )


@given(event_lists(), st.randoms(use_true_random=False))
def test_events_of_one_instant_may_come_in_any_order(
    events: list[tuple[int, int]], random: object
) -> None:
    history = history_of(events)
    shuffle = np.array([random.random() for _ in events])  # type: ignore[attr-defined]
    order = np.lexsort((shuffle, history.times_ms))
    other = History(history.items[order], history.times_ms[order], history.quantities[order])
    assert bits(pair_features(other, ALL, NOW_MS, STATE)) == bits(
        pair_features(history, ALL, NOW_MS, STATE)
    )


@given(event_lists())
def test_quantities_change_nothing(events: list[tuple[int, int]]) -> None:
    history = history_of(events)
    many = replace(history, quantities=history.quantities * 7)
    assert bits(pair_features(many, ALL, NOW_MS, STATE)) == bits(
        pair_features(history, ALL, NOW_MS, STATE)
    )


@given(event_lists(), st.lists(st.integers(0, N_ITEMS - 1), max_size=8))
def test_a_candidates_row_does_not_depend_on_the_other_candidates(
    events: list[tuple[int, int]], candidates: list[int]
) -> None:
    history = history_of(events)
    chosen = np.array(candidates, np.int32)
    assert bits(pair_features(history, chosen, NOW_MS, STATE)) == bits(
        pair_features(history, ALL, NOW_MS, STATE)[chosen]
    )


@given(event_lists(), st.integers(1, 6))
def test_only_the_most_recent_events_count(events: list[tuple[int, int]], most: int) -> None:
    history = history_of(events)
    last = History(history.items[-most:], history.times_ms[-most:], history.quantities[-most:])
    capped = replace(STATE, max_history=most)
    assert bits(pair_features(history, ALL, NOW_MS, capped)) == bits(
        pair_features(last, ALL, NOW_MS, STATE)
    )


def test_two_events_six_hours_apart_are_two_trips_and_a_moment_less_is_one() -> None:
    trips = FEATURE_NAMES.index("user_trips")
    apart = pair_features(history_of([(0, 0), (1, 6 * HOUR_MS)]), ALL[:1], NOW_MS, STATE)
    together = pair_features(history_of([(0, 0), (1, 6 * HOUR_MS - 1)]), ALL[:1], NOW_MS, STATE)
    assert apart[0, trips] == np.float32(math.log1p(2))
    assert together[0, trips] == np.float32(math.log1p(1))


@pytest.mark.parametrize(
    ("history", "candidates", "why"),
    [
        (history_of([(0, -1)]), [0], "history.times_ms: got .* at most now_ms"),
        (history_of([(N_ITEMS, 0)]), [0], "history.items: got 60 to 60, allowed: 0 to 59"),
        (history_of([(-1, 0)]), [0], "history.items: got -1"),
        (history_of([(0, 0)]), [N_ITEMS], "candidates: got 60 to 60, allowed: 0 to 59"),
        (history_of([(0, 0)]), [3, -1], "candidates: got -1 to 3"),
        (
            History(np.zeros(2, np.int32), np.array([5, 4]), np.ones(2, np.float32)),
            [0],
            "must not fall",
        ),
        (
            History(np.zeros(2, np.int32), np.array([5]), np.ones(2, np.float32)),
            [0],
            "2 items but 1 times",
        ),
    ],
)
def test_what_is_out_of_range_is_named(history: History, candidates: list[int], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        pair_features(history, np.array(candidates, np.int32), NOW_MS, STATE)


def test_no_protected_attribute_is_a_feature() -> None:
    words = {word for name in FEATURE_NAMES for word in name.split("_")}
    assert not words & {"age", "income", "sex", "gender", "household", "kids", "marital", "home"}
