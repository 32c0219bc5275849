"""The file that says that a server serves, and where."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from server.errors import SettingsRefused


def write_ready(
    path: Path,
    *,
    port: int,
    metrics_port: int | None,
    admin_port: int | None = None,
    workers: Sequence[int] | None = None,
) -> None:
    """Whole or not at all, so that a reader never sees half of it. workers: pids, where there are
    processes beside this one.

    Raises:
        SettingsRefused: it cannot be written.
    """
    document: dict[str, object] = {"pid": os.getpid(), "port": port, "metrics_port": metrics_port}
    if admin_port is not None:
        document["admin_port"] = admin_port
    if workers is not None:
        document["workers"] = list(workers)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        aside.write_text(json.dumps(document), encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        raise SettingsRefused(f"cannot write the ready file {path}: {error.strerror}") from error
