"""A bundle is there whole or not at all, and nothing but a bundle is ever replaced."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from server.bundle import BundleParts, load_bundle, write_bundle
from server.bundle import write as writing
from server.errors import BundleRefused, Refused
from strategies.bundles import tiny_bundle

pytestmark = pytest.mark.slow

TESTS = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def run_python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    setup = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n"
    return subprocess.run(
        [sys.executable, "-c", setup + code, *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def other(parts: BundleParts) -> BundleParts:
    return replace(parts, created_unix_ms=parts.created_unix_ms + 1)


def test_an_old_bundle_is_replaced_and_nothing_is_left_beside(
    folder: Path, parts: BundleParts
) -> None:
    new = write_bundle(other(parts), folder)
    assert load_bundle(folder).manifest == new
    assert names(folder.parent) == ["bundle"]


def test_a_damaged_bundle_is_replaced_too(folder: Path, parts: BundleParts) -> None:
    (folder / "model.onnx").write_bytes(b"")
    write_bundle(parts, folder)
    assert load_bundle(folder).model == parts.model


def test_an_empty_folder_is_filled_and_missing_parents_are_made(
    tmp_path: Path, parts: BundleParts
) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "a" / "b" / "bundle"):
        write_bundle(parts, target)
        assert load_bundle(target).model == parts.model
    assert names(tmp_path / "a" / "b") == ["bundle"]


def test_a_relative_target_is_meant_from_the_working_directory(
    tmp_path: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_bundle(parts, Path("bundle"))
    write_bundle(parts, Path("x/../bundle"))
    assert names(tmp_path) == ["bundle"]


def test_the_folder_gets_the_mode_that_the_umask_gives(tmp_path: Path, parts: BundleParts) -> None:
    (tmp_path / "plain").mkdir()
    write_bundle(parts, tmp_path / "b")
    assert (tmp_path / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("name", ["thesis.txt", "manifest.json", "photos"])
def test_a_folder_that_is_no_bundle_is_never_replaced(
    tmp_path: Path, parts: BundleParts, name: str
) -> None:
    target = tmp_path / "home"
    target.mkdir()
    (target / "thesis.txt").write_text("years of work")
    (target / name).write_text("years of work")
    with pytest.raises(Refused, match=r"is not a bundle \((holds|lacks) .* and is left alone"):
        write_bundle(parts, target)
    assert (target / "thesis.txt").read_text() == "years of work"
    assert names(tmp_path) == ["home"]


def test_a_bundle_with_a_file_of_someone_in_it_is_left_alone(
    folder: Path, parts: BundleParts
) -> None:
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(Refused, match=r"holds 'notes.txt'"):
        write_bundle(parts, folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_file_or_a_link_as_target_is_refused(
    folder: Path, tmp_path: Path, parts: BundleParts
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(folder)
    before = names(tmp_path)
    with pytest.raises(Refused, match="is not a folder"):
        write_bundle(parts, tmp_path / "file")
    with pytest.raises(Refused, match="is a link"):
        write_bundle(parts, tmp_path / "link")
    with pytest.raises(Refused, match=r"Not a directory|File exists"):
        write_bundle(parts, tmp_path / "file" / "below")
    assert (tmp_path / "file").read_text() == "x"
    assert names(tmp_path) == before


class Interrupted(BaseException):
    """Stands for Ctrl-C: no OSError, no Exception."""


def failing_at(
    call: int, original: Callable[..., object], error: BaseException
) -> Callable[..., object]:
    calls = 0

    def fail(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            raise error
        return original(*arguments)

    return fail


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted()])
@pytest.mark.parametrize("call", [1, 7, 13, 14, 15])
def test_a_failed_fsync_leaves_the_old_bundle_and_nothing_beside(
    folder: Path,
    parts: BundleParts,
    monkeypatch: pytest.MonkeyPatch,
    call: int,
    error: BaseException,
) -> None:
    before = load_bundle(folder).manifest
    monkeypatch.setattr(os, "fsync", failing_at(call, os.fsync, error))
    with pytest.raises((Refused, Interrupted)) as failed:
        write_bundle(other(parts), folder)
    if isinstance(error, OSError):
        assert "No space left on device; nothing was changed" in str(failed.value)
    monkeypatch.undo()
    assert load_bundle(folder).manifest == before
    assert names(folder.parent) == ["bundle"]
    monkeypatch.setattr(os, "fsync", failing_at(call, os.fsync, error))
    with pytest.raises((Refused, Interrupted)):
        write_bundle(parts, folder.parent / "new" / "one")
    assert names(folder.parent) == ["bundle"]


def test_parts_that_do_not_load_leave_the_old_bundle(folder: Path, parts: BundleParts) -> None:
    before = load_bundle(folder).manifest
    with pytest.raises(BundleRefused):
        write_bundle(replace(parts, golden_outputs=parts.golden_outputs + 1), folder)
    assert load_bundle(folder).manifest == before
    assert names(folder.parent) == ["bundle"]


KILLED = """
import os, signal
from pathlib import Path
from strategies.bundles import tiny_bundle
fsync, left = os.fsync, int(sys.argv[2])
def kill(descriptor):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(descriptor)
os.fsync = kill
tiny_bundle(Path(sys.argv[1]), seed=1)
"""


@pytest.mark.parametrize("call", [1, 15])
def test_a_killed_writer_leaves_the_old_bundle_and_the_next_writer_cleans_up(
    folder: Path, parts: BundleParts, call: int
) -> None:
    before = load_bundle(folder).manifest
    run = run_python(KILLED, folder, call)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert load_bundle(folder).manifest == before
    assert len(names(folder.parent)) == 2
    write_bundle(other(parts), folder)
    assert names(folder.parent) == ["bundle"]


FULL = """
import resource
from pathlib import Path
from server.errors import Refused
from strategies.bundles import tiny_parts
from server.bundle import write_bundle
parts = tiny_parts(seed=1)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
try:
    write_bundle(parts, Path(sys.argv[1]))
except Refused as refused:
    print(refused)
"""


def test_a_file_that_may_not_grow_leaves_the_old_bundle(folder: Path) -> None:
    before = load_bundle(folder).manifest
    run = run_python(FULL, folder)
    assert f"cannot write the bundle {folder}" in run.stdout, run.stderr
    assert "File too large; nothing was changed" in run.stdout
    assert load_bundle(folder).manifest == before
    assert names(folder.parent) == ["bundle"]


def test_a_folder_that_cannot_be_written_is_one_clear_refusal(
    tmp_path: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may write anywhere, so the refusal of the system is played.
    denied = PermissionError(13, "Permission denied")
    monkeypatch.setattr(os, "mkdir", failing_at(1, os.mkdir, denied))
    with pytest.raises(Refused, match="Permission denied; nothing was changed; make room, or name"):
        write_bundle(parts, tmp_path / "bundle")
    assert names(tmp_path) == []


def test_a_failed_sync_after_the_move_does_not_claim_that_nothing_changed(
    folder: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing_at(21, os.fsync, OSError(5, "Input/output error")))
    with pytest.raises(Refused, match="the new bundle is in place") as refused:
        write_bundle(other(parts), folder)
    assert "nothing was changed" not in str(refused.value)
    assert load_bundle(folder).manifest.created_unix_ms == parts.created_unix_ms + 1
    assert names(folder.parent) == ["bundle"]


def test_a_path_that_no_system_takes_is_one_clear_refusal(
    tmp_path: Path, parts: BundleParts
) -> None:
    with pytest.raises(Refused, match="File name too long; nothing was changed"):
        write_bundle(parts, tmp_path / ("x" * 300) / "bundle")
    assert names(tmp_path) == []


def test_the_folder_of_a_writer_that_still_works_is_not_cleaned_up(
    tmp_path: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, go_on = threading.Event(), threading.Event()
    loaded = writing.load_bundle

    def slow(path: Path) -> object:
        working.set()
        assert go_on.wait(240)
        return loaded(path)

    target = tmp_path / "b"
    monkeypatch.setattr(writing, "load_bundle", slow)
    first = threading.Thread(target=write_bundle, args=(parts, target))
    first.start()
    assert working.wait(240)
    monkeypatch.setattr(writing, "load_bundle", loaded)
    try:
        run = run_python(
            "from pathlib import Path\nfrom strategies.bundles import tiny_bundle\n"
            "tiny_bundle(Path(sys.argv[1]), created_unix_ms=5)",
            target,
        )
        assert run.returncode == 0, run.stderr
        assert load_bundle(target).manifest.created_unix_ms == 5
        with pytest.raises(Refused, match="File exists"):  # the same process, the same target
            write_bundle(parts, target)
    finally:
        go_on.set()
        first.join()
    assert load_bundle(target).manifest.created_unix_ms == parts.created_unix_ms
    assert names(tmp_path) == ["b"]


def test_readers_see_a_whole_bundle_at_every_moment(folder: Path, parts: BundleParts) -> None:
    both = [parts, other(parts)]
    ids = {load_bundle(folder).manifest.bundle_id, write_bundle(both[1], folder).bundle_id}
    stop, seen = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.append(load_bundle(folder).manifest.bundle_id)
            except BundleRefused as refused:
                seen.append(str(refused))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        write_bundle(both[number % 2], folder)
    stop.set()
    reader.join()
    assert set(seen) == ids


def test_where_the_system_can_exchange_two_folders_there_is_no_moment_without_a_bundle(
    folder: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange, in_two_steps = writing._exchange, writing._replace_in_two_steps
    done: list[str] = []

    def spied(first: Path, second: Path) -> bool:
        could = exchange(first, second)
        done.append("exchanged" if could else "cannot")
        return could

    def two_steps(aside: Path, target: Path) -> None:
        done.append("two steps")
        in_two_steps(aside, target)

    monkeypatch.setattr(writing, "_exchange", spied)
    monkeypatch.setattr(writing, "_replace_in_two_steps", two_steps)
    new = write_bundle(other(parts), folder)
    assert done in (["exchanged"], ["cannot", "two steps"])
    assert load_bundle(folder).manifest == new


def test_a_file_put_into_the_target_while_the_bundle_is_written_is_not_lost(
    folder: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(path: Path) -> object:
        (folder / "notes.txt").write_text("mine")
        return load_bundle(path)

    monkeypatch.setattr(writing, "load_bundle", slow)
    with pytest.raises(Refused, match=r"holds 'notes\.txt'"):
        write_bundle(other(parts), folder)
    assert (folder / "notes.txt").read_text() == "mine"
    assert names(folder.parent) == ["bundle"]


def test_without_an_exchange_two_renames_do_and_a_failed_second_is_undone(
    folder: Path, parts: BundleParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_exchange", lambda first, second: False)
    new = write_bundle(other(parts), folder)
    assert load_bundle(folder).manifest == new
    assert names(folder.parent) == ["bundle"]
    rename = Path.rename
    monkeypatch.setattr(Path, "rename", failing_at(2, rename, OSError(5, "Input/output error")))
    with pytest.raises(Refused, match="Input/output error; nothing was changed"):
        write_bundle(parts, folder)
    assert load_bundle(folder).manifest == new
    assert names(folder.parent) == ["bundle"]


def test_names_with_glob_letters_clean_up_only_their_own(
    tmp_path: Path, parts: BundleParts
) -> None:
    mine, foreign = tmp_path / ".b[1].partial-1", tmp_path / ".b1.partial-1"
    mine.mkdir()
    foreign.mkdir()
    write_bundle(parts, tmp_path / "b[1]")
    assert names(tmp_path) == [".b1.partial-1", "b[1]"]


def test_the_tiny_bundle_is_the_same_every_time(tmp_path: Path) -> None:
    assert tiny_bundle(tmp_path / "a") == tiny_bundle(tmp_path / "b")
