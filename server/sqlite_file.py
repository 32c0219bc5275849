"""A SQLite file of ours: how it is made, what is refused as none, and the words for SQLite's errors.

Owns what every such file has in common: an application id, a schema version, and that a process
sees all of it or nothing. Must not know what is in the tables.

    KIND = FileKind("event store", application_id=..., version=1, statements=..., ...)
    KIND.prepare(Path("events.db"), create=True)   # there is a whole one now, or Refused
"""

from __future__ import annotations

import os
import sqlite3
import tempfile
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from server.errors import Refused

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


def file_uri(path: Path) -> str:
    """The URI with which SQLite opens `path` and never makes it."""
    return path.absolute().as_uri() + "?mode=rw"


@dataclass(frozen=True)
class FileKind:
    """One kind of file.

    name: with which messages begin, as in "no event store". missing, outdated: what to do about a
    file that is not there, or of an older version.
    """

    name: str
    application_id: int
    version: int
    statements: tuple[str, ...]
    tables: frozenset[str]
    missing: str
    outdated: str

    def refused(self, path: Path, why: str) -> Refused:
        """The error for a file that will not be worked with."""
        return Refused(f"{self.name} {path}: {why}")

    def prepare(self, path: Path, *, create: bool) -> None:
        """See to it that `path` is of this kind and version; nothing else is ever changed.

        Raises:
            Refused: it is missing and not to be made, or it is something else, newer or truncated.
            OSError, sqlite3.Error: it cannot be made or read.
        """
        if sqlite3.sqlite_version_info < (3, 37):  # STRICT tables
            have = sqlite3.sqlite_version
            raise self.refused(path, f"needs SQLite 3.37 or newer, this Python has {have}")
        if not path.exists():
            if not create:
                raise self.refused(path, f"no such file; {self.missing}")
            self.make(path)
        self._check(path)

    def make(self, path: Path) -> None:
        """An empty one at `path`, unless another process was faster."""
        # Made aside and linked into place, so that another process sees all of it or nothing,
        # and of two processes that make it at once the second one uses the file of the first.
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
        os.close(handle)
        try:
            with closing(sqlite3.connect(name, isolation_level=None)) as connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("BEGIN IMMEDIATE")
                for statement in self.statements:
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {self.application_id}")
                connection.execute(f"PRAGMA user_version = {self.version}")
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

    def _check(self, path: Path) -> None:
        if not path.is_file():
            raise self.refused(path, "is not a file")
        with path.open("rb") as file:
            head = file.read(100)
        if head[:16] != b"SQLite format 3\0":
            raise self.refused(path, f"is not an SQLite file, so it is no {self.name}")
        with closing(sqlite3.connect(file_uri(path), uri=True)) as connection:
            owner = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if owner != self.application_id:
                why = f"is an SQLite file of another program, so it is no {self.name}"
                raise self.refused(path, why)
            if version != self.version:
                advice = "upgrade equipoise" if version > self.version else self.outdated
                raise self.refused(
                    path, f"has schema version {version}, allowed: {self.version}; {advice}"
                )
            found = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
            if not found >= self.tables:
                missing = min(self.tables - found)
                raise self.refused(
                    path, f"is damaged: table {missing!r} is missing; restore a copy"
                )
            log = path.with_name(path.name + "-wal")
            if not log.exists() or not log.stat().st_size:  # else pages may be in the log only
                page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
                want = int.from_bytes(head[28:32], "big") * page_bytes
                have = path.stat().st_size
                if have < want:
                    why = f"is truncated: {have} bytes of {want}; restore a copy"
                    raise self.refused(path, why)
