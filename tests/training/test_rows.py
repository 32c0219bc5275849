"""Training rows are what serving computes, bit for bit, and know nothing of what comes after."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from server.engine.histories import HistoryResolver
from server.events import Event, EventKind, SqliteEventStore, StoredHistory
from server.features import Candidates, FeatureState, generate_candidates, pair_features
from server.features.types import DAY_MS, History
from strategies.purchases import raw, shop_rows, tables
from training.commands import load_events
from training.data.clean import Rules, clean
from training.data.dataset import Dataset, dataset_of
from training.data.split import Targets, targets_between
from training.fit_features import fit_features
from training.rows import Lists, make_lists
from training.settings import TrainSettings

SETTINGS = TrainSettings(n_novel=15, keep_ease=20, keep_cosine=20, min_buyers=1, short_share=1.0)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return dataset_of(tables(shop_rows()))


@pytest.fixture(scope="module")
def cut_ms(data: Dataset) -> int:
    return data.last_ms - 20 * DAY_MS


def state_at(data: Dataset, cut_ms: int) -> FeatureState:
    return fit_features(data.until(cut_ms), cut_ms, SETTINGS, lambda _: None)


def candidates_of(history: History, cut_ms: int, state: FeatureState) -> Candidates:
    return generate_candidates(
        history, cut_ms, state, SETTINGS.n_novel, n_popular=SETTINGS.n_popular
    )


def lists_at(data: Dataset, cut_ms: int, *, with_short: bool = False) -> tuple[Lists, Targets]:
    targets = targets_between(data, cut_ms, cut_ms + 14 * DAY_MS)
    lists = make_lists(
        data.until(cut_ms),
        targets,
        cut_ms,
        state_at(data, cut_ms),
        SETTINGS,
        with_short=with_short,
        on_list=lambda _: None,
    )
    return lists, targets


def test_rows_of_a_history_out_of_the_event_store_are_the_training_rows_bit_for_bit(
    data: Dataset, cut_ms: int, tmp_path: Path
) -> None:
    lists, targets = lists_at(data, cut_ms)
    state = FeatureState.from_arrays(state_at(data, cut_ms).to_arrays())
    resolve = HistoryResolver(data.item_index, frozenset({EventKind.PURCHASE}))
    past = data.until(cut_ms)
    events = [
        Event(
            event_id=f"e{place}",
            user_id=data.user_ids[past.event_users[place]],
            item_id=data.item_ids[past.items[place]],
            kind=int(EventKind.PURCHASE),
            time_ms=int(past.times_ms[place]),
        )
        for place in np.random.default_rng(3).permutation(past.n_events).tolist()
    ]
    events.append(replace(events[0], event_id="a view", kind=int(EventKind.VIEW)))
    with SqliteEventStore(tmp_path / "events.db") as store:
        store.record(events)
        for place, user in enumerate(targets.users.tolist()):
            history = resolve(store.history(data.user_ids[user])).history
            found = candidates_of(history, cut_ms, state)
            served = pair_features(history, found.items, cut_ms, state)
            part = slice(int(lists.ptr[place]), int(lists.ptr[place + 1]))
            assert found.items.tolist() == lists.items[part].tolist()
            assert served.tobytes() == lists.features[part].tobytes()


def test_rows_of_a_history_in_the_request_do_not_depend_on_the_order_of_its_events(
    data: Dataset, cut_ms: int
) -> None:
    lists, targets = lists_at(data, cut_ms)
    state = state_at(data, cut_ms)
    resolve = HistoryResolver(data.item_index, frozenset({EventKind.PURCHASE}))
    own = data.until(cut_ms).history(int(targets.users[0]))
    order = np.random.default_rng(4).permutation(len(own))
    told = StoredHistory(
        tuple(data.item_ids[item] for item in own.items[order]),
        own.times_ms[order],
        np.full(len(own), EventKind.PURCHASE, np.int8),
        own.quantities[order],
    )
    history = resolve(told).history
    found = candidates_of(history, cut_ms, state)
    part = slice(0, int(lists.ptr[1]))
    served = pair_features(history, found.items, cut_ms, state)
    assert served.tobytes() == lists.features[part].tobytes()


def test_labels_say_what_was_bought_in_the_horizon(data: Dataset, cut_ms: int) -> None:
    lists, targets = lists_at(data, cut_ms)
    events = list(zip(data.event_users, data.items, data.times_ms, strict=True))
    for place, user in enumerate(targets.users.tolist()):
        bought = {
            int(item)
            for who, item, time_ms in events
            if who == user and cut_ms < time_ms <= cut_ms + 14 * DAY_MS
        }
        part = slice(int(lists.ptr[place]), int(lists.ptr[place + 1]))
        assert set(lists.items[part][lists.labels[part]]) == bought & set(lists.items[part])
        assert lists.n_targets[place] == len(bought)


def test_features_know_nothing_of_what_comes_after_the_cut(data: Dataset, cut_ms: int) -> None:
    later = data.times_ms > cut_ms
    swapped = replace(data, items=np.where(later, data.items[::-1], data.items).astype(np.int32))
    lists, _ = lists_at(data, cut_ms)
    other, _ = lists_at(swapped, cut_ms)
    assert other.features.tobytes() == lists.features.tobytes()
    assert not np.array_equal(other.labels, lists.labels)


def test_short_histories_come_beside_the_whole_ones(data: Dataset, cut_ms: int) -> None:
    whole, targets = lists_at(data, cut_ms)
    lists, _ = lists_at(data, cut_ms, with_short=True)
    state = state_at(data, cut_ms)
    assert len(lists) == 2 * len(whole)
    lengths = []
    for place, user in enumerate(targets.users.tolist()):
        first = slice(int(lists.ptr[2 * place]), int(lists.ptr[2 * place + 1]))
        same = slice(int(whole.ptr[place]), int(whole.ptr[place + 1]))
        assert lists.features[first].tobytes() == whole.features[same].tobytes()
        short = slice(int(lists.ptr[2 * place + 1]), int(lists.ptr[2 * place + 2]))
        own = data.until(cut_ms).history(user)
        cut = {
            pair_features(part, lists.items[short], cut_ms, state).tobytes(): length
            for length in range(6)
            for part in [_last(own, length)]
        }
        lengths.append(cut[lists.features[short].tobytes()])
    assert {0, 5} <= set(lengths)


def _last(history: History, events: int) -> History:
    start = len(history) - events
    return History(history.items[start:], history.times_ms[start:], history.quantities[start:])


def test_the_same_seed_gives_the_same_lists(data: Dataset, cut_ms: int) -> None:
    first, _ = lists_at(data, cut_ms, with_short=True)
    again, _ = lists_at(data, cut_ms, with_short=True)
    assert first.features.tobytes() == again.features.tobytes()
    assert first.ptr.tolist() == again.ptr.tolist()


def test_a_till_that_scans_twice_gives_serving_the_history_that_training_has(
    tmp_path: Path,
) -> None:
    """From a table with an item on several lines of a basket, by both ways."""
    rng = np.random.default_rng(5)
    rows = [(u, i, day + scan / 500, b) for u, i, day, b in shop_rows() for scan in range(1 + int(rng.random() < 0.4))]  # fmt: skip
    # Two tills at one instant: two baskets, and still one purchase of the item.
    rows += [(u, i, day, f"{b}-other till") for u, i, day, b in shop_rows()[::50]]
    raw(rows).write_csv(tmp_path / "till.csv")
    store = tmp_path / "events.db"
    done = CliRunner().invoke(
        load_events,
        ["--interactions", str(tmp_path / "till.csv"), "--store", str(store), "--json"],
    )
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["added_up_in_basket"] == len(rows) - len(shop_rows()) - len(
        shop_rows()[::50]
    )
    trained, _ = clean(tables(rows), Rules())
    data = dataset_of(trained)
    resolve = HistoryResolver(data.item_index, frozenset({EventKind.PURCHASE}))
    with SqliteEventStore(store) as opened:
        for user, name in enumerate(data.user_ids):
            served, learned = resolve(opened.history(name)).history, data.history(user)
            assert np.array_equal(served.items, learned.items)
            assert np.array_equal(served.times_ms, learned.times_ms)
            assert np.array_equal(served.quantities, learned.quantities)
