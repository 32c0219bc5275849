"""A folder of releases: the pointer always names a whole bundle, whatever happens on the way."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server import releases
from server.errors import BundleRefused, Refused
from server.releases import Pointer, Serves, activate, path_of, read_pointer, roll_back, version_of


def bundle(folder: Path, name: str, content: str = "x") -> Path:
    """A folder that `named` takes for a bundle."""
    path = folder / "made" / name
    (path / "policies").mkdir(parents=True)
    (path / "id").write_text(name)
    (path / "policies" / "p.toml").write_text(content)
    return path


def named(path: Path) -> str:
    try:
        found = (path / "id").read_text()
    except OSError as error:
        raise BundleRefused("id", "is missing") from error
    if (path / "policies" / "p.toml").read_text() == "bad":
        raise BundleRefused("p.toml", "is bad")
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "root"


def test_each_activation_points_to_a_copy_and_remembers_those_before(
    root: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        source = bundle(tmp_path, name)
        activate(root, source, named)
        shutil.rmtree(source)
    assert read_pointer(root) == Pointer("c", ("b", "a"))
    assert named(path_of(root, "a")) == "a"


def test_the_same_release_again_is_no_other_and_goes_first(root: Path, tmp_path: Path) -> None:
    a, b = bundle(tmp_path, "a"), bundle(tmp_path, "b")
    for one in (a, b, a):
        activate(root, one, named)
    assert read_pointer(root) == Pointer("a", ("b",))
    activate(root, a, named)
    assert read_pointer(root) == Pointer("a", ("b",))


def test_a_bundle_that_holds_the_folder_is_not_copied_into_itself(
    root: Path, tmp_path: Path
) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    (tmp_path / "id").write_text("all")
    for around in (root, tmp_path):
        with pytest.raises(Refused, match="is, or lies in, the bundle"):
            activate(root, around, named)
    assert read_pointer(root).active == "a"
    assert list((root / releases.FOLDER).iterdir()) == [path_of(root, "a")]


def test_a_bundle_that_the_disk_has_no_room_for_is_refused_before_it_is_copied(
    root: Path, tmp_path: Path
) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    huge = bundle(tmp_path, "huge")
    with (huge / "model.onnx").open("wb") as file:
        # A hole: it takes no room itself, and more than any disk has if it were copied.
        os.truncate(file.fileno(), 2**43)
    with pytest.raises(Refused, match=r"huge has 8,796,093,\d{3},\d{3} bytes, .* has room for"):
        activate(root, huge, named)
    assert read_pointer(root) == Pointer("a")
    assert [path.name for path in (root / "releases").iterdir()] == ["a"]


def test_a_damaged_copy_of_the_same_release_is_replaced(root: Path, tmp_path: Path) -> None:
    a = bundle(tmp_path, "a")
    activate(root, a, named)
    (path_of(root, "a") / "policies" / "p.toml").write_text("bad")
    activate(root, a, named)
    assert named(path_of(root, "a")) == "a"


def test_a_release_that_is_refused_changes_nothing(root: Path, tmp_path: Path) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    before = version_of(root), sorted(root.rglob("*"))
    with pytest.raises(BundleRefused, match="is bad"):
        activate(root, bundle(tmp_path, "b", "bad"), named)
    assert (version_of(root), sorted(root.rglob("*"))) == before


def test_only_so_many_earlier_releases_are_kept(root: Path, tmp_path: Path) -> None:
    for number in range(releases.KEPT + 3):
        activate(root, bundle(tmp_path, f"r{number}"), named)
    pointer = read_pointer(root)
    assert len(pointer.earlier) == releases.KEPT
    kept = {path.name for path in (root / releases.FOLDER).iterdir()}
    assert kept == {pointer.active, *pointer.earlier}


def test_a_release_that_is_served_is_kept_and_named_however_many_came_since(
    root: Path, tmp_path: Path
) -> None:
    """A server that refused all of those goes back to it when it starts again."""

    def more(start: int, count: int) -> None:
        for number in range(start, start + count):
            activate(root, bundle(tmp_path, f"r{number}"), named)

    more(0, 1)
    first, second = Serves(root, "r0"), Serves(root, "r0")
    more(1, releases.KEPT + 3)
    assert read_pointer(root).earlier[-1] == "r0"
    assert len(read_pointer(root).earlier) == releases.KEPT + 1
    assert named(path_of(root, "r0")) == "r0"
    first.close()
    more(20, 1)
    assert read_pointer(root).earlier[-1] == "r0"
    second.close()
    more(30, 1)
    assert len(read_pointer(root).earlier) == releases.KEPT
    for folder in (releases.FOLDER, releases.SERVED):
        left = {path.name for path in (root / folder).iterdir()}
        assert left == {read_pointer(root).active, *read_pointer(root).earlier}


def test_a_release_that_is_served_is_kept_also_where_the_pointer_went_back_over_it(
    root: Path, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        activate(root, bundle(tmp_path, name), named)
    serves = Serves(root, "b")
    roll_back(root, named)
    activate(root, bundle(tmp_path, "c"), named)
    assert named(path_of(root, "b")) == "b"
    serves.close()
    activate(root, bundle(tmp_path, "d"), named)
    assert not path_of(root, "b").exists()


def test_who_may_only_read_says_so_too_and_a_folder_of_before_is_no_fault(
    root: Path, tmp_path: Path
) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    (root / releases.SERVED / "a").chmod(0o444)
    serves = Serves(root, "a")
    for number in range(releases.KEPT + 1):
        activate(root, bundle(tmp_path, f"r{number}"), named)
    assert path_of(root, "a").exists()
    serves.close()
    shutil.rmtree(root / releases.SERVED)
    Serves(root, "a").close()
    activate(root, bundle(tmp_path, "z"), named)
    assert not path_of(root, "a").exists()


def test_a_look_whether_a_release_is_served_does_not_keep_a_server_from_saying_so(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    look = os.open(root / releases.SERVED / "a", os.O_RDWR)
    fcntl.flock(look, fcntl.LOCK_EX)
    waited: list[float] = []

    def looked(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            os.close(look)

    monkeypatch.setattr(time, "sleep", looked)
    serves = Serves(root, "a")
    assert len(waited) == 3
    for number in range(releases.KEPT + 1):
        activate(root, bundle(tmp_path, f"r{number}"), named)
    assert path_of(root, "a").exists()
    serves.close()


def test_going_back_passes_over_what_can_no_longer_be_served(root: Path, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        activate(root, bundle(tmp_path, name), named)
    assert releases.left_over(root, read_pointer(root)) == ()
    shutil.rmtree(path_of(root, "b"))
    assert roll_back(root, named) == (Pointer("a", ()), ("b",))
    assert releases.left_over(root, read_pointer(root)) == ("c",)
    assert read_pointer(root) == Pointer("a", ())
    with pytest.raises(Refused, match="cannot go back from a: there is none before it"):
        roll_back(root, named)
    activate(root, bundle(tmp_path, "d"), named)
    shutil.rmtree(path_of(root, "a"))
    with pytest.raises(Refused, match="none of those before it can be served"):
        roll_back(root, named)
    assert read_pointer(root) == Pointer("d", ("a",))


def test_the_version_changes_with_each_pointer_even_to_the_same_release(
    root: Path, tmp_path: Path
) -> None:
    assert version_of(root) is None
    seen = set()
    a = bundle(tmp_path, "a")
    for _ in range(3):
        activate(root, a, named)
        seen.add(version_of(root))
    assert len(seen) == 3


@pytest.mark.parametrize(
    "pointer",
    ["", "{", "[]", '{"active": "a"}', '{"active": 7, "earlier": []}',
     '{"active": "../a", "earlier": []}', '{"active": "a", "earlier": [".x"]}',
     '{"active": "a", "earlier": 3}'],
)  # fmt: skip
def test_a_damaged_pointer_is_told(root: Path, pointer: str) -> None:
    root.mkdir()
    (root / releases.POINTER).write_text(pointer)
    with pytest.raises(Refused, match="is damaged"):
        read_pointer(root)


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    a = bundle(tmp_path, "a")
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter").write_text("dear")
    with pytest.raises(Refused, match=r"holds 'letter' and no active\.json"):
        activate(other, a, named)
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match="is not a folder"):
        activate(tmp_path / "file", a, named)
    with pytest.raises(Refused, match="holds no releases"):
        read_pointer(other)
    assert sorted(path.name for path in other.iterdir()) == ["letter"]


def test_a_full_disk_at_the_first_pointer_leaves_nothing_that_a_retry_would_refuse(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = bundle(tmp_path, "a")
    sync = os.fsync

    def full(handle: int) -> None:
        if releases.POINTER in os.readlink(f"/proc/self/fd/{handle}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Refused, match="No space left on device; the pointer was not changed"):
            activate(root, a, named)
    assert not any(path.name.startswith(releases.POINTER) for path in root.iterdir())
    activate(root, a, named)
    assert read_pointer(root) == Pointer("a")


def test_what_a_crash_before_the_first_pointer_left_is_removed_by_the_next_activation(
    root: Path, tmp_path: Path
) -> None:
    root.mkdir()
    left = root / f"{releases.POINTER}.6477"
    left.write_text("{")
    activate(root, bundle(tmp_path, "a"), named)
    assert not left.exists()
    other = root / f"{releases.POINTER}.mine"
    other.write_text("a copy that somebody made")
    activate(root, bundle(tmp_path, "b"), named)
    assert other.exists()


DIES = """
import os, signal, sys
from pathlib import Path
from server import releases
sys.path.insert(0, {tests!r})
calls = 0
def watched(frame, event, arg):
    global calls
    if frame.f_globals.get("__name__") in ("server.releases", "shutil"):
        calls += 1
        if calls == {at}:
            os.kill(os.getpid(), signal.SIGKILL)
    return watched
def named(path):
    return (path / "id").read_text()
sys.settrace(watched)
releases.activate(Path({root!r}), Path({source!r}), named)
"""


def test_a_writer_killed_anywhere_leaves_the_old_pointer_or_the_new_one(
    root: Path, tmp_path: Path
) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    b, c = bundle(tmp_path, "b"), bundle(tmp_path, "c")
    ends = set()
    for at in (1, 40, 150, 400, 700, 900, 1000, 1050, 1100, 1150, 1200, 1300, 1500, 10_000):
        script = DIES.format(
            tests=str(Path(__file__).parents[1]), at=at, root=str(root), source=str(b)
        )
        done = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False)
        assert done.returncode in (0, -signal.SIGKILL)
        pointer = read_pointer(root)
        assert pointer.active in ("a", "b")
        assert named(path_of(root, pointer.active)) == pointer.active
        ends.add(pointer.active)
        # Whoever comes next finds no lock and no rubbish.
        activate(root, c, named)
        names = {path.name for path in (root / releases.FOLDER).iterdir()}
        assert not any(name.startswith(releases.PARTIAL) for name in names)
        activate(root, tmp_path / "made" / "a", named)
    assert ends == {"a", "b"}


def test_the_pointer_is_readable_by_people(root: Path, tmp_path: Path) -> None:
    activate(root, bundle(tmp_path, "a"), named)
    found = json.loads((root / "active.json").read_text())
    assert found == {"active": "a", "earlier": []}
