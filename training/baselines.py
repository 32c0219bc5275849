"""The baselines that every model is compared with, by full ranking.

Owns eight ways to score all items for a user from the purchases before a cut. Must
not know metrics, features or the ranker.

    for baseline in BASELINES:
        lists, novel = baseline.rank(history, users, now_ms, k=20)

Each score is per item of the dataset; lists are the best k by (score descending,
item ascending), once over all items and once without the user's own.
EASE is Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019,
eq. 8. With B = I - P diag(1 / diag P) and P = (X'X + lambda I)^-1 the scores of
all users are `XB = X - XP / diag(P)`. Where there are fewer users than items they are
taken in the dual: with M = (XX' + lambda I)^-1 the Woodbury identity gives XP = MX and
lambda diag(P) = 1 - diag(X'MX), so that only a users x users matrix is inverted. With other counts Q
than X asked, QB = Q - (Q - QX'MX) / (1 - diag(X'MX)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from threadpoolctl import threadpool_limits

from server.features.types import DAY_MS, Float32, Int32
from training.data.dataset import Dataset
from training.itemitem import inverse_of
from training.neighbours import Tifu, tifu_scores

WEEK_MS = 7 * DAY_MS
RECENT_WEEKS = 4
DECAY_PER_WEEK = 0.95
EASE_LAMBDA = 200.0
IALS_ROUNDS = 15

WITHOUT_OWN = "without the user's own items"

Scorer = Callable[[Int32], Float32]
"""Users `[b] int32` to scores `[b, n_items] float32`."""


Fit = Callable[[Dataset, int], Scorer]
"""The purchases up to a cut, and the cut in Unix ms, to what scores users."""


@dataclass(frozen=True)
class Baseline:
    """One baseline: its name in results, in prose, and how it is fitted.

    fit: with its first settings. others: further settings by how they are told. own: whether its lists
    over all items hold those of the user's history. Whoever compares with it takes what is best on
    validation: where nothing is bought twice, to list what the user has spoils any baseline.
    """

    name: str
    title: str
    fit: Fit
    settings: str = ""
    others: tuple[tuple[str, Fit], ...] = ()
    own: bool = True

    def told(self) -> str:
        """Its settings, and whether it leaves out what the user has; "" where there is nothing to tell."""
        return "; ".join(filter(None, (self.settings, "" if self.own else WITHOUT_OWN)))

    def choices(self) -> tuple[Baseline, ...]:
        """The same baseline with each of its settings, and no others."""
        each = ((self.settings, self.fit), *self.others)
        return tuple(Baseline(self.name, self.title, fit, told) for told, fit in each)

    def rank(
        self,
        history: Dataset,
        users: Int32,
        now_ms: int,
        k: int = 20,
        block: int = 128,
        on_users: Callable[[int], None] = lambda _: None,
    ) -> tuple[Int32, Int32]:
        """The lists `[t, k] int32` of `users`, over all items, and without those of their history.

        history: the purchases up to the cut. on_users: told how many users are done.
        """
        scorer = self.fit(history, now_ms)
        lists = np.full((len(users), k), -1, np.int32)
        novel = np.full((len(users), k), -1, np.int32)
        for start in range(0, len(users), block):
            part = users[start : start + block]
            scores = scorer(part)
            for row, user in enumerate(part.tolist()):
                lists[start + row] = top(scores[row], k)
                own = history.items[history.user_ptr[user] : history.user_ptr[user + 1]]
                scores[row, own] = -np.inf
                novel[start + row] = top(scores[row], k)
            on_users(len(part))
        return lists if self.own else novel, novel


def top(scores: Float32, k: int) -> Int32:
    """The places of the best k finite scores by (score descending, place ascending), -1 padded.

    >>> top(np.array([1, 3, 3, -np.inf], np.float32), 4).tolist()
    [1, 2, 0, -1]
    """
    n = len(scores)
    if k < n:
        bar = np.partition(scores, n - k)[n - k]
        places = np.flatnonzero(scores >= bar)
    else:
        places = np.arange(n)
    places = places[scores[places] > -np.inf]
    best = places[np.argsort(-scores[places], kind="stable")][:k]
    out = np.full(k, -1, np.int32)
    out[: len(best)] = best
    return out


def _bought(history: Dataset, weights: Float32 | None = None) -> sp.csr_matrix:
    """Users x items: the sum of `weights` (or the number) of a user's purchases of an item."""
    data = np.ones(history.n_events, np.float32) if weights is None else weights
    matrix = sp.coo_matrix(
        (data, (history.event_users, history.items)), shape=(history.n_users, history.n_items)
    )
    return matrix.tocsr()


def _counts(history: Dataset) -> Float32:
    return np.bincount(history.items, minlength=history.n_items).astype(np.float32)


def _recent_counts(history: Dataset, now_ms: int) -> Float32:
    return _counts(history.between(now_ms - RECENT_WEEKS * WEEK_MS, now_ms))


def _same_for_all(scores: Float32) -> Scorer:
    return lambda users: np.repeat(scores[None], len(users), axis=0)


def _filled(personal: sp.csr_matrix, fill: Float32) -> Scorer:
    """Own items first, by their score; ties among them, and then the rest, by `fill`."""
    smallest = float(personal.data.min()) if personal.nnz else 1.0
    tail = fill * (1e-3 * smallest / max(float(fill.max()), 1.0))
    return lambda users: personal[users].toarray() + tail


def _popularity(history: Dataset, now_ms: int) -> Scorer:
    return _same_for_all(_counts(history))


def _popularity_recent(history: Dataset, now_ms: int) -> Scorer:
    return _same_for_all(_recent_counts(history, now_ms))


def _personal_frequency(history: Dataset, now_ms: int) -> Scorer:
    return _filled(_bought(history), _counts(history))


def _recency_frequency(history: Dataset, now_ms: int) -> Scorer:
    weeks = (now_ms - history.times_ms) // WEEK_MS
    decayed = (DECAY_PER_WEEK**weeks).astype(np.float32)
    return _filled(_bought(history, decayed), _recent_counts(history, now_ms))


def _log_counts(history: Dataset) -> sp.csr_matrix:
    logs = _bought(history)
    logs.data = np.log1p(logs.data)
    return logs


def _ease(half_weeks: float | None) -> tuple[str, Fit]:
    """EASE fitted on log counts, and asked with them or with counts that halve in so many weeks."""

    def fit(history: Dataset, now_ms: int) -> Scorer:
        logs = _log_counts(history)
        asked = logs
        if half_weeks is not None:
            ages = (now_ms - history.times_ms) / WEEK_MS
            asked = _bought(history, (0.5 ** (ages / half_weeks)).astype(np.float32))
            asked.data = np.log1p(asked.data)
        if logs.shape[0] < logs.shape[1]:
            inverse = inverse_of(logs @ logs.T, EASE_LAMBDA)
            by_item = logs.tocsc()
            mapped = np.asarray((by_item.T @ inverse).T, np.float32)
            own = np.asarray(by_item.multiply(mapped).sum(axis=0), np.float32).ravel()

            def dual(users: Int32) -> Float32:
                told = asked[users]
                dense = told.toarray()
                shared = np.asarray((told @ logs.T).todense(), np.float32)
                scores: Float32 = dense - (dense - shared @ mapped) / (1.0 - own)
                return scores

            return dual
        inverse = inverse_of(logs.T @ logs, EASE_LAMBDA)
        per_item = inverse / np.diagonal(inverse)
        return lambda users: np.asarray(
            asked[users].toarray() - asked[users] @ per_item, np.float32
        )

    if half_weeks is None:
        return "asked with log counts", fit
    return f"asked with counts that halve in {half_weeks:g} weeks", fit


def _item_knn(history: Dataset, now_ms: int) -> Scorer:
    # All items with a common buyer are neighbours, so there is nothing to tune. Keeping only the
    # nearest 100 or 500 of each gave NDCG@20 .137 and .145 on the Complete Journey, instead of .134.
    logs = _log_counts(history)
    norms = np.sqrt(np.asarray(logs.multiply(logs).sum(axis=0))).ravel()
    unit = (logs @ sp.diags(1.0 / np.maximum(norms, 1e-12))).tocsr()
    shared = (logs @ unit.T).toarray()
    by_item = unit.tocsc()
    # cos(i, i) = 1 would make every list the history: an item's own part is taken out.
    return lambda users: np.asarray(
        (by_item.T @ shared[users].T).T - logs[users].toarray(), np.float32
    )


def _tifu(settings: Tifu) -> tuple[str, Fit]:
    return str(settings), lambda history, now_ms: tifu_scores(history, settings)


def _ials(factors: int, regularization: float, weight: float) -> tuple[str, Fit]:
    """iALS: Hu, Koren and Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008."""

    def fit(history: Dataset, now_ms: int) -> Scorer:
        from implicit.als import AlternatingLeastSquares

        # It warns of libraries that start threads within its own.
        with threadpool_limits(1, "blas"):
            model = AlternatingLeastSquares(
                factors=factors, regularization=regularization, alpha=weight,
                iterations=IALS_ROUNDS, random_state=0,
            )  # fmt: skip
            model.fit(_log_counts(history), show_progress=False)
        of_users, of_items = model.user_factors, model.item_factors
        return lambda users: np.asarray(of_users[users] @ of_items.T, np.float32)

    return f"{factors} factors, regularization {regularization:g}, weight {weight:g}", fit


def _several(name: str, title: str, choices: Sequence[tuple[str, Fit]]) -> Baseline:
    (settings, fit), *others = choices
    return Baseline(name, title, fit, settings, tuple(others))


BASELINES = (
    Baseline("popularity", "popularity", _popularity),
    Baseline("popularity_4_weeks", "popularity, last 4 weeks", _popularity_recent),
    Baseline("item_knn", "item-kNN cosine", _item_knn),
    Baseline("personal_frequency", "personal frequency + popularity", _personal_frequency),
    Baseline("recency_frequency", "recency-weighted frequency", _recency_frequency),
    _several(
        "tifu_knn",
        "TIFU-KNN",
        [
            _tifu(one)
            for one in (
                Tifu(),
                Tifu(group=3, within=1.0, between=0.9, neighbours=100, mine=0.95),
                Tifu(neighbours=100, mine=0.1),
            )
        ],
    ),
    _several("ease", "EASE", [_ease(weeks) for weeks in (None, 13.0, 4.0, 1.0)]),
    _several("ials", "iALS", [_ials(64, 1.0, 1.0), _ials(128, 10.0, 1.0), _ials(128, 10.0, 10.0)]),
)
