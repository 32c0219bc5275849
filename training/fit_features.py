"""Purchases up to a cut -> the FeatureState that serving will read.

Owns the item statistics. Everything is an aggregate over users; nothing after
the cut is looked at.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from server.features import FeatureState
from server.features.types import DAY_MS, Float32, Int32, Int64
from training.data.dataset import Dataset
from training.itemitem import fit_item_item
from training.settings import TrainSettings

RECENT_DAYS = 28
# Purchases closer together than this are one trip to the shop.
TRIP_GAP_MS = 6 * 3_600_000
# Pseudo-observations of the shop-wide mean, for items with few of their own.
PRIOR_WEIGHT = 5.0
PRIVATE = "Private"


def attribute_codes(texts: tuple[str, ...]) -> Int32:
    """`[n] int32`: the rank of each text among the sorted distinct ones.

    >>> attribute_codes(("b", "a", "b")).tolist()
    [1, 0, 1]
    """
    _, codes = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
    return codes.astype(np.int32)


def with_levels(data: Dataset) -> Dataset:
    """`data` with the attributes department and category.

    Where the data does not name them they are the first and the second level of `category_path`
    (the first again where it has one level).
    """
    paths = data.item_attributes.get("category_path")
    if paths is None:
        return data
    levels = [path.split(" > ") for path in paths]
    named = {
        "department": tuple(level[0] for level in levels),
        "category": tuple(level[min(1, len(level) - 1)] for level in levels),
    }
    return replace(data, item_attributes={**named, **data.item_attributes})


def fit_features(
    history: Dataset, cut_ms: int, settings: TrainSettings, on_items: Callable[[int], None]
) -> FeatureState:
    """The state at `cut_ms`; `history` holds the events up to it. on_items: told how many are done."""
    n = history.n_items
    users, items, times_ms = history.event_users, history.items, history.times_ms
    weights = fit_item_item(
        users,
        items,
        history.n_users,
        n,
        regularization=settings.regularization,
        keep_ease=settings.keep_ease,
        keep_cosine=settings.keep_cosine,
        min_buyers=settings.min_buyers,
        on_block=on_items,
    )
    counts = item_counts(users, items, times_ms, n, cut_ms, settings.min_buyers)
    attributes = history.item_attributes
    brand = np.array(attributes.get("brand", ("",) * n))
    return FeatureState(
        popularity=counts.popularity,
        popularity_recent=counts.popularity_recent,
        repeat_rate=counts.repeat_rate,
        gap_days=counts.gap_days,
        private_label=(brand == PRIVATE).astype(np.float32),
        category=_codes(history, "category"),
        department=_codes(history, "department"),
        provider=_codes(history, "provider"),
        popular=counts.popular,
        ease=weights.ease,
        cosine=weights.cosine,
    )


@dataclass(frozen=True)
class ItemCounts:
    """What is counted for each item; see `FeatureState` for each."""

    popularity: Float32
    popularity_recent: Float32
    repeat_rate: Float32
    gap_days: Float32
    popular: Int32


def item_counts(
    users: Int32, items: Int32, times_ms: Int64, n: int, cut_ms: int, min_buyers: int
) -> ItemCounts:
    """Those of n items, of the events given, all of them up to the cut."""
    buyers = np.bincount(_distinct(users.astype(np.int64) * n + items) % n, minlength=n)
    # What fewer people bought would tell of one of them: it counts as bought by nobody.
    told = buyers >= min_buyers
    bought = np.where(told, np.bincount(items, minlength=n), 0)
    recent_items = items[times_ms > cut_ms - RECENT_DAYS * DAY_MS]
    recent = np.where(told, np.bincount(recent_items, minlength=n), 0)
    repeat_rate, gap_days = _repeats(users, items, times_ms, told)
    return ItemCounts(
        popularity=np.log1p(bought).astype(np.float32),
        popularity_recent=np.log1p(recent).astype(np.float32),
        repeat_rate=repeat_rate,
        gap_days=gap_days,
        popular=np.lexsort((np.arange(n), -bought, -recent)).astype(np.int32),
    )


def _distinct(numbers: Int64) -> Int64:
    # Sorted first: np.unique of numbers in any order hashes, which takes far longer.
    ordered = np.sort(numbers)
    return ordered[np.diff(ordered, prepend=-1) > 0]


def _codes(history: Dataset, name: str) -> Int32:
    texts = history.item_attributes.get(name)
    return np.zeros(history.n_items, np.int32) if texts is None else attribute_codes(texts)


def _repeats(
    users: Int32, items: Int32, times_ms: Int64, told: NDArray[np.bool_]
) -> tuple[Float32, Float32]:
    """Per item: the smoothed share of buyers who bought again, and mean days between.

    Those of items that are not to be told are the shop's averages.
    """
    n = len(told)
    order = np.lexsort((times_ms, items, users))
    u, i, t = users[order], items[order], times_ms[order]
    same = (u[1:] == u[:-1]) & (i[1:] == i[:-1])
    apart = np.diff(t)
    again = same & (apart >= TRIP_GAP_MS)
    again_items, days = i[1:][again], apart[again] / DAY_MS
    mean_days = float(days.mean()) if len(days) else float(RECENT_DAYS)
    gap = (np.bincount(again_items, days, n) + PRIOR_WEIGHT * mean_days) / (
        np.bincount(again_items, minlength=n) + PRIOR_WEIGHT
    )
    buyers = np.bincount(i[np.concatenate([[True], ~same])] if len(i) else i, minlength=n)
    repeaters = _distinct(u[1:][again].astype(np.int64) * n + again_items) % n
    repeated = np.bincount(repeaters, minlength=n)
    rate = float(repeated.sum()) / max(1, int(buyers.sum()))
    share = (repeated + PRIOR_WEIGHT * rate) / (buyers + PRIOR_WEIGHT)
    share, gap = np.where(told, share, rate), np.where(told, gap, mean_days)
    return share.astype(np.float32), gap.astype(np.float32)
