"""One worker process, as its supervisor sees it: how it is started, what it says, how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from enum import Enum
from pathlib import Path

from server.errors import Refused
from server.supervisor.link import Link, Orders, Word

END_OF_LINE_S = 1.0
"""How long the last words of a dead worker may take to be read."""


class WorkerEnded(Refused):
    """A worker ended while it loaded another release: of that, or of something else."""


class Phase(Enum):
    """How far a worker has come. ORDERED: it is warm and was told to serve."""

    STARTING = 0
    WARM = 1
    ORDERED = 2
    SERVING = 3


class Worker:
    """A worker process. Made by `start`.

    silent_s: since it was last heard; counted by the supervisor, so that a machine that stands
        still does not count. warm_at_s: when it was warm, or None. release: what it serves, when it
        is warm. bundle: what it was started with. error: why it ended, where that is known. doomed: it was killed from here; silenced: for
        its silence.
    """

    def __init__(self, slot: int, process: asyncio.subprocess.Process) -> None:
        self.slot = slot
        self.phase = Phase.STARTING
        self.silent_s = 0.0
        self.warm_at_s: float | None = None
        self.release = ""
        self.bundle = Path()
        self.error = ""
        self.doomed = False
        self.silenced = False
        self._process = process
        self._link: Link
        self._ready: asyncio.Future[None] | None = None
        self._prepared = 0

    @classmethod
    async def start(
        cls, module: str, orders: Orders, heard: Callable[[Worker, Word], None]
    ) -> Worker:
        """Start `module` in a fresh interpreter. heard: called with each word but BEAT."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as unless_started:
            unless_started.callback(ours.close)
            orders.give(ours)
            process = await asyncio.create_subprocess_exec(
                # The worker imports what this process imports, whatever lies in the folder that
                # both were started in.
                *(sys.executable, "-P", "-m", module, str(theirs.fileno())),
                env={**os.environ, "PYTHONPATH": _paths(sys.path)},
                stdin=asyncio.subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                # Ctrl-C in a terminal is for the supervisor, which tells its workers once.
                start_new_session=True,
            )
            unless_started.pop_all()
        worker = cls(orders.slot, process)
        worker.bundle = orders.settings.bundle

        def hear(word: Word, text: str) -> None:
            worker._hear(word, text)
            if word is not Word.BEAT:
                heard(worker, word)

        worker._link = await Link.over(ours, hear)
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    def _hear(self, word: Word, text: str) -> None:
        self.silent_s = 0.0
        if word is Word.WARM:
            self.phase, self.release = Phase.WARM, text
            self.warm_at_s = asyncio.get_running_loop().time()
        elif word is Word.SERVING:
            self.phase = Phase.SERVING
        elif word is Word.REFUSED:
            self.error = text
        elif word is Word.READY:
            self._answered(text, None)
        elif word is Word.UNFIT:
            number, _, why = text.partition(" ")
            self._answered(number, Refused(why))

    def _answered(self, number: str, refused: Refused | None) -> None:
        if int(number) == self._prepared:  # and not about one that was given up
            self._be_ready(refused)

    def _be_ready(self, refused: Refused | None) -> None:
        if self._ready is None or self._ready.done():
            return
        if refused is None:
            self._ready.set_result(None)
        else:
            self._ready.set_exception(refused)

    async def prepare(self, bundle: Path, timeout_s: float) -> None:
        """Have it make another release, beside the one that it serves.

        Raises:
            WorkerEnded: it is dead.
            Refused: it would not, or took too long. It serves what it served. Cancelled, it has it
                forget that release.
        """
        if self._link.ended.is_set():
            raise WorkerEnded(f"worker {self.pid} ended")
        self._ready = asyncio.get_running_loop().create_future()
        self._prepared += 1
        self._link.tell(Word.PREPARE, f"{self._prepared} {bundle}")
        try:
            async with asyncio.timeout(timeout_s):
                await self._ready
        except asyncio.CancelledError:
            self.drop()
            raise
        except TimeoutError as error:
            self.drop()
            raise Refused(
                f"worker {self.pid} took longer than {timeout_s:.0f} s to load it"
            ) from error

    def take(self, release: str) -> None:
        """Have it serve what it prepared: this release."""
        self.release = release
        self._link.tell(Word.TAKE)

    def drop(self) -> None:
        """Have it forget what it prepared."""
        self._link.tell(Word.DROP)

    @property
    def stopped(self) -> bool:
        """Whether a signal keeps it from running (SIGSTOP), as against one that is only slow."""
        state = os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        with contextlib.suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, state) is not None
        return False

    def serve(self) -> None:
        """Tell it to serve."""
        self.phase = Phase.ORDERED
        self._link.tell(Word.SERVE)

    def stop(self) -> None:
        """Have it drain. One that still loads has nothing to drain and is killed."""
        # By the line and not by SIGTERM: whoever stops a whole service sends that to the workers
        # too, and a second one would be no order to hasten.
        if self.phase is Phase.STARTING:
            self.kill()
        else:
            self._link.tell(Word.STOP)

    def hasten(self) -> None:
        """Have it wait for no call."""
        self._link.tell(Word.HURRY)

    def kill(self) -> None:
        """End it at once."""
        self.doomed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self) -> int:
        """Wait for its end: the exit code, or minus the signal's number."""
        code = await self._process.wait()
        self._be_ready(WorkerEnded(f"worker {self.pid} ended while it loaded it"))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._link.ended.wait(), END_OF_LINE_S)
        self._link.close()
        return code


def ending(code: int) -> dict[str, int | str]:
    """How a process ended, for a log line.

    >>> ending(3), ending(-9)
    ({'exit_code': 3}, {'signal': 'SIGKILL'})
    """
    if code >= 0:
        return {"exit_code": code}
    try:
        return {"signal": signal.Signals(-code).name}
    except ValueError:
        return {"signal": str(-code)}


def _paths(paths: Sequence[str]) -> str:
    return os.pathsep.join(path or os.getcwd() for path in paths)
