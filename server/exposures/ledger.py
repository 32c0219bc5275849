"""The exposure ledger: one SQLite file, to which as many processes as like add what they showed.

Owns the counters, their durability and their merging. Must not know policies, lists, a bundle or
the wire; it holds group labels and sums, nothing of any person.

    ledger = ExposureLedger(Path("exposures.db"))
    account = ledger.account(policy.digest, ["large", "small"])
    account.charge(np.int32([0, 0, 1]), discounts)    # for each list
    account.totals()                                  # [2]: what the boosts are computed from
    if ledger.due(now_s):
        ledger.flush()

Counters grow by addition alone and additions are exact (see `server.fairness.amortise.GRID`), so
the order in which processes flush is of no account. Labels are stored, not rows: a bundle that
numbers its groups otherwise goes on with the same history.

A flush adds to the file what was charged since the last one, and reads what the others added. A
crash loses at most what was charged since. A commit whose outcome is unknown (the disk failed in
the middle of it) is not added twice: each ledger numbers its flushes and the file holds the last
number, in the same transaction.

Threads: any thread may call any method. `charge` and `totals` wait for no file, only for the
moment in which a flush takes or puts back the sums. Open the ledger after a fork, never before.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from server.errors import ExposuresUnavailable
from server.fairness.amortise import accumulate
from server.fairness.types import Int32
from server.sqlite_file import FileKind, cause, file_uri

Float64 = NDArray[np.float64]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x45515058  # "EQPX", where `file` and other programs look for the owner

_KIND = FileKind(
    "exposure ledger",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    statements=(
        """CREATE TABLE policies (
            policy_digest TEXT PRIMARY KEY,
            lists INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE exposure (
            policy_digest TEXT NOT NULL,
            group_label TEXT NOT NULL,
            amount REAL NOT NULL,
            PRIMARY KEY (policy_digest, group_label)
        ) STRICT, WITHOUT ROWID""",
        # The last flush of each open ledger; a row that a crash leaves behind is harmless.
        """CREATE TABLE writers (
            writer TEXT PRIMARY KEY,
            flush INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
    ),
    tables=frozenset({"policies", "exposure", "writers"}),
    missing="it is made when the server starts",
    outdated="remove it to count anew",
)

_ADD_LISTS = """
    INSERT INTO policies VALUES (?, ?)
    ON CONFLICT (policy_digest) DO UPDATE SET lists = lists + excluded.lists"""
_ADD_EXPOSURE = """
    INSERT INTO exposure VALUES (?, ?, ?)
    ON CONFLICT (policy_digest, group_label) DO UPDATE SET amount = amount + excluded.amount"""
_NUMBER_FLUSH = """
    INSERT INTO writers VALUES (?, ?)
    ON CONFLICT (writer) DO UPDATE SET flush = excluded.flush"""


class _Counters:
    """One policy's sums, a slot for each label: in the file, on the way to it, and not yet sent."""

    def __init__(self) -> None:
        self.slots: dict[str, int] = {}
        self.stored = self.sent = self.pending = np.zeros(0)
        self.lists_stored = self.lists_sent = self.lists_pending = 0

    def slots_of(self, labels: Sequence[str]) -> Int32:
        found = [self.slots.setdefault(label, len(self.slots)) for label in labels]
        more = len(self.slots) - len(self.stored)
        self.stored, self.sent, self.pending = (
            np.append(sums, np.zeros(more)) for sums in (self.stored, self.sent, self.pending)
        )
        return np.array(found, np.int32)

    def send(self) -> None:
        self.sent, self.pending = self.sent + self.pending, np.zeros(len(self.slots))
        self.lists_sent, self.lists_pending = self.lists_sent + self.lists_pending, 0

    def store(self, amounts: dict[str, float], lists: int) -> None:
        """The file holds these sums, and with them all that was sent."""
        self.stored = np.array([amounts.get(label, 0.0) for label in self.slots])
        self.sent = np.zeros(len(self.slots))
        self.lists_stored, self.lists_sent = lists, 0


class ExposureAccount:
    """One policy's counters in the numbering of one bundle's groups. Made by `ExposureLedger`."""

    def __init__(self, counters: _Counters, slots: Int32, lock: threading.Lock) -> None:
        self._counters = counters
        self._slots = slots
        self._lock = lock

    def charge(self, groups: Int32, discounts: Float64) -> None:
        """Count one list: `groups [k] int32`, best place first; `discounts [>= k]`. Microseconds.

        Raises:
            IndexError: a group is no row of the account's labels; nothing is counted.
        """
        # As unsigned, a negative row is out of range too, and not one from the end.
        slots = self._slots[groups.view(np.uint32)]
        with self._lock:
            accumulate(self._counters.pending, slots, discounts)
            self._counters.lists_pending += 1

    def totals(self) -> Float64:
        """`[labels]`: what this ledger counted and, as of its last flush, what others did."""
        with self._lock:
            counters = self._counters
            total: Float64 = counters.stored + counters.sent + counters.pending
        return total[self._slots]

    @property
    def lists(self) -> int:
        """How many lists that was."""
        with self._lock:
            counters = self._counters
            return counters.lists_stored + counters.lists_sent + counters.lists_pending


class ExposureLedger:
    """Counters for each policy, in an SQLite file (WAL, synchronous=FULL, mode 0600) or in memory.

    path: the file, made when it is missing, on a local disk; None keeps all in memory only.
    flush_every_s: how often `due` asks for a flush. It bounds what a crash loses and how late
        processes know of each other; lower costs more commits.
    busy_timeout_ms: how long a flush waits for another process that writes.

    Raises:
        Refused: no exposure ledger, a damaged or newer one, or a folder that cannot be written.
    """

    def __init__(
        self,
        path: Path | str | None,
        *,
        flush_every_s: float = 5.0,
        busy_timeout_ms: int = 5_000,
    ) -> None:
        self._path = None if path is None else Path(path)
        self._flush_every_s = flush_every_s
        self._busy_timeout_ms = busy_timeout_ms
        self._due_s: float | None = None
        self._lock = threading.Lock()  # the sums
        self._file_lock = threading.Lock()  # the connection; taken before the other one
        self._policies: dict[str, _Counters] = {}
        self._writer = uuid.uuid4().hex
        self._flush_number = 0
        self._outcome_unknown = False
        self._connection: sqlite3.Connection | None = None
        self._closed = False
        if self._path is None:
            return
        try:
            _KIND.prepare(self._path, create=True)
            self._connection = self._open(self._path)
        except OSError as error:
            why = f"{error.strerror}; it needs a folder that you may write to"
            raise _KIND.refused(self._path, f"cannot be opened: {why}") from error
        except sqlite3.Error as error:
            why = f"cannot be opened: {cause(error)} ({error})"
            raise _KIND.refused(self._path, why) from error

    def account(self, policy_digest: str, labels: Sequence[str]) -> ExposureAccount:
        """The counters of a policy, row g for `labels[g]`; reads what the file holds of it.

        Accounts of one policy share its sums, whatever their numbering.

        Raises:
            ExposuresUnavailable: the file cannot be read.
        """
        with self._file_lock:
            with self._lock:
                counters = self._policies.setdefault(policy_digest, _Counters())
                slots = counters.slots_of(labels)
            if self._path is not None and not self._outcome_unknown:
                try:
                    self._read_back(self._usable())
                except (sqlite3.Error, OSError) as error:
                    self._discard()
                    raise ExposuresUnavailable(
                        f"exposures cannot be read: {cause(error)}"
                    ) from error
        return ExposureAccount(counters, slots, self._lock)

    def due(self, now_s: float) -> bool:
        """Whether it is time for a flush; True once in `flush_every_s`. now_s: any steady clock."""
        if self._path is None or self._closed:
            return False
        if self._due_s is None:
            self._due_s = now_s + self._flush_every_s
        if now_s < self._due_s:
            return False
        self._due_s = now_s + self._flush_every_s
        return True

    def flush(self) -> None:
        """Make all that was charged durable, and learn what other processes added.

        Raises:
            ExposuresUnavailable: nothing is lost; the sums stay in memory for the next flush.
        """
        if self._path is None:
            return
        with self._file_lock:
            try:
                self._flush(self._usable())
            except (sqlite3.Error, OSError) as error:
                # A connection that met a full disk is not trusted with the next transaction.
                self._discard()
                raise ExposuresUnavailable(
                    f"exposures are not saved: {cause(error)}; they stay counted in memory and the "
                    "next flush tries again"
                ) from error
            except BaseException:
                self._discard()
                raise

    def close(self) -> None:
        """Flush, then let go of the file. What is charged later is counted in memory only.

        Raises:
            ExposuresUnavailable: the last flush failed; the file is let go all the same.
        """
        if self._path is None or self._closed:
            return
        try:
            self.flush()
        finally:
            with self._file_lock:
                self._closed = True
                if self._connection is not None and not self._outcome_unknown:
                    with suppress(sqlite3.Error):
                        self._connection.execute(
                            "DELETE FROM writers WHERE writer = ?", (self._writer,)
                        )
                self._discard()

    def __enter__(self) -> ExposureLedger:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # The file, under its lock

    def _open(self, path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(
            file_uri(path),
            uri=True,
            isolation_level=None,  # transactions are begun by hand
            check_same_thread=False,  # the lock sees to it
            timeout=self._busy_timeout_ms / 1_000,
        )
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise _KIND.refused(
                    path, f"journal mode is {mode!r}, allowed: 'wal' on a local disk"
                )
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cell_size_check = ON")
        except BaseException:
            connection.close()
            raise
        return connection

    def _usable(self) -> sqlite3.Connection:
        if self._closed or self._path is None:
            raise ExposuresUnavailable("the exposure ledger is closed")
        if self._connection is None:
            self._connection = self._open(self._path)
        return self._connection

    def _discard(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()  # rolls back
            self._connection = None

    def _flush(self, connection: sqlite3.Connection) -> None:
        if not self._outcome_unknown and not self._anything_pending():
            self._read_back(connection)
            return
        connection.execute("BEGIN IMMEDIATE")
        if self._outcome_unknown:
            last = connection.execute(
                "SELECT flush FROM writers WHERE writer = ?", (self._writer,)
            ).fetchone()
            if last == (self._flush_number,):
                self._read_back(connection)  # it was committed after all
        with self._lock:
            for counters in self._policies.values():
                counters.send()
        self._flush_number += 1
        self._outcome_unknown = True
        for digest, counters in self._policies.items():
            rows = zip(counters.slots, counters.sent.tolist(), strict=True)
            added = [(digest, label, amount) for label, amount in rows if amount]
            connection.executemany(_ADD_EXPOSURE, added)
            if counters.lists_sent:
                connection.execute(_ADD_LISTS, (digest, counters.lists_sent))
        connection.execute(_NUMBER_FLUSH, (self._writer, self._flush_number))
        connection.execute("COMMIT")
        self._read_back(connection)
        self._outcome_unknown = False  # not before what was sent is known as stored

    def _anything_pending(self) -> bool:
        with self._lock:
            return any(counters.lists_pending for counters in self._policies.values())

    def _read_back(self, connection: sqlite3.Connection) -> None:
        """Take the file's sums for what is stored; all that was sent must be in them."""
        for digest, counters in self._policies.items():
            amounts = dict(
                connection.execute(
                    "SELECT group_label, amount FROM exposure WHERE policy_digest = ?", (digest,)
                ).fetchall()
            )
            lists = connection.execute(
                "SELECT lists FROM policies WHERE policy_digest = ?", (digest,)
            ).fetchone()
            with self._lock:
                counters.store(amounts, lists[0] if lists else 0)
