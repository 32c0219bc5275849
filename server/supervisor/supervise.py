"""The life of a server of many processes: hold the port, keep the workers, drain.

Owns the order. This process listens to nothing but scrapes: it only sees to others, so that there
is little in it that can break.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry

from server.apart import check_release
from server.config import ServerSettings
from server.errors import SettingsRefused
from server.following import Following, first_fit
from server.ports import LOOPBACK, MetricsPort, admin_refused, check_port, hold_port
from server.process import on_hang_up
from server.ready_file import write_ready
from server.releases import holds_releases
from server.supervisor.counts import Sums, SwapCounts, WorkerCounts, forget_present
from server.supervisor.crew import Crew, Heard
from server.supervisor.folder import SharedFolder, metrics_folder
from server.supervisor.link import Orders
from server.supervisor.worker import Worker

LAST_PORT = 65_535


def supervise(settings: ServerSettings, module: str) -> int:
    """Serve with `settings.workers` processes that run `module`, until SIGTERM or SIGINT.

    Returns the exit code: 0, or 1 when a worker had to be killed because it did not drain in time.

    Raises:
        Refused: a port is taken, or a worker ended before all served; the message is its own. Also
            on systems that let processes share a port in other ways than Linux.
    """
    if sys.platform != "linux":
        raise SettingsRefused(
            "workers: more than one process on a port needs Linux, allowed here: 1"
        )
    for slot in range(settings.workers + settings.spare_workers):
        _check_admin_port(admin_port_of(settings, slot))
    return asyncio.run(_supervise(settings, module))


def admin_port_of(settings: ServerSettings, slot: int) -> int | None:
    """The admin port of the worker in a slot: the first, and those after it, or free ones.

    Raises:
        SettingsRefused: there is no port of that number.
    """
    first = settings.admin_port
    if first is None or first == 0:
        return first
    if first + slot > LAST_PORT:
        raise SettingsRefused(
            f"admin_port: got {first}, and each worker has one after it; allowed: "
            f"{LAST_PORT - slot} or less for these workers"
        )
    return first + slot


def _check_admin_port(port: int | None) -> None:
    """Now and in words, for a spare that finds its port taken would be of no use later."""
    if port:
        try:
            check_port(LOOPBACK, port)
        except SettingsRefused as error:
            raise admin_refused(port) from error


class _Ready:
    """Tells where the server serves, and keeps the ready file's pids true."""

    def __init__(self, settings: ServerSettings, port: int, metrics_port: int | None) -> None:
        self._settings = settings
        self._port = port
        self._metrics_port = metrics_port
        self._log = structlog.get_logger("supervisor")
        self._started_ns = time.monotonic_ns()
        self._told = False

    def tell(self, pids: Sequence[int]) -> None:
        """These workers serve.

        Raises:
            SettingsRefused: it is the first time, and the ready file cannot be written.
        """
        port, metrics_port = self._port, self._metrics_port
        if self._settings.ready_file is not None:
            try:
                write_ready(
                    self._settings.ready_file, port=port, metrics_port=metrics_port, workers=pids
                )
            except SettingsRefused as error:
                if not self._told:
                    raise
                self._log.error("ready file not written", error=str(error))
        if not self._told:
            self._told = True
            self._log.info(
                "serving",
                host=self._settings.host,
                port=port,
                metrics_port=metrics_port,
                workers=list(pids),
                ready_ms=(time.monotonic_ns() - self._started_ns) // 1_000_000,
            )


async def _supervise(settings: ServerSettings, module: str) -> int:
    log = structlog.get_logger("supervisor")
    with contextlib.ExitStack() as opened:
        held = opened.enter_context(hold_port(settings.host, settings.port))
        port: int = held.getsockname()[1]
        folder = opened.enter_context(SharedFolder(settings.workers + settings.spare_workers))
        registry = CollectorRegistry()
        registry.register(Sums(metrics_folder(folder.path)))
        counts = WorkerCounts(registry)
        metrics_port: int | None = None
        if settings.metrics_port is not None:
            metrics = MetricsPort(settings.host, settings.metrics_port, registry)
            opened.callback(metrics.close)
            metrics_port = metrics.port
        of_workers = folder.settings_of_workers(settings, port)
        if settings.ready_file is not None:
            opened.callback(settings.ready_file.unlink, missing_ok=True)
        ready = _Ready(settings, port, metrics_port)

        async def start(slot: int, heard: Heard) -> Worker:
            if missing := folder.mend():
                # Those that live hold what was removed open: what they count is seen no more.
                gone = [str(path) for path in missing]
                log.error("shared files were removed and are made again", missing=gone)
            own = of_workers.model_copy(
                update={"bundle": crew.bundle, "admin_port": admin_port_of(settings, slot)}
            )
            return await Worker.start(module, Orders(own, slot, folder.path), heard)

        crew = Crew(
            of_workers,
            start=start,
            left=lambda slot: forget_present(metrics_folder(folder.path), slot),
            complete=ready.tell,
            counts=counts,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, crew.stop)
        on_hang_up(lambda: None)  # means something only where there are releases to follow
        try:
            async with _following(settings, crew, SwapCounts(registry)):
                await crew.keep()
            log.info("draining", grace_s=settings.drain_grace_s)
        finally:
            in_time = await crew.drain()
    log.info("stopped")
    return 0 if in_time else 1


@contextlib.asynccontextmanager
async def _following(
    settings: ServerSettings, crew: Crew, counts: SwapCounts
) -> AsyncIterator[None]:
    """Have the crew serve whatever release is active, where there is a choice."""
    root = settings.bundle
    if not holds_releases(root):
        yield
        return

    async def fit(path: Path, release: str) -> tuple[Path, str]:
        await check_release(path, release, settings.max_count)
        return path.resolve(), release

    async def adopt(path: Path, release: str) -> dict[str, object]:
        started_s = time.monotonic()
        await check_release(path, release, settings.max_count)
        checked_s = time.monotonic()
        await crew.change(path.resolve(), release)
        return {
            "check_ms": round((checked_s - started_s) * 1e3),
            "load_ms": round((time.monotonic() - checked_s) * 1e3),
        }

    # Once for all workers: the check is what takes cores, and none shall die of a bad release.
    crew.begin_with(*await first_fit(root, fit))
    following = Following(
        root,
        poll_s=settings.release_poll_s,
        serving=lambda: crew.release,
        adopt=adopt,
        became=counts.count,
        set_anew=crew.try_at_once,
    )
    crew.on_unfit = following.fall_back
    on_hang_up(following.look_now)

    async def follow() -> None:
        await crew.all_served.wait()
        await following.run()

    task = asyncio.create_task(follow(), name="releases")
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))
        following.close()
