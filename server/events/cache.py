"""Histories that stay in memory, and are never older than the store.

Owns which users' resolved histories are kept. Must not know what they are resolved to: it is
given a function for that.

    cache = HistoryCache(store, resolver, max_users=10_000)
    resolved = cache.get("17")

Each `get` asks the store for the user's version, one indexed read, so that a commit of any
process is seen by the next `get` that starts after it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from server.events.store import EventStore, StoredHistory

Resolved = TypeVar("Resolved")


class HistoryCache(Generic[Resolved]):
    """At most `max_users` resolved histories, the least recently used one leaves first.

    resolve: a pure function of the stored history. It is called outside the lock, so two threads
        that ask for one user at once may both call it.
    max_users: higher keeps more people's histories in memory (about 10 KB each).
    max_events: only a user's newest so many events are read: one user with a million would
        otherwise hold up all others, who wait on the same thread.

    Users without events are not kept: requests for made-up ids cannot push real users out.
    """

    def __init__(
        self,
        store: EventStore,
        resolve: Callable[[StoredHistory], Resolved],
        max_users: int,
        max_events: int | None = None,
    ) -> None:
        if max_users < 1:
            raise ValueError(f"max_users: got {max_users}, allowed: at least 1")
        self._max_events = max_events
        self._store = store
        self._resolve = resolve
        self._max_users = max_users
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[int, Resolved]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, user_id: str) -> Resolved:
        """The user's history, resolved; that of a user without events is the empty one.

        Raises:
            EventStoreUnavailable: the store cannot be read. What is kept is not served then,
                since it might be older than the store, or of a user who was erased.
        """
        version = self._store.version(user_id)
        with self._lock:
            entry = self._entries.get(user_id)
            if entry is not None and entry[0] == version:
                self._entries.move_to_end(user_id)
                return entry[1]
        if version == 0:
            self.forget(user_id)
            return self._resolve(StoredHistory.empty())
        # Read after the version: the history may be newer than the version says, which costs
        # one needless read later, but never older.
        resolved = self._resolve(self._store.history(user_id, self._max_events))
        with self._lock:
            entry = self._entries.get(user_id)
            if entry is None or entry[0] < version:
                self._entries[user_id] = (version, resolved)
                self._entries.move_to_end(user_id)
            while len(self._entries) > self._max_users:
                self._entries.popitem(last=False)
        return resolved

    def forget(self, user_id: str) -> None:
        """Drop what is kept of a user, for instance after an erasure."""
        with self._lock:
            self._entries.pop(user_id, None)
