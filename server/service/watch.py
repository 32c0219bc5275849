"""Hot swap: another release is pointed to, checked apart, made beside the one that serves, exchanged.

Owns when that happens and what becomes of a release that is refused: it is told and counted, the old
one goes on, and the refused one is not tried again until the pointer is set anew.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from server.engine.apart import check_apart
from server.errors import BundleRefused, EquipoiseError, Refused, in_one_line
from server.releases import Pointer, path_of, read_pointer, version_of
from server.service.release import Current, Release, ReleaseMaker

Swapped = Callable[[Release, Release], None]
"""Called with the release from before and the one that serves now."""


def first_release(root: Path, maker: ReleaseMaker) -> Release:
    """The active release; where it is refused, the last one before it that is not.

    Raises:
        BundleRefused: the active one is, and so are all before it.
    """
    pointer = read_pointer(root)
    log = structlog.get_logger("server")
    refusals: list[BundleRefused] = []
    for bundle_id in (pointer.active, *pointer.earlier):
        try:
            return _made(root, bundle_id, maker)
        except BundleRefused as refused:
            refusals.append(refused)
            log.error("release refused", release=bundle_id, error=in_one_line(refused))
    raise refusals[0]


def _made(root: Path, bundle_id: str, maker: ReleaseMaker) -> Release:
    release = maker.make(path_of(root, bundle_id))
    if release.id != bundle_id:
        raise BundleRefused(bundle_id, f"the folder of this name holds {release.id}")
    return release


class Watch:
    """Looks at the pointer of a folder of releases, and exchanges what serves.

    swapped: called on the event loop after each exchange; refused: after each refusal.
    """

    def __init__(
        self,
        root: Path,
        maker: ReleaseMaker,
        current: Current,
        *,
        poll_s: float,
        swapped: Swapped,
        refused: Callable[[], None],
    ) -> None:
        self._root = root
        self._maker = maker
        self._current = current
        self._poll_s = poll_s
        self._swapped = swapped
        self._refused = refused
        self._log = structlog.get_logger("server")
        # None: the first look compares what is pointed to with what serves.
        self._seen: tuple[int, int, int] | None = None
        self._asked = asyncio.Event()

    def look_now(self) -> None:
        """Look at once, and try again what was refused."""
        self._seen = None
        self._asked.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            version = version_of(self._root)
            if version is not None and version != self._seen:
                self._seen = version
                await self._follow()
            self._asked.clear()
            try:
                await asyncio.wait_for(self._asked.wait(), self._poll_s)
            except TimeoutError:
                continue

    async def _follow(self) -> None:
        started_s = time.monotonic()
        wanted = ""
        try:
            pointer: Pointer = read_pointer(self._root)
            wanted = pointer.active
            if wanted == self._current.release.id:
                return
            path, max_count = path_of(self._root, wanted), self._maker.settings.max_count
            self._log.info("release found", release=wanted)
            await asyncio.to_thread(check_apart, path, max_count)
            checked_s = time.monotonic()
            release = await asyncio.to_thread(_made, self._root, wanted, self._maker)
        except (EquipoiseError, OSError, MemoryError, RuntimeError, ValueError) as error:
            # Whatever is wrong with a release that does not serve yet, the old one goes on.
            told = in_one_line(error) if isinstance(error, Refused) else repr(error)
            self._log.error(
                "release refused", release=wanted, serving=self._current.release.id, error=told
            )
            self._refused()
            return
        before = self._current.release
        self._current.swap(release)
        self._swapped(before, release)
        self._log.info(
            "release swapped",
            release=release.id,
            before=before.id,
            check_ms=round((checked_s - started_s) * 1e3),
            load_ms=round((time.monotonic() - checked_s) * 1e3),
        )
