"""Diverse orders: items that are unlike those already picked come first.

Owns two greedy selections over item vectors, MMR and a determinantal point process; the exact
stage follows, so every list still keeps its bounds. Pure: arrays in, arrays out; the same input
gives the same picks on every machine, since sums have a fixed order.

Both take scores scaled over the candidates, r = (score - lowest) / (highest - lowest), so that a
trade-off means the same for every model; all r are 0 where all scores are equal. Both are score
order at trade-off 0, and settle ties by score order. A zero vector is an item of which nothing is
known: it is like no other.

MMR: Carbonell and Goldstein: "The Use of MMR, Diversity-Based Reranking for Reordering Documents
and Producing Summaries", SIGIR 1998; their lambda is 1 - trade_off.

DPP: Chen, Zhang, Zhou: "Fast Greedy MAP Inference for Determinantal Point Process to Improve
Recommendation Diversity", NeurIPS 2018; their theta is 1 - trade_off, and the greedy picks are
those of their algorithm 1.

>>> scores = np.float32([1.0, 0.9, 0.5, 0.0])
>>> vectors = np.float32([[1, 0], [1, 0], [0, 1], [0.6, 0.8]])
>>> order = np.int32([0, 1, 2, 3])
>>> mmr_order(scores, vectors, order, 3, 0.5).tolist()
[0, 2, 1]
>>> dpp_order(scores, vectors, order, 3, 0.5).tolist()  # after two the plane is full
[0, 2, 1]
"""

from __future__ import annotations

import numpy as np

from server.fairness.types import Float32, Float64, Int32
from server.jit import kernel

EPSILON = 1e-6
"""`dpp_order` picks no item for diversity whose squared distance to the span of the picked is less."""

_STEEPEST = 700.0  # exp(-700) is still above 0


@kernel
def _relevance(scores: Float32, order: Int32) -> Float64:
    """`[n] float64` in score order: scaled to 0..1 by the finite scores; NaN and -inf are 0, inf is 1."""
    n = order.shape[0]
    lowest = np.inf
    highest = -np.inf
    for rank in range(n):
        score = np.float64(scores[order[rank]])
        if np.isfinite(score):
            lowest = min(lowest, score)
            highest = max(highest, score)
    relevance = np.zeros(n, np.float64)
    for rank in range(n):
        score = np.float64(scores[order[rank]])
        if score == np.inf:
            relevance[rank] = 1.0
        elif np.isfinite(score) and highest > lowest:
            relevance[rank] = (score - lowest) / (highest - lowest)
    return relevance


@kernel
def _columns(vectors: Float32, order: Int32) -> Float32:
    """The candidates' vectors in score order as `[d, n]`.

    A sum over d then runs beside n others: the compiler may take many at once without changing
    the order of any sum.
    """
    n, dimensions = order.shape[0], vectors.shape[1]
    columns = np.empty((dimensions, n), np.float32)
    for rank in range(n):
        for k in range(dimensions):
            columns[k, rank] = vectors[order[rank], k]
    return columns


@kernel
def _products(columns: Float32, vector: Float64) -> Float64:
    """`[n]`: the inner product of each column with `vector [d]`."""
    dimensions, n = columns.shape
    products = np.zeros(n, np.float64)
    even = dimensions - dimensions % 4
    for k in range(0, even, 4):
        a, b, c, d = vector[k], vector[k + 1], vector[k + 2], vector[k + 3]
        for rank in range(n):
            products[rank] += (a * columns[k, rank] + b * columns[k + 1, rank]) + (
                c * columns[k + 2, rank] + d * columns[k + 3, rank]
            )
    for k in range(even, dimensions):
        a = vector[k]
        for rank in range(n):
            products[rank] += a * columns[k, rank]
    return products


@kernel
def mmr_order(
    scores: Float32, vectors: Float32, order: Int32, size: int, trade_off: float
) -> Int32:
    """Positions of the picks, `[size] int32`: at each place the item with the largest

        (1 - trade_off) * r - trade_off * (largest inner product with an item already picked),

    the latter 0 at the first place. scores `[n]` and vectors `[n, d]`, of length 1 or 0, in input
    order; order: positions in score order; 1 <= size <= len(order); 0 <= trade_off <= 1.
    O(size n d).
    """
    n = order.shape[0]
    if trade_off <= 0.0:
        return order[:size].copy()
    relevance = _relevance(scores, order)
    columns = _columns(vectors, order)
    picked = np.empty(size, np.int32)
    taken = np.zeros(n, np.bool_)
    likeness = np.zeros(n, np.float64)
    first = 0
    for place in range(size):
        while taken[first]:
            first += 1
        best = first
        best_value = (1.0 - trade_off) * relevance[first] - trade_off * likeness[first]
        for rank in range(first + 1, n):
            value = (1.0 - trade_off) * relevance[rank] - trade_off * likeness[rank]
            if value > best_value and not taken[rank]:
                best = rank
                best_value = value
        taken[best] = True
        picked[place] = order[best]
        if place + 1 < size:
            products = _products(columns, columns[:, best].astype(np.float64))
            likeness = np.maximum(likeness, products) if place else products
    return picked


@kernel
def dpp_order(
    scores: Float32, vectors: Float32, order: Int32, size: int, trade_off: float
) -> Int32:
    """Positions of the picks, `[size] int32`: at each place the item that raises most

        (1 - trade_off) * sum of r + trade_off * log det(S of the picked),

    S: the inner products of the vectors, 1 for a zero vector with itself. The determinant is the
    squared volume that the picked span, and what an item multiplies it by is its squared distance
    to their span. Once no item's is `EPSILON` or more, at the latest after d picks that have
    vectors, the other places go by score. Arguments as for `mmr_order`; a trade-off below 1 / 701
    counts as 0, and at 1 the scores only settle ties.

    The paper extends a row of Cholesky's factor for each item and pick, O(size^2 n). With vectors
    that row is the item's products with an orthonormal basis of the picked: only the newest member
    of the basis is needed, O(size n d).
    """
    n, dimensions = order.shape[0], vectors.shape[1]
    if trade_off * (1.0 + _STEEPEST) < 1.0:
        return order[:size].copy()
    relevance = _relevance(scores, order)
    weights = np.exp((1.0 - trade_off) / trade_off * (relevance - 1.0))
    columns = _columns(vectors, order)
    distances = np.zeros(n, np.float64)  # squared, of each to the span of the picked
    for k in range(dimensions):
        for rank in range(n):
            distances[rank] += np.float64(columns[k, rank]) * np.float64(columns[k, rank])
    for rank in range(n):
        if distances[rank] == 0.0:
            distances[rank] = 1.0
    picked = np.empty(size, np.int32)
    taken = np.zeros(n, np.bool_)
    basis = np.zeros((size, dimensions), np.float64)
    for place in range(size):
        best = -1
        best_value = -1.0
        for rank in range(n):
            value = weights[rank] * distances[rank]
            if value > best_value and distances[rank] >= EPSILON and not taken[rank]:
                best = rank
                best_value = value
        if best < 0:
            at = place
            for rank in range(n):
                if at < size and not taken[rank]:
                    picked[at] = order[rank]
                    at += 1
            return picked
        taken[best] = True
        picked[place] = order[best]
        newest = columns[:, best].astype(np.float64)
        for earlier in range(place):
            product = 0.0
            for k in range(dimensions):
                product += basis[earlier, k] * columns[k, best]
            for k in range(dimensions):
                newest[k] -= product * basis[earlier, k]
        newest /= np.sqrt(distances[best])
        basis[place] = newest
        products = _products(columns, newest)
        distances -= products * products
    return picked


def warm_up() -> None:
    """Compile both orders (or load them from the cache), for the types that a server gives them."""
    order = np.arange(2, dtype=np.int32)
    for diverse in (mmr_order, dpp_order):
        diverse(np.ones(2, np.float32), np.eye(2, dtype=np.float32), order, 2, 0.5)
