"""Compiled kernels: numba without the GIL, cached on disk where a folder can be written.

Owns where compiled code is kept, so that a second start does not compile. numba
looks in NUMBA_CACHE_DIR, beside the source, then below HOME, and raises at import
where it may write in none of them. Then a private folder of this user in the
temporary directory is tried, and last no cache at all: a read-only container
starts too, only slower. A cache that is damaged or whose disk is full costs a
compilation, never a start.

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
from typing import Any, TypeVar

import numba
from numba.core.caching import FunctionCache

F = TypeVar("F", bound=Callable[..., object])


class _OptionalCache(FunctionCache):
    """numba's cache, except that nothing which goes wrong with its files is an error, and that code
    is old as soon as any source in its folder is newer.

    numba looks at a kernel's own file alone: what it calls in another file would stay as it was.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)  # type: ignore[no-untyped-call]
        stamp = (self._cache_file._source_stamp, _stamp_of_folder(function))
        self._cache_file._source_stamp = stamp

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception:
            # A truncated index or data file (a crash, a full disk) raises whatever pickle or LLVM
            # make of it. Empty it, so that the next save mends it.
            with contextlib.suppress(OSError):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with contextlib.suppress(OSError, EOFError):
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]


def _stamp_of_folder(function: Callable[..., object]) -> tuple[tuple[str, int, int], ...]:
    """(name, when it was changed in ns, size) of every source beside the function's own."""
    folder = Path(function.__code__.co_filename).parent
    with contextlib.suppress(OSError):
        found = ((path.name, path.stat()) for path in sorted(folder.glob("*.py")))
        return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)
    return ()


def private_cache_folder() -> Path | None:
    """A folder that only this user can write, or None. Compiled code is loaded from it."""
    try:
        folder = Path(tempfile.gettempdir()) / f"equipoise-kernels-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
    except OSError:
        return None
    # Somebody else may have made it first, to have his code run here.
    private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
    return folder if private and not found.st_mode & 0o077 else None


def _cache_of(function: Callable[..., object]) -> FunctionCache | None:
    # numba says RuntimeError where it finds no folder.
    with contextlib.suppress(RuntimeError, OSError):
        return _OptionalCache(function)
    folder = private_cache_folder()
    if folder is not None:
        numba.config.CACHE_DIR = str(folder)  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError, OSError):
            return _OptionalCache(function)
    return None


def kernel(function: F) -> F:
    """Compile `function` on first use, without the GIL."""
    dispatcher: Any = numba.njit(nogil=True)(function)
    cache = _cache_of(function)
    if cache is not None:
        dispatcher._cache = cache  # what njit(cache=True) does with numba's own
    compiled: F = dispatcher
    return compiled
