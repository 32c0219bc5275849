"""What an event store is: its events, its answers, and the promises it makes.

Owns the frozen types that cross the room's door and the `EventStore` protocol
that another store (a server's database, a log) can take. Must not know SQLite,
asyncio, a bundle or the wire.

>>> purchase = Event("e-1", user_id="17", item_id="1082185", kind=EventKind.PURCHASE, time_ms=1)
>>> check_events([purchase, Event("e-2", "17", "1082185", kind=9, time_ms=1)])
Traceback (most recent call last):
    ...
server.errors.InvalidField: events[1].kind: got 9, allowed: 1 (VIEW) to 4 (PURCHASE)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.errors import InvalidField

MAX_ID_BYTES = 256
MAX_TIME_MS = 253_402_300_799_999  # the end of year 9999
MAX_QUANTITY = 1e9
MAX_VALUE = 1e15
MAX_RANK = 1_000_000


class EventKind(IntEnum):
    """What a user did with an item; the same numbers as `equipoise.v1.EventKind`."""

    VIEW = 1
    CLICK = 2
    CART = 3
    PURCHASE = 4


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that one user did.

    event_id: made by the client, 1 to 256 bytes of UTF-8. Sending it twice is harmless.
    user_id, item_id: 1 to 256 bytes of UTF-8; opaque.
    kind: a value of `EventKind`.
    time_ms: Unix milliseconds, 0 to the end of year 9999.
    quantity: above 0, at most 1e9.
    request_id, rank: the list that led to it and the place in it, from 1; "" and 0 when unknown.
    basket: what was bought together; "" when unknown.
    value: the money spent, in the data's currency; None when unknown.
    """

    event_id: str
    user_id: str
    item_id: str
    kind: int
    time_ms: int
    quantity: float = 1
    request_id: str = ""
    rank: int = 0
    basket: str = ""
    value: float | None = None


@dataclass(frozen=True)
class StoredHistory:
    """One user's events, oldest first; those of one millisecond in an order of the store's.

    item_ids: `[h]`; times_ms: `[h] int64`, Unix milliseconds, non-decreasing;
    kinds: `[h] int8`, values of `EventKind`; quantities: `[h] float32`.
    """

    item_ids: tuple[str, ...]
    times_ms: NDArray[np.int64]
    kinds: NDArray[np.int8]
    quantities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.item_ids)

    @staticmethod
    def empty() -> StoredHistory:
        """The history of a user of whom nothing is stored."""
        return StoredHistory(
            (), np.empty(0, np.int64), np.empty(0, np.int8), np.empty(0, np.float32)
        )


@dataclass(frozen=True)
class Recorded:
    """What a batch came to: new events, and those whose event id the user had already."""

    recorded: int
    duplicates: int


@dataclass(frozen=True)
class EventBatch:
    """Columns of `n` stored events, for training.

    user_ids, item_ids, baskets, request_ids: `[n]`, "" where there is none;
    kinds `[n] int8`; times_ms `[n] int64`; quantities `[n] float32`; ranks `[n] int32`, 0 where
    unknown; values `[n] float64`, NaN where unknown.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    kinds: NDArray[np.int8]
    times_ms: NDArray[np.int64]
    quantities: NDArray[np.float32]
    baskets: tuple[str, ...]
    values: NDArray[np.float64]
    request_ids: tuple[str, ...]
    ranks: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.user_ids)


@dataclass(frozen=True)
class StoreStats:
    """What a store holds. Times are Unix milliseconds, None when it is empty."""

    events: int
    users: int
    events_by_kind: dict[str, int]
    first_ms: int | None
    last_ms: int | None
    file_bytes: int
    schema_version: int


class EventStore(Protocol):
    """The only place of user histories. Safe to call from any thread; every call blocks.

    Any method raises `EventStoreUnavailable` when the store cannot do its work.
    """

    def record(self, events: Sequence[Event]) -> Recorded:
        """Make all of the events durable, or none. They are on disk when it returns.

        Event ids are compared within one user: the same id sent for another user is another
        event, so no client can make another user's events vanish by using their ids first.
        Of two events with one id the first stays.

        Raises:
            InvalidField: an event is out of range; nothing is recorded.
        """
        ...

    def record_batches(self, batches: Sequence[Sequence[Event]]) -> list[Recorded | InvalidField]:
        """Record several callers' batches in one durable commit.

        The answers are in order. A batch with an invalid event gets its error and records
        nothing; the other batches do not notice. If the commit fails, nothing of any batch is
        recorded.
        """
        ...

    def history(self, user_id: str, newest: int | None = None) -> StoredHistory:
        """The user's newest so many events (None: all) as of the last commit of any process."""
        ...

    def version(self, user_id: str) -> int:
        """A number that grows with every commit, of any process, that may change `history`.

        0 means: no events. A user who is erased and comes back never gets an old number.
        """
        ...

    def erase(self, user_id: str) -> int:
        """Remove every trace of the user; return how many events there were.

        An event that is sent again afterwards is a new event: the store does not remember whom
        it forgot.
        """
        ...

    def export(self, batch_events: int = 50_000) -> Iterator[EventBatch]:
        """All events as of now, one user after the other, in batches."""
        ...

    def close(self) -> None:
        """Release files. Other methods fail afterwards; closing again does nothing."""
        ...


_ID = f"1 to {MAX_ID_BYTES} bytes of UTF-8"
_OPTIONAL_ID = f"at most {MAX_ID_BYTES} bytes of UTF-8"


def _is_text(value: object, low: int) -> bool:
    if not isinstance(value, str):
        return False
    if value.isascii():
        return low <= len(value) <= MAX_ID_BYTES
    try:
        return low <= len(value.encode()) <= MAX_ID_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _is_whole(value: object, low: int, high: int) -> bool:
    return isinstance(value, int) and low <= value <= high


def _is_number(value: object, limit: float) -> bool:
    return isinstance(value, int | float) and -limit <= value <= limit


def _wrong(event: Event) -> tuple[str, str] | None:
    """The first field that is out of range, and what it may be."""
    if not _is_text(event.event_id, 1):
        return "event_id", _ID
    if not _is_text(event.user_id, 1):
        return "user_id", _ID
    if not _is_text(event.item_id, 1):
        return "item_id", _ID
    if not _is_whole(event.kind, 1, 4):
        return "kind", "1 (VIEW) to 4 (PURCHASE)"
    if not _is_whole(event.time_ms, 0, MAX_TIME_MS):
        return "time_ms", f"Unix milliseconds, 0 to {MAX_TIME_MS}"
    if not (_is_number(event.quantity, MAX_QUANTITY) and event.quantity > 0):
        return "quantity", f"above 0, at most {MAX_QUANTITY:g}"
    if event.request_id and not _is_text(event.request_id, 0):
        return "request_id", _OPTIONAL_ID
    if not _is_whole(event.rank, 0, MAX_RANK):
        return "rank", f"0 to {MAX_RANK}"
    if event.basket and not _is_text(event.basket, 0):
        return "basket", _OPTIONAL_ID
    if event.value is not None and not _is_number(event.value, MAX_VALUE):
        return "value", f"a number from -{MAX_VALUE:g} to {MAX_VALUE:g}, or None"
    return None


def check_events(events: Sequence[Event]) -> None:
    """Refuse a batch with an event that a store could not keep.

    Raises:
        InvalidField: the first field that is out of range, as `events[3].kind`.
    """
    for place, event in enumerate(events):
        wrong = _wrong(event)
        if wrong is not None:
            field, allowed = wrong
            raise InvalidField.of(f"events[{place}].{field}", getattr(event, field), allowed)
