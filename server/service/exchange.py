"""Hot swap: another release is made beside the one that serves, and takes its place in one step.

Owns what happens in a process that serves. When, and whether the release is fit at all, is asked
elsewhere: by `server.following` in a single process, by the supervisor of several workers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from server.apart import check_release
from server.errors import BundleRefused
from server.service.release import Current, Release, ReleaseMaker

Swapped = Callable[[Release, Release], None]
"""Called with the release from before and the one that serves now."""


def made(maker: ReleaseMaker, path: Path, bundle_id: str) -> Release:
    """The release in a folder, which must be of this id.

    Raises:
        BundleRefused: it is not, or is damaged, foreign, or gives other lists than recorded.
    """
    release = maker.make(path)
    if release.id != bundle_id:
        raise BundleRefused(path.name, f"holds {release.id}, not {bundle_id}")
    return release


class Exchange:
    """Exchanges what one process serves. swapped: called on the event loop after each exchange."""

    def __init__(self, maker: ReleaseMaker, current: Current, swapped: Swapped) -> None:
        self._maker = maker
        self._current = current
        self._swapped = swapped
        self._one_at_a_time = asyncio.Lock()
        self._next: Release | None = None

    async def prepare(self, path: Path, bundle_id: str) -> None:
        """Make the release in a folder, beside the one that serves, in a thread of its own.

        Raises:
            BundleRefused: as `made`.
        """
        async with self._one_at_a_time:
            self._next = None
            self._next = await asyncio.to_thread(made, self._maker, path, bundle_id)

    def take(self) -> None:
        """Serve what was prepared."""
        release, self._next = self._next, None
        if release is None:
            return
        before = self._current.release
        self._current.swap(release)
        self._swapped(before, release)

    def drop(self) -> None:
        """Forget what was prepared."""
        self._next = None

    async def adopt(self, path: Path, bundle_id: str) -> dict[str, object]:
        """Check a release apart, prepare it and take it; how long that took.

        Raises:
            BundleRefused: it is not fit to serve.
        """
        started_s = time.monotonic()
        await check_release(path, bundle_id, self._maker.settings.max_count)
        checked_s = time.monotonic()
        await self.prepare(path, bundle_id)
        self.take()
        return {
            "check_ms": round((checked_s - started_s) * 1e3),
            "load_ms": round((time.monotonic() - checked_s) * 1e3),
        }
