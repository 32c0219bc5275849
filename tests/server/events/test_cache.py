"""The history cache: bounded, and never older than the store."""

from __future__ import annotations

import threading

import pytest

from server.errors import EventStoreUnavailable
from server.events import Event, HistoryCache, SqliteEventStore


@pytest.fixture
def store(tmp_path):
    with SqliteEventStore(tmp_path / "events.db") as opened:
        yield opened


def put(store, user_id, number):
    store.record([Event(f"e{number}", user_id, f"i{number}", 4, number)])


class Counting:
    """A resolver that remembers whom it was called for."""

    def __init__(self):
        self.calls = []

    def __call__(self, stored):
        self.calls.append(stored.item_ids)
        return stored.item_ids


def test_a_hit_resolves_nothing_and_a_commit_is_seen_at_the_next_get(store):
    resolve = Counting()
    cache = HistoryCache(store, resolve, max_users=10)
    put(store, "ann", 1)
    assert [cache.get("ann"), cache.get("ann")] == [("i1",)] * 2
    assert resolve.calls == [("i1",)]
    put(store, "bob", 2)  # another user's commit costs ann nothing
    cache.get("ann")
    assert len(resolve.calls) == 1
    put(store, "ann", 3)
    assert cache.get("ann") == ("i1", "i3")
    assert cache.get("ann") == ("i1", "i3")
    assert len(resolve.calls) == 2


def test_the_least_recently_used_user_leaves_first(store):
    resolve = Counting()
    cache = HistoryCache(store, resolve, max_users=2)
    for number, user in enumerate(("ann", "bob", "cy")):
        put(store, user, number)
    cache.get("ann")
    cache.get("bob")
    cache.get("ann")
    cache.get("cy")  # bob leaves
    resolve.calls.clear()
    cache.get("ann")
    cache.get("cy")
    assert resolve.calls == []
    cache.get("bob")
    assert resolve.calls == [("i1",)]
    assert len(cache) == 2


def test_made_up_users_do_not_push_real_ones_out(store):
    resolve = Counting()
    cache = HistoryCache(store, resolve, max_users=2)
    put(store, "ann", 1)
    cache.get("ann")
    for number in range(10):
        assert cache.get(f"made-up-{number}") == ()
    resolve.calls.clear()
    cache.get("ann")
    assert resolve.calls == []


def test_an_erased_user_who_comes_back_gets_the_new_history(store):
    cache = HistoryCache(store, lambda stored: stored.item_ids, max_users=2)
    put(store, "ann", 1)
    assert cache.get("ann") == ("i1",)
    store.erase("ann")
    put(store, "ann", 2)
    assert cache.get("ann") == ("i2",)
    cache.forget("ann")
    assert len(cache) == 0


def test_a_store_that_cannot_be_read_is_not_papered_over(store):
    cache = HistoryCache(store, lambda stored: stored.item_ids, max_users=2)
    put(store, "ann", 1)
    cache.get("ann")
    store.close()
    with pytest.raises(EventStoreUnavailable):
        cache.get("ann")


def test_a_cache_of_no_users_is_refused(store):
    with pytest.raises(ValueError, match="max_users: got 0"):
        HistoryCache(store, len, max_users=0)


def test_a_slow_reader_does_not_put_an_old_history_over_a_newer_one(store):
    entered, go_on = threading.Event(), threading.Event()

    def resolve(stored):
        if stored.item_ids == ("i1",) and not entered.is_set():
            entered.set()
            assert go_on.wait(30)
        return stored.item_ids

    cache = HistoryCache(store, resolve, max_users=2)
    put(store, "ann", 1)
    slow = threading.Thread(target=cache.get, args=("ann",))
    slow.start()
    assert entered.wait(30)
    put(store, "ann", 2)
    assert cache.get("ann") == ("i1", "i2")
    go_on.set()
    slow.join()
    assert cache._entries["ann"][1] == ("i1", "i2")
    assert cache.get("ann") == ("i1", "i2")


def test_gets_during_writes_are_never_older_than_the_last_acknowledged_write(store):
    cache = HistoryCache(store, lambda stored: len(stored.item_ids), max_users=2)
    written, failures = [0], []

    def write():
        for number in range(1, 60):
            put(store, "ann", number)
            written[0] = number

    def read():
        while written[0] < 59:
            low = written[0]
            got = cache.get("ann")
            if got < low:
                failures.append((low, got))

    threads = [threading.Thread(target=target) for target in (write, read, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.get("ann") == 59


def test_only_the_newest_events_of_a_long_history_are_read_oldest_first(store):
    for number in range(9):
        put(store, "ann", number)
    cache = HistoryCache(store, lambda stored: stored.item_ids, max_users=2, max_events=3)
    assert cache.get("ann") == ("i6", "i7", "i8")
    assert len(store.history("ann")) == 9
