"""Compiled kernels: numba without the GIL, cached on disk where a folder can be written.

Owns where compiled code is kept. numba looks beside the source, then below HOME;
where it may write neither, decorating with a cache raises at import. Then a
private folder of this user in the temporary directory is tried, and last no
cache at all, so that a read-only container starts too (slower).

    @kernel
    def total(values): ...
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def private_cache_folder() -> Path | None:
    """A folder that only this user can write, or None. Compiled code is loaded from it."""
    folder = Path(tempfile.gettempdir()) / f"equipoise-kernels-{os.getuid()}"
    try:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return None
    # Somebody else may have made it first, to have his code run here.
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if private and not found.st_mode & 0o077 else None


def kernel(function: F) -> F:
    """Compile `function` on first use, without the GIL."""
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except (RuntimeError, OSError):
        pass
    folder = private_cache_folder()
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError, OSError):
            return cast(F, numba.njit(nogil=True, cache=True)(function))
    return cast(F, numba.njit(nogil=True)(function))
