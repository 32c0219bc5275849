"""Training rows: what serving would compute at a cut, and what was bought after it.

Owns the use of the server's own candidates and features on histories at a cut,
so that training and serving cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from server.features import FeatureState, generate_candidates, pair_features
from server.features.sequence import sequence
from server.features.types import Float32, History, Int32, Int64
from training.data.dataset import Dataset
from training.data.split import Targets
from training.settings import TrainSettings

SHORTEST = 6
_NOTHING = np.empty(0, np.int32)


@dataclass(frozen=True)
class Lists:
    """L lists of candidates with their features and labels.

    features: `[R, F] float32`; labels: `[R] bool`, bought within the horizon; items: `[R] int32`.
    ptr: `[L + 1] int64`; n_targets: `[L] int64`, distinct items bought, candidates or not.
    recent: `[L, S] int32`, the history as a sequence model of length S reads it; S may be 0.
    users: `[L] int32`, whose each list is, by place in the dataset; empty where nobody asks.
    cut_ms: the instant that they are made for.
    """

    features: Float32
    labels: NDArray[np.bool_]
    items: Int32
    ptr: Int64
    n_targets: Int64
    recent: Int32
    users: Int32 = field(default_factory=lambda: _NOTHING)
    cut_ms: int = 0

    def __len__(self) -> int:
        return len(self.ptr) - 1


def make_lists(
    history: Dataset,
    targets: Targets,
    cut_ms: int,
    state: FeatureState,
    settings: TrainSettings,
    *,
    with_short: bool,
    hidden: bool = False,
    on_list: Callable[[int], None],
) -> Lists:
    """The list of every user with targets; `with_short`, some users' short histories too; `hidden`, all
    as if nobody had a history."""
    rng = np.random.default_rng((settings.seed, cut_ms))
    features: list[Float32] = []
    labels: list[NDArray[np.bool_]] = []
    items: list[Int32] = []
    n_targets: list[int] = []
    recent: list[Int32] = []
    users: list[int] = []
    length = settings.sequence.length if settings.sequence is not None else 0
    for place, user in enumerate(targets.users.tolist()):
        whole = history.history(user)
        bought = targets.of(place)
        histories = [_last(whole, 0) if hidden else whole]
        if with_short and rng.random() < settings.short_share:
            histories.append(_last(whole, int(rng.integers(0, SHORTEST))))
        for part in histories:
            found = generate_candidates(
                part, cut_ms, state, settings.n_novel, n_popular=settings.n_popular
            )
            features.append(pair_features(part, found.items, cut_ms, state))
            labels.append(np.isin(found.items, bought))
            items.append(found.items)
            n_targets.append(len(bought))
            recent.append(sequence(part, _NOTHING, length)[0])
            users.append(user)
        on_list(1)
    lengths = [len(part) for part in items]
    return Lists(
        np.concatenate(features),
        np.concatenate(labels),
        np.concatenate(items),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array(n_targets, np.int64),
        np.stack(recent),
        np.array(users, np.int32),
        cut_ms,
    )


def with_scores(lists: Lists, scores: Float32) -> Lists:
    """The same lists with one feature more, `[R]`."""
    return replace(lists, features=np.hstack([lists.features, scores[:, None]]))


def _last(history: History, events: int) -> History:
    start = len(history) - min(events, len(history))
    return History(history.items[start:], history.times_ms[start:], history.quantities[start:])
