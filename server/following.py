"""Following the pointer of a folder of releases: what is newly active is tried once.

Owns when that happens and what becomes of a release that is refused: it is told and counted, what
serves goes on, and the refused one is not tried again until the pointer is set anew; that a trial
is given up where the pointer names another meanwhile; and that the bundle of what serves is not
taken away. Must not know how a release is made to serve: in one process, or by several workers together.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import structlog

from server.errors import EquipoiseError, Refused, in_one_line
from server.releases import Pointer, Serves, path_of, read_pointer, version_of

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
    "refused" each time; of a trial that was given up, nothing. set_anew: called where the pointer was
    set, or somebody asked.
    """

    def __init__(
        self,
        root: Path,
        *,
        poll_s: float,
        serving: Callable[[], str],
        adopt: Callable[[Path, str], Awaitable[dict[str, object]]],
        became: Callable[[str], None],
        set_anew: Callable[[], None] = lambda: None,
    ) -> None:
        self._root = root
        self._poll_s = poll_s
        self._serving = serving
        self._adopt = adopt
        self._became = became
        self._set_anew = set_anew
        self._log = structlog.get_logger("releases")
        # None: the first look compares what is pointed to with what serves.
        self._seen: tuple[int, int, int] | None = None
        self._asked = asyncio.Event()
        self._serves = Serves(root, serving())
        self._trial: asyncio.Task[None] | None = None
        self._trying = ""
        self._lost = False

    def close(self) -> None:
        """Nothing is served any longer."""
        self._serves.close()

    def look_now(self) -> None:
        """Look at once, and try again what was refused."""
        self._seen = None
        self._asked.set()

    def fall_back(self) -> None:
        """What serves can no longer be started: have the first that fits served, as a start does."""
        self._lost = True
        self._asked.set()

    async def run(self) -> None:
        """Look until cancelled, also while a release is tried."""
        try:
            while True:
                self._asked.clear()
                # In another thread, for a disk may hang.
                version = await asyncio.to_thread(version_of, self._root)
                if version is not None and version != self._seen:
                    await self._look(version)
                if self._lost:
                    self._lost = False
                    if self._tried() != "":  # else it does so already
                        await self._give_up()
                        self._try("", self._fall_back())
                try:
                    await asyncio.wait_for(self._asked.wait(), self._poll_s)
                except TimeoutError:
                    continue
        finally:
            await self._give_up()

    async def _look(self, version: tuple[int, int, int]) -> None:
        before = self._serving()
        trying = self._tried()
        pointer: Pointer | Refused
        try:
            pointer = read_pointer(self._root)
        except Refused as refused:
            pointer = refused
        if version_of(self._root) != version:
            self._asked.set()  # Set between the looks: what was read is not of this version.
            return
        if isinstance(pointer, Refused):
            self._seen = version
            self._refused("", before, pointer)
            return
        wanted = pointer.active
        if wanted == trying:
            return  # Not seen yet: where that is refused it is tried again.
        self._seen = version
        self._set_anew()
        if trying is not None:
            if trying:
                self._log.warning("release given up", release=trying, wanted=wanted)
            await self._give_up()
            before = self._serving()
        if wanted != before:
            self._log.info("release found", release=wanted)
            self._try(wanted, self._follow(wanted, before))

    def _tried(self) -> str | None:
        """What is tried just now; empty while it falls back to whatever fits."""
        return None if self._trial is None or self._trial.done() else self._trying

    def _try(self, release: str, trial: Coroutine[None, None, None]) -> None:
        self._trying = release
        self._trial = asyncio.create_task(trial, name="release trial")

    async def _give_up(self) -> None:
        """End what is tried; its check's process ends with it."""
        if self._trial is not None:
            self._trial.cancel()
            await asyncio.wait((self._trial,))
            self._trial = None

    async def _follow(self, wanted: str, before: str) -> None:
        started_s = time.monotonic()
        try:
            told = await self._take_up(path_of(self._root, wanted), wanted)
        except Exception as error:
            # Whatever is wrong with a release that does not serve yet, the old one goes on.
            self._refused(wanted, before, error)
            return
        self._became("swapped")
        took_ms = round((time.monotonic() - started_s) * 1e3)
        self._log.info("release swapped", release=wanted, before=before, took_ms=took_ms, **told)

    async def _fall_back(self) -> None:
        before = self._serving()

        async def make(path: Path, release: str) -> str:
            try:
                await self._take_up(path, release)
            except Refused:
                self._became("refused")
                raise
            return release

        try:
            release = await first_fit(self._root, make)
        except Exception as error:
            self._log.error("no release can be served", error=_line_of(error))
        else:
            if release != before:
                self._log.warning("release fell back", release=release, before=before)

    async def _take_up(self, path: Path, release: str) -> dict[str, object]:
        # In another thread, for it may have to wait for who looks at the release.
        opening = asyncio.create_task(asyncio.to_thread(Serves, self._root, release))
        try:
            await asyncio.shield(opening)
            told = await self._adopt(path, release)
        except BaseException:
            opening.add_done_callback(lambda opened: opened.result().close())
            raise
        self._serves.close()
        self._serves = opening.result()
        return told

    def _refused(self, release: str, before: str, error: Exception) -> None:
        self._log.error("release refused", release=release, serving=before, error=_line_of(error))
        self._became("refused")


def _line_of(error: Exception) -> str:
    line = in_one_line(error) if isinstance(error, (EquipoiseError, OSError)) else repr(error)
    return line[:500]
