"""Novelty, coverage, concentration and the pull of best sellers, of any lists of a data set's items.

Owns the block `popularity_bias` of the results, alike for the ranker and for each baseline. An
item's popularity is the share of users with a history who bought it before the cut.

    novelty                 mean self-information of a listed item, -log2 of its popularity, in bits
                            (Zhou et al., PNAS 2010); bought by nobody counts as bought by one
    popularity_of_history,  mean popularity of listed items over that of the items in the users'
    popularity_of_targets   histories, and of what they bought after the cut: above 1, lists are more
                            mainstream than the users are (Abdollahpouri et al., RecSys 2019)
    catalogue_coverage      share of items that stand in some list
    exposure_gini           0: all items get the same exposure; near 1: few get all
    exposure_by_decile      share of exposure per tenth of the items, most popular tenth first
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from server.fairness.metrics import coverage, gini
from server.features.types import Float64, Int32, Int64
from training.data.dataset import Dataset
from training.data.split import Targets
from training.intervals import Estimate, Resampler
from training.item_side import item_exposure

DECILES = 10


def popularity_block(
    lists: Mapping[str, Int32], history: Dataset, targets: Targets, sample: Resampler
) -> dict[str, Any]:
    """The block `popularity_bias`: lists by name, `[users, k]` in places of the data set."""
    popular = popularity(history)
    order = np.argsort(-popular, kind="stable")
    decile = np.empty(history.n_items, np.int64)
    decile[order] = np.arange(history.n_items) * DECILES // history.n_items
    own = np.isin(history.event_users, targets.users)
    row_of = np.full(history.n_users, -1, np.int64)
    row_of[targets.users] = np.arange(len(targets))
    pairs = np.unique(row_of[history.event_users[own]] * history.n_items + history.items[own])
    of_history = _means(pairs // history.n_items, popular[pairs % history.n_items], len(targets))
    target_rows = np.repeat(np.arange(len(targets)), np.diff(targets.ptr))
    of_targets = _means(target_rows, popular[targets.items], len(targets))
    bits = self_information(popular, int((np.diff(history.user_ptr) > 0).sum()))
    return {
        "definition": (
            "popularity: share of users with a history who bought the item before the cut; "
            "deciles of items, most popular first; exposure discounted by place as in NDCG"
        ),
        "lists": {
            name: _facts(ranked, popular, bits, decile, of_history, of_targets, sample)
            for name, ranked in lists.items()
        },
        "novelty_of_targets": sample.mean(
            _means(target_rows, bits[targets.items], len(targets))
        ).as_json(),
        "deciles": {
            "n_items": np.bincount(decile, minlength=DECILES).tolist(),
            "share_of_purchases_before": _shares(np.bincount(decile[history.items], minlength=DECILES)),
            "share_of_targets": _shares(np.bincount(decile[targets.items], minlength=DECILES)),
        },
    }  # fmt: skip


def popularity(history: Dataset) -> Float64:
    """`[n_items]`: the share of users with a history who bought the item."""
    pairs = np.unique(history.event_users.astype(np.int64) * history.n_items + history.items)
    buyers = np.bincount(pairs % history.n_items, minlength=history.n_items)
    users = max(1, int((np.diff(history.user_ptr) > 0).sum()))
    return np.asarray(buyers / users, np.float64)


def self_information(popular: Float64, n_users: int) -> Float64:
    """`-log2` of each item's popularity, in bits; of what nobody bought, as if one of `n_users` had.

    >>> self_information(np.array([0.5, 0.0]), 8).tolist()
    [1.0, 3.0]
    """
    return np.asarray(-np.log2(np.maximum(popular, 1.0 / max(1, n_users))), np.float64)


def _facts(
    ranked: Int32,
    popular: Float64,
    bits: Float64,
    decile: Int64,
    of_history: Float64,
    of_targets: Float64,
    sample: Resampler,
) -> dict[str, Any]:
    # An item that only the bundle knows has no popularity here: -1, as after a short list's end.
    rows, _ = np.nonzero(ranked >= 0)
    shown = ranked[ranked >= 0]
    of_list = _means(rows, popular[shown], len(ranked))
    exposure = item_exposure(ranked, len(popular))
    return {
        "novelty": sample.mean(_means(rows, bits[shown], len(ranked))).as_json(),
        "popularity_of_history": sample.ratio(of_list, of_history, "lower").as_json(),
        "popularity_of_targets": sample.ratio(of_list, of_targets, "lower").as_json(),
        "catalogue_coverage": Estimate(
            coverage(shown, len(popular)), None, None, len(ranked)
        ).as_json(),
        "exposure_gini": Estimate(gini(exposure), None, None, len(ranked), "lower").as_json(),
        "exposure_by_decile": _shares(np.bincount(decile, exposure, minlength=DECILES)),
    }


def _means(rows: Int64, values: Float64, n_rows: int) -> Float64:
    """`[n_rows]`: the mean of each row's values; NaN where it has none."""
    counts = np.bincount(rows, minlength=n_rows)
    total = np.bincount(rows, values, minlength=n_rows)
    out = np.full(n_rows, np.nan)
    np.divide(total, counts, out=out, where=counts > 0)
    return out


def _shares(amounts: Any) -> list[float]:
    total = float(np.sum(amounts))
    return [float(one / total) if total else 0.0 for one in amounts]
