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
from collections.abc import Sequence

import structlog
from prometheus_client import CollectorRegistry

from server.config import ServerSettings
from server.errors import SettingsRefused
from server.ports import MetricsPort, hold_port
from server.process import on_hang_up
from server.ready_file import write_ready
from server.supervisor.counts import Sums, WorkerCounts, forget_present
from server.supervisor.crew import Crew, Heard
from server.supervisor.folder import SharedFolder, metrics_folder
from server.supervisor.link import Orders
from server.supervisor.worker import Worker


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
    return asyncio.run(_supervise(settings, module))


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
        folder = opened.enter_context(SharedFolder())
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
            return await Worker.start(module, Orders(of_workers, slot, folder.path), heard)

        crew = Crew(
            settings,
            start=start,
            left=lambda slot: forget_present(metrics_folder(folder.path), slot),
            complete=ready.tell,
            counts=counts,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, crew.stop)
        on_hang_up(crew.hang_up)
        try:
            await crew.keep()
            log.info("draining", grace_s=settings.drain_grace_s)
        finally:
            in_time = await crew.drain()
    log.info("stopped")
    return 0 if in_time else 1
