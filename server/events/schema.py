"""The event store's SQLite file: its tables and their version.

Must not know events.

    prepare(Path("events.db"), create=True)   # there is a whole event store now, or Refused
"""

from __future__ import annotations

from server.sqlite_file import FileKind, cause, file_uri

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "cause", "file_uri", "prepare", "refused"]

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

_KIND = FileKind(
    "event store",
    application_id=APPLICATION_ID,
    version=SCHEMA_VERSION,
    statements=_STATEMENTS,
    tables=frozenset({"revision", "users", "events"}),
    missing="make one with: equipoise events load --help",
    outdated="load it anew",
)
prepare = _KIND.prepare
refused = _KIND.refused
_make = _KIND.make
