"""The event store's SQLite file: its tables, how it is made, what is refused as no event store.

Owns the schema and its version, and the words for SQLite's errors. Must not know events.

    prepare(Path("events.db"), create=True)   # there is a whole event store now, or Refused
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path

from server.errors import Refused

SCHEMA_VERSION = 1
APPLICATION_ID = 0x45515045  # "EQPE", where `file` and other programs look for the owner

_STATEMENTS = (
    "CREATE TABLE revision (revision INTEGER NOT NULL) STRICT",
    "INSERT INTO revision VALUES (0)",
    # version: the revision of the last commit that touched the user's events.
    """CREATE TABLE users (
        user_ref INTEGER PRIMARY KEY,
        user_id TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE events (
        user_ref INTEGER NOT NULL,
        event_key BLOB NOT NULL,
        item_id TEXT NOT NULL,
        kind INTEGER NOT NULL,
        time_ms INTEGER NOT NULL,
        quantity REAL NOT NULL,
        request_id TEXT,
        rank INTEGER,
        basket TEXT,
        value REAL,
        PRIMARY KEY (user_ref, event_key)
    ) STRICT, WITHOUT ROWID""",
)
_TABLES = {"revision", "users", "events"}

_CAUSES = {
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_BUSY: "another process keeps it locked",
    sqlite3.SQLITE_IOERR: "the disk reports an error or has no room",
    sqlite3.SQLITE_CORRUPT: "its file is damaged",
    sqlite3.SQLITE_NOTADB: "its file is damaged",
    sqlite3.SQLITE_READONLY: "its file may not be written",
    sqlite3.SQLITE_CANTOPEN: "its file cannot be opened",
}


def cause(error: sqlite3.Error | OSError) -> str:
    """Why, in words that hold no path and no data: they may reach a client."""
    if isinstance(error, OSError):
        return error.strerror or "an operating system error"
    code = getattr(error, "sqlite_errorcode", -1) & 0xFF  # the primary code of an extended one
    return _CAUSES.get(code, getattr(error, "sqlite_errorname", "an SQLite error"))


def refused(path: Path, why: str) -> Refused:
    """The error for a file that the store will not work with."""
    return Refused(f"event store {path}: {why}")


def prepare(path: Path, *, create: bool) -> None:
    """See to it that `path` is an event store of this version; nothing else is ever changed.

    Raises:
        Refused: it is missing and not to be made, or it is something else, newer or truncated.
        OSError, sqlite3.Error: it cannot be made or read.
    """
    if sqlite3.sqlite_version_info < (3, 37):  # STRICT tables
        have = sqlite3.sqlite_version
        raise refused(path, f"needs SQLite 3.37 or newer, this Python has {have}")
    if not path.exists():
        if not create:
            raise refused(path, "no such file; make one with: equipoise events load --help")
        _make(path)
    _check(path)


def _make(path: Path) -> None:
    # Made aside and linked into place, so that another process sees all of it or nothing,
    # and of two processes that make it at once the second one uses the file of the first.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    os.close(handle)
    try:
        with closing(sqlite3.connect(name, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("BEGIN IMMEDIATE")
            for statement in _STATEMENTS:
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            connection.execute("COMMIT")
        with suppress(FileExistsError):
            os.link(name, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the file's name is durable too
        finally:
            os.close(folder)
    finally:
        for suffix in ("", "-wal", "-shm"):
            Path(name + suffix).unlink(missing_ok=True)


def _check(path: Path) -> None:
    if not path.is_file():
        raise refused(path, "is not a file")
    with path.open("rb") as file:
        head = file.read(100)
    if head[:16] != b"SQLite format 3\0":
        raise refused(path, "is not an SQLite file, so it is no event store")
    with closing(sqlite3.connect(file_uri(path), uri=True)) as connection:
        owner = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if owner != APPLICATION_ID:
            raise refused(path, "is an SQLite file of another program, not an event store")
        if version != SCHEMA_VERSION:
            advice = "upgrade equipoise" if version > SCHEMA_VERSION else "load it anew"
            raise refused(
                path, f"has schema version {version}, allowed: {SCHEMA_VERSION}; {advice}"
            )
        found = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
        if not found >= _TABLES:
            missing = min(_TABLES - found)
            raise refused(path, f"is damaged: table {missing!r} is missing; restore a copy")
        log = path.with_name(path.name + "-wal")
        if not log.exists() or not log.stat().st_size:  # else pages may be in the log only
            page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
            want = int.from_bytes(head[28:32], "big") * page_bytes
            have = path.stat().st_size
            if have < want:
                raise refused(path, f"is truncated: {have} bytes of {want}; restore a copy")


def file_uri(path: Path) -> str:
    """The URI with which SQLite opens `path` and never makes it."""
    return path.absolute().as_uri() + "?mode=rw"
