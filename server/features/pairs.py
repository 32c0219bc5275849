"""Pair features: what the ranker knows about one user and one candidate.

Owns the list of features and their one implementation, which trains and serves.
Knows no model, no store and no protected attribute (age, income, sex and
household are for audits, never here).

All times enter as differences to `now_ms`, so moving every time by the same
amount changes nothing. Quantities are not read. Sums over items run in item
order, so the order of events with equal times does not matter either, to the
last bit. Every feature is finite for every valid history, the empty one too.
"""

from __future__ import annotations

import math
import threading

import numpy as np

from server.features.state import FeatureState
from server.features.types import DAY_MS, Float32, History, Int32, Int64
from server.jit import kernel

FEATURE_NAMES: tuple[str, ...] = (
    "decayed_1w",
    "decayed_4w",
    "decayed_13w",
    "decayed_52w",
    "count",
    "since_last",
    "gap",
    "since_over_gap",
    "trips_since_last",
    "trips_over_gap",
    "trip_share",
    "trip_share_13w",
    "in_history",
    "ease",
    "ease_recent",
    "ease_4w",
    "ease_1w",
    "cosine_recent",
    "category_share",
    "category_recent",
    "department_share",
    "provider_share",
    "popularity",
    "popularity_recent",
    "repeat_rate",
    "item_gap",
    "private_label",
    "user_private_share",
    "user_trips",
    "user_trip_size",
    "user_trip_gap",
    "user_since_trip",
    "user_items",
    "user_novelty",
)
"""The columns, in order. Counts and days enter as log(1 + x).

decayed_Rw: purchases of the item, each weighing 2^(-age / R weeks).
since_last, gap: days since its last purchase; mean days between its trips (the item's own
    `gap_days` where the user has bought it on fewer than two trips). Never bought: 0 and gap_days.
since_over_gap, trips_over_gap: how overdue the item is, by days and by the user's trips.
trip_share, trip_share_13w: share of the user's trips with the item, plain and decayed.
ease, ease_recent, ease_4w, ease_1w: item-item scores of log counts, of decayed counts (recent: 13
    weeks): where the last purchase says most of the next, fast decay ranks best.
cosine_recent: the same of cosine weights, 13 weeks.
category_share, category_recent, department_share, provider_share: shares of the user's decayed
    (13 weeks; recent: 4 weeks) purchases.
user_*: trips (visits less than six hours long count once), purchases per trip, days between
    trips, days since the last trip, distinct items, decayed share of purchases of something new.
"""

N_FEATURES = len(FEATURE_NAMES)

TRIP_GAP_MS = 6 * 3_600_000
"""Events closer than this to the one before belong to the same trip: single events of feedback
and whole baskets then count alike, and no time zone is needed."""

_LN2_PER_WEEK = math.log(2.0) / (7.0 * DAY_MS)
_RATE_1W = _LN2_PER_WEEK
_RATE_4W = _LN2_PER_WEEK / 4.0
_RATE_13W = _LN2_PER_WEEK / 13.0
_RATE_52W = _LN2_PER_WEEK / 52.0
_DAY_MS = float(DAY_MS)
_TRIP_GAP_MS = TRIP_GAP_MS
_MAX_RATIO = 20.0
_FADED = 1e-200


def pair_features(history: History, candidates: Int32, now_ms: int, state: FeatureState) -> Float32:
    """The features of each candidate for one user: `[n, N_FEATURES] float32`, all finite.

    candidates: `[n] int32`, item indices; n may be 0.
    now_ms: not before the last event. ValueError where an argument is out of its range.
    """
    items, times_ms = checked_events(history, now_ms, state)
    candidates = np.ascontiguousarray(candidates, np.int32)
    if len(candidates) and (candidates.min() < 0 or candidates.max() >= state.n_items):
        raise ValueError(
            f"candidates: got {candidates.min()} to {candidates.max()}, "
            f"allowed: 0 to {state.n_items - 1}"
        )
    out = np.empty((len(candidates), N_FEATURES), np.float32)
    categories, departments, providers = state.n_codes
    # By target: some hundred candidates ask for far fewer weights than the history's rows hold.
    ease, cosine = state.ease.transposed, state.cosine.transposed
    _fill(
        items,
        times_ms,
        candidates,
        now_ms,
        state.popularity,
        state.popularity_recent,
        state.repeat_rate,
        state.gap_days,
        state.private_label,
        state.category,
        categories,
        state.department,
        departments,
        state.provider,
        providers,
        _no_slots(state.n_items),
        ease.row_ptr,
        ease.items,
        ease.weights,
        cosine.row_ptr,
        cosine.items,
        cosine.weights,
        out,
    )
    return out


_kept = threading.local()


def _no_slots(n_items: int) -> Int32:
    """`[n_items] int32`, all -1: kept per thread and left so by the kernel, since to fill it anew
    would cost more with each item of the catalogue."""
    slots: Int32 | None = getattr(_kept, "slots", None)
    if slots is None or len(slots) != n_items:
        slots = _kept.slots = np.full(n_items, -1, np.int32)
    return slots


def checked_events(history: History, now_ms: int, state: FeatureState) -> tuple[Int32, Int64]:
    """Items and times of the most recent `state.max_history` events, after their ranges are checked."""
    items = np.ascontiguousarray(history.items[-state.max_history :], np.int32)
    times_ms = np.ascontiguousarray(history.times_ms[-state.max_history :], np.int64)
    if len(items):
        if len(items) != len(times_ms):
            raise ValueError(f"history: {len(items)} items but {len(times_ms)} times")
        if items.min() < 0 or items.max() >= state.n_items:
            raise ValueError(
                f"history.items: got {items.min()} to {items.max()}, "
                f"allowed: 0 to {state.n_items - 1}"
            )
        if times_ms[-1] > now_ms:
            raise ValueError(
                f"history.times_ms: got {times_ms[-1]}, allowed: at most now_ms = {now_ms}"
            )
        if (times_ms[1:] < times_ms[:-1]).any():
            raise ValueError("history.times_ms: must not fall")
    return items, times_ms


@kernel
def _fill(  # one pass over the events, one over the candidates: split up it would copy arrays
    items: Int32,
    times_ms: Int64,
    candidates: Int32,
    now_ms: int,
    popularity: Float32,
    popularity_recent: Float32,
    repeat_rate: Float32,
    gap_days: Float32,
    private_label: Float32,
    category: Int32,
    categories: int,
    department: Int32,
    departments: int,
    provider: Int32,
    providers: int,
    slot_of: Int32,
    ease_ptr: Int64,
    ease_items: Int32,
    ease_weights: Float32,
    cosine_ptr: Int64,
    cosine_items: Int32,
    cosine_weights: Float32,
    out: Float32,
) -> None:
    distinct = np.unique(items)
    m = len(distinct)
    for s in range(m):
        slot_of[distinct[s]] = s
    decayed = np.zeros((m, 4))
    counts = np.zeros(m, np.int64)
    item_trips = np.zeros(m, np.int64)
    item_trip_weight = np.zeros(m)
    first_ms = np.zeros(m, np.int64)
    last_ms = np.zeros(m, np.int64)
    first_trip = np.zeros(m, np.int64)
    last_trip = np.full(m, -1, np.int64)
    by_category = np.zeros(categories)
    by_category_recent = np.zeros(categories)
    by_department = np.zeros(departments)
    by_provider = np.zeros(providers)

    w1 = w4 = w13 = w52 = trip_weight = 0.0
    total_4w = total_13w = private_weight = new_weight = trip_weights = 0.0
    trip = -1
    first_trip_ms = last_trip_ms = before_ms = now_ms
    for e in range(len(items)):
        time_ms = times_ms[e]
        if e == 0 or time_ms != before_ms:
            age = float(now_ms - time_ms)
            w1 = math.exp(-_RATE_1W * age)
            w4 = math.exp(-_RATE_4W * age)
            w13 = math.exp(-_RATE_13W * age)
            w52 = math.exp(-_RATE_52W * age)
        if e == 0 or time_ms - before_ms >= _TRIP_GAP_MS:
            trip += 1
            trip_weight = w13
            trip_weights += w13
            if e == 0:
                first_trip_ms = time_ms
            last_trip_ms = time_ms
        before_ms = time_ms
        item = items[e]
        s = slot_of[item]
        if counts[s] == 0:
            first_ms[s] = time_ms
            first_trip[s] = trip
            new_weight += w13
        counts[s] += 1
        last_ms[s] = time_ms
        if last_trip[s] != trip:
            item_trips[s] += 1
            item_trip_weight[s] += trip_weight
            last_trip[s] = trip
        decayed[s, 0] += w1
        decayed[s, 1] += w4
        decayed[s, 2] += w13
        decayed[s, 3] += w52
        total_4w += w4
        total_13w += w13
        by_category[category[item]] += w13
        by_category_recent[category[item]] += w4
        by_department[department[item]] += w13
        by_provider[provider[item]] += w13
        private_weight += w13 * private_label[item]

    trips = trip + 1
    queries = np.empty(m)
    recent_queries = np.empty(m)
    queries_4w = np.empty(m)
    queries_1w = np.empty(m)
    for s in range(m):
        queries[s] = math.log1p(counts[s])
        recent_queries[s] = math.log1p(decayed[s, 2])
        queries_4w[s] = math.log1p(decayed[s, 1])
        queries_1w[s] = math.log1p(decayed[s, 0])

    # A share of nothing is 0; so are shares of a history so old that its weights have faded.
    per_4w = 1.0 / total_4w if total_4w > _FADED else 0.0
    per_13w = 1.0 / total_13w if total_13w > _FADED else 0.0
    per_trips = 1.0 / trip_weights if trip_weights > _FADED else 0.0
    private_share = private_weight * per_13w
    user_trips = math.log1p(trips)
    user_trip_size = math.log1p(len(items) / trips) if trips > 0 else 0.0
    trip_gap_days = (last_trip_ms - first_trip_ms) / (trips - 1) / _DAY_MS if trips > 1 else 0.0
    user_trip_gap = math.log1p(trip_gap_days)
    user_since_trip = math.log1p((now_ms - last_trip_ms) / _DAY_MS) if trips > 0 else 0.0
    user_items = math.log1p(m)
    user_novelty = new_weight * per_13w

    for c in range(len(candidates)):
        item = candidates[c]
        s = slot_of[item]
        row_out = out[c]
        own_gap = float(gap_days[item])
        if s >= 0:
            since_days = (now_ms - last_ms[s]) / _DAY_MS
            skipped = float(trip - last_trip[s])
            gap = own_gap
            trips_per_gap = own_gap / trip_gap_days if trip_gap_days > 0.0 else 1.0
            if item_trips[s] > 1:
                gap = (last_ms[s] - first_ms[s]) / (item_trips[s] - 1) / _DAY_MS
                trips_per_gap = (last_trip[s] - first_trip[s]) / (item_trips[s] - 1)
            row_out[0] = math.log1p(decayed[s, 0])
            row_out[1] = math.log1p(decayed[s, 1])
            row_out[2] = math.log1p(decayed[s, 2])
            row_out[3] = math.log1p(decayed[s, 3])
            row_out[4] = math.log1p(counts[s])
            row_out[5] = math.log1p(since_days)
            row_out[6] = math.log1p(gap)
            row_out[7] = math.log1p(min(since_days / max(gap, 0.25), _MAX_RATIO))
            row_out[8] = math.log1p(skipped)
            row_out[9] = math.log1p(min(skipped / max(trips_per_gap, 1.0), _MAX_RATIO))
            row_out[10] = item_trips[s] / trips
            row_out[11] = item_trip_weight[s] * per_trips
            row_out[12] = 1.0
        else:
            for column in range(13):
                row_out[column] = 0.0
            row_out[6] = math.log1p(own_gap)
        ease = ease_recent = ease_4w = ease_1w = cosine_recent = 0.0
        for at in range(ease_ptr[item], ease_ptr[item + 1]):
            s = slot_of[ease_items[at]]
            if s >= 0:
                ease += queries[s] * ease_weights[at]
                ease_recent += recent_queries[s] * ease_weights[at]
                ease_4w += queries_4w[s] * ease_weights[at]
                ease_1w += queries_1w[s] * ease_weights[at]
        for at in range(cosine_ptr[item], cosine_ptr[item + 1]):
            s = slot_of[cosine_items[at]]
            if s >= 0:
                cosine_recent += recent_queries[s] * cosine_weights[at]
        row_out[13] = ease
        row_out[14] = ease_recent
        row_out[15] = ease_4w
        row_out[16] = ease_1w
        row_out[17] = cosine_recent
        row_out[18] = by_category[category[item]] * per_13w
        row_out[19] = by_category_recent[category[item]] * per_4w
        row_out[20] = by_department[department[item]] * per_13w
        row_out[21] = by_provider[provider[item]] * per_13w
        row_out[22] = popularity[item]
        row_out[23] = popularity_recent[item]
        row_out[24] = repeat_rate[item]
        row_out[25] = math.log1p(own_gap)
        row_out[26] = private_label[item]
        row_out[27] = private_share
        row_out[28] = user_trips
        row_out[29] = user_trip_size
        row_out[30] = user_trip_gap
        row_out[31] = user_since_trip
        row_out[32] = user_items
        row_out[33] = user_novelty
    for s in range(m):
        slot_of[distinct[s]] = -1
