"""What the workers of one server share on disk: a private folder that lives as long as they do.

It holds the files of their metrics and, where the settings name none, the exposure ledger and the
key of page tokens.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType

from server.config import ServerSettings
from server.errors import SettingsRefused


def metrics_folder(folder: Path) -> Path:
    """Where in the shared folder the workers count."""
    return folder / "metrics"


class SharedFolder:
    """A new folder, mode 0700, removed at the end of the `with` block.

    Raises:
        SettingsRefused: there is no temporary folder to make it in.
    """

    def __init__(self) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix="equipoise-"))
        except OSError as error:
            raise SettingsRefused(
                f"workers: cannot make a folder for them: {error.strerror}; "
                "name one that can be written in TMPDIR"
            ) from error
        metrics_folder(self.path).mkdir()

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
        key = settings.page_key_file
        if key is None:
            key = self.path / "page-key"
            with os.fdopen(os.open(key, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
        return settings.model_copy(
            update={
                # A link that is set on another release must not change what a later worker serves.
                "bundle": settings.bundle.resolve(),
                "port": port,
                "metrics_port": None,
                "ready_file": None,
                "page_key_file": key,
                "exposures": settings.exposures or self.path / "exposures.db",
            }
        )


class Lease:
    """A worker's share in the folder, for as long as the worker lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(self._handle, fcntl.LOCK_SH)

    def abandon(self) -> None:
        """Remove the folder, unless another worker still has a share in it: for workers whose
        supervisor is gone."""
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(self._folder, ignore_errors=True)
