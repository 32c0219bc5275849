"""A folder -> a verified bundle, or a refusal that names the file.

Order: the manifest, then which files there are, then sizes and digests of all,
and only then the first look inside any. The crash of a runtime that loads a
hostile model is not isolated here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from server.bundle.contents import Bundle
from server.bundle.files import decode
from server.bundle.manifest import FILE, MAX_BYTES, Manifest, parse_manifest
from server.errors import BundleRefused, listed


def load_bundle(path: Path, max_count: int = 200) -> Bundle:
    """Read and verify a bundle; policies are compiled for lists of up to `max_count`.

    Raises:
        BundleRefused: which file, and why.
    """
    manifest = read_manifest(path)
    return decode(manifest, read_files(path, manifest), max_count)


def read_manifest(path: Path) -> Manifest:
    """The manifest of the bundle in a folder."""
    if not path.is_dir():
        raise BundleRefused(str(path), "is not a folder" if path.exists() else "does not exist")
    file = path / FILE
    if not file.is_file() or file.is_symlink():
        raise BundleRefused(FILE, f"is missing: {path} is not a bundle")
    if file.stat().st_size > MAX_BYTES:
        raise BundleRefused(FILE, f"{file.stat().st_size} bytes, allowed: {MAX_BYTES}")
    return parse_manifest(file.read_bytes())


def read_files(path: Path, manifest: Manifest) -> dict[str, bytes]:
    """The bytes of every file that the manifest lists; refuses any other entry of the folder."""
    found: dict[str, Path] = {}
    for entry in sorted(path.rglob("*")):
        name = entry.relative_to(path).as_posix()
        if entry.is_symlink() or not (entry.is_file() or entry.is_dir()):
            raise BundleRefused(name, "is neither a file nor a folder")
        if entry.is_file():
            found[name] = entry
    found.pop(FILE)
    foreign, missing = found.keys() - manifest.files.keys(), manifest.files.keys() - found.keys()
    if foreign:
        raise BundleRefused(min(foreign), "is not in the manifest")
    if missing:
        raise BundleRefused(min(missing), f"is missing; the bundle has: {listed(found)}")
    files: dict[str, bytes] = {}
    for name, info in sorted(manifest.files.items()):
        size = found[name].stat().st_size
        if size != info.bytes:
            raise BundleRefused(name, f"{size} bytes, the manifest says {info.bytes}")
        try:
            files[name] = found[name].read_bytes()
        except OSError as error:
            raise BundleRefused(name, f"cannot be read: {error.strerror}") from error
        if hashlib.sha256(files[name]).hexdigest() != info.sha256:
            raise BundleRefused(name, "is damaged: its SHA-256 is not the one in the manifest")
    return files
