"""Measures of one list or of many: formulae with their sources, pure numpy.

Conventions: `groups [k] int32` are the groups of a list's items, best place
first; `shares [G] float64` is the wanted distribution over groups. Exposure uses
the discount 1 / log2(rank + 1) (Jarvelin and Kekalainen, TOIS 2002).

"Geyik et al." is Fairness-Aware Ranking in Search and Recommendation Systems
(KDD 2019). Knows neither policies nor receipts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from server.fairness.discount import discounts
from server.fairness.types import Float64, Int32


def dcg(gains: ArrayLike) -> float:
    """Discounted cumulative gain of gains in list order.

    >>> round(dcg([1, 0, 1]), 3)
    1.5
    """
    values = np.asarray(gains, np.float64)
    return float(values @ discounts(len(values)))


def prefix_counts(groups: Int32, n_groups: int) -> NDArray[np.int64]:
    """`[G, k + 1]`: how many of each group stand among the first 0..k places.

    >>> prefix_counts(np.int32([0, 1, 0]), 2).tolist()
    [[0, 1, 1, 2], [0, 0, 1, 1]]
    """
    counts = np.zeros((n_groups, len(groups) + 1), np.int64)
    counts[:, 1:] = np.cumsum(np.arange(n_groups)[:, np.newaxis] == groups, axis=1)
    return counts


def floor_violations(groups: Int32, floors: Int32) -> int:
    """How many (group, prefix) pairs are below their floor; `floors [G, >= k + 1]`.

    `sum_k sum_g [count_k(g) < floors[g, k]]`: the InfeasibleCount of Geyik et al.

    >>> floor_violations(np.int32([0, 0]), np.int32([[0, 0, 0], [0, 0, 1]]))
    1
    """
    counts = prefix_counts(groups, floors.shape[0])
    return int(np.count_nonzero(counts < floors[:, : counts.shape[1]]))


def ceiling_violations(groups: Int32, ceilings: Int32) -> int:
    """How many (group, prefix) pairs are above their ceiling; `ceilings [G, >= k + 1]`.

    >>> ceiling_violations(np.int32([0, 0]), np.int32([[0, 1, 1], [0, 1, 2]]))
    1
    """
    counts = prefix_counts(groups, ceilings.shape[0])
    return int(np.count_nonzero(counts > ceilings[:, : counts.shape[1]]))


def infeasible_index(groups: Int32, floors: Int32) -> int:
    """How many prefixes hold a group below its floor; `floors [G, >= k + 1]`.

    `sum_k [some g: count_k(g) < floors[g, k]]`: the InfeasibleIndex of Geyik et al.

    >>> infeasible_index(np.int32([0, 0]), np.int32([[0, 0, 0], [0, 1, 1]]))
    2
    """
    counts = prefix_counts(groups, floors.shape[0])
    return int((counts < floors[:, : counts.shape[1]]).any(axis=0).sum())


def exposure_shares(groups: Int32, n_groups: int) -> Float64:
    """Each group's share of the list's exposure, `[G]`; zeros for an empty list.

    >>> exposure_shares(np.int32([0, 1]), 3).round(3).tolist()
    [0.613, 0.387, 0.0]
    """
    if not len(groups):
        return np.zeros(n_groups)
    weights = discounts(len(groups))
    total: Float64 = np.bincount(groups, weights=weights, minlength=n_groups) / weights.sum()
    return total


def skews(groups: Int32, shares: Float64, smoothing: float = 0.0) -> Float64:
    """Skew@k per group: log of its share in the list over its wanted share (Geyik et al.).

    `log(((count + G smoothing share) / (k + G smoothing)) / share)`: as if the list had G smoothing
    more places, shared as wanted, so that a list in the wanted proportions has skew 0 whatever the
    smoothing. 0 is the paper's own, and makes an absent group -inf. Groups with wanted share 0 are
    NaN: the skew says nothing of them. An empty list is all NaN.

    >>> skews(np.int32([0, 0, 1, 0]), np.array([.5, .5])).round(3).tolist()
    [0.405, -0.693]
    >>> skews(np.int32([0, 0, 1, 0]), np.array([.75, .25]), smoothing=1).tolist()
    [0.0, 0.0]
    """
    n_groups = len(shares)
    if not len(groups):
        return np.full(n_groups, np.nan)
    counts = np.bincount(groups, minlength=n_groups)
    # Equal counts for all would pull lists to equal shares, and reward what is short of a small one.
    added = n_groups * smoothing
    got = (counts + added * shares) / (len(groups) + added)
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Float64 = np.where(shares > 0, np.log(got / shares), np.nan)
    return found


def min_skew(groups: Int32, shares: Float64, smoothing: float = 0.0) -> float:
    """MinSkew@k: the lowest skew, how far the worst-off group is short. NaN for an empty list.

    -inf where a wanted group is absent and nothing is smoothed.

    >>> round(min_skew(np.int32([0, 0, 1, 0]), np.array([.5, .5])), 3)
    -0.693
    >>> min_skew(np.int32([0, 0]), np.array([.5, .5]))
    -inf
    """
    return float(np.min(_told(skews(groups, shares, smoothing))))


def max_skew(groups: Int32, shares: Float64, smoothing: float = 0.0) -> float:
    """MaxSkew@k: the highest skew, how much the best-off group has too much. NaN if empty.

    >>> round(max_skew(np.int32([0, 0, 1, 0]), np.array([.5, .5])), 3)
    0.405
    """
    return float(np.max(_told(skews(groups, shares, smoothing))))


def _told(values: Float64) -> Float64:
    told = values[~np.isnan(values)]
    return told if len(told) else np.full(1, np.nan)


def ndkl(groups: Int32, shares: Float64) -> float:
    """Normalised discounted cumulative KL divergence of the prefixes (Geyik et al.).

    `sum_k d_k KL(prefix_k || shares) / sum_k d_k`, d_k = 1 / log2(k + 1); at least 0, and 0 iff every prefix has the wanted distribution.
    inf when an item belongs to a group of share 0; 0 for an empty list.

    >>> round(ndkl(np.int32([0, 1]), np.array([.5, .5])), 4)
    0.425
    """
    size = len(groups)
    if not size:
        return 0.0
    counts = prefix_counts(groups, len(shares))[:, 1:]
    got = counts / np.arange(1, size + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(counts > 0, got * np.log(got / shares[:, np.newaxis]), 0.0)
    weights = discounts(size)
    return float(terms.sum(axis=0) @ weights / weights.sum())


def jensen_shannon(one: Float64, other: Float64) -> float:
    """Jensen-Shannon divergence of two distributions `[G]`, in bits: 0 iff equal, 1 iff disjoint.

    `(KL(p || m) + KL(q || m)) / 2` with m = (p + q) / 2 (Lin, IEEE Trans. Inf. Theory 1991). Finite
    also where a group is absent, which KL is not.

    >>> jensen_shannon(np.array([1., 0.]), np.array([0., 1.]))
    1.0
    """
    middle = (one + other) / 2
    total = 0.0
    for part in (one, other):
        held = part > 0
        total += float(part[held] @ np.log2(part[held] / middle[held])) / 2
    return min(max(total, 0.0), 1.0)


def awrf(attention: Float64, shares: Float64) -> float:
    """Attention-weighted rank fairness: 1 where attention has the wanted shares, 0 where disjoint.

    `1 - JS(attention || shares)` (Sapiezynski et al., Companion of WWW 2019; with this distance in
    the TREC Fair Ranking track of 2021, Ekstrand et al.). attention `[G]`: the groups' attention,
    of one list or of many, such as `exposure_shares`. NaN where there is none.

    >>> round(awrf(exposure_shares(np.int32([0, 0]), 2), np.array([.5, .5])), 4)
    0.6887
    """
    total = attention.sum()
    return 1.0 - jensen_shannon(attention / total, shares) if total > 0 else float("nan")


def expected_exposure(lists: NDArray[np.integer], n_items: int) -> Float64:
    """Each item's expected attention, `[n_items]`: the lists are samples of a stochastic policy.

    `mean over lists of d_rank / sum_k d_k`, 0 where the item is not listed (Diaz et al., CIKM 2020,
    with the log2 discount cut at k). lists `[T, k]`, -1 for no item: its attention is lost.

    >>> expected_exposure(np.array([[0, 1], [1, 0]]), 3).tolist()
    [0.5, 0.5, 0.0]
    """
    weights = discounts(lists.shape[1])
    worth = np.broadcast_to(weights / weights.sum(), lists.shape)
    shown = lists >= 0
    total = np.bincount(lists[shown], weights=worth[shown], minlength=n_items)
    # Without a single item bincount gives integers.
    return total.astype(np.float64) / max(len(lists), 1)


def target_exposure(
    ptr: NDArray[np.int64], items: NDArray[np.integer], n_items: int, count: int
) -> Float64:
    """The attention that items deserve, `[n_items]`: equal among equally relevant ones.

    A user's m relevant items, items[ptr[t] : ptr[t + 1]], share the first min(m, count) places
    equally, all other items share the rest equally (Diaz et al.: the mean over all ideal lists);
    then the mean over users. Sums to 1.

    >>> target_exposure(np.array([0, 1]), np.array([2]), 3, 2).round(3).tolist()
    [0.193, 0.193, 0.613]
    """
    users = len(ptr) - 1
    weights = discounts(count)
    reached = np.concatenate([[0.0], np.cumsum(weights)]) / weights.sum()
    relevant = np.diff(ptr)
    top = reached[np.minimum(relevant, count)]
    each = np.divide(top, relevant, out=np.zeros(users), where=relevant > 0)
    others = n_items - relevant
    rest = np.divide(1.0 - top, others, out=np.zeros(users), where=others > 0)
    total = np.full(n_items, rest.sum())
    np.add.at(total, items, np.repeat(each - rest, relevant))
    return total / max(users, 1)


def exposure_disparity(exposure: Float64) -> float:
    """EE-D of Diaz et al.: `sum_i e_i^2`, e from `expected_exposure`; lower is more even.

    >>> exposure_disparity(np.array([0.5, 0.5]))
    0.5
    """
    return float(exposure @ exposure)


def exposure_relevance(exposure: Float64, target: Float64) -> float:
    """EE-R of Diaz et al.: `sum_i e_i t_i`, t from `target_exposure`; higher is nearer to relevance.

    The expected-exposure loss `|e - t|^2` is EE-D - 2 EE-R + |t|^2.

    >>> exposure_relevance(np.array([1.0, 0.0]), np.array([0.75, 0.25]))
    0.75
    """
    return float(exposure @ target)


def regret(gains: ArrayLike, best_gains: ArrayLike) -> float:
    """The share of DCG that a list gives up against another, such as the best that keeps the policy.

    `1 - DCG(gains) / DCG(best_gains)`; both in list order, gains at least 0. Against the exact
    optimum of a policy it is at least 0; against plain score order it is the price of fairness.
    0 when the other list has no gain.

    >>> round(regret([0, 1], [1, 0]), 3)
    0.369
    """
    best = dcg(best_gains)
    return 1.0 - dcg(gains) / best if best > 0 else 0.0


def gini(values: ArrayLike) -> float:
    """Gini coefficient of non-negative values: 0 when all are equal, near 1 when one has all.

    Scale-invariant. 0 for an empty or all-zero input.

    >>> gini([1, 1, 1]), gini([0, 0, 0, 4])
    (0.0, 0.75)
    """
    ordered = np.sort(np.asarray(values, np.float64))
    n, total = len(ordered), ordered.sum()
    if n == 0 or total <= 0:
        return 0.0
    ranks = np.arange(1, n + 1)
    return float(2 * (ranks @ ordered) / (n * total) - (n + 1) / n)


def coverage(lists: NDArray[np.integer], n_items: int) -> float:
    """The share of the catalogue that appears in at least one of the lists.

    >>> coverage(np.array([[0, 1], [1, 2]]), 4)
    0.75
    """
    return len(np.unique(lists)) / n_items if n_items else 0.0
