"""A folder -> a verified bundle, or a refusal that names the file.

Order: the manifest, then which files there are, then sizes and digests of all,
and only then the first look inside any, at the very bytes that were digested.
The folder is opened once and its files through it, without following links, so
a bundle that is replaced meanwhile is never mixed with the new one: what was
begun is finished, or, where its files are gone, begun again with the new one.

What is not here: the model is loaded in this process, so an onnxruntime that
crashes on a hostile model takes the process with it. Digests find damage, not
forgery: there is no signature.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

from server.bundle import manifest as manifest_form
from server.bundle.contents import Bundle
from server.bundle.files import POLICIES, decode
from server.bundle.manifest import Manifest, parse_manifest
from server.errors import BundleRefused, listed

MANIFEST = manifest_form.FILE
MAX_FILE_BYTES = 4 * 1024**3
IS_LINK = "is a link: a bundle holds its files itself"


def load_bundle(path: Path, max_count: int = 200) -> Bundle:
    """Read and verify a bundle; policies are compiled for lists of up to `max_count`.

    Raises:
        BundleRefused: which file, and why.
    """
    manifest, files = read_files(path)
    return decode(manifest, files, max_count)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle in a folder; the other files are not looked at.

    Raises:
        BundleRefused: there is none, or it is damaged.
    """
    folder = _open_folder(path)
    try:
        return _manifest(folder, path)
    finally:
        os.close(folder)


def read_files(path: Path, attempts: int = 5) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the bytes of every file it lists, each with the right digest; none is looked into.

    Raises:
        BundleRefused: which file, and why.
    """
    folder = _open_folder(path)
    try:
        manifest = _manifest(folder, path)
        return manifest, _files(folder, manifest)
    except BundleRefused:
        if attempts == 1 or not _was_replaced(folder, path):
            raise
    finally:
        os.close(folder)
    return read_files(path, attempts - 1)


def _was_replaced(folder: int, path: Path) -> bool:
    try:
        return not os.path.samestat(os.fstat(folder), path.stat())
    except OSError:
        return False


def _open_folder(path: Path) -> int:
    if not path.is_dir():
        raise BundleRefused(str(path), "is not a folder" if path.exists() else "does not exist")
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise BundleRefused(str(path), f"cannot be read: {error.strerror}") from error


def _manifest(folder: int, path: Path) -> Manifest:
    try:
        raw = _read(folder, MANIFEST, manifest_form.MAX_BYTES)
    except FileNotFoundError as error:
        raise BundleRefused(MANIFEST, f"is missing: {path} is not a bundle") from error
    return parse_manifest(raw)


def _files(folder: int, manifest: Manifest) -> dict[str, bytes]:
    """The bytes of every file that the manifest lists; refuses any other entry of the folder."""
    found = _entries(folder)
    found.remove(MANIFEST)
    listed_files = manifest.files.keys()
    if found - listed_files:
        raise BundleRefused(
            min(found - listed_files), "is not in the manifest: remove it, or write a new bundle"
        )
    if listed_files - found:
        raise BundleRefused(min(listed_files - found), f"is missing; there are: {listed(found)}")
    # All sizes before any content: a truncated copy is told at once.
    for name, info in sorted(manifest.files.items()):
        try:
            size = os.stat(name, dir_fd=folder, follow_symlinks=False).st_size
        except OSError as error:
            raise BundleRefused(name, f"cannot be read: {error.strerror}") from error
        if size != info.bytes:
            raise BundleRefused(name, f"{size} bytes, the manifest says {info.bytes}")
    files: dict[str, bytes] = {}
    for name, info in sorted(manifest.files.items()):
        try:
            files[name] = _read(folder, name, MAX_FILE_BYTES)
        except FileNotFoundError as error:
            raise BundleRefused(name, "vanished while the bundle was read") from error
        if hashlib.sha256(files[name]).hexdigest() != info.sha256:
            raise BundleRefused(name, "is damaged: its SHA-256 is not the one in the manifest")
    return files


def _entries(folder: int) -> set[str]:
    """The paths of all files in the folder and in `policies`; refuses what is no plain file."""
    found: set[str] = set()
    try:
        with os.scandir(folder) as entries:
            top = sorted(entries, key=lambda entry: entry.name)
        for entry in top:
            if f"{entry.name}/" == POLICIES and entry.is_dir(follow_symlinks=False):
                inner = os.open(
                    entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder
                )
                try:
                    with os.scandir(inner) as entries:
                        found |= {_plain(inside, POLICIES) for inside in entries}
                finally:
                    os.close(inner)
            else:
                found.add(_plain(entry))
    except OSError as error:
        raise BundleRefused(
            str(error.filename or "the folder"), f"cannot be read: {error.strerror}"
        ) from error
    return found


def _plain(entry: os.DirEntry[str], inside: str = "") -> str:
    name = (inside + entry.name).encode(errors="backslashreplace").decode()
    if entry.is_symlink():
        raise BundleRefused(name, IS_LINK)
    if not entry.is_file(follow_symlinks=False):
        raise BundleRefused(name, "is not a plain file and does not belong to a bundle")
    return name


def _read(folder: int, name: str, max_bytes: int) -> bytes:
    """The whole plain file; FileNotFoundError is left to the caller."""
    try:
        # Without O_NONBLOCK, opening a pipe would wait for its writer.
        file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        with os.fdopen(file, "rb") as opened:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise BundleRefused(name, "is not a plain file")
            if found.st_size > max_bytes:
                raise BundleRefused(name, f"{found.st_size:,} bytes, allowed: {max_bytes:,}")
            return opened.read(found.st_size)
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise BundleRefused(name, IS_LINK) from error
        raise BundleRefused(name, f"cannot be read: {error.strerror}") from error
