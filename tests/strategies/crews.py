"""A crew whose workers are processes that pretend."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry

from server.config import ServerSettings
from server.supervisor.counts import Reason, WorkerCounts
from server.supervisor.crew import Crew, Heard
from server.supervisor.link import Orders
from server.supervisor.worker import Worker


class Kept:
    """A crew whose workers do what `folder` tells, and what it said so far."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.settings = ServerSettings.model_validate(
            {"bundle": folder, "workers": 2, "spare_workers": 0} | settings
        )
        self.started: list[Worker] = []
        self.complete: list[Sequence[int]] = []
        self._registry = CollectorRegistry()
        self.crew = Crew(
            self.settings,
            start=self._start,
            left=lambda slot: None,
            complete=self.complete.append,
            counts=WorkerCounts(self._registry),
        )

    async def _start(self, slot: int, heard: Heard) -> Worker:
        own = self.settings.model_copy(update={"bundle": self.crew.bundle})
        orders = Orders(own, slot, self.folder)
        worker = await Worker.start("strategies.fake_worker", orders, heard)
        self.started.append(worker)
        return worker

    def restarts(self, reason: Reason) -> float:
        name = "equipoise_worker_restarts_total"
        return self._registry.get_sample_value(name, {"reason": reason}) or 0.0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the crew keeps its workers; all serve at first."""
        keeping = asyncio.create_task(self.crew.keep())
        try:
            await until(lambda: self.complete)
            yield
        finally:
            self.crew.stop()
            await keeping
            await self.crew.drain()


async def until(condition: Callable[[], object], timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not come to be in time"
        await asyncio.sleep(0.01)
