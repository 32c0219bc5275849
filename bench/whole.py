"""Files that are written whole or not at all.

write_whole(Path("out/verdict.json"), "{}")
"""

from __future__ import annotations

import os
from pathlib import Path

from bench.refused import InputRefused


def write_whole(path: Path, content: str | bytes) -> None:
    """Write `content` aside in the same folder, sync it, rename it into place.

    Raises:
        OSError: the folder cannot be written; nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    data = content.encode() if isinstance(content, str) else content
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        # A write that fails tells no file, and a rename tells one that nobody knows.
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def write_asked(flag: str, path: Path, content: str | bytes) -> None:
    """Write what a flag asks for, whole or not at all.

    Raises:
        InputRefused: it cannot be written there. That is no "no" of what was measured.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        raise InputRefused(flag, str(path), error.strerror or str(error)) from error
