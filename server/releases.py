"""A folder of releases: the bundles that were activated, and a pointer to the one that serves.

Owns what is on disk and in which order it changes, so that a crash at any moment leaves a pointer to
a whole bundle. Must not know what is in a bundle: it is given a function that checks one.

    ROOT/active.json            the pointer: the active release, and those that were before it
    ROOT/releases/BUNDLE_ID/    the bundles
    ROOT/served/BUNDLE_ID       empty; locked (shared) by each server that serves this bundle
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from server.errors import Refused

POINTER = "active.json"
FOLDER = "releases"
SERVED = "served"
LOCK = ".lock"
PARTIAL = ".partial-"
KEPT = 5
"""How many earlier releases are kept to go back to, beside those that a server serves still."""
REMEDY = "remove it, and activate a bundle again (the releases beside it are bundles)"
LOCK_TRIES, LOCK_TRY_S = 20, 0.005

Check = Callable[[Path], str]
"""The id of the bundle in a folder; BundleRefused where a server would not serve it."""
Waits = Callable[[], None]
"""Called once where another writer holds the folder, before it is waited for."""


@dataclass(frozen=True)
class Pointer:
    """Which release serves. earlier: the ids of those that served before, the last one first."""

    active: str
    earlier: tuple[str, ...] = ()


def holds_releases(path: Path) -> bool:
    """Whether the folder has a pointer, and is no bundle itself."""
    return (path / POINTER).is_file()


def path_of(root: Path, bundle_id: str) -> Path:
    """Where a release's bundle lies."""
    return root / FOLDER / bundle_id


def read_pointer(root: Path) -> Pointer:
    """The pointer of a folder of releases.

    Raises:
        Refused: there is none, or it is damaged.
    """
    path = root / POINTER
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        active, earlier = found["active"], tuple(found["earlier"])
    except FileNotFoundError as error:
        raise Refused(
            f"{root} holds no releases: make it with: equipoise bundle activate {root} BUNDLE"
        ) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Refused(f"{path} is damaged or cannot be read: {error}; {REMEDY}") from error
    if not all(_is_name(one) for one in (active, *earlier)):
        raise Refused(f"{path} is damaged: it names no releases; {REMEDY}")
    return Pointer(active, earlier)


def version_of(root: Path) -> tuple[int, int, int] | None:
    """What changes whenever the pointer is set; None where it cannot be read. One system call."""
    try:
        found = os.stat(root / POINTER)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def activate(root: Path, bundle: Path, check: Check, *, waits: Waits = lambda: None) -> Pointer:
    """Copy a bundle into the folder, check the copy, and point to it.

    The folder is made when missing. Releases that the pointer no longer names are removed, but for
    those that a server serves; and of the earlier ones it names those that one serves, however many
    came since: the server goes back to them where it starts again and refuses those.

    Raises:
        BundleRefused: the bundle cannot be served; nothing was changed.
        Refused: the folder is something else, or cannot be written.
    """
    _check_root(root)
    _check_apart(root, bundle)
    with _told(root):
        (root / FOLDER).mkdir(parents=True, exist_ok=True)
        with _locked(root, waits):
            before = read_pointer(root) if holds_releases(root) else None
            for left in (root / FOLDER).glob(f"{PARTIAL}*"):
                shutil.rmtree(left, ignore_errors=True)
            for entry in root.iterdir():
                if _is_aside(entry.name):
                    entry.unlink(missing_ok=True)
            partial = root / FOLDER / f"{PARTIAL}{os.getpid()}"
            try:
                _check_room(root, bundle)
                shutil.copytree(bundle, partial, symlinks=True)
                bundle_id = check(partial)
                _sync(partial)
                _place(partial, path_of(root, bundle_id), check)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
            named = () if before is None else (before.active, *before.earlier)
            earlier = [one for one in named if one != bundle_id]
            also = (one for one in earlier[KEPT:] if _is_served(root, one))
            after = Pointer(bundle_id, (*earlier[:KEPT], *also))
            (root / SERVED).mkdir(exist_ok=True)
            (root / SERVED / bundle_id).touch()
            point(root, after)
            for old in (root / FOLDER).iterdir():
                if old.name not in (after.active, *after.earlier):
                    _remove(root, old.name)
    return after


def roll_back(
    root: Path, check: Check, *, waits: Waits = lambda: None
) -> tuple[Pointer, tuple[str, ...]]:
    """Point to the last release before the active one that can be served.

    Returns:
        The new pointer, and the ids of releases that were passed over since they can not.

    Raises:
        Refused: there is none; nothing was changed.
    """
    before = read_pointer(root)
    with _told(root), _locked(root, waits):
        before = read_pointer(root)
        passed, why = [], ""
        for place, bundle_id in enumerate(before.earlier):
            try:
                check(path_of(root, bundle_id))
            except Refused as refused:
                passed.append(bundle_id)
                why = why or f", the last of them {bundle_id}: {refused}"
                continue
            after = Pointer(bundle_id, before.earlier[place + 1 :])
            point(root, after)
            return after, tuple(passed)
    none = f"none of those before it can be served{why}" if passed else "there is none before it"
    raise Refused(f"cannot go back from {before.active}: {none}")


class Serves:
    """Says that a server serves a release, until it is closed or its process ends.

    It says nothing where the folder was made before such was said, or its disk knows no locks.
    """

    def __init__(self, root: Path, bundle_id: str) -> None:
        self._handle: int | None = None
        # A server may have no right to write here; to read is enough for a shared lock.
        with contextlib.suppress(OSError):
            self._handle = os.open(root / SERVED / bundle_id, os.O_RDONLY)
            for _ in range(LOCK_TRIES):
                # Whoever only looks whether it is served holds it for a moment.
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    break
                time.sleep(LOCK_TRY_S)

    def close(self) -> None:
        """It is served no longer."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _is_served(root: Path, bundle_id: str) -> bool:
    with _lone(root, bundle_id) as alone:
        return not alone


def _check_apart(root: Path, bundle: Path) -> None:
    """Refuse a copy of a folder into itself, which has no end."""
    inner, outer = root.resolve(), bundle.resolve()
    if inner == outer or outer in inner.parents:
        raise Refused(f"the folder of releases {root} is, or lies in, the bundle {bundle}")


def _check_room(root: Path, bundle: Path) -> None:
    """Refuse what the disk has no room for, before it is full."""
    needed = sum(path.stat().st_size for path in bundle.rglob("*") if path.is_file())
    free = shutil.disk_usage(root).free
    if needed > free:
        raise Refused(
            f"{bundle} has {needed:,} bytes, and the disk of {root} has room for {free:,}; "
            "the pointer was not changed"
        )


def left_over(root: Path, pointer: Pointer) -> tuple[str, ...]:
    """The ids of bundles that lie there though the pointer does not name them, such as one that a
    rollback left; the next activation removes those that no server serves."""
    found = (entry.name for entry in (root / FOLDER).iterdir() if _is_name(entry.name))
    return tuple(sorted(set(found) - {pointer.active, *pointer.earlier}))


def _remove(root: Path, bundle_id: str) -> None:
    with _lone(root, bundle_id) as alone:
        if alone:
            shutil.rmtree(root / FOLDER / bundle_id, ignore_errors=True)
            (root / SERVED / bundle_id).unlink(missing_ok=True)


@contextlib.contextmanager
def _lone(root: Path, bundle_id: str) -> Iterator[bool]:
    """Whether no server serves it. While the block runs, none can say so that did not before."""
    try:
        handle = os.open(root / SERVED / bundle_id, os.O_RDWR)
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = True
        except OSError as error:
            alone = not isinstance(error, BlockingIOError)
        yield alone
    finally:
        os.close(handle)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name != "" and Path(name).name == name and name[0] != "."


def _check_root(root: Path) -> None:
    if not root.exists() or holds_releases(root):
        return
    if not root.is_dir():
        raise Refused(f"{root} is not a folder")
    # A crash before the first pointer leaves these.
    names = {entry.name for entry in root.iterdir() if not _is_aside(entry.name)}
    strange = names - {FOLDER, SERVED, LOCK}
    if strange:
        raise Refused(
            f"{root} holds {min(strange)!r} and no {POINTER}: it is no folder of releases; name "
            "one that is, or one that does not exist yet"
        )


@contextlib.contextmanager
def _told(root: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, shutil.Error) as error:
        why = error.strerror or str(error)
        raise Refused(f"{root}: {why}; the pointer was not changed") from error


@contextlib.contextmanager
def _locked(root: Path, waits: Waits) -> Iterator[None]:
    """One writer at a time; the kernel takes the lock from one that dies."""
    handle = os.open(root / LOCK, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waits()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _place(partial: Path, target: Path, check: Check) -> None:
    """Move the checked copy to where it belongs, unless the same release is there and whole."""
    if target.exists():
        with contextlib.suppress(Refused):
            check(target)
            return
        damaged = target.with_name(f"{PARTIAL}damaged-{os.getpid()}")
        target.rename(damaged)
        shutil.rmtree(damaged, ignore_errors=True)
    partial.rename(target)
    _sync_folder(target.parent)


def point(root: Path, pointer: Pointer) -> None:
    """Set the pointer, in one step; nothing is checked."""
    aside = root / f"{POINTER}.{os.getpid()}"
    content = json.dumps({"active": pointer.active, "earlier": pointer.earlier}, indent=1)
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(content + "\n")
            file.flush()
            os.fsync(file.fileno())
        aside.replace(root / POINTER)
    except BaseException:  # a full disk
        aside.unlink(missing_ok=True)
        raise
    _sync_folder(root)


def _is_aside(name: str) -> bool:
    """Whether `point` wrote the file, and died before it took the pointer's place."""
    stem, _, pid = name.rpartition(".")
    return stem == POINTER and pid.isdecimal()


def _sync(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    for path in (folder, *filter(Path.is_dir, folder.rglob("*"))):
        _sync_folder(path)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
