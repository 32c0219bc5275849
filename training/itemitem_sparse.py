"""The strongest EASE and cosine weights of each item where the catalogue is large: over bought pairs alone.

Owns the counting item by item. Its time grows with the sum over users of the square of how many items each
has bought, its memory with the catalogue; no block of users or items is ever dense.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import scipy.sparse as sp

from server.features.types import Float32, Int32, Int64
from server.jit import kernel

Part = tuple[Int64, Int64, Float32]


def strongest_pairs(
    logs: sp.csr_matrix,
    norms: Float32,
    known: Int64,
    inverse: Float32,
    keep_ease: int,
    keep_cosine: int,
    min_buyers: int,
    block: int,
    on_block: Callable[[int], None],
) -> tuple[Part, Part]:
    """(sources, targets, weights) of the largest positive EASE and cosine weights towards each item.

    logs: `[n_users, n_items]`, log(1 + purchases). norms: of its columns. known: the items that have EASE
    weights, rising; inverse: their P. Of pairs that fewer than `min_buyers` users bought there is none.
    Of equal weights those of the first sources are kept. on_block: told how many items were done.
    """
    n_items = logs.shape[1]
    by_user = logs.sorted_indices()
    by_item = by_user.T.tocsr()
    place = np.full(n_items, -1, np.int64)
    place[known] = np.arange(len(known))
    ease: list[Part] = []
    cosine: list[Part] = []
    for start in range(0, n_items, block):
        stop = min(start + block, n_items)
        found = _strongest(
            start, stop, by_item.indptr, by_item.indices, by_item.data, by_user.indptr,
            by_user.indices, by_user.data, norms, place, inverse, keep_ease, keep_cosine, min_buyers,
        )  # fmt: skip
        for parts, (sources, weights, counts) in zip((ease, cosine), found, strict=True):
            kept = np.arange(sources.shape[1]) < counts[:, None]
            targets = np.repeat(np.arange(start, stop), counts)
            parts.append((sources[kept].astype(np.int64), targets, weights[kept]))
        on_block(stop - start)
    return _joined(ease), _joined(cosine)


def _joined(parts: list[Part]) -> Part:
    sources, targets, weights = (np.concatenate([p[column] for p in parts]) for column in range(3))
    return sources, targets, weights


Rows = tuple[Int32, Float32, Int64]


@kernel
def _strongest(
    start: int,
    stop: int,
    item_ptr: Int32,
    item_users: Int32,
    item_logs: Float32,
    user_ptr: Int32,
    user_items: Int32,
    user_logs: Float32,
    norms: Float32,
    place: Int64,
    inverse: Float32,
    keep_ease: int,
    keep_cosine: int,
    min_buyers: int,
) -> tuple[Rows, Rows]:
    """Per target of start to stop: the sources, their weights, and how many there are, for EASE and cosine."""
    n = stop - start
    ease_items = np.zeros((n, keep_ease), np.int32)
    ease_weights = np.zeros((n, keep_ease), np.float32)
    ease_counts = np.zeros(n, np.int64)
    cosine_items = np.zeros((n, keep_cosine), np.int32)
    cosine_weights = np.zeros((n, keep_cosine), np.float32)
    cosine_counts = np.zeros(n, np.int64)
    n_items = len(place)
    buyers = np.zeros(n_items, np.int32)
    products = np.zeros(n_items, np.float32)
    touched = np.empty(n_items, np.int32)
    for target in range(start, stop):
        n_touched = 0
        for at in range(item_ptr[target], item_ptr[target + 1]):
            user, own = item_users[at], item_logs[at]
            for other in range(user_ptr[user], user_ptr[user + 1]):
                item = user_items[other]
                if buyers[item] == 0:
                    touched[n_touched] = item
                    n_touched += 1
                    products[item] = np.float32(0.0)
                buyers[item] += 1
                products[item] += user_logs[other] * own
        row = target - start
        own_place = place[target]
        for number in range(n_touched):
            item = touched[number]
            enough = buyers[item] >= min_buyers and item != target
            buyers[item] = 0
            if not enough:
                continue
            weight = products[item] / (norms[item] * norms[target])
            cosine_counts[row] = _kept(
                cosine_items[row], cosine_weights[row], cosine_counts[row], item, weight
            )
            if own_place >= 0 and place[item] >= 0:
                weight = -inverse[own_place, place[item]] / inverse[own_place, own_place]
                ease_counts[row] = _kept(
                    ease_items[row], ease_weights[row], ease_counts[row], item, weight
                )
    return (
        (ease_items, ease_weights, ease_counts),
        (cosine_items, cosine_weights, cosine_counts),
    )


@kernel
def _kept(items: Int32, weights: Float32, count: int, item: int, weight: float) -> int:
    """Put an item in its place among the best so far, the largest first; how many there are then."""
    if weight <= 0.0:
        return count
    most = len(items)
    at = count
    if count == most:
        at = most - 1
        if most == 0 or weight < weights[at] or (weight == weights[at] and item > items[at]):
            return count
    while at > 0 and (
        weights[at - 1] < weight or (weights[at - 1] == weight and items[at - 1] > item)
    ):
        items[at], weights[at] = items[at - 1], weights[at - 1]
        at -= 1
    items[at], weights[at] = item, weight
    return min(count + 1, most)
