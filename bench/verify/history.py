"""Whose purchases a list was made from, and how far the evidence lets them be read again."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.refused import InputRefused
from equipoise.v1 import recommendation_pb2 as pb

# Read here by plain SQL, and only read: the server's own reader would vouch for itself.
_NEWEST = """
    SELECT item_id, time_ms, kind FROM events JOIN users USING (user_ref) WHERE user_id = ?
    ORDER BY time_ms DESC, event_key DESC LIMIT ?"""


@dataclass(frozen=True)
class Event:
    """One thing that the user did: a value of `EventKind` with an item, in Unix milliseconds."""

    item: str
    time_ms: int
    kind: int


@dataclass(frozen=True)
class History:
    """What a Recommend was to be made from.

    events: None where they lie in an event store that is not at hand. user: whose they are there,
    "" where no store was to be read. as_of_ms: later ones do not count; 0 where the request left
    that to the server's clock. cut: the store holds more of them than a server reads. unread: the
    answer says that the store did not answer.
    """

    events: Sequence[Event] | None
    user: str = ""
    as_of_ms: int = 0
    cut: bool = False
    unread: bool = False


def history_of(asked: pb.RecommendRequest, answer: pb.RecommendResponse) -> History:
    """The history of a request: its own events, or those of its user in the event store."""
    if asked.personalisation == pb.PERSONALISATION_OFF:
        return History(())
    if asked.history:
        told = [
            Event(event.item_id, event.time_unix_ms, event.kind or pb.EVENT_KIND_PURCHASE)
            for event in asked.history
        ]
        return History(told, as_of_ms=asked.as_of_unix_ms)
    if not asked.user_id:
        return History(())
    unread = pb.DEGRADED_REASON_EVENT_STORE_UNAVAILABLE in answer.degraded_reasons
    return History(() if unread else None, asked.user_id, asked.as_of_unix_ms, unread=unread)


def read_stored(history: History, store: Path, newest: int) -> History:
    """The history with its events from an event store, where it lies in one.

    newest: a server reads only a user's newest so many events, of any kind.

    Raises:
        InputRefused: the file is no event store, or cannot be read.
    """
    if history.events is not None:
        return history
    try:
        uri = f"{store.resolve().as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as opened:
            rows = opened.execute(_NEWEST, (history.user, newest + 1)).fetchall()
    except sqlite3.Error as error:
        raise InputRefused("--events", str(store), f"is no event store: {error}") from error
    events = [Event(*row) for row in rows[:newest]]
    return replace(history, events=events, cut=len(rows) > newest)
