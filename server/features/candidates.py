"""Candidates: which items the ranker looks at for one user.

Owns the choice (the whole history, the best novel items by EASE or by a search
that the caller made, best sellers) and where each came from. Knows no scores of the ranker, no policy.

A few events say little of what goes with them, so that EASE alone would leave
out the best sellers, which such a user is far likelier to buy: a part of the
novel items is kept for them.

The result depends on the history's items and their counts only, and is in a
fixed order: bought items by index, then novel ones by (score, index), then best
sellers by rank.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numpy as np

from server.features.pairs import checked_events
from server.features.state import FeatureState
from server.features.types import Float32, Float64, History, Int8, Int32, Int64
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
    similar: Int32 | None = None,
) -> Candidates:
    """The items of the history (unless `seen` is False) and `n_novel` others, fewer if there are fewer.

    All but `n_popular` of the others are the best by EASE with a score above 0. The rest, and what
    EASE leaves open, are the best sellers that are not chosen yet; for an empty history all are.
    Never an item of `excluded` (`[m] int32`).
    similar: `[s] int32`, the best first, in place of those by EASE: what a model of histories would put
    first of the whole catalogue. Of what is bought, excluded or there already the next is taken.
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
    found = _NONE if similar is None else np.ascontiguousarray(similar, np.int32)
    if len(found) and (found.min() < 0 or found.max() >= state.n_items):
        raise ValueError(
            f"similar: got {found.min()} to {found.max()}, allowed: 0 to {state.n_items - 1}"
        )
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
        similar is None,
        found,
        *_scratch(state.n_items),
    )
    return Candidates(chosen, sources)


_kept = threading.local()


def _scratch(n_items: int) -> tuple[Float64, Int8]:
    """A score and a mark for each item, all 0: kept per thread and left so by the kernel, since to fill
    them anew, and to look through them, would cost more with each item of the catalogue."""
    scratch: tuple[Float64, Int8] | None = getattr(_kept, "scratch", None)
    if scratch is None or len(scratch[0]) != n_items:
        scratch = _kept.scratch = np.zeros(n_items), np.zeros(n_items, np.int8)
    return scratch


_TOUCHED, _TAKEN, _BARRED = 1, 2, 4


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
    by_ease: bool,
    similar: Int32,
    scores: Float64,
    marks: Int8,
) -> tuple[Int32, Int8]:
    # Only what the history leads to is looked at: the cost is that of its neighbours.
    ordered = np.sort(items)
    reached = 0
    for e in range(len(ordered)):
        if by_ease and (e == 0 or ordered[e] != ordered[e - 1]):
            reached += ease_ptr[ordered[e] + 1] - ease_ptr[ordered[e]]
    touched = np.empty(min(reached, len(popular)), np.int32)
    n_touched = distinct = e = 0
    while e < len(ordered):  # in item order: the sums do not depend on the order of events
        item = ordered[e]
        count = 0
        while e < len(ordered) and ordered[e] == item:
            count += 1
            e += 1
        marks[item] |= _TAKEN
        ordered[distinct] = item
        distinct += 1
        if not by_ease:
            continue
        query = math.log1p(count)
        for at in range(ease_ptr[item], ease_ptr[item + 1]):
            other = ease_items[at]
            if not marks[other] & _TOUCHED:
                marks[other] |= _TOUCHED
                touched[n_touched] = other
                n_touched += 1
            scores[other] += query * ease_weights[at]
    for e in range(len(excluded)):
        marks[excluded[e]] |= _BARRED

    chosen = np.empty((distinct if seen else 0) + n_novel, np.int32)
    sources = np.empty(len(chosen), np.int8)
    n = 0
    if seen:
        for place in range(distinct):
            if not marks[ordered[place]] & _BARRED:
                chosen[n] = ordered[place]
                sources[n] = HISTORY
                n += 1

    start = n
    full = start + n_similar
    for place in range(n_touched):
        item = touched[place]
        score = scores[item]
        if score <= 0.0 or marks[item] & (_TAKEN | _BARRED) or n_similar == 0:
            continue
        at = n
        if n == full:
            at = n - 1
            last = chosen[at]
            if score < scores[last] or (score == scores[last] and item > last):
                continue
        # Insertion keeps the best in order, equal scores in item order.
        while at > start:
            before = chosen[at - 1]
            if scores[before] > score or (scores[before] == score and before < item):
                break
            chosen[at] = before
            at -= 1
        chosen[at] = item
        n = min(n + 1, full)
    for item in similar:
        if n < full and not marks[item] & (_TAKEN | _BARRED):
            marks[item] |= _TAKEN
            chosen[n] = item
            n += 1
    for at in range(start, n):
        sources[at] = SIMILAR
        marks[chosen[at]] |= _TAKEN
    full = start + n_novel
    for at in range(len(popular)):
        if n == full:
            break
        item = popular[at]
        if not marks[item] & (_TAKEN | _BARRED):
            chosen[n] = item
            sources[n] = POPULAR
            n += 1

    for place in range(n_touched):
        scores[touched[place]] = 0.0
        marks[touched[place]] = 0
    for place in range(distinct):
        marks[ordered[place]] = 0
    for e in range(len(excluded)):
        marks[excluded[e]] = 0
    for at in range(n):
        marks[chosen[at]] = 0
    return chosen[:n], sources[:n]
