"""Every user's history: durable, shared by processes, and erasable. See `server.events.store`."""

from server.events.cache import HistoryCache
from server.events.committer import GroupCommitter
from server.events.sqlite import SqliteEventStore
from server.events.store import (
    Event,
    EventBatch,
    EventKind,
    EventStore,
    Recorded,
    StoredHistory,
    StoreStats,
)

__all__ = [
    "Event",
    "EventBatch",
    "EventKind",
    "EventStore",
    "GroupCommitter",
    "HistoryCache",
    "Recorded",
    "SqliteEventStore",
    "StoreStats",
    "StoredHistory",
]
