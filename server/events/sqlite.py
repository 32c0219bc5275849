"""The default event store: one SQLite file, opened by as many processes as like.

Owns the schema, durability, and what is left of a person after `erase`. Must not
know asyncio, a bundle or the wire.

    with closing(SqliteEventStore(Path("events.db"))) as store:
        store.record([Event("e-1", "17", "1082185", EventKind.PURCHASE, time_ms=1_700_000_000_000)])
        store.history("17").item_ids

Threads: any thread may call any method. There are two connections, one that
writes and one that reads, each behind its lock, so a reader waits for other
readers of this process (a history takes about a millisecond) and never for a
commit. Open the store after a fork, never before.

Users are interned to integers, and event ids to their first 16 bytes of BLAKE2b: two ids of one
user collide with probability 2**-88 at a trillion events. The primary key holds a user's events
together on disk, which is what `history` reads and `erase` removes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from hashlib import blake2b
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from server.errors import EventStoreUnavailable, InvalidField
from server.events.schema import SCHEMA_VERSION, cause, file_uri, prepare, refused
from server.events.store import (
    Event,
    EventBatch,
    EventKind,
    Recorded,
    StoredHistory,
    StoreStats,
    check_events,
)

_NEXT_REVISION = "UPDATE revision SET revision = revision + 1 RETURNING revision"
_TOUCH_USER = """
    INSERT INTO users (user_id, version) VALUES (?, ?)
    ON CONFLICT (user_id) DO UPDATE SET version = excluded.version
    RETURNING user_ref"""
_INSERT_EVENT = """
    INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (user_ref, event_key) DO NOTHING"""
_VERSION = "SELECT version FROM users WHERE user_id = ?"
_HISTORY = """
    SELECT item_id, time_ms, kind, quantity FROM events
    WHERE user_ref = (SELECT user_ref FROM users WHERE user_id = ?)
    ORDER BY time_ms DESC, event_key DESC LIMIT ?"""
_EXPORT = """
    SELECT user_id, item_id, kind, time_ms, quantity, ifnull(basket, ''), value,
        ifnull(request_id, ''), ifnull(rank, 0)
    FROM events JOIN users USING (user_ref) ORDER BY user_ref"""

Result = TypeVar("Result")


def _event_key(event_id: str) -> bytes:
    return blake2b(event_id.encode(), digest_size=16).digest()


class SqliteEventStore:
    """The `EventStore` in an SQLite file (WAL, synchronous=FULL, mode 0600).

    path: the file. Two more, `-wal` and `-shm`, live beside it while it is open; all three must
        be on a local disk.
    create: make the file when it is missing; otherwise a missing file is refused.
    busy_timeout_ms: how long to wait for another process that writes. Higher turns
        EventStoreUnavailable into latency.

    Raises:
        Refused: no event store, a damaged or newer one, or a folder that cannot be written.
    """

    def __init__(
        self, path: Path | str, *, create: bool = True, busy_timeout_ms: int = 5_000
    ) -> None:
        self._path = Path(path)
        self._busy_timeout_ms = busy_timeout_ms
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._writer: sqlite3.Connection | None = None
        self._closed = False
        try:
            prepare(self._path, create=create)
            self._reader = self._open()
            self._writer = self._open()
        except OSError as error:
            why = f"{error.strerror}; it needs a folder that you may write to"
            raise refused(self._path, f"cannot be opened: {why}") from error
        except sqlite3.Error as error:
            raise refused(self._path, f"cannot be opened: {cause(error)} ({error})") from error

    def record(self, events: Sequence[Event]) -> Recorded:
        """See `EventStore.record`."""
        answer = self.record_batches([events])[0]
        if isinstance(answer, InvalidField):
            raise answer
        return answer

    def record_batches(self, batches: Sequence[Sequence[Event]]) -> list[Recorded | InvalidField]:
        """See `EventStore.record_batches`."""
        errors: dict[int, InvalidField] = {}
        for place, batch in enumerate(batches):
            try:
                check_events(batch)
            except InvalidField as error:
                errors[place] = error
        if all(place in errors or not batch for place, batch in enumerate(batches)):
            return [errors.get(place, Recorded(0, 0)) for place in range(len(batches))]

        def work(connection: sqlite3.Connection) -> list[Recorded | InvalidField]:
            valid = (batch for place, batch in enumerate(batches) if place not in errors)
            users = dict.fromkeys(event.user_id for batch in valid for event in batch)
            refs = _touch_users(connection, users)
            answers: list[Recorded | InvalidField] = []
            for place, batch in enumerate(batches):
                if place in errors:
                    answers.append(errors[place])
                    continue
                new = connection.executemany(_INSERT_EVENT, _rows(batch, refs)).rowcount
                new = max(new, 0)  # -1 for an empty batch
                answers.append(Recorded(new, len(batch) - new))
            return answers

        return self._transaction(work)

    def version(self, user_id: str) -> int:
        """See `EventStore.version`."""
        rows = self._read(_VERSION, user_id)
        return int(rows[0][0]) if rows else 0

    def history(self, user_id: str, newest: int | None = None) -> StoredHistory:
        """See `EventStore.history`. Events of one millisecond are ordered by their key."""
        rows = self._read(_HISTORY, user_id, -1 if newest is None else newest)
        if not rows:
            return StoredHistory.empty()
        items, times, kinds, quantities = zip(*reversed(rows), strict=True)
        return StoredHistory(
            items,
            np.array(times, np.int64),
            np.array(kinds, np.int8),
            np.array(quantities, np.float32),
        )

    def erase(self, user_id: str) -> int:
        """See `EventStore.erase`. Rewrites the file: seconds per hundred megabytes.

        secure_delete alone is not enough: SQLite zeroes what it deletes, but a page that was
        split when others were inserted may keep an old copy. So the file is rebuilt (VACUUM)
        and the write-ahead log, which holds what was written before, is emptied. What the disk
        keeps below the file system is out of reach.

        Raises:
            EventStoreUnavailable: nothing was erased; or, as the message says, the events are
                gone for every reader but old bytes are left. Calling again finishes the work.
        """

        def work(connection: sqlite3.Connection) -> int:
            found = connection.execute(
                "SELECT user_ref FROM users WHERE user_id = ?", (user_id,)
            ).fetchall()
            if not found:
                return 0
            count = connection.execute("DELETE FROM events WHERE user_ref = ?", found[0]).rowcount
            connection.execute("DELETE FROM users WHERE user_ref = ?", found[0])
            return count

        count = self._transaction(work)
        with self._write_lock:
            try:
                connection = self._writing()
                connection.execute("VACUUM")
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                why = "a reader holds the log" if busy else ""
            except (sqlite3.Error, OSError) as error:
                self._discard_writer()
                why = cause(error)
        if why:
            raise EventStoreUnavailable(
                f"{count} events are erased for every reader, but their bytes are still in the "
                f"file or its log ({why}): erase the same user again to finish"
            )
        return count

    def export(self, batch_events: int = 50_000) -> Iterator[EventBatch]:
        """See `EventStore.export`: a snapshot, read through a connection of its own.

        While the iterator is open the write-ahead log cannot shrink, and `erase` not finish.
        """
        try:
            with closing(self._open()) as connection:
                cursor = connection.execute(_EXPORT)
                while rows := cursor.fetchmany(batch_events):
                    yield _event_batch(rows)
        except (sqlite3.Error, OSError) as error:
            raise EventStoreUnavailable(f"events cannot be read: {cause(error)}") from error

    def stats(self) -> StoreStats:
        """Count what the store holds; reads the whole file."""
        kinds = self._read(
            "SELECT kind, count(*), min(time_ms), max(time_ms) FROM events GROUP BY kind"
        )
        users = self._read("SELECT count(*) FROM users")[0][0]
        sizes = [self._path, self._path.with_name(self._path.name + "-wal")]
        return StoreStats(
            events=sum(row[1] for row in kinds),
            users=users,
            events_by_kind={EventKind(row[0]).name.lower(): row[1] for row in kinds},
            first_ms=min((row[2] for row in kinds), default=None),
            last_ms=max((row[3] for row in kinds), default=None),
            file_bytes=sum(file.stat().st_size for file in sizes if file.exists()),
            schema_version=SCHEMA_VERSION,
        )

    def damage(self) -> str | None:
        """What SQLite's own check finds wrong with the file's structure; None when all is well."""
        try:
            first = str(self._read("PRAGMA quick_check(1)")[0][0])
        except EventStoreUnavailable as error:
            return str(error)
        return None if first == "ok" else first

    def close(self) -> None:
        """See `EventStore.close`."""
        with self._write_lock, self._read_lock:
            if self._closed:
                return
            self._closed = True
            self._discard_writer()
            self._reader.close()

    def __enter__(self) -> SqliteEventStore:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # Connections

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(
            file_uri(self._path),
            uri=True,
            isolation_level=None,  # transactions are begun by hand
            check_same_thread=False,  # the locks see to it
            timeout=self._busy_timeout_ms / 1_000,
        )

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise refused(
                    self._path, f"journal mode is {mode!r}, allowed: 'wal' on a local disk"
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute("PRAGMA cache_size = -65536")  # KiB
            connection.execute("PRAGMA journal_size_limit = 67108864")
        except BaseException:
            connection.close()
            raise
        return connection

    # Reading and writing

    def _read(self, statement: str, *parameters: object) -> list[Any]:
        with self._read_lock:
            if self._closed:
                raise EventStoreUnavailable("the event store is closed")
            try:
                # All rows at once: an open cursor would hold its snapshot and the log with it.
                return self._reader.execute(statement, parameters).fetchall()
            except sqlite3.Error as error:
                raise EventStoreUnavailable(f"events cannot be read: {cause(error)}") from error

    def _writing(self) -> sqlite3.Connection:
        if self._closed:
            raise EventStoreUnavailable("the event store is closed")
        if self._writer is None:
            self._writer = self._open()
        return self._writer

    def _discard_writer(self) -> None:
        if self._writer is not None:
            with suppress(sqlite3.Error):
                self._writer.close()  # rolls back
            self._writer = None

    def _transaction(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        with self._write_lock:
            try:
                connection = self._writing()
                connection.execute("BEGIN IMMEDIATE")
                result = work(connection)
                connection.execute("COMMIT")
            except (sqlite3.Error, OSError) as error:
                # A connection that met a full disk is not trusted with the next transaction.
                self._discard_writer()
                raise EventStoreUnavailable(
                    f"nothing is recorded: {cause(error)}; sending it again later is safe"
                ) from error
            except BaseException:
                self._discard_writer()
                raise
            return result


def _touch_users(connection: sqlite3.Connection, user_ids: Iterable[str]) -> dict[str, int]:
    revision = connection.execute(_NEXT_REVISION).fetchall()[0][0]
    return {
        user_id: connection.execute(_TOUCH_USER, (user_id, revision)).fetchall()[0][0]
        for user_id in user_ids
    }


def _rows(events: Sequence[Event], refs: dict[str, int]) -> list[tuple[Any, ...]]:
    """Rows of `events` in the order of the primary key, so that a bulk load walks the tree once.

    Sorting is stable: of two events with one id the first stays.
    """
    rows = [
        (
            refs[event.user_id],
            _event_key(event.event_id),
            event.item_id,
            event.kind,
            event.time_ms,
            event.quantity,
            event.request_id or None,
            event.rank or None,
            event.basket or None,
            event.value,
        )
        for event in events
    ]
    rows.sort(key=itemgetter(0, 1))
    return rows


def _event_batch(rows: list[Any]) -> EventBatch:
    users, items, kinds, times, quantities, baskets, values, requests, ranks = zip(
        *rows, strict=True
    )
    return EventBatch(
        user_ids=users,
        item_ids=items,
        kinds=np.array(kinds, np.int8),
        times_ms=np.array(times, np.int64),
        quantities=np.array(quantities, np.float32),
        baskets=baskets,
        values=np.array(values, np.float64),  # None becomes NaN
        request_ids=requests,
        ranks=np.array(ranks, np.int32),
    )
