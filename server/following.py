"""Following the pointer of a folder of releases: what is newly active is tried once.

Owns when that happens and what becomes of a release that is refused: it is told and counted, what
serves goes on, and the refused one is not tried again until the pointer is set anew; and that the
bundle of what serves is not taken away. Must not know
how a release is made to serve: in one process, or by several workers together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import structlog

from server.errors import EquipoiseError, Refused, in_one_line
from server.releases import Serves, path_of, read_pointer, version_of

Made = TypeVar("Made")


async def first_fit(root: Path, make: Callable[[Path, str], Awaitable[Made]]) -> Made:
    """What is made of the active release; where it is refused, of the last one before it that is not.

    Raises:
        Refused: the active one is, and so are all before it; or there is no pointer.
    """
    pointer = read_pointer(root)
    log = structlog.get_logger("releases")
    refusals: list[Refused] = []
    for bundle_id in (pointer.active, *pointer.earlier):
        try:
            return await make(path_of(root, bundle_id), bundle_id)
        except Refused as refused:
            refusals.append(refused)
            log.error("release refused", release=bundle_id, error=in_one_line(refused))
    raise refusals[0]


class Following:
    """Looks at the pointer of a folder of releases, and has what is newly active served.

    serving: the id of what serves. adopt: has the bundle in a folder served, which must be of this
    id, and gives what to tell of it; Refused where it would not be. became: told "swapped" or
    "refused" each time.
    """

    def __init__(
        self,
        root: Path,
        *,
        poll_s: float,
        serving: Callable[[], str],
        adopt: Callable[[Path, str], Awaitable[dict[str, object]]],
        became: Callable[[str], None],
    ) -> None:
        self._root = root
        self._poll_s = poll_s
        self._serving = serving
        self._adopt = adopt
        self._became = became
        self._log = structlog.get_logger("releases")
        # None: the first look compares what is pointed to with what serves.
        self._seen: tuple[int, int, int] | None = None
        self._asked = asyncio.Event()
        self._serves = Serves(root, serving())

    def close(self) -> None:
        """Nothing is served any longer."""
        self._serves.close()

    def look_now(self) -> None:
        """Look at once, and try again what was refused."""
        self._seen = None
        self._asked.set()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._asked.clear()
            # In another thread, for a disk may hang.
            version = await asyncio.to_thread(version_of, self._root)
            if version is not None and version != self._seen:
                self._seen = version
                await self._follow()
            try:
                await asyncio.wait_for(self._asked.wait(), self._poll_s)
            except TimeoutError:
                continue

    async def _follow(self) -> None:
        started_s = time.monotonic()
        before, wanted = self._serving(), ""
        serves: Serves | None = None
        try:
            wanted = read_pointer(self._root).active
            if wanted == before:
                return
            self._log.info("release found", release=wanted)
            # In another thread, for it may have to wait for who looks at the release.
            serves = await asyncio.to_thread(Serves, self._root, wanted)
            told = await self._adopt(path_of(self._root, wanted), wanted)
        except Exception as error:
            # Whatever is wrong with a release that does not serve yet, the old one goes on; and the
            # next one is looked for, so nothing may end this.
            line = (
                in_one_line(error) if isinstance(error, (EquipoiseError, OSError)) else repr(error)
            )
            self._log.error("release refused", release=wanted, serving=before, error=line[:500])
            self._became("refused")
            return
        else:
            self._serves, serves = serves, self._serves
        finally:
            if serves is not None:
                serves.close()
        self._became("swapped")
        took_ms = round((time.monotonic() - started_s) * 1e3)
        self._log.info("release swapped", release=wanted, before=before, took_ms=took_ms, **told)
