"""A crew keeps so many workers serving, whatever they do. The workers are processes that pretend."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from server.errors import Refused
from server.supervisor import crew as crew_module
from server.supervisor.counts import Reason
from strategies.crews import Kept, until

pytestmark = pytest.mark.slow


def test_a_worker_whose_event_loop_hangs_is_killed_and_replaced(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path, silence_ms=1000)
        async with kept.running():
            (tmp_path / "stuck").touch()
            kept.started[0].kill()
            await until(lambda: len(kept.complete) >= 2)
            (tmp_path / "stuck").unlink()
            await until(lambda: len(kept.complete) >= 3)
            assert kept.restarts(Reason.SILENT) >= 1
        assert kept.restarts(Reason.KILLED) == 1

    asyncio.run(main())


def test_a_worker_is_not_silent_while_the_supervisor_itself_stands_still(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path, silence_ms=1000)
        async with kept.running():
            for _ in range(3):
                for worker in kept.started:
                    os.kill(worker.pid, signal.SIGSTOP)
                time.sleep(1.5)
                for worker in kept.started:
                    os.kill(worker.pid, signal.SIGCONT)
                await asyncio.sleep(4 * crew_module.TICK_S)  # for the crew to judge them
            assert len(kept.started) == 2

    asyncio.run(main())


def test_a_stopped_worker_is_replaced_however_long_silence_may_last(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path, silence_ms=600_000)
        async with kept.running():
            os.kill(kept.started[1].pid, signal.SIGSTOP)
            await until(lambda: len(kept.complete) == 2)
            assert kept.restarts(Reason.SILENT) == 1

    asyncio.run(main())


def test_a_spare_takes_the_place_of_a_dead_worker(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path, spare_workers=1)
        async with kept.running():
            await until(lambda: len(kept.started) == 3 and kept.started[2].warm_at_s)
            (tmp_path / "crash").touch()  # whoever is started from now on is of no use
            kept.started[0].kill()
            await until(lambda: len(kept.complete) == 2)
            assert set(kept.complete[1]) == {worker.pid for worker in kept.started[1:3]}

    asyncio.run(main())


def test_workers_that_die_at_once_are_started_ever_more_slowly(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path)
        async with kept.running():
            (tmp_path / "crash").touch()
            kept.started[0].kill()
            began_s = time.monotonic()
            await until(lambda: kept.restarts(Reason.EXITED) >= 4)
            # At once, and after 0.2, 0.4 and 0.8 s.
            assert time.monotonic() - began_s >= 1.4
            assert len(kept.started) == 2 + 4
            (tmp_path / "crash").unlink()
            await until(lambda: len(kept.complete) == 2)

    asyncio.run(main())


def test_a_worker_with_another_release_never_serves(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path)
        async with kept.running():
            (tmp_path / "other").touch()
            kept.started[0].kill()
            await until(lambda: kept.restarts(Reason.KILLED) >= 3)
            assert "restart the server" in kept.started[2].error
            assert len(kept.complete) == 1
            (tmp_path / "other").unlink()
            await until(lambda: len(kept.complete) == 2)

    asyncio.run(main())


def test_a_worker_that_ends_before_all_serve_ends_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        kept = Kept(tmp_path)
        (tmp_path / "crash").touch()
        with pytest.raises(Refused, match="ended before it served: exit_code 3"):
            await kept.crew.keep()
        await kept.crew.drain()
        assert len(kept.started) == 2
        assert kept.complete == []

    asyncio.run(main())


@pytest.mark.parametrize("asked", [1, 2])
def test_workers_that_do_not_drain_in_time_are_killed(
    asked: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crew_module, "CLOSING_S" if asked == 1 else "HASTE_S", 0.3)

    async def drained() -> bool:
        (tmp_path / "deaf").touch()
        grace_s = 0.2 if asked == 1 else 300.0
        kept = Kept(tmp_path, drain_delay_s=0, drain_grace_s=grace_s)
        keeping = asyncio.create_task(kept.crew.keep())
        await until(lambda: kept.complete)
        for _ in range(asked):
            kept.crew.stop()
        await keeping
        return await kept.crew.drain()

    assert asyncio.run(drained()) is False
