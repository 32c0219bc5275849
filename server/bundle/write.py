"""Parts -> a bundle on disk: written aside, fsynced, loaded as a server would, moved into place.

A reader sees the old bundle or the new one, never a mixture and never neither:
an existing bundle is exchanged with the new one in one step (renameat2 on
Linux). Where the system cannot do that, two renames are made, and a crash
exactly between them leaves the old bundle beside the target as `.NAME.old-PID`.

A killed writer leaves its folder `.NAME.partial-PID`; the next writer of NAME
removes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from server.bundle.contents import BundleParts
from server.bundle.files import FIXED_FILES, MODEL, POLICIES, RETRIEVAL, encode
from server.bundle.load import load_bundle
from server.bundle.manifest import (
    FILE,
    SCHEMA_VERSION,
    FileInfo,
    Manifest,
    ModelInfo,
    bundle_id,
    manifest_bytes,
    reads_of,
    refusal,
)
from server.errors import Refused, shown

TOP_LEVEL = {FILE, POLICIES.rstrip("/"), *FIXED_FILES, RETRIEVAL}
RENAME_EXCHANGE = 2
AT_FDCWD = -100
CANNOT_EXCHANGE = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}


def write_bundle(parts: BundleParts, target: Path) -> Manifest:
    """Write a bundle and return its manifest. The same parts give the same bytes.

    target: a folder that is missing (its parents are made), empty, or a bundle, which is
        replaced. Nothing else is ever overwritten.

    Raises:
        BundleRefused: the parts would not load.
        Refused: the target is something else, cannot be written, or the disk is full.
        After either, and after Ctrl-C, the target is what it was and nothing is left beside it;
        the one exception, a failed sync after the move, says so.
    """
    files = encode(parts)
    manifest = make_manifest(parts, files)
    files[FILE] = manifest_bytes(manifest)
    target = Path(os.path.abspath(target))
    try:
        with _parents(target), _aside(target) as aside:
            _write_all(aside, files)
            # What a server would refuse is refused here, before anything is replaced.
            load_bundle(aside)
            _move_into_place(aside, target)
    except OSError as error:
        size = sum(map(len, files.values()))
        raise Refused(
            f"cannot write the bundle {target} ({size:,} bytes): {error.strerror or error}; "
            "nothing was changed; make room, or name a folder that can be written"
        ) from error
    return manifest


def make_manifest(parts: BundleParts, files: dict[str, bytes]) -> Manifest:
    """The manifest that belongs to these parts and files.

    Raises:
        BundleRefused: a name or number that a manifest cannot hold.
    """
    try:
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            name=parts.name,
            bundle_id="",
            created_unix_ms=parts.created_unix_ms,
            data=parts.data,
            model=ModelInfo(
                family=parts.family,
                file=MODEL,
                digest=hashlib.sha256(parts.model).hexdigest(),
                # Of a model that reads nothing the manifest says so itself.
                reads=reads_of(len(parts.feature_names), parts.history_length) or "pair-features",
                opset=parts.opset,
                feature_names=parts.feature_names,
                history_length=parts.history_length,
                best_batch=parts.best_batch,
                n_novel=parts.n_novel,
                n_popular=parts.n_popular,
                measured_batches=parts.measured_batches,
                quantised=parts.quantised,
                retrieval=None if parts.retrieval is None else parts.retrieval[0],
            ),
            files={
                name: FileInfo(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content))
                for name, content in sorted(files.items())
            },
            default_policy=parts.default_policy,
            positive_kinds=parts.positive_kinds,
            horizon_days=parts.horizon_days,
            quality=dict(parts.quality),
            made_with=dict(parts.made_with),
        )
    except ValidationError as invalid:
        raise refusal(invalid) from invalid
    own_id = bundle_id(parts.name, manifest.model_dump(mode="json"))
    return manifest.model_copy(update={"bundle_id": own_id})


def check_target(target: Path) -> None:
    """Refuse to replace anything but a bundle: what is replaced is deleted.

    Raises:
        Refused: the target is something else.
    """
    if target.is_symlink():
        raise Refused(f"{target} is a link: name the folder that it should point to")
    if not target.exists():
        return
    if not target.is_dir():
        raise Refused(f"{target} is not a folder: name a new folder, or a bundle to replace")
    found = {entry.name for entry in target.iterdir()}
    if found and (FILE not in found or not found <= TOP_LEVEL):
        example = min(found - TOP_LEVEL, default=FILE)
        what = "holds" if example in found else "lacks"
        raise Refused(
            f"{target} is not a bundle ({what} {shown(example)}) and is left alone: "
            "name a new or empty folder, or a bundle to replace"
        )


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """The folders above the target; those made here are removed again if the block fails."""
    made: list[Path] = []
    try:
        for folder in reversed(target.parents):
            if not folder.is_dir():
                folder.mkdir()
                made.append(folder)
        yield
    except BaseException:
        for folder in reversed(made):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A new private folder beside the target, gone when the block ends.

    Every writer holds a shared lock on the parent for as long as its folder exists, so one who
    gets the exclusive lock knows that the folders of others are left from killed writers.
    """
    check_target(target)
    parent = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
    aside = target.with_name(f".{target.name}.partial-{os.getpid()}")
    made = False
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            try:
                fcntl.flock(parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for left in target.parent.glob(f".{_globbed(target.name)}.partial-*"):
                    shutil.rmtree(left, ignore_errors=True)
            finally:
                fcntl.flock(parent, fcntl.LOCK_SH)
        aside.mkdir(mode=0o700)
        made = True
        yield aside
    finally:
        # A folder that was here before belongs to another thread of this process.
        if made:
            shutil.rmtree(aside, ignore_errors=True)
        os.close(parent)


def _globbed(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _write_all(folder: Path, files: dict[str, bytes]) -> None:
    policies = folder / POLICIES
    policies.mkdir()
    for name, content in files.items():
        with (folder / name).open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    # The folder was private while half-written; now it gets the mode that new folders have here.
    folder.chmod(policies.stat().st_mode & 0o777)
    _sync_folder(policies)
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_into_place(aside: Path, target: Path) -> None:
    """`target` becomes the new bundle; the old one, if any, is left at `aside` or deleted."""
    check_target(target)  # again: some time has passed
    if not target.exists() or not any(target.iterdir()):
        aside.rename(target)
    elif not _exchange(aside, target):
        _replace_in_two_steps(aside, target)
    try:
        _sync_folder(target.parent)
    except OSError as error:
        raise Refused(
            f"the new bundle is in place at {target}, but the folder above could not be synced "
            f"({error.strerror}): a power cut may bring the old state back"
        ) from error


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system cannot."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    at = ctypes.c_int(AT_FDCWD)
    if rename(at, os.fsencode(first), at, os.fsencode(second), ctypes.c_uint(RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _replace_in_two_steps(aside: Path, target: Path) -> None:
    old = target.with_name(f".{target.name}.old-{os.getpid()}")
    target.rename(old)
    try:
        aside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)
