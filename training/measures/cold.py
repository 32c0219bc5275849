"""The cold start: users without a history, users with little of one, items that few have bought.

Owns the block `cold_start` of the results. Lists come from the served path; of each row the
baselines see what the ranker sees.

    no_history      the list that whoever is unknown gets, against what the evaluated users bought
                    (their histories hidden), and against what users bought who have none indeed
    fold_in         histories cut to their last 1, 3 and 5 events, without training anew. The item
                    statistics, of the bundle and of the baselines alike, still include what was cut
    new_items       recall of what was bought, by how many users had bought the item before the cut.
                    An item that the bundle does not know cannot be listed at all. Few buyers are
                    often the very ones who buy again; so what was new to its user is counted too,
                    and how much of that stood in the list without his history
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from server.engine.engine import Engine
from server.features.types import Float64, Int32, Int64
from training.baselines import BASELINES, Baseline
from training.data.dataset import Dataset
from training.data.split import Targets
from training.intervals import Resampler
from training.measures.candidates import Bool
from training.metrics import hits, ndcg, recall
from training.served import served_lists
from training.user_groups import withheld

NON_PERSONAL = ("popularity", "popularity_4_weeks")
FOLD_IN = ("popularity", "popularity_4_weeks", "item_knn", "recency_frequency", "ease")
"""Those that a few events are enough for, without further settings."""
LAST_EVENTS = (1, 3, 5)
FOLD_IN_USERS = 500
"""Users drawn for the rows of `fold_in`: the baselines know each of them a second time."""
STRATA = ((0, 0), (1, 4), (5, 19), (20, None))
"""Buyers before the cut, from and to."""

OnUsers = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Cold:
    """What the rows are measured with.

    places: of each bundle item its place in the data set, as `training.task.places_in_data`. own: which
    baselines list what their user has.
    novel_ptr, novel_items: the targets that are not in their user's history; novel_lists: the
    ranker's lists without the history, in places of the data set.
    """

    engine: Engine
    policy: str
    dataset: Dataset
    history: Dataset
    targets: Targets
    novel_ptr: Int64
    novel_items: Int32
    novel_lists: Int32
    cut_ms: int
    until_ms: int
    places: Int32
    own: Mapping[str, bool]
    k: int
    min_users: int
    on_step: OnUsers

    def served(self, history: Dataset, users: Int32, what: str) -> Int32:
        """The ranker's lists of `users`, in places of the data set."""

        def told(done: int) -> None:
            self.on_step(what, done, len(users))

        lists = served_lists(
            self.engine, history, users, self.cut_ms, policy=self.policy, k=self.k, on_users=told
        )
        return np.asarray(self.places[lists.items], np.int32)


def cold_block(
    cold: Cold, lists: Mapping[str, Int32], sample: Resampler, seed: int
) -> dict[str, Any]:
    """The block `cold_start`. lists: of the ranker ("ranker") and of every baseline, as evaluated."""
    return {
        "no_history": _no_history(cold, sample),
        "fold_in": _fold_in(cold, sample, seed),
        "new_items": _new_items(cold, lists, sample),
    }


def _no_history(cold: Cold, sample: Resampler) -> dict[str, Any]:
    targets = cold.targets
    asked = targets.users[:1]
    nothing = last_events(cold.history, 0)
    if not len(asked):
        return {"histories_hidden": None, "no_history_indeed": None}
    mine = cold.served(nothing, asked, "ranker, no history")[0]
    theirs = {
        one.name: one.rank(cold.history, asked, cold.cut_ms, cold.k)[0][0]
        for one in _named(NON_PERSONAL)
    }
    ptr, items = targets_of_strangers(cold.dataset, cold.history, cold.cut_ms, cold.until_ms)
    strangers = len(ptr) - 1
    alone = Resampler(
        strangers, resamples=sample.resamples, confidence=sample.confidence, seed=sample.seed
    )

    def row(ptr: Int64, items: Int32, drawn: Resampler) -> dict[str, Any]:
        def metrics(one: Int32) -> Mapping[str, Float64]:
            return _metrics(np.tile(one, (len(ptr) - 1, 1)), ptr, items, cold.k)

        return _row(metrics(mine), {name: metrics(one) for name, one in theirs.items()}, drawn)

    return {
        "histories_hidden": row(targets.ptr, targets.items, sample),
        "no_history_indeed": row(ptr, items, alone)
        if strangers >= cold.min_users
        else {"n_users": strangers, **_hidden(strangers, cold.min_users)},
        "list": [cold.history.item_ids[place] for place in mine.tolist() if place >= 0],
    }


def _fold_in(cold: Cold, sample: Resampler, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n_users = len(cold.targets)
    rows = np.sort(rng.choice(n_users, min(n_users, FOLD_IN_USERS), replace=False))
    users = cold.targets.users[rows]
    ptr, items = _of_rows(cold.targets, rows)
    drawn = Resampler(
        len(rows), resamples=sample.resamples, confidence=sample.confidence, seed=sample.seed
    )
    told = {}
    short = {n: _only(last_events(cold.history, n), users) for n in LAST_EVENTS}
    baselines = _folded_in(cold, short, users)
    for n, history in short.items():
        mine = cold.served(history, users, f"ranker, last {n} events")
        metrics = {
            name: _metrics(by_events[n], ptr, items, cold.k)
            for name, by_events in baselines.items()
        }
        told[str(n)] = _row(_metrics(mine, ptr, items, cold.k), metrics, drawn)
    return told


def _folded_in(
    cold: Cold, short: Mapping[int, Dataset], users: Int32
) -> dict[str, dict[int, Int32]]:
    """Each baseline's lists of `users` by their last events: fitted once, on all histories and the
    short ones of users beside them."""
    together = cold.history
    for history in short.values():
        together = beside(together, history, users)
    first = cold.history.n_users
    found: dict[str, dict[int, Int32]] = {}
    for baseline in _named(FOLD_IN):
        asked = np.arange(first, together.n_users, dtype=np.int32)

        def told(done: int, title: str = baseline.title, total: int = len(asked)) -> None:
            cold.on_step(f"{title}, few events", done, total)

        ranked = replace(baseline, own=cold.own[baseline.name])
        lists, _ = ranked.rank(together, asked, cold.cut_ms, cold.k, on_users=told)
        found[baseline.name] = dict(zip(short, np.split(lists, len(short)), strict=True))
    return found


def _new_items(cold: Cold, lists: Mapping[str, Int32], sample: Resampler) -> list[dict[str, Any]]:
    targets, history = cold.targets, cold.history
    pairs = np.unique(history.event_users.astype(np.int64) * history.n_items + history.items)
    buyers = np.bincount(pairs % history.n_items, minlength=history.n_items)
    known = np.zeros(history.n_items, np.bool_)
    known[cold.places[cold.places >= 0]] = True
    rows = np.repeat(np.arange(len(targets)), np.diff(targets.ptr))
    new_rows = np.repeat(np.arange(len(targets)), np.diff(cold.novel_ptr))
    told = []
    for least, most in STRATA:
        inside = (buyers >= least) & (True if most is None else buyers <= most)
        kept = inside[targets.items]
        ptr, items = _ptr(rows[kept], len(targets)), targets.items[kept]
        new = inside[cold.novel_items]
        new_ptr, new_items = _ptr(new_rows[new], len(targets)), cold.novel_items[new]
        found = {
            name: recall(hits(ranked, ptr, items), np.diff(ptr)) for name, ranked in lists.items()
        }
        mine = {f"recall_at_{cold.k}": found.pop("ranker")}
        users = int((np.diff(ptr) > 0).sum())
        told.append(
            {
                "buyers_from": least,
                "buyers_to": most,
                "n_items": int(inside.sum()),
                "n_items_known_to_bundle": int((inside & known).sum()),
                "n_targets": len(items),
                "n_targets_known_to_bundle": int(known[items].sum()),
                "n_targets_new_to_user": len(new_items),
                "n_listed_of_those": int(hits(cold.novel_lists, new_ptr, new_items).sum()),
            }
            | (
                _row(mine, {name: {f"recall_at_{cold.k}": v} for name, v in found.items()}, sample)
                if users >= cold.min_users
                else {
                    "n_users": users,
                    "n_listed_of_those": None,
                    **_hidden(users, cold.min_users),
                }
            )
        )
    return told


def _ptr(rows: Int64, n_rows: int) -> Int64:
    """Where each row's entries begin and end, of rising `rows`."""
    return np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n_rows))]).astype(np.int64)


def _metrics(lists: Int32, ptr: Int64, items: Int32, k: int) -> dict[str, Float64]:
    found = hits(lists, ptr, items)
    return {
        f"ndcg_at_{k}": ndcg(found, np.diff(ptr)),
        f"recall_at_{k}": recall(found, np.diff(ptr)),
    }


def _row(
    mine: Mapping[str, Float64], theirs: Mapping[str, Mapping[str, Float64]], sample: Resampler
) -> dict[str, Any]:
    """Each metric of the ranker, of the baseline that is best at it here, and their difference."""
    row: dict[str, Any] = {}
    for metric, values in mine.items():
        means = {name: _mean(metrics[metric]) for name, metrics in theirs.items()}
        best = max(means, key=lambda name: means[name])
        other = theirs[best][metric]
        row["n_users"] = int(np.isfinite(values).sum())
        row[metric] = sample.mean(values).as_json()
        row[f"{metric}_best_baseline"] = {"name": best, **sample.mean(other).as_json()}
        row[f"{metric}_minus_best_baseline"] = sample.mean(values - other).as_json()
    return row


def _mean(values: Float64) -> float:
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else -1.0


def _hidden(users: int, min_users: int) -> dict[str, Any]:
    return {"withheld": withheld(users, min_users)["withheld"]}


def _named(names: tuple[str, ...]) -> list[Baseline]:
    return [one for one in BASELINES if one.name in names]


def _of_rows(targets: Targets, rows: Int64) -> tuple[Int64, Int32]:
    parts = [targets.of(row) for row in rows.tolist()]
    ptr = np.concatenate([[0], np.cumsum([len(part) for part in parts])]).astype(np.int64)
    return ptr, np.concatenate([np.empty(0, np.int32), *parts])


def last_events(history: Dataset, n: int) -> Dataset:
    """The last `n` events of every user; of one instant those that come last in the data set's order."""
    ends = np.repeat(history.user_ptr[1:], np.diff(history.user_ptr))
    return _where(history, ends - np.arange(history.n_events) <= n)


def _only(history: Dataset, users: Int32) -> Dataset:
    asked = np.zeros(history.n_users, np.bool_)
    asked[users] = True
    return _where(history, asked[history.event_users])


def _where(history: Dataset, kept: Bool) -> Dataset:
    counts = np.bincount(history.event_users[kept], minlength=history.n_users)
    return replace(
        history,
        user_ptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        items=history.items[kept],
        times_ms=history.times_ms[kept],
        baskets=history.baskets[kept],
        quantities=history.quantities[kept],
        values=history.values[kept],
    )


def beside(history: Dataset, short: Dataset, users: Int32) -> Dataset:
    """`history` with more users after its own: those of `users`, with their events of `short` only."""
    mine = _only(short, users)
    counts = np.diff(mine.user_ptr)[users]
    return replace(
        history,
        user_ids=(*history.user_ids, *(f"{n}" for n in range(len(users)))),
        user_ptr=np.concatenate(
            [history.user_ptr, history.user_ptr[-1] + np.cumsum(counts)]
        ).astype(np.int64),
        items=np.concatenate([history.items, mine.items]),
        times_ms=np.concatenate([history.times_ms, mine.times_ms]),
        baskets=np.concatenate([history.baskets, mine.baskets]),
        quantities=np.concatenate([history.quantities, mine.quantities]),
        values=np.concatenate([history.values, mine.values]),
    )


def targets_of_strangers(
    dataset: Dataset, history: Dataset, cut_ms: int, until_ms: int
) -> tuple[Int64, Int32]:
    """What users without an event up to the cut bought after it: ptr and distinct items of each."""
    window = dataset.between(cut_ms, until_ms)
    new = np.diff(history.user_ptr)[window.event_users] == 0
    pairs = np.unique(
        window.event_users[new].astype(np.int64) * dataset.n_items + window.items[new]
    )
    _, counts = np.unique(pairs // dataset.n_items, return_counts=True)
    ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return ptr, (pairs % dataset.n_items).astype(np.int32)
