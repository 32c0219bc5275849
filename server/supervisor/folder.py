"""What the workers of one server share on disk: a private folder that lives as long as they do.

It holds the files of their metrics and, where the settings name none, the exposure ledger and the
key of page tokens.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from pathlib import Path
from types import TracebackType

from server.config import ServerSettings
from server.errors import SettingsRefused
from server.supervisor.counts import FILE_BYTES, KINDS

REMOVALS, REMOVAL_SECONDS = 20, 0.05
"""How often the last worker tries to remove the folder, and how long it waits in between."""


def metrics_folder(folder: Path) -> Path:
    """Where in the shared folder the workers count."""
    return folder / "metrics"


class SharedFolder:
    """A new folder, mode 0700, removed at the end of the `with` block.

    Raises:
        SettingsRefused: there is no temporary folder to make it in, or no room for the counts of so
            many processes.
    """

    def __init__(self, processes: int) -> None:
        self._page_key = secrets.token_hex(32)
        try:
            self.path = Path(tempfile.mkdtemp(prefix="equipoise-"))
        except OSError as error:
            raise _no_place(error) from error
        try:
            self.mend()
            self._see_room(processes * KINDS * FILE_BYTES)
        except OSError as error:
            shutil.rmtree(self.path, ignore_errors=True)
            raise _no_place(error) from error

    def _see_room(self, size_bytes: int) -> None:
        """Raises:
        OSError: there is none for so much.
        """
        with tempfile.TemporaryFile(dir=self.path) as file:
            os.posix_fallocate(file.fileno(), 0, size_bytes)

    def mend(self) -> list[Path]:
        """Make again what somebody removed, such as one who cleans temporary folders.

        Returns what was missing.

        Raises:
            OSError: it cannot be made, or another has taken its place.
        """
        missing = []
        for folder in (self.path, metrics_folder(self.path)):
            with contextlib.suppress(FileExistsError):
                folder.mkdir(mode=0o700)
                missing.append(folder)
        found = self.path.lstat()
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) != 0o700:
            raise PermissionError(errno.EPERM, "belongs to somebody else", str(self.path))
        if not self._key_file.exists():
            aside = self._key_file.with_suffix(".new")
            with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(self._page_key)
            aside.replace(self._key_file)
            missing.append(self._key_file)
        return missing

    @property
    def _key_file(self) -> Path:
        return self.path / "page-key"

    def __enter__(self) -> SharedFolder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        shutil.rmtree(self.path, ignore_errors=True)

    def settings_of_workers(self, settings: ServerSettings, port: int) -> ServerSettings:
        """How each worker runs: what the supervisor has is off, what would be its own is shared."""
        return settings.model_copy(
            update={
                # A link that is set on another release must not change what a later worker serves.
                "bundle": settings.bundle.resolve(),
                "port": port,
                "metrics_port": None,
                "ready_file": None,
                "page_key_file": settings.page_key_file or self._key_file,
                "exposures": settings.exposures or self.path / "exposures.db",
            }
        )


def _no_place(error: OSError) -> SettingsRefused:
    return SettingsRefused(
        f"workers: cannot make a folder for them: {error.strerror}; "
        "name one that can be written, and has room, in TMPDIR"
    )


class Lease:
    """A worker's share in the folder, for as long as the worker lives.

    Raises:
        FileNotFoundError: there is no such folder, or the last who had a share has just removed it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_SH)
        if not os.fstat(self._handle).st_nlink:
            os.close(self._handle)
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))

    def abandon(self) -> None:
        """Remove the folder, unless another worker still has a share in it: for workers whose
        supervisor is gone."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        # One who has given up his share may still close a file in it, which makes the folder not empty.
        for _ in range(REMOVALS):
            shutil.rmtree(self._folder, ignore_errors=True)
            if not self._folder.exists():
                return
            time.sleep(REMOVAL_SECONDS)
