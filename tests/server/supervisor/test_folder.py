"""The folder that workers share: who has a share in it, and that the last one removes it."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

import pytest

from server.supervisor import folder


def test_a_share_in_a_folder_that_was_removed_meanwhile_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    lock = fcntl.flock

    def after_it_went(handle: int, how: int) -> None:
        shared.rmdir()
        lock(handle, how)

    monkeypatch.setattr(fcntl, "flock", after_it_went)
    with pytest.raises(FileNotFoundError, match="shared"):
        folder.Lease(shared)


def test_the_last_worker_removes_the_folder_though_another_still_closes_a_file_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    first, last = folder.Lease(shared), folder.Lease(shared)
    first.abandon()
    assert shared.exists()
    remove, late = shutil.rmtree, [shared / "late-1", shared / "late-2"]

    def while_another_writes(path: Path, ignore_errors: bool) -> None:
        if late:
            late.pop().touch()  # after what was in the folder was removed, before the folder is
        else:
            remove(path, ignore_errors=ignore_errors)

    monkeypatch.setattr(folder.shutil, "rmtree", while_another_writes)
    last.abandon()
    assert not shared.exists()
