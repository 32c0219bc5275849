"""The pointer of a folder of releases is followed: once for each time that it is set."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server import following, releases
from server.errors import BundleRefused, Refused
from server.following import Following, first_fit
from server.releases import Pointer
from strategies.crews import until


class Server:
    """What serves, as far as who follows knows it. bad: what adopting a release raises."""

    def __init__(self, root: Path) -> None:
        self.serving = "a"
        self.asked: list[str] = []
        self.became: list[str] = []
        self.bad: dict[str, Exception] = {}
        self.hangs: set[str] = set()
        self.given_up: list[str] = []
        self.following = Following(
            root,
            poll_s=0.01,
            serving=lambda: self.serving,
            adopt=self._adopt,
            became=self.became.append,
        )

    async def _adopt(self, path: Path, release: str) -> dict[str, object]:
        assert path == path.parents[1] / releases.FOLDER / release
        self.asked.append(release)
        if release in self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.given_up.append(release)
                raise
        if release in self.bad:
            raise self.bad[release]
        self.serving = release
        return {}

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.following.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.wait((task,))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    releases.point(tmp_path, Pointer("a"))
    return tmp_path


@pytest.mark.parametrize(
    "error",
    [BundleRefused("model.onnx", "is bad"), OSError(5, "no"), KeyError("x"), RuntimeError("y")],
)
def test_what_is_refused_is_asked_for_once_until_the_pointer_is_set_or_someone_asks(
    root: Path, error: Exception
) -> None:
    async def main() -> None:
        server = Server(root)
        server.bad["b"] = error
        async with server.running():
            releases.point(root, Pointer("b", ("a",)))
            await until(lambda: server.became == ["refused"])
            # Many looks later.
            await asyncio.sleep(0.1)
            assert (server.asked, server.serving) == (["b"], "a")
            releases.point(root, Pointer("b", ("a",)))
            await until(lambda: server.asked == ["b", "b"])
            await until(lambda: len(server.became) == 2)
            del server.bad["b"]
            server.following.look_now()
            await until(lambda: server.became == ["refused", "refused", "swapped"])
            assert server.serving == "b"

    asyncio.run(main())


def test_a_pointer_that_is_set_while_it_is_looked_at_is_followed_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look has two parts, its version and what it says; each of them may be of another pointer."""
    versions = iter([lambda: releases.point(root, Pointer("b", ("a",)))])

    def of_before(folder: Path) -> tuple[int, int, int] | None:
        found = releases.version_of(folder)
        next(versions, lambda: None)()
        return found

    monkeypatch.setattr(following, "version_of", of_before)

    async def main() -> None:
        server = Server(root)
        server.bad["b"] = Refused("no")
        async with server.running():
            await until(lambda: server.became == ["refused"])
            await asyncio.sleep(0.1)  # Many looks later.
            assert (server.asked, server.became) == (["b"], ["refused"])

    asyncio.run(main())


def test_a_pointer_that_is_damaged_or_gone_harms_nobody(root: Path) -> None:
    async def main() -> None:
        server = Server(root)
        async with server.running():
            (root / releases.POINTER).write_text("{")
            await until(lambda: server.became == ["refused"])
            (root / releases.POINTER).unlink()
            await asyncio.sleep(0.05)
            releases.point(root, Pointer("c"))
            await until(lambda: server.serving == "c")
            assert server.asked == ["c"]

    asyncio.run(main())


def test_back_to_what_serves_is_no_swap(root: Path) -> None:
    async def main() -> None:
        server = Server(root)
        server.bad["b"] = Refused("no")
        async with server.running():
            releases.point(root, Pointer("b", ("a",)))
            await until(lambda: server.became == ["refused"])
            releases.point(root, Pointer("a"))
            releases.point(root, Pointer("c"))
            await until(lambda: server.serving == "c")
            assert server.asked == ["b", "c"]

    asyncio.run(main())


@pytest.mark.parametrize("other", ["c", "a"])
def test_a_trial_is_given_up_when_the_pointer_names_another(root: Path, other: str) -> None:
    async def main() -> None:
        server = Server(root)
        server.hangs.add("b")
        async with server.running():
            releases.point(root, Pointer("b", ("a",)))
            await until(lambda: server.asked == ["b"])
            # The same once more, or a question, is no other.
            releases.point(root, Pointer("b", ("a",)))
            server.following.look_now()
            await asyncio.sleep(0.1)
            assert (server.asked, server.given_up) == (["b"], [])
            releases.point(root, Pointer(other, ("b",)))
            await until(lambda: server.given_up == ["b"])
            await until(lambda: server.serving == other)
            assert "refused" not in server.became
        assert server.asked == ["b", *(["c"] if other == "c" else [])]

    asyncio.run(main())


def test_an_end_gives_up_what_is_tried(root: Path) -> None:
    async def main() -> None:
        server = Server(root)
        server.hangs.add("b")
        async with server.running():
            releases.point(root, Pointer("b", ("a",)))
            await until(lambda: server.asked == ["b"])
        assert server.given_up == ["b"]

    asyncio.run(main())


def test_what_can_no_longer_be_started_gives_way_to_the_last_that_fits(root: Path) -> None:
    async def main() -> None:
        server = Server(root)
        releases.point(root, Pointer("a", ("b", "c")))
        server.bad |= {"a": BundleRefused("model.onnx", "is bad"), "b": Refused("gone")}
        async with server.running():
            server.following.fall_back()
            await until(lambda: server.serving == "c")
            await asyncio.sleep(0.1)
            # The pointer is as it was: the bad one is not tried again.
            assert (server.asked, server.became) == (["a", "b", "c"], ["refused"] * 2)
            server.bad.clear()
            server.following.look_now()
            await until(lambda: server.serving == "a")

    asyncio.run(main())


def test_the_first_that_fits_is_the_active_one_or_the_last_before_it(root: Path) -> None:
    releases.point(root, Pointer("a", ("b", "c")))

    async def fitting(bad: str) -> str:
        async def make(path: Path, release: str) -> str:
            if release in bad:
                raise BundleRefused(release, "is bad")
            return release

        return await first_fit(root, make)

    assert asyncio.run(fitting("")) == "a"
    assert asyncio.run(fitting("ab")) == "c"
    with pytest.raises(BundleRefused, match="a: is bad"):
        asyncio.run(fitting("abc"))
