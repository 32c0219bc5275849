"""The user profile (用户画像): what a history says about its user, readable.

Owns the few aggregates that explain a list to a person. Computed from the
history alone when it is asked for, and kept nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from server.features.pairs import TRIP_GAP_MS, checked_events
from server.features.state import FeatureState
from server.features.types import DAY_MS, Float64, History, Int32

_RATE_13W = np.log(2.0) / (13.0 * 7.0 * DAY_MS)


@dataclass(frozen=True)
class UserProfile:
    """One user in numbers.

    trips: visits; events less than six hours apart belong to one.
    days_between_trips, days_since_trip: None where there are too few trips.
    items_per_trip, distinct_items: plain counts.
    repeat_share: share of purchases of something bought before, 0..1.
    private_label_share: decayed (13 weeks) share of the shop's own brand, 0..1.
    categories, departments: (code, decayed share), largest first, at most five. A code is the
        rank of its label among the sorted distinct labels of the item table's attribute.
    favourites: `[k] int32`, at most five items with the highest decayed count.
    """

    trips: int
    days_between_trips: float | None
    days_since_trip: float | None
    items_per_trip: float
    distinct_items: int
    repeat_share: float
    private_label_share: float
    categories: tuple[tuple[int, float], ...]
    departments: tuple[tuple[int, float], ...]
    favourites: Int32


def user_profile(history: History, now_ms: int, state: FeatureState) -> UserProfile:
    """The profile of a history at `now_ms`, which is not before its last event (ValueError)."""
    items, times_ms = checked_events(history, now_ms, state)
    h = len(items)
    if h == 0:
        return UserProfile(0, None, None, 0.0, 0, 0.0, 0.0, (), (), np.empty(0, np.int32))
    starts = times_ms[np.concatenate([[True], np.diff(times_ms) >= TRIP_GAP_MS])]
    trips = len(starts)
    weights = np.exp(-_RATE_13W * (now_ms - times_ms).astype(np.float64))
    distinct = len(np.unique(items))
    by_item = np.bincount(items, weights, state.n_items)
    favourites = np.argsort(-by_item, kind="stable")[: min(5, distinct)].astype(np.int32)
    total = float(weights.sum())
    private = float(weights @ state.private_label[items]) / total if total > 0 else 0.0
    between = float(starts[-1] - starts[0]) / DAY_MS / (trips - 1) if trips > 1 else None
    return UserProfile(
        trips=trips,
        days_between_trips=between,
        days_since_trip=float(now_ms - starts[-1]) / DAY_MS,
        items_per_trip=h / trips,
        distinct_items=distinct,
        repeat_share=1.0 - distinct / h,
        private_label_share=private,
        categories=_largest(np.bincount(state.category[items], weights).astype(np.float64)),
        departments=_largest(np.bincount(state.department[items], weights).astype(np.float64)),
        favourites=favourites,
    )


def _largest(weights: Float64, at_most: int = 5) -> tuple[tuple[int, float], ...]:
    total = float(weights.sum())
    if total <= 0:
        return ()
    order = np.argsort(-weights, kind="stable")[:at_most]
    return tuple((int(code), float(weights[code]) / total) for code in order if weights[code] > 0)
