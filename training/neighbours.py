"""TIFU-KNN: a user's own decayed item frequencies, mixed with those of the users nearest to him.

Owns the model of Hu, He, Gao and Zhang, "Modeling Personalized Item Frequency Information for
Next-basket Recommendation", SIGIR 2020. Knows neither metrics nor features.

A user's baskets are cut into groups of `group` from the newest on (eq. 5 and 6 there). Within a group
a basket weighs `within ** (its age in baskets)`, a group `between ** (its age in groups)`; both are
averaged. What is foretold (eq. 8) is `mine * own + (1 - mine) * mean of the neighbours`, neighbours
being the `neighbours` users at the least Euclidean distance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from server.features.types import Float32, Int32, Int64
from training.data.dataset import Dataset


@dataclass(frozen=True)
class Tifu:
    """The model's numbers. The defaults lie in the middle of those of the paper.

    neighbours: more is nearer to popularity. mine: the share of the user's own frequencies.
    """

    group: int = 7
    within: float = 0.9
    between: float = 0.7
    neighbours: int = 300
    mine: float = 0.7


def tifu_scores(history: Dataset, settings: Tifu) -> Callable[[Int32], Float32]:
    """Users `[b] int32` to scores `[b, n_items] float32`."""
    own = frequencies(history, settings)
    squares = np.asarray(own.multiply(own).sum(axis=1), np.float32).ravel()
    has_history = np.diff(history.user_ptr) > 0

    def scores(users: Int32) -> Float32:
        mine = own[users]
        distance = squares[None] - 2 * (mine @ own.T).toarray()
        # Nobody is his own neighbour, and who bought nothing is nobody's.
        distance[np.arange(len(users)), users] = np.inf
        distance[:, ~has_history] = np.inf
        nearest = nearest_of(distance, settings.neighbours)
        weights = sp.csr_matrix(
            (
                np.repeat(1 / np.maximum(1, np.diff(nearest.indptr)), np.diff(nearest.indptr)),
                nearest.indices,
                nearest.indptr,
            ),
            shape=nearest.shape,
        )
        mixed = settings.mine * mine + (1 - settings.mine) * (weights @ own)
        return np.asarray(mixed.toarray(), np.float32)

    return scores


def nearest_of(distance: Float32, count: int) -> sp.csr_matrix:
    """Who of the columns is among the `count` nearest of each row; of equals the first."""
    rows, columns = distance.shape
    chosen: list[NDArray[np.intp]] = []
    for own in distance:
        known = np.flatnonzero(own < np.inf)
        order = np.argsort(own[known], kind="stable")[:count]
        chosen.append(np.sort(known[order]))
    ptr = np.concatenate([[0], np.cumsum([len(one) for one in chosen])])
    places = np.concatenate(chosen) if chosen else np.empty(0, np.intp)
    return sp.csr_matrix((np.ones(len(places), np.float32), places, ptr), shape=(rows, columns))


def frequencies(history: Dataset, settings: Tifu) -> sp.csr_matrix:
    """Each user's decayed item frequencies, `[n_users, n_items]`."""
    age = _ages(history)
    groups_old, place = age // settings.group, age % settings.group
    # Of each user: how many groups, and how many baskets in each group, the oldest of which may be
    # shorter.
    count = np.zeros(history.n_users, np.int64)
    np.maximum.at(count, history.event_users, age + 1)
    users = history.event_users
    of_group = np.minimum(settings.group, count[users] - groups_old * settings.group)
    weight = settings.within**place / of_group
    weight *= settings.between**groups_old / np.ceil(count[users] / settings.group)
    found = sp.coo_matrix(
        (weight.astype(np.float32), (users, history.items)),
        shape=(history.n_users, history.n_items),
    )
    return found.tocsr()


def _ages(history: Dataset) -> Int64:
    """How many baskets the user has had after each event's, `[E]`."""
    users, baskets = history.event_users, history.baskets
    first = np.ones(history.n_events, np.bool_)
    first[1:] = (users[1:] != users[:-1]) | (baskets[1:] != baskets[:-1])
    number = np.cumsum(first) - 1
    last = np.zeros(history.n_users, np.int64)
    last[users] = number
    ages: Int64 = last[users] - number
    return ages
