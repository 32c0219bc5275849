"""A crew takes up another release together, or not at all. The workers are processes that pretend."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from server.errors import Refused
from server.supervisor import backoff
from server.supervisor.counts import Reason
from strategies.crews import Kept, until

pytestmark = pytest.mark.slow


@pytest.fixture
def old(tmp_path: Path) -> Path:
    folder = tmp_path / "old"
    folder.mkdir()
    return folder


@pytest.fixture
def new(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "release").write_text("second")
    return folder


def told(folder: Path, word: str) -> set[int]:
    """The workers that took or dropped the release in a folder."""
    return {int(path.name.partition("-")[2]) for path in folder.glob(f"{word}-*")}


def following(old: Path, **settings: object) -> Kept:
    kept = Kept(old, **settings)
    kept.crew.begin_with(old, "first")
    return kept


def pids(kept: Kept) -> set[int]:
    return {worker.pid for worker in kept.started}


def test_all_workers_and_the_spare_take_it_and_later_ones_start_with_it(
    old: Path, new: Path
) -> None:
    async def main() -> None:
        kept = following(old, spare_workers=1)
        async with kept.running():
            await until(lambda: len(kept.started) == 3 and kept.started[2].warm_at_s)
            await kept.crew.change(new, "second")
            assert kept.crew.release == "second"
            await until(lambda: told(new, "take") == pids(kept))
            (old / "crash").touch()  # whoever is started with the old one is of no use
            kept.started[0].kill()
            await until(lambda: len(kept.complete) == 2)
            await until(lambda: len(kept.started) == 4 and kept.started[3].warm_at_s)
            assert kept.started[3].release == "second"
            assert len(kept.started) == 4
            assert told(new, "drop") == set()

    asyncio.run(main())


def test_what_one_refuses_all_drop_and_the_next_one_is_taken(
    old: Path, new: Path, tmp_path: Path
) -> None:
    async def main() -> None:
        kept = following(old)
        async with kept.running():
            second = kept.started[1]
            prepare = second.prepare

            async def refuse(bundle: Path, timeout_s: float) -> None:
                (bundle / "unfit").touch()
                await prepare(bundle, timeout_s)

            second.prepare = refuse  # type: ignore[method-assign]
            with pytest.raises(Refused, match="it is unfit"):
                await kept.crew.change(new, "second")
            await until(lambda: told(new, "drop") == {kept.started[0].pid})
            assert kept.crew.release == "first"
            assert told(new, "take") == set()
            second.prepare = prepare  # type: ignore[method-assign]
            (new / "unfit").unlink()
            await kept.crew.change(new, "second")
            await until(lambda: told(new, "take") == pids(kept))
            assert len(kept.complete) == 1

    asyncio.run(main())


def test_one_death_may_be_a_coincidence_and_two_are_not(old: Path, new: Path) -> None:
    async def main() -> None:
        kept = following(old, workers=3)
        async with kept.running():
            (new / "fatal").touch()
            (new / "fatal2").touch()
            with pytest.raises(Refused, match="ended while it loaded"):
                await kept.crew.change(new, "second")
            await until(lambda: len(kept.complete) == 2)
            assert kept.restarts(Reason.EXITED) == 2
            assert {worker.release for worker in kept.started} == {"first"}
            (new / "fatal").touch()
            await kept.crew.change(new, "second")
            await until(lambda: len(kept.complete) == 3)
            assert kept.crew.release == "second"

    asyncio.run(main())


def test_a_worker_that_loads_for_ever_is_no_reason_to_wait_for_ever(old: Path, new: Path) -> None:
    async def main() -> None:
        kept = following(old)
        async with kept.running():
            hasty = kept.settings.model_copy(update={"worker_start_s": 1.0})
            kept.crew._settings = hasty
            (new / "mute").touch()
            with pytest.raises(Refused, match="took longer than 1 s"):
                await kept.crew.change(new, "second")
            (new / "mute").unlink()
            kept.crew._settings = kept.settings
            await kept.crew.change(new, "second")
            await until(lambda: told(new, "take") == pids(kept))

    asyncio.run(main())


def test_a_worker_that_was_starting_meanwhile_never_serves_the_old_one(
    old: Path, new: Path
) -> None:
    async def main() -> None:
        kept = following(old)
        async with kept.running():
            (old / "hold").touch()
            kept.started[0].kill()
            await until(lambda: len(kept.started) == 3)
            await kept.crew.change(new, "second")
            (old / "hold").unlink()
            await until(lambda: len(kept.complete) == 2)
            late = kept.started[2]
            assert late.release == "second"
            assert late.pid in told(new, "take")
            assert told(new, "early") == set()

    asyncio.run(main())


def test_a_late_answer_about_what_was_given_up_is_no_answer_about_the_next(
    old: Path, new: Path, tmp_path: Path
) -> None:
    third = tmp_path / "third"
    third.mkdir()
    for late in (new / "late", third / "late", third / "unfit"):
        late.touch()

    async def main() -> None:
        kept = following(old, workers=1)
        async with kept.running():
            given_up = asyncio.create_task(kept.crew.change(new, "second"))
            await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait((given_up,))
            change = asyncio.create_task(kept.crew.change(third, "third"))
            (new / "late").unlink()
            await until(lambda: told(new, "ready"))
            assert told(new, "drop") == told(new, "ready")
            (third / "late").unlink()
            with pytest.raises(Refused, match="it is unfit"):
                await change
            assert kept.crew.release == "first"

    asyncio.run(main())


def test_a_new_release_waits_for_no_deaths_of_the_one_before(
    old: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backoff, "FIRST_S", 3600.0)
    monkeypatch.setattr(backoff, "LONGEST_S", 3600.0)

    async def main() -> None:
        kept = following(old)
        unfit: list[int] = []
        kept.crew.on_unfit = lambda: unfit.append(len(kept.started))
        async with kept.running():
            (old / "crash").touch()
            kept.started[0].kill()
            await until(lambda: kept.restarts(Reason.EXITED) == 1)
            assert unfit == []  # the other one serves: it may be a coincidence
            kept.started[1].kill()
            kept.crew.try_at_once()
            await until(lambda: unfit)
            await kept.crew.change(new, "second")
            await until(lambda: len(kept.complete) == 2)

    asyncio.run(main())
