"""Item-item statistics: EASE weights and cosine neighbours, the strongest of each item.

Owns their fitting on a sparse user-item matrix. Knows neither tables nor features.

EASE (Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019,
eq. 8) with B = I - P diag(1 / diag P), P = (X'X + lambda I)^-1. Where there are
fewer users than items P is taken through the users' Gram matrix (Woodbury): with
M = (XX' + lambda I)^-1, B_ij = x_i'M x_j / (1 - x_j'M x_j) off the diagonal. Only
the smaller of the two is inverted, and the items pass in blocks. Where both are
larger than `MAX_SIDE` the items that were bought most have EASE weights, and the others
their cosine neighbours in place of them, brought to the same scale: an item that no
weight leads to could never be a candidate.

Up to `FEW_PRODUCTS` the pairs are counted in dense blocks; beyond, item by item, over
those pairs alone that somebody bought (`training.itemitem_sparse`). Both count the same,
and give the same weights; where equal weights stand at the last place that is kept, the
sparse way keeps those of the first items.

No weight may tell of one person: a pair counts only if at least `min_buyers`
different users bought both items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from server.features.state import SparseWeights
from server.features.types import Float32, Int32, Int64
from training.itemitem_sparse import Part, strongest_pairs

MAX_SIDE = 12_500
"""The largest matrix that is inverted: a minute on two cores, and 3 GiB on the way."""
FEW_PRODUCTS = 3_000_000_000
"""Pairs (user, item) times items: as many multiplications as dense blocks take, some seconds'."""
BLOCK_CELLS = 50_000_000
"""The most numbers in a dense block."""


@dataclass(frozen=True)
class ItemItem:
    """The two kinds of item-item weights."""

    ease: SparseWeights
    cosine: SparseWeights


def fit_item_item(
    users: Int32,
    items: Int32,
    n_users: int,
    n_items: int,
    *,
    regularization: float,
    keep_ease: int,
    keep_cosine: int,
    min_buyers: int,
    block: int = 1024,
    on_block: Callable[[int], None] = lambda _: None,
) -> ItemItem:
    """Fit both on events `users[e]` bought `items[e]`; X is log(1 + number of purchases).

    keep_ease, keep_cosine: how many sources each target item keeps, the largest weights first.
    Negative weights are dropped: on validation weeks 50 positive ones found as many novel items
    as the full matrix, 150 of either sign fewer.
    on_block: told how many items were done, for a progress bar.
    """
    ones = np.ones(len(items), np.float32)
    counts = sp.csr_matrix((ones, (users, items)), shape=(n_users, n_items))
    counts.sum_duplicates()
    logs = counts.copy()
    logs.data = np.log1p(logs.data)
    bought = counts
    bought.data = np.ones_like(bought.data)
    known = _known(logs)
    logs_t, bought_t = logs.T.tocsr(), bought.T.tocsr()
    logs_c, bought_c = logs.tocsc(), bought.tocsc()
    norms = np.sqrt(np.asarray(logs.multiply(logs).sum(axis=0), np.float32).ravel())
    norms[norms == 0] = 1.0
    if logs.nnz * n_items > FEW_PRODUCTS and not _by_users(logs):
        inverse = _inverse_of(logs, known, regularization)
        parts = strongest_pairs(
            logs, norms, known, inverse, keep_ease, keep_cosine, min_buyers, block, on_block
        )
        return _item_item(*parts, known, n_items)
    ease_of = _ease(logs, known, regularization)
    block = max(1, min(block, BLOCK_CELLS // max(n_items, n_users)))

    ease: list[Part] = []
    cosine: list[Part] = []
    for start in range(0, n_items, block):
        targets = np.arange(start, min(start + block, n_items))
        columns = logs_c[:, targets].toarray()
        allowed = bought_t @ bought_c[:, targets].toarray() >= min_buyers
        allowed[targets, targets - start] = False
        ease.append(_strongest(ease_of(targets), allowed, targets, keep_ease))
        similar = (logs_t @ columns) / (norms[:, None] * norms[targets])
        cosine.append(_strongest(similar, allowed, targets, keep_cosine))
        on_block(len(targets))
    return _item_item(_joined(ease), _joined(cosine), known, n_items)


def _item_item(ease: Part, cosine: Part, known: Int64, n_items: int) -> ItemItem:
    return ItemItem(
        _by_source(_joined([ease, _in_place(ease, cosine, known, n_items)]), n_items),
        _by_source(cosine, n_items),
    )


def _in_place(ease: Part, cosine: Part, known: Int64, n_items: int) -> Part:
    """The cosine weights towards items without EASE weights, on the scale of these: as much larger or
    smaller as EASE weights are, on average, where a target has both."""
    has_ease = np.zeros(n_items, np.bool_)
    has_ease[known] = True
    both = has_ease[cosine[1]]
    if both.all() or not both.any() or not len(ease[2]):
        return _joined([])
    scale = np.float32(ease[2].mean(dtype=np.float64) / cosine[2][both].mean(dtype=np.float64))
    return cosine[0][~both], cosine[1][~both], cosine[2][~both] * scale


def _joined(parts: list[Part]) -> Part:
    if not parts:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    sources, targets, weights = (np.concatenate([p[column] for p in parts]) for column in range(3))
    return sources, targets, weights


def _ease(logs: sp.csr_matrix, known: Int64, regularization: float) -> Callable[[Int64], Float32]:
    """What gives the EASE weights `[n_items, t]` towards t items; its diagonal means nothing."""
    n_items = logs.shape[1]
    if _by_users(logs):
        logs_t, logs_c = logs.T.tocsr(), logs.tocsc()
        inverse = inverse_of(logs @ logs.T, regularization)

        def by_users(targets: Int64) -> Float32:
            columns = logs_c[:, targets].toarray()
            mapped = inverse @ columns
            self_weight = np.einsum("uj,uj->j", columns, mapped)
            weights: Float32 = (logs_t @ mapped) / (1.0 - self_weight)
            return weights

        return by_users

    inverse = _inverse_of(logs, known, regularization)
    place = np.full(n_items, -1)
    place[known] = np.arange(len(known))

    def by_items(targets: Int64) -> Float32:
        weights = np.zeros((n_items, len(targets)), np.float32)
        told = np.flatnonzero(place[targets] >= 0)
        own = place[targets[told]]
        weights[np.ix_(known, told)] = -inverse[:, own] / inverse[own, own]
        return weights

    return by_items


def _by_users(logs: sp.csr_matrix) -> bool:
    """Whether the users' matrix is the one to invert."""
    n_users, n_items = logs.shape
    return bool(n_users < min(n_items, MAX_SIDE))


def _known(logs: sp.csr_matrix) -> Int64:
    """The items that have EASE weights, rising."""
    if _by_users(logs):
        return np.arange(logs.shape[1])
    bought = np.bincount(logs.indices, minlength=logs.shape[1])
    return np.sort(np.argsort(-bought, kind="stable")[:MAX_SIDE])


def _inverse_of(logs: sp.csr_matrix, known: Int64, regularization: float) -> Float32:
    """P of the items that have EASE weights."""
    part = logs[:, known]
    return inverse_of(part.T @ part, regularization)


def inverse_of(gram: sp.csr_matrix, regularization: float) -> Float32:
    """`(gram + lambda I)^-1`, float32; the work is done in float64."""
    dense = gram.toarray().astype(np.float64)
    dense[np.diag_indices_from(dense)] += regularization
    factor, info = scipy.linalg.lapack.dpotrf(dense, lower=1, overwrite_a=1)
    inverse, info_of_inverse = scipy.linalg.lapack.dpotri(factor, lower=1, overwrite_c=1)
    if info or info_of_inverse:
        raise ValueError(f"regularization: got {regularization}, allowed: above 0")
    # LAPACK leaves the other triangle as it was.
    lower: Float32 = np.tril(inverse).astype(np.float32)
    whole: Float32 = lower + np.tril(lower, -1).T
    return whole


def _strongest(
    weights: Float32, allowed: NDArray[np.bool_], targets: Int64, keep: int
) -> tuple[Int64, Int64, Float32]:
    """(sources, targets, weights) of the `keep` largest positive weights of each column."""
    strength = torch.from_numpy(weights).mul_(torch.from_numpy(allowed)).clamp_(min=0.0)
    best = torch.topk(strength.T.contiguous(), min(keep, len(strength)), dim=1, sorted=False)
    values, sources = best.values.numpy().ravel(), best.indices.numpy().ravel()
    chosen = np.repeat(targets, best.values.shape[1])
    real = values > 0
    return sources[real], chosen[real], values[real]


def _by_source(part: Part, n_items: int) -> SparseWeights:
    sources, targets, weights = part
    order = np.lexsort((targets, sources))
    row_ptr = np.zeros(n_items + 1, np.int64)
    np.cumsum(np.bincount(sources, minlength=n_items), out=row_ptr[1:])
    return SparseWeights(
        row_ptr, targets[order].astype(np.int32), weights[order].astype(np.float32)
    )
