"""`equipoise verify` reads a user's newest events as a server does, those of one moment too."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import pytest

from bench.verify.history import History, read_stored
from server.events import Event, SqliteEventStore


@pytest.mark.parametrize("newest", [1, 2, 3, 4, 5, 6])
def test_of_events_of_one_moment_the_store_keeps_those_of_the_larger_key(
    tmp_path: Path, newest: int
) -> None:
    """The key is that of the store's own format: BLAKE2b of the event's id, 16 bytes."""
    times = {"e1": 20, "e2": 20, "e3": 20, "e4": 20, "e5": 10, "e6": 30}
    path = tmp_path / "events.db"
    with SqliteEventStore(path) as store:
        store.record([Event(name, "me", f"item-{name}", 4, at) for name, at in times.items()])
        served = store.history("me", newest)
    key = {name: blake2b(name.encode(), digest_size=16).digest() for name in times}
    expected = sorted(times, key=lambda name: (times[name], key[name]), reverse=True)[:newest]
    found = read_stored(History(None, "me"), path, newest)
    assert found.events is not None
    assert [event.item for event in found.events] == [f"item-{name}" for name in expected]
    assert found.cut == (newest < len(times))
    assert set(served.item_ids) == {event.item for event in found.events}
