"""Candidates: which items the ranker looks at for one user.

Owns the choice (the whole history, the best novel items by EASE, best sellers)
and where each came from. Knows no scores of the ranker, no policy.

A few events say little of what goes with them, so that EASE alone would leave
out the best sellers, which such a user is far likelier to buy: a part of the
novel items is kept for them.

The result depends on the history's items and their counts only, and is in a
fixed order: bought items by index, then novel ones by (score, index), then best
sellers by rank.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from server.features.pairs import checked_events
from server.features.state import FeatureState
from server.features.types import Float32, History, Int8, Int32, Int64
from server.jit import kernel

HISTORY = 2
SIMILAR = 3
POPULAR = 4

_NONE = np.empty(0, np.int32)


@dataclass(frozen=True)
class Candidates:
    """The items to rank.

    items: `[n] int32`, each item once.
    sources: `[n] int8`, HISTORY, SIMILAR or POPULAR (values of `equipoise.v1.CandidateSource`).
    """

    items: Int32
    sources: Int8

    def __len__(self) -> int:
        return len(self.items)


def generate_candidates(
    history: History,
    now_ms: int,
    state: FeatureState,
    n_novel: int,
    excluded: Int32 = _NONE,
    *,
    n_popular: int = 0,
    seen: bool = True,
) -> Candidates:
    """The items of the history (unless `seen` is False) and `n_novel` others, fewer if there are fewer.

    All but `n_popular` of the others are the best by EASE with a score above 0. The rest, and what
    EASE leaves open, are the best sellers that are not chosen yet; for an empty history all are.
    Never an item of `excluded` (`[m] int32`).
    ValueError where an argument is out of its range.
    """
    items, _ = checked_events(history, now_ms, state)
    excluded = np.ascontiguousarray(excluded, np.int32)
    if len(excluded) and (excluded.min() < 0 or excluded.max() >= state.n_items):
        raise ValueError(
            f"excluded: got {excluded.min()} to {excluded.max()}, allowed: 0 to {state.n_items - 1}"
        )
    if n_novel < 0:
        raise ValueError(f"n_novel: got {n_novel}, allowed: at least 0")
    if not 0 <= n_popular <= n_novel:
        raise ValueError(f"n_popular: got {n_popular}, allowed: 0 to n_novel = {n_novel}")
    chosen, sources = _choose(
        items,
        excluded,
        min(n_novel, state.n_items),
        min(n_novel - n_popular, state.n_items),
        seen,
        state.popular,
        state.ease.row_ptr,
        state.ease.items,
        state.ease.weights,
    )
    return Candidates(chosen, sources)


@kernel
def _choose(
    items: Int32,
    excluded: Int32,
    n_novel: int,
    n_similar: int,
    seen: bool,
    popular: Int32,
    ease_ptr: Int64,
    ease_items: Int32,
    ease_weights: Float32,
) -> tuple[Int32, Int8]:
    n_items = len(popular)
    counts = np.zeros(n_items, np.int32)
    for e in range(len(items)):
        counts[items[e]] += 1
    scores = np.zeros(n_items)
    distinct = 0
    for item in range(n_items):  # in item order: the sums do not depend on the order of events
        if counts[item] == 0:
            continue
        distinct += 1
        query = math.log1p(counts[item])
        for at in range(ease_ptr[item], ease_ptr[item + 1]):
            scores[ease_items[at]] += query * ease_weights[at]
    taken = counts > 0
    barred = np.zeros(n_items, np.bool_)
    for e in range(len(excluded)):
        barred[excluded[e]] = True

    chosen = np.empty((distinct if seen else 0) + n_novel, np.int32)
    sources = np.empty(len(chosen), np.int8)
    n = 0
    if seen:
        for item in range(n_items):
            if taken[item] and not barred[item]:
                chosen[n] = item
                sources[n] = HISTORY
                n += 1

    start = n
    full = start + n_similar
    for item in range(n_items):
        score = scores[item]
        if score <= 0.0 or taken[item] or barred[item]:
            continue
        if n == full and (n_similar == 0 or score <= scores[chosen[n - 1]]):
            continue
        # Insertion keeps the best in order; equal scores stay in item order.
        at = n if n < full else n - 1
        while at > start and scores[chosen[at - 1]] < score:
            chosen[at] = chosen[at - 1]
            at -= 1
        chosen[at] = item
        n = min(n + 1, full)
    for at in range(start, n):
        sources[at] = SIMILAR
        taken[chosen[at]] = True
    full = start + n_novel
    for at in range(n_items):
        if n == full:
            break
        item = popular[at]
        if not taken[item] and not barred[item]:
            chosen[n] = item
            sources[n] = POPULAR
            n += 1
    return chosen[:n], sources[:n]
