"""The workers of one server: so many serve, and as many more are warm to take a place at once.

Owns who is started, told to serve, replaced, killed for silence, and asked to stop. Must not know
what a worker does.

    crew = Crew(settings, start=..., left=..., complete=..., counts=...)
    await crew.keep()      # until crew.stop() is called, from a signal handler
    await crew.drain()
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog

from server.config import ServerSettings
from server.errors import Refused, in_one_line
from server.supervisor.backoff import Backoff
from server.supervisor.counts import Reason, WorkerCounts
from server.supervisor.link import Word
from server.supervisor.worker import Phase, Worker, WorkerEnded, ending

TICK_S = 0.05
STOPPED_S = 0.3
"""How long a worker may be stopped by a signal. That is a fact, and no guess from its silence."""
SETTLED_S = 2.0
"""A worker that dies sooner after it was warm died of its start."""
REFUSALS = 3
"""So many in succession cannot start: then it is no coincidence, though others serve still."""
CLOSING_S = 5.0
"""What workers may take beyond their grace, to write down what they hold."""
HASTE_S = 2.0
"""What they may take when they were asked twice, or when the start has failed."""

Heard = Callable[[Worker, Word], None]


@dataclass(frozen=True)
class _Vacancy:
    """The place of a worker that served and is dead."""

    pid: int
    since_s: float


class Crew:
    """Keeps `settings.workers` workers serving.

    start: starts a worker in a slot, with `bundle`, and has it tell the crew what it hears of it.
    left: called when a slot's worker is gone. complete: called with the pids when all serve, and
    again when they are others.
    """

    def __init__(
        self,
        settings: ServerSettings,
        *,
        start: Callable[[int, Heard], Awaitable[Worker]],
        left: Callable[[int], None],
        complete: Callable[[Sequence[int]], None],
        counts: WorkerCounts,
    ) -> None:
        self._settings = settings
        self._start = start
        self._left = left
        self._complete = complete
        self._counts = counts
        self._log = structlog.get_logger("supervisor")
        self._workers: dict[int, Worker] = {}  # by slot
        self._watchers: set[asyncio.Task[None]] = set()
        self._vacancies: list[_Vacancy] = []
        self._replaces: dict[int, _Vacancy] = {}  # by slot
        self._backoff = Backoff()
        self.bundle = settings.bundle
        self.all_served = asyncio.Event()  # once, for the first time
        self._release = ""
        self._follows = False
        self._refusals = 0  # of what is to be served, one after another
        self.on_unfit: Callable[[], None] = lambda: None
        self._catching_up: set[asyncio.Task[None]] = set()
        self._told: list[int] = []
        self._failure: str | None = None
        self._stops = 0
        self._news = asyncio.Event()

    def stop(self) -> None:
        """End `keep`; called again, hasten `drain`."""
        self._stops += 1
        self._news.set()

    @property
    def release(self) -> str:
        """The id of what all serve."""
        return self._release

    def begin_with(self, bundle: Path, release: str) -> None:
        """Before `keep`: serve this release, and later what `change` says. `on_unfit` is called where
        what was good can no longer be started, and would soon be served by nobody."""
        self.bundle, self._release, self._follows = bundle, release, True

    def try_at_once(self) -> None:
        """Something is other than it was: the next start waits for no deaths of before."""
        self._backoff = Backoff()
        self._news.set()

    async def change(self, bundle: Path, release: str) -> None:
        """Have all workers serve another release. One after another makes it beside its own, so that
        the others have their cores; when the last one has, all take it at once.

        Raises:
            Refused: one would not have it, or two died of it. All go on with what they serve.
        """
        if release == self._release:
            return
        ready: list[Worker] = []
        dead: list[Worker] = []
        try:
            while (worker := self._next_to_prepare([*ready, *dead])) is not None:
                try:
                    await worker.prepare(bundle, self._settings.worker_start_s)
                    ready.append(worker)
                except WorkerEnded:
                    dead.append(worker)
                    if len(dead) > 1:  # one may have died of something else
                        raise
        except BaseException:
            for worker in ready:
                worker.drop()
            raise
        self.bundle, self._release = bundle, release
        self._refusals = 0
        self.try_at_once()
        for worker in ready:
            worker.take(release)

    def _next_to_prepare(self, done: Sequence[Worker]) -> Worker | None:
        """First those that wait for a place: if they die of it, nobody misses them."""
        left = [
            worker
            for worker in self._workers.values()
            if worker.phase is not Phase.STARTING
            and worker.release == self._release
            and not worker.doomed
            and worker not in done
        ]
        return min(left, key=lambda worker: worker.phase is not Phase.WARM, default=None)

    async def _catch_up(self, worker: Worker) -> None:
        """Bring a worker that was started before a change to what the others serve."""
        try:
            while worker.release != self._release:
                bundle, release = self.bundle, self._release
                await worker.prepare(bundle, self._settings.worker_start_s)
                worker.take(release)
        except Refused as error:
            worker.error = str(error)
            worker.kill()
        self._news.set()

    async def keep(self) -> None:
        """Keep the workers serving until `stop`.

        Raises:
            Refused: one ended before all served for the first time; the message is its own.
        """
        loop = asyncio.get_running_loop()
        then_s = loop.time()
        while not self._stops:
            self._news.clear()
            if self._failure is not None:
                raise Refused(self._failure)
            now_s = loop.time()
            # Where this process itself got no time, its workers got none to speak either.
            self._judge(min(now_s - then_s, 2 * TICK_S))
            then_s = now_s
            self._fill_places()
            self._tell_complete()
            await self._start_missing(now_s)
            await self._wait()

    async def drain(self) -> bool:
        """Ask all to stop, and wait until all are gone. False: some had to be killed."""
        loop = asyncio.get_running_loop()
        settings = self._settings
        for worker in self._workers.values():
            worker.stop()
        grace_s = settings.drain_delay_s + settings.drain_grace_s + CLOSING_S
        until_s = loop.time() + (grace_s if self._stops else HASTE_S)
        in_time, obeyed = True, 1
        while self._workers:
            self._news.clear()
            if self._stops > obeyed:
                obeyed = self._stops
                until_s = min(until_s, loop.time() + HASTE_S)
                for worker in self._workers.values():
                    worker.hasten()
            if in_time and loop.time() >= until_s:
                in_time = False
                for worker in self._workers.values():
                    self._log.error("worker killed: its time to drain is over", worker=worker.pid)
                    worker.kill()
            await self._wait()
        return in_time

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._news.wait(), TICK_S)

    def _judge(self, passed_s: float) -> None:
        """Kill who has been silent for too long."""
        for worker in self._workers.values():
            worker.silent_s += passed_s
            loading = worker.phase is Phase.STARTING
            limit_s = self._settings.worker_start_s if loading else self._settings.silence_ms / 1e3
            if worker.doomed or worker.silent_s <= STOPPED_S:
                continue
            if worker.silent_s > limit_s or worker.stopped:
                silent_ms = round(worker.silent_s * 1e3)
                worker.silenced = True
                worker.error = f"a worker was silent for {silent_ms} ms and was killed"
                self._log.error("worker silent", worker=worker.pid, silent_ms=silent_ms)
                worker.kill()

    def _fill_places(self) -> None:
        """Let warm workers serve where places are free; the first time all at once."""
        found = self._workers.values()
        warm = [
            one
            for one in found
            if one.phase is Phase.WARM and not one.doomed and one.release == self._release
        ]
        free = self._settings.workers - self._in_place()
        first = not self._told and free == self._settings.workers
        if first and len(warm) < free:
            return
        for worker in warm[:free]:
            if self._vacancies:
                self._replaces[worker.slot] = self._vacancies.pop(0)
            worker.serve()

    def _in_place(self) -> int:
        placed = (Phase.ORDERED, Phase.SERVING)
        return sum(worker.phase in placed for worker in self._workers.values())

    def _tell_complete(self) -> None:
        pids = sorted(one.pid for one in self._workers.values() if one.phase is Phase.SERVING)
        self._counts.serving.set(len(pids))
        if len(pids) == self._settings.workers and pids != self._told:
            self._told = pids
            self._complete(pids)
            self.all_served.set()

    async def _start_missing(self, now_s: float) -> None:
        # Spares come when all serve, so that the start does not wait for them.
        wanted = self._settings.workers + (self._settings.spare_workers if self._told else 0)
        while len(self._workers) < wanted and now_s >= self._backoff.not_before_s:
            slot = next(n for n in range(wanted) if n not in self._workers)
            try:
                worker = await self._start(slot, self._hear)
            except OSError as error:
                if not self._told:
                    raise
                self._log.error("worker not started", error=in_one_line(error))
                self._backoff.died(now_s, settled=False)
                return
            self._workers[slot] = worker
            self._log.info("worker started", worker=worker.pid, slot=slot)
            watcher = asyncio.create_task(self._watch(worker))
            self._watchers.add(watcher)
            watcher.add_done_callback(self._watchers.discard)

    def _hear(self, worker: Worker, word: Word) -> None:
        if word is Word.WARM:
            self._release = self._release or worker.release
            if worker.release == self._release:
                self._refusals = 0
            if worker.release != self._release and not self._follows:
                worker.error = (
                    f"a worker found bundle {worker.release} where {self._release} is served: "
                    "restart the server to serve another"
                )
                worker.kill()
            else:
                self._log.info("worker warm", worker=worker.pid)
                if worker.release != self._release:
                    task = asyncio.create_task(self._catch_up(worker))
                    self._catching_up.add(task)
                    task.add_done_callback(self._catching_up.discard)
        elif word is Word.SERVING:
            told = {}
            if (vacancy := self._replaces.pop(worker.slot, None)) is not None:
                since_s = asyncio.get_running_loop().time() - vacancy.since_s
                told = {"replaces": vacancy.pid, "respawn_ms": round(since_s * 1e3)}
            self._log.info("worker serving", worker=worker.pid, **told)
        self._news.set()

    async def _watch(self, worker: Worker) -> None:
        code = await worker.end()
        now_s = asyncio.get_running_loop().time()
        del self._workers[worker.slot]
        self._left(worker.slot)
        self._news.set()
        told = ending(code) | ({"error": worker.error} if worker.error else {})
        if self._stops:
            self._log.info("worker ended", worker=worker.pid, **told)
            return
        if not self._told:
            ended = " ".join(map(str, *ending(code).items()))
            self._failure = worker.error or f"a worker ended before it served: {ended}"
            return
        reason = Reason.EXITED if code >= 0 else Reason.KILLED
        reason = Reason.SILENT if worker.silenced else reason
        # One that was asked to end by somebody else, and did, is no fault.
        tell = self._log.warning if code == 0 else self._log.error
        tell("worker died", worker=worker.pid, reason=reason, **told)
        self._counts.restarts[reason].inc()
        if worker.phase in (Phase.ORDERED, Phase.SERVING):
            replaced = self._replaces.pop(worker.slot, None)
            self._vacancies.append(replaced or _Vacancy(worker.pid, now_s))
        settled = worker.warm_at_s is not None and now_s - worker.warm_at_s >= SETTLED_S
        self._backoff.died(now_s, settled=settled)
        if worker.phase is Phase.STARTING and not worker.doomed and worker.bundle == self.bundle:
            self._refused_at_start()

    def _refused_at_start(self) -> None:
        self._refusals += 1
        loaded = any(one.release == self._release for one in self._workers.values())
        if self._follows and (self._refusals >= REFUSALS or not loaded):
            self._refusals = 0
            self.on_unfit()
